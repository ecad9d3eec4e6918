"""Which commands may use the shared connection, and which of them only read.

Sources: the flags and ACL categories of the server's own ``COMMAND`` table
(https://redis.io/docs/latest/commands/command/). The tests compare these sets with that table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

BLOCKING = frozenset("BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN MIGRATE WAIT WAITAOF".split())
"""Commands that may make their connection wait for another client or server."""

BLOCKING_BY_OPTION = frozenset(("XREAD", "XREADGROUP"))
"""Commands that block only with the option ``BLOCK``."""

STATEFUL = frozenset(
    "ASKING AUTH CLIENT DEBUG DISCARD EXEC HELLO HIMPORT MONITOR MULTI PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT READONLY "
    "READWRITE REPLCONF RESET SELECT SHUTDOWN SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE SYNC UNSUBSCRIBE UNWATCH WATCH".split()
)
"""Commands that change, read or end the state of the connection that they run on."""

LEAVES_STATE = STATEFUL - frozenset(("CLIENT", "DEBUG", "DISCARD", "EXEC", "HIMPORT", "UNWATCH"))
"""Stateful commands that leave a connection unfit for other callers. redis-py itself tracks HIMPORT."""

LEAVES_NO_STATE = frozenset("GETNAME GETREDIR HELP ID INFO KILL LIST PAUSE TRACKINGINFO UNBLOCK UNPAUSE".split())
"""Subcommands of CLIENT that leave a connection unchanged."""

READING = frozenset(
    "BITCOUNT BITFIELD_RO BITPOS DBSIZE DUMP ECHO EVALSHA_RO EVAL_RO EXISTS EXPIRETIME FCALL_RO GEODIST GEOHASH "
    "GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE HEXISTS HEXPIRETIME HGET HGETALL HKEYS "
    "HLEN HMGET HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSTRLEN HTTL HVALS INFO KEYS LCS LINDEX LLEN LPOS LRANGE MGET "
    "PEXPIRETIME PFCOUNT PING PTTL RANDOMKEY SCAN SCARD SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER "
    "SORT_RO SRANDMEMBER SSCAN STRLEN SUBSTR SUNION TIME TTL TYPE XLEN XPENDING XRANGE XREAD XREVRANGE ZCARD ZCOUNT "
    "ZDIFF ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE "
    "ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION".split()
)
"""Commands that change nothing, so that sending one twice does no harm."""

_FORGOTTEN = (STATEFUL - {"CLIENT", "DEBUG", "EXEC", "HIMPORT", "SHUTDOWN"}) | {"WAIT", "WAITAOF"}
"""Commands whose effect ends with their connection."""


@dataclass(frozen=True, slots=True)
class CommandInfo:
    """What a command's name alone says."""

    exclusive: bool
    """It needs a dedicated connection."""
    depends: bool
    """It needs a dedicated connection with the option ``BLOCK``, or as ``SCRIPT DEBUG``."""
    reads: bool
    """It only reads."""
    upper: bool
    """A ``str`` in upper case, as redis-py's own methods write it."""
    plain: bool
    """It may always share, and its arguments need no check."""
    words: tuple[str, ...]
    """The words of the name as the server receives them, in upper case."""
    is_ephemeral: bool
    """If its connection is lost, no effect remains."""
    head: str
    """The start of the packed command, up to the length of its only argument.

    Empty unless the name is one ASCII word.
    """


def words_of(name: Any) -> list[bytes]:
    """Return the words that a command's name becomes on the wire, as redis-py splits and encodes it.

    A ``str`` is sent as its own ``encode()`` returns it. For an ``Enum`` with text that differs from ``str(name)``.
    """
    if isinstance(name, str):
        return name.encode(errors="surrogatepass").split() if name.__class__ is str else bytes(name.encode()).split()
    if isinstance(name, bytes | bytearray | memoryview):
        return bytes(name).split()
    return str(name).encode(errors="replace").split()


