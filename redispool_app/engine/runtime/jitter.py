"""Random delays, from a generator of their own: a background thread does not move the project's ``random``."""

from __future__ import annotations

import random

from . import fork

_random = random.Random()


def uniform(low: float, high: float) -> float:
    """Return a random number between ``low`` and ``high``."""
    return _random.uniform(low, high)


def _after_fork_in_child() -> None:
    _random.seed()  # forked processes would all wait for the same times


fork.register(_after_fork_in_child)
