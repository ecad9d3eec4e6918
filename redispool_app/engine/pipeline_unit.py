"""A pipeline or MULTI/EXEC as one unit: what it sends, and how redis-py's own code reads its replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis import exceptions as redis_exceptions
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from redispool_app.exceptions import OutcomeUnknown

from .outcomes import LOST
from .read_only import ReadOnlyPolicy, refused_in_exec, refused_of
from .replies import raise_connection_error
from .routing import only_reads

_NOT_CONNECTED = (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError)


class PipelineUnit:
    """What redis-py's pipeline code takes for a connection. A subclass sends it, and fills ``replies``."""

    himport_registry = None
    """HIMPORT travels on a connection of its own."""

    def __init__(self, pack: Callable[[Any], bytes], stack: Any, transaction: bool) -> None:
        sent = [args for args, options in stack if not (transaction and EMPTY_RESPONSE in options)]
        commands = [("MULTI",), *sent, ("EXEC",)] if transaction else sent
        self._pack = pack
        self._commands = commands
        self._is_transaction = transaction
        self.packed = self.packed_of(range(len(commands)))
        # Inside a transaction redis-py decodes every reply, whatever its options say.
        self.decode = [True] * len(commands) if transaction else [NEVER_DECODE not in options for _, options in stack]
        self.reads = all(only_reads(args[0]) for args in sent)
        self.replies: deque[Any] = deque()
        self.was_answered = False

    def was_kept_back(self, error: Exception) -> bool:
        """Whether ``error`` came before anything was sent: redis-py's pipeline keeps its commands then."""
        if self.was_answered or not isinstance(error, _NOT_CONNECTED) or isinstance(error, (OutcomeUnknown, *LOST)):
            return False
        return not isinstance(error.__cause__, LOST)

    def pack_commands(self, commands: Iterable[Any]) -> list[bytes]:
        return [self.packed]

    def packed_of(self, positions: Iterable[int]) -> bytes:
        """Return the commands at these positions, packed."""
        pack, commands = self._pack, self._commands
        return b"".join([pack(commands[at]) for at in positions])

    def refused(self, replies: Sequence[Any], *, noted: bool) -> list[int]:
        """Return which commands may be sent again, because a replica refused them: of a transaction all or none.

        ``noted``: whether the connection has noted a refusal. It sees none within the reply to EXEC.
        """
        refused = refused_of(replies) if noted else []
        if self._is_transaction and (refused or refused_in_exec(replies[-1])):
            return list(range(len(replies)))
        return refused

    def put_in(self, replies: list[Any], again: Sequence[int], later: Sequence[Any], policy: ReadOnlyPolicy) -> None:
        """Put the replies to what was sent again in the place of the refusals."""
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
        """Return the next reply, or raise it if it is an error, or a list that redis-py's parser would raise."""
        reply = self.replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        if reply.__class__ is list:
            raise_connection_error(reply)
        return reply
