"""Views: status, probes and metrics."""

from __future__ import annotations

from .status import status

__all__ = ["status"]
