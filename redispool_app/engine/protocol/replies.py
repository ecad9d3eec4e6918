"""Results of hiredis, and their decoding for callers that want text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import ReplyTooLargeError

consume = deque[Any](maxlen=0).extend
"""Runs an iterator to its end in C."""

INCOMPLETE = object()
"""Marks a reply that has not arrived completely."""

UNDECODED = frozenset((type(INCOMPLETE), hiredis.PushNotification, int, float, bool, type(None)))
"""Classes of results without text: ``INCOMPLETE``, pushes, numbers."""

HARMLESS = frozenset((bytes, str, int, type(None), list))
"""Types of replies that can be handed out without a check: no errors, no pushes."""

NOT_A_REPLY = (redis_exceptions.InvalidResponse, TypeError, ValueError, MemoryError)
"""Exceptions of hiredis for data that it cannot read, or that Python cannot hold, such as a map whose key is a list."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether hiredis or Python had no memory for a reply. hiredis words this as if the server had sent it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, redis_exceptions.InvalidResponse) and str(error) == "Out of memory"
    )


def invalid(error: Exception) -> redis_exceptions.RedisError:
    """Return the exception for one of ``NOT_A_REPLY``. The rest of the stream can no longer be split into replies."""
    if is_out_of_memory(error):
        return ReplyTooLargeError()
    if isinstance(error, redis_exceptions.InvalidResponse):
        return error
    return redis_exceptions.InvalidResponse(f"A reply could not be parsed: {error}")


def error_parser(connection: Any) -> Callable[[str], Exception]:
    """Return the function that makes exceptions of error replies for hiredis. It must not raise."""
    parse: Callable[[str], Exception] = connection._parser.parse_error

    def parse_error(said: str) -> Exception:
        try:
            return parse(said)
        except Exception:
            # MOVED and ASK without an address, which any script may return.
            return redis_exceptions.ResponseError(said)

    return parse_error


def decoded(reply: Any, encoding: str, errors: str) -> Any:
    """Decode every string in a reply, at any depth, as hiredis does."""
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
    """Raise the first item of a list if it is redis-py's ``ConnectionError``, as redis-py's parser does."""
    if reply and isinstance(reply[0], redis_exceptions.ConnectionError):
        raise reply[0]
