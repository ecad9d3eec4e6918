"""How late this machine runs what is due: measured beside the callers, so that no verdict blames the engine for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from time import monotonic

_INTERVAL = 0.005

Sample = tuple[float, float]
"""When a wake-up came (monotonic seconds), and how much too late (seconds)."""


async def measure_loop_lag(samples: list[Sample]) -> None:
    """Measure the running event loop, until cancelled."""
    while True:
        due = monotonic() + _INTERVAL
        await asyncio.sleep(_INTERVAL)
        now = monotonic()
        samples.append((now, max(0.0, now - due)))


def measure_thread_lag(samples: list[Sample], ended: threading.Event) -> None:
    """Measure a thread of this process, until ``ended``."""
    while not ended.is_set():
        due = monotonic() + _INTERVAL
        time.sleep(_INTERVAL)
        now = monotonic()
        samples.append((now, max(0.0, now - due)))


def worst_lag(samples: Sequence[Sample], started: float, ended: float) -> float:
    """Return the worst lag of the wake-ups that were due between two moments."""
    return max((late for now, late in samples if now >= started and now - late <= ended), default=0.0)
