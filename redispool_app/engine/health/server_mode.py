"""What kind of server answers a health check: a standalone one, a node of a cluster, or a Sentinel.

``HELLO`` without arguments changes nothing, no ACL can deny it, and it tells the mode
(https://redis.io/docs/latest/commands/hello/). ``CLUSTER NODES`` tells which slots this node serves
(https://redis.io/docs/latest/commands/cluster-nodes/).
"""

from __future__ import annotations

from typing import Any

from redis import exceptions as redis_exceptions

from .faults import ClusterNodeError, SentinelAnswersError

PING = b"*1\r\n$4\r\nPING\r\n"
HELLO = b"*1\r\n$5\r\nHELLO\r\n"
CLUSTER_NODES = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n"

_SLOTS = 16384


def check_ping(answer: Any) -> None:
    """Raise the error in a reply to PING, unless it proves that a server is there and serves this client."""
    if isinstance(answer, redis_exceptions.NoPermissionError):
        return  # only a server that has accepted the credentials denies a command
    if isinstance(answer, Exception):
        raise answer
    if answer not in (b"PONG", "PONG"):
        raise redis_exceptions.InvalidResponse(f"PING was answered with {answer!r:.80}")


def is_in_cluster_mode(answer: Any) -> bool:
    """Return whether a reply to HELLO says that cluster mode is on; False if the server does not know HELLO.

    Raises ``SentinelAnswersError``.
    """
    mode = _field(answer, "mode")
    if mode == b"sentinel":
        raise SentinelAnswersError("A Sentinel answers")
    return mode == b"cluster"


def is_primary(answer: Any) -> bool:
    """Return whether a reply to HELLO says that the server accepts writes."""
    return _field(answer, "role") == b"master"


def check_slots(answer: Any, *, was_moved: bool) -> None:
    """Raise ``ClusterNodeError`` unless a reply to CLUSTER NODES says that this node serves every hash slot.

    ``was_moved``: a reply has been MOVED. This decides if the user may not send CLUSTER NODES.
    """
    served = _served_slots(answer)
    if served != _SLOTS and (served is not None or was_moved):
        raise ClusterNodeError("Some hash slots are served by other nodes")


def _field(answer: Any, name: str) -> bytes | None:
    """Read a field of a reply to HELLO: a flat list in RESP2, a dict in RESP3."""
    if isinstance(answer, list):
        answer = dict(zip(answer[::2], answer[1::2], strict=False))
    if not isinstance(answer, dict):
        return None
    value = answer.get(name.encode()) or answer.get(name)
    return value.encode() if isinstance(value, str) else value


def _served_slots(answer: Any) -> int | None:
    """Count the slots of the node that answers; None if the reply does not contain them."""
    if not isinstance(answer, bytes | str):
        return None
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    for line in text.removeprefix("txt:").splitlines():
        fields = line.split()
        if len(fields) >= 8 and "myself" in fields[2].split(","):
            # An entry in brackets is a slot that moves to or from another node.
            return sum(_size(slots) for slots in fields[8:] if not slots.startswith("["))
    return None


def _size(slots: str) -> int:
    first, _, last = slots.partition("-")
    return int(last or first) - int(first) + 1 if first.isdecimal() and (last or first).isdecimal() else 0
