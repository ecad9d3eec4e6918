"""Where workers meet in Redis: three kinds of keys for each pool, all with one hash tag and so in one cluster slot.

{PREFIX:ALIAS}:workers            a set of worker ids, the index of the roster
{PREFIX:ALIAS}:worker:HOST:PID    what that worker last said, as JSON; gone three intervals later
{PREFIX:ALIAS}:orders             the last few orders, newest first; gone a minute later
"""

from __future__ import annotations

LIFE_IN_INTERVALS = 3
"""A worker that has said nothing for so many intervals is not there."""

INDEX_LIFE = 3600.0
"""Seconds that the index outlives the last worker; whoever reads it removes those that are gone."""


def index(prefix: str, alias: str) -> str:
    """Return the key of the set of all worker ids."""
    return f"{{{prefix}:{alias}}}:workers"


def worker(prefix: str, alias: str, worker_id: str) -> str:
    """Return the key of one worker's snapshot."""
    return f"{{{prefix}:{alias}}}:worker:{worker_id}"


def orders(prefix: str, alias: str) -> str:
    """Return the key of the list of orders."""
    return f"{{{prefix}:{alias}}}:orders"


def life_ms(interval: float) -> int:
    """Return how long a snapshot lives, in milliseconds, where one is published every ``interval`` seconds."""
    return max(1, round(interval * LIFE_IN_INTERVALS * 1000))
