"""Orders to every worker of a pool: reset, pause, resume. Written to a list in Redis that each publisher reads.

Whoever can write to Redis can send one, so an order is data that is checked: at worst it is a reset, or a pause that
ends by itself.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from redis import exceptions as redis_exceptions

from redispool_app.engine.health.pause import LONGEST as LONGEST_PAUSE
from redispool_app.engine.topology.side_channel import carry

from . import keys

if TYPE_CHECKING:
    from redispool_app.redis_pool import RedisConnectionManager

__all__ = ["ACTIONS", "LONGEST_PAUSE", "Order", "has_obeyed", "send"]

Action = Literal["reset", "pause", "resume"]
ACTIONS: tuple[str, ...] = get_args(Action)

_DEFAULT_PAUSE = 30.0

LIFE = 60.0
"""An order is obeyed within so many seconds, or three intervals if they are longer, or not at all."""
MOST = 20
"""Orders that are kept at a time."""

_ID = re.compile(r"\d{16}-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Order:
    """``at``: when it was sent, by the server's clock (Unix time). ``seconds``: how long to pause from then on."""

    id: str
    action: str
    at: float
    seconds: float | None = None

    def dump(self) -> bytes:
        """Return it as it travels."""
        said = {"id": self.id, "action": self.action, "at": self.at, "seconds": self.seconds}
        return json.dumps(said, separators=(",", ":")).encode()


def send(manager: RedisConnectionManager, action: Action, seconds: float | None = None) -> str:
    """Order every worker of the manager's alias to ``reset``, ``pause`` (for ``seconds``, 30 if None) or ``resume``.

    Returns the order's id, which is later than that of any order before it. Each worker obeys within its
    PUBLISH_INTERVAL and says so under ``obeyed``. Blocks for a round trip or two. Raises what ``get_sync_client()`` and
    commands raise, and ``ValueError`` for an action or a time that cannot be.
    """
    if action not in ACTIONS:
        raise ValueError(f"There is no action {action!r}: use {', '.join(ACTIONS)}.")
    if action == "pause":
        seconds = _DEFAULT_PAUSE if seconds is None else float(seconds)
        if not 0 < seconds <= LONGEST_PAUSE:
            raise ValueError(f"A pause of {seconds} s is not possible: give from 0 to {LONGEST_PAUSE:g} s.")
    else:
        seconds = None
    config = manager.config
    manager.get_sync_client()  # checks the server if a check is due, and raises what it raises
    pool_set, timeout = manager.require_open(), config.socket_timeout
    (now,) = _answered(carry(pool_set, [("TIME",)], timeout))
    moment = read_time(now)
    order = Order(f"{_stamp(moment)}-{secrets.token_hex(4)}", action, moment, seconds)
    key = keys.orders(config.publish_prefix, manager.alias)
    life = round(1000 * max(LIFE, keys.LIFE_IN_INTERVALS * (config.publish_interval or 0)))
    commands = [("LPUSH", key, order.dump()), ("LTRIM", key, 0, MOST - 1), ("PEXPIRE", key, life)]
    _answered(carry(pool_set, commands, timeout))
    return order.id


def has_obeyed(worker: dict[str, Any], order_id: str) -> bool:
    """Whether a worker of the roster has carried out this order, or one that was sent later."""
    return (worker.get("obeyed") or "") >= order_id


def read_time(reply: Any) -> float:
    """Read the reply of TIME as Unix time. Raises redis-py's ``InvalidResponse`` if it is none."""
    try:
        seconds, microseconds = reply
        return int(seconds) + int(microseconds) / 1e6
    except (TypeError, ValueError) as error:
        raise redis_exceptions.InvalidResponse("TIME was not answered as a Redis server does") from error


def load(stored: Any) -> Order | None:
    """Read an order as data that anybody may have written; None if it is none that could have been sent."""
    if not isinstance(stored, bytes | str) or len(stored) > 1000:
        return None
    try:
        said = json.loads(stored)
        order_id, action, at, seconds = said["id"], said["action"], said["at"], said["seconds"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(order_id, str) or not _ID.fullmatch(order_id) or action not in ACTIONS:
        return None
    # The id tells the order of orders, so it must be that of its time.
    if not _is_number(at) or order_id.partition("-")[0] != _stamp(at):
        return None
    if action != "pause":
        return Order(order_id, action, float(at))
    if not _is_number(seconds) or not 0 < seconds <= LONGEST_PAUSE:
        return None
    return Order(order_id, action, float(at), float(seconds))


def due(stored: Iterable[Any], seen: set[str], since: float, now: float, life: float) -> list[Order]:
    """Return what is to be obeyed of a list of orders, the first sent first.

    ``seen`` are the ids that need not be obeyed again; ``since`` is when this process started, ``now`` the present,
    both by the server's clock; ``life``: how old an order may be, in seconds.
    """
    found = {order.id: order for each in stored if (order := load(each)) is not None}
    oldest = max(since, now - life)
    # The server's clock may have been set back a little; no process sends orders from farther in the future.
    wanted = [order for order in found.values() if order.id not in seen and oldest <= order.at <= now + 1]
    return sorted(wanted, key=lambda order: order.id)


def left_of(order: Order, now: float) -> float:
    """Return how long a pause still lasts, so that all workers end it together; seconds, 0 or less when it is over."""
    return 0.0 if order.seconds is None else order.seconds - max(0.0, now - order.at)


def _stamp(moment: float) -> str:
    return f"{round(moment * 1e6):016d}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _answered(replies: Sequence[Any]) -> Sequence[Any]:
    """Raise the first error among replies."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
