"""Loops in C."""

from __future__ import annotations

from collections import deque
from typing import Any

exhaust = deque[Any](maxlen=0).extend
"""Runs an iterator to its end in C."""
