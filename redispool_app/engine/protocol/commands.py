"""Which commands may travel on the shared connection, and which of them only read.

Sources: the flags and ACL categories of the server's own ``COMMAND`` table
(https://redis.io/docs/latest/commands/command/), which the tests hold against these sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

BLOCKING = frozenset("BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN MIGRATE WAIT WAITAOF".split())
"""Commands that may make their connection wait for somebody else."""

BLOCKING_BY_OPTION = frozenset(("XREAD", "XREADGROUP"))
"""Commands that block only with the option ``BLOCK``."""

STATEFUL = frozenset(
    "ASKING AUTH CLIENT DEBUG DISCARD EXEC HELLO HIMPORT MONITOR MULTI PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT READONLY "
    "READWRITE REPLCONF RESET SELECT SHUTDOWN SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE SYNC UNSUBSCRIBE UNWATCH WATCH".split()
)
"""Commands that change, read or end the state of the connection they travel on."""

LEAVES_STATE = STATEFUL - frozenset(("CLIENT", "DEBUG", "DISCARD", "EXEC", "HIMPORT", "UNWATCH"))
"""Stateful commands after which a connection serves no other caller. redis-py itself keeps account of HIMPORT."""

LEAVES_NO_STATE = frozenset("GETNAME GETREDIR HELP ID INFO KILL LIST PAUSE TRACKINGINFO UNBLOCK UNPAUSE".split())
"""Subcommands of CLIENT after which a connection is as it was."""

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
"""Commands that leave nothing behind when the connection they travel on ends."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a command's name alone says."""

    exclusive: bool
    """It needs a connection of its own."""
    depends: bool
    """It needs one with the option ``BLOCK``, or as ``SCRIPT DEBUG``."""
    reads: bool
    """It only reads."""
    upper: bool
    """A ``str`` in upper case, as redis-py's own methods spell it."""
    plain: bool
    """It may always share, and needs no look at its arguments."""
    words: tuple[str, ...]
    """The words of the name as the server gets them, in upper case."""
    leaves_nothing: bool
    """It has changed nothing that outlives its connection, if that is lost."""
    head: str
    """What it begins with on the wire before the length of its only argument; empty for what is not one ASCII word."""


def words_of(name: Any) -> list[bytes]:
    """Return the words that a command's name becomes on the wire, as redis-py splits and encodes it.

    A ``str`` is sent as its own ``encode()`` gives it, which for an ``Enum`` with text differs from ``str(name)``.
    """
    if isinstance(name, str):
        return name.encode(errors="surrogatepass").split() if name.__class__ is str else bytes(name.encode()).split()
    if isinstance(name, bytes | bytearray | memoryview):
        return bytes(name).split()
    return str(name).encode(errors="replace").split()


def _classify(name: Any) -> Route:
    words = [word.upper().decode("latin-1") for word in words_of(name)]
    first = words[0] if words else ""
    exclusive = (
        # An empty command is answered by nothing; nobody else may wait for that.
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
    leaves_nothing = reads or " ".join(words) in _FORGOTTEN
    return Route(exclusive, depends, reads, upper, not (exclusive or depends), tuple(words), leaves_nothing, head)


def _text_of(name: str | bytes) -> str:
    return (name.encode(errors="surrogatepass") if isinstance(name, str) else bytes(name)).decode("latin-1")


ROUTES: dict[Any, Route] = {}
_MOST_ROUTES = 2000  # names can come from users; real ones are a few hundred


def route_of(name: Any) -> Route:
    """Return the route of a command's name, in any spelling that redis-py takes."""
    # A subclass may equal the plain name and be sent as something else: it gets no entry, and none of theirs.
    known = name.__class__ is str or name.__class__ is bytes
    route = ROUTES.get(name) if known else None
    if route is None:
        route = _classify(name)
        if known and len(ROUTES) < _MOST_ROUTES:
            ROUTES[name] = route
    return route


def is_exclusive(args: Sequence[Any]) -> bool:
    """Whether a command, name first, needs a connection of its own."""
    route = route_of(args[0])
    if route.exclusive or not route.depends:
        return route.exclusive
    if _is_word(args[0], "SCRIPT"):
        return len(args) > 1 and _is_word(args[1], "DEBUG")
    return any(_is_word(arg, "BLOCK") for arg in args[1:])


def route_of_all(stack: Iterable[tuple[Sequence[Any], Any]]) -> tuple[bool, bool]:
    """Return whether one of these pipelined commands is exclusive, and whether all of them only read."""
    reads = True
    for args, _ in stack:
        name = args[0]
        route = (ROUTES.get(name) if name.__class__ is str else None) or route_of(name)
        if not route.plain and is_exclusive(args):
            return True, False
        if not route.reads:
            reads = False
    return False, reads


def may_block(args: Sequence[Any]) -> bool:
    """Whether a command, name first, may wait for somebody else rather than for the server."""
    first = _first_word(args[0])
    return first == "" or first in BLOCKING or (first in BLOCKING_BY_OPTION and is_exclusive(args))


def _first_word(name: Any) -> str:
    words = route_of(name).words
    return words[0] if words else ""


def only_reads(name: Any) -> bool:
    """Whether sending the command twice does no harm."""
    return route_of(name).reads


def sent_words(args: Sequence[Any], most: int = 3) -> list[str]:
    """Return the first ``most`` words of a command as the server gets them, in upper case."""
    words = route_of(args[0]).words
    if len(words) >= most or len(args) == 1:
        return list(words[:most])
    return [*words, *(_word_of(arg).upper().decode("latin-1") for arg in args[1 : 1 + most - len(words)])]


def _word_of(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return value.encode(errors="replace") if isinstance(value, str) else repr(value).encode(errors="replace")


def leaves_state(args: Sequence[Any]) -> bool:
    """Whether a connection is no longer fit for other callers once a command, name first, has run on it."""
    route = route_of(args[0])
    if not (route.exclusive or route.depends):
        return False
    first, *rest = route.words or ("",)
    if first in _WITH_SUBCOMMANDS:
        second = rest[0] if rest else "".join(sent_words(args, 2)[1:])
    if first == "CLIENT":
        return second not in LEAVES_NO_STATE
    return first in LEAVES_STATE or first == "" or (first == "SCRIPT" and second == "DEBUG")


_WITH_SUBCOMMANDS = ("CLIENT", "SCRIPT")


def leaves_nothing(name: Any) -> bool:
    """Whether a command whose connection is lost has changed nothing that outlives it."""
    return route_of(name).leaves_nothing


def _is_word(value: Any, word: str) -> bool:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).upper() == word.encode()
    return isinstance(value, str) and value.upper() == word
