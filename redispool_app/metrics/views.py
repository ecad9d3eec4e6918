"""The view for Prometheus."""

from __future__ import annotations

from redispool_app.views.metrics import metrics

__all__ = ["metrics"]
