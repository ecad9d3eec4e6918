"""What hiredis gives back, and how a caller that wants text gets it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import ReplyTooLargeError

exhaust = deque[Any](maxlen=0).extend
"""Runs an iterator to its end in C."""

INCOMPLETE = object()
"""Stands for a reply that has not come in full."""

UNDECODED = frozenset((type(INCOMPLETE), hiredis.PushNotification, int, float, bool, type(None)))
"""Classes of what holds no text: ``INCOMPLETE``, pushes, numbers."""

HARMLESS = frozenset((bytes, str, int, type(None), list))
"""Types of replies that can be handed out without a look: no errors, no pushes."""

NOT_A_REPLY = (redis_exceptions.InvalidResponse, TypeError, ValueError, MemoryError)
"""What hiredis raises for what it cannot read, or Python cannot hold: a map whose key is a list, for instance."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether hiredis, which names it as if the server had sent it, or Python found no memory for a reply."""
    return isinstance(error, MemoryError) or (
        isinstance(error, redis_exceptions.InvalidResponse) and str(error) == "Out of memory"
    )


def invalid(error: Exception) -> redis_exceptions.RedisError:
    """Return one of ``NOT_A_REPLY`` as what it means: whatever follows in the stream cannot be told apart any more."""
    if is_out_of_memory(error):
        return ReplyTooLargeError()
    if isinstance(error, redis_exceptions.InvalidResponse):
        return error
    return redis_exceptions.InvalidResponse(f"A reply that cannot be read: {error}")


def error_parser(connection: Any) -> Callable[[str], Exception]:
    """Return what makes an exception of an error reply, for hiredis, which must not meet another one there."""
    parse: Callable[[str], Exception] = connection._parser.parse_error

    def parse_error(said: str) -> Exception:
        try:
            return parse(said)
        except Exception:
            # MOVED and ASK without an address, which any script may answer.
            return redis_exceptions.ResponseError(said)

    return parse_error


def decoded(reply: Any, encoding: str, errors: str) -> Any:
    """Decode a reply as hiredis does: every string in it, however deep."""
    if isinstance(reply, bytes):
        return reply.decode(encoding, errors)
    if isinstance(reply, list):
        return [decoded(each, encoding, errors) for each in reply]
    if isinstance(reply, dict):
        return {decoded(key, encoding, errors): decoded(value, encoding, errors) for key, value in reply.items()}
    if isinstance(reply, set | frozenset | tuple):
        return type(reply)(decoded(each, encoding, errors) for each in reply)
    return reply


def make_reader(connection: Any) -> Any:
    """Return a hiredis reader that decodes as the connection does."""
    options: dict[str, Any] = {
        "protocolError": redis_exceptions.InvalidResponse,
        "replyError": error_parser(connection),
        "notEnoughData": INCOMPLETE,
    }
    encoder = connection.encoder
    if encoder.decode_responses:
        options.update(encoding=encoder.encoding, errors=encoder.encoding_errors)
    return hiredis.Reader(**options)


def raise_connection_error(reply: list[Any]) -> None:
    """Raise the first item of a list if it is a ``ConnectionError`` of redis-py, whose parser does that."""
    if reply and isinstance(reply[0], redis_exceptions.ConnectionError):
        raise reply[0]