def _classify(name: Any) -> CommandInfo:
    words = [word.upper().decode("latin-1") for word in words_of(name)]
    first = words[0] if words else ""
    exclusive = (
        # The server does not answer an empty command. No other caller may wait behind it.
        not words
        or first in BLOCKING
        or first in STATEFUL
        or words[:2] == ["SCRIPT", "DEBUG"]
        or (first in BLOCKING_BY_OPTION and "BLOCK" in words)
    )
    upper = isinstance(name, str) and name.isupper()
    depends = first in BLOCKING_BY_OPTION or words == ["SCRIPT"]
    text = _text_of(name) if isinstance(name, str | bytes) else ""
    head = f"*2\r\n${len(text)}\r\n{text}\r\n$" if words == [text.upper()] and text.isascii() else ""
    reads = first in READING
    is_ephemeral = reads or " ".join(words) in _FORGOTTEN
    return CommandInfo(exclusive, depends, reads, upper, not (exclusive or depends), tuple(words), is_ephemeral, head)


def _text_of(name: str | bytes) -> str:
    return (name.encode(errors="surrogatepass") if isinstance(name, str) else bytes(name)).decode("latin-1")


COMMANDS: dict[Any, CommandInfo] = {}
_MOST_NAMES = 2000  # names can come from users; real ones are a few hundred


def command_info(name: Any) -> CommandInfo:
    """Return the info of a command's name, in any form that redis-py accepts."""
    # A subclass may equal the plain name and be sent as another one. It gets no entry, and uses none of the plain name.
    known = name.__class__ is str or name.__class__ is bytes
    info = COMMANDS.get(name) if known else None
    if info is None:
        info = _classify(name)
        if known and len(COMMANDS) < _MOST_NAMES:
            COMMANDS[name] = info
    return info


def is_exclusive(args: Sequence[Any]) -> bool:
    """Whether a command, name first, needs a dedicated connection."""
    info = command_info(args[0])
    if info.exclusive or not info.depends:
        return info.exclusive
    if _is_word(args[0], "SCRIPT"):
        return len(args) > 1 and _is_word(args[1], "DEBUG")
    return any(_is_word(arg, "BLOCK") for arg in args[1:])


def pipeline_info(stack: Iterable[tuple[Sequence[Any], Any]]) -> tuple[bool, bool]:
    """Return whether one of these commands needs a dedicated connection, and whether all of them only read."""
    reads = True
    for args, _ in stack:
        name = args[0]
        info = (COMMANDS.get(name) if name.__class__ is str else None) or command_info(name)
        if not info.plain and is_exclusive(args):
            return True, False
        if not info.reads:
            reads = False
    return False, reads


def may_block(args: Sequence[Any]) -> bool:
    """Whether a command, name first, may wait for another client or server."""
    first = _first_word(args[0])
    return first == "" or first in BLOCKING or (first in BLOCKING_BY_OPTION and is_exclusive(args))


def _first_word(name: Any) -> str:
    words = command_info(name).words
    return words[0] if words else ""


def only_reads(name: Any) -> bool:
    """Whether sending the command twice does no harm."""
    return command_info(name).reads


def sent_words(args: Sequence[Any], most: int = 3) -> list[str]:
    """Return the first ``most`` words of a command as the server receives them, in upper case."""
    words = command_info(args[0]).words
    if len(words) >= most or len(args) == 1:
        return list(words[:most])
    return [*words, *(_word_of(arg).upper().decode("latin-1") for arg in args[1 : 1 + most - len(words)])]


def _word_of(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return value.encode(errors="replace") if isinstance(value, str) else repr(value).encode(errors="replace")


def leaves_state(args: Sequence[Any]) -> bool:
    """Whether a command, name first, leaves its connection unfit for other callers."""
    info = command_info(args[0])
    if not (info.exclusive or info.depends):
        return False
    first, *rest = info.words or ("",)
    if first in _WITH_SUBCOMMANDS:
        second = rest[0] if rest else "".join(sent_words(args, 2)[1:])
    if first == "CLIENT":
        return second not in LEAVES_NO_STATE
    return first in LEAVES_STATE or first == "" or (first == "SCRIPT" and second == "DEBUG")


_WITH_SUBCOMMANDS = ("CLIENT", "SCRIPT")


def is_ephemeral(name: Any) -> bool:
    """Whether the effect of a command, name first, ends with its connection."""
    return command_info(name).is_ephemeral


def _is_word(value: Any, word: str) -> bool:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).upper() == word.encode()
    return isinstance(value, str) and value.upper() == word
