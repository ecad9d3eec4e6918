"""A pipeline or MULTI/EXEC as one unit: what it sends, and how redis-py's own code reads its replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from .routing import only_reads


class PipelineUnit:
    """What redis-py's pipeline code takes for a connection. A subclass sends it, and fills ``replies``."""

    himport_registry = None
    """HIMPORT travels on a connection of its own."""

    def __init__(self, pack: Callable[[Any], bytes], stack: Any, transaction: bool) -> None:
        sent = [args for args, options in stack if not (transaction and EMPTY_RESPONSE in options)]
        commands = [("MULTI",), *sent, ("EXEC",)] if transaction else sent
        self.packed = b"".join([pack(args) for args in commands])
        # Inside a transaction redis-py decodes every reply, whatever its options say.
        self.decode = [True] * len(commands) if transaction else [NEVER_DECODE not in options for _, options in stack]
        self.reads = all(only_reads(args[0]) for args in sent)
        self.replies: deque[Any] = deque()

    def pack_commands(self, commands: Iterable[Any]) -> list[bytes]:
        return [self.packed]

    def next_reply(self) -> Any:
        """Return the next reply, or raise it if it is an error."""
        reply = self.replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply
