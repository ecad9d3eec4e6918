"""The commands of a pipeline or MULTI/EXEC: what is sent, and how redis-py's own code reads the replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis import exceptions as redis_exceptions
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from redispool_app.engine.connection.read_only import ReadOnlyPolicy, refused_in_exec, refused_of
from redispool_app.engine.errors import LOST
from redispool_app.engine.protocol.replies import raise_connection_error
from redispool_app.exceptions import OutcomeUnknown

_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"

_NOT_CONNECTED = (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError)


class PipelineAdapter:
    """The connection object for redis-py's pipeline code. A subclass sends the commands and fills ``replies``."""

    himport_registry = None
    """HIMPORT needs a dedicated connection."""

    def __init__(self, pack: Callable[[Any], bytes], stack: Any, transaction: bool, reads: bool) -> None:
        """Create it from the commands in ``stack``.

        ``pack`` packs one command; ``reads``: whether all commands only read.
        """
        if transaction:
            packed = [pack(args) for args, options in stack if EMPTY_RESPONSE not in options]
            self._packed = packed = [_MULTI, *packed, _EXEC]
            # Inside a transaction redis-py decodes every reply, whatever its options say.
            self.decode = [True] * len(packed)
        else:
            self._packed = packed = [pack(args) for args, _ in stack]
            self.decode = [NEVER_DECODE not in options for _, options in stack]
        self._is_transaction = transaction
        self.packed = b"".join(packed)
        self.reads = reads
        self.replies: deque[Any] = deque()
        self.was_answered = False

    def was_kept_back(self, error: Exception) -> bool:
        """Whether ``error`` came before anything was sent. redis-py's pipeline then keeps its commands."""
        if self.was_answered or not isinstance(error, _NOT_CONNECTED) or isinstance(error, (OutcomeUnknown, *LOST)):
            return False
        return not isinstance(error.__cause__, LOST)

    def pack_commands(self, commands: Iterable[Any]) -> list[bytes]:
        return [self.packed]

    def packed_of(self, positions: Iterable[int]) -> bytes:
        """Return the packed commands at these positions."""
        return b"".join([self._packed[at] for at in positions])

    def refused(self, replies: Sequence[Any], *, noted: bool) -> list[int]:
        """Return the positions of refused commands to send again: in a transaction all or none.

        ``noted``: whether the connection has seen a refusal. It sees none within the reply to EXEC.
        """
        refused = refused_of(replies) if noted else []
        if self._is_transaction and (refused or refused_in_exec(replies[-1])):
            return list(range(len(replies)))
        return refused

    def put_in(self, replies: list[Any], again: Sequence[int], later: Sequence[Any], policy: ReadOnlyPolicy) -> None:
        """Replace the refusals by the replies of the second attempt."""
        for at, reply in zip(again, later, strict=True):
            replies[at] = reply
        still = [later[at] for at in refused_of(later)]
        if self._is_transaction:
            still += refused_in_exec(later[-1])
        if still:
            policy.refused_again(still[0])
        else:
            policy.accepted()

    def next_reply(self) -> Any:
        """Return the next reply. Raise it if it is an error, or a list that redis-py's parser would raise."""
        reply = self.replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        if reply.__class__ is list:
            raise_connection_error(reply)
        return reply
