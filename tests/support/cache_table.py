"""Cache calls of every kind, for the comparison with Django's own Redis backend."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import uuid
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.utils.safestring import SafeString

from .twin_caches import Case, apart, at_server, case, do


class Colour(enum.IntEnum):
    RED = 1


class Point:
    """A project's own object: equal by value, so that reading it back can be checked."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __repr__(self) -> str:
        return f"Point({self.x})"


def shouting_key(key: str, key_prefix: str, version: int) -> str:
    return f"{key_prefix}!{version}!{str(key).upper()}"


def produced() -> str:
    return "produced"


def nothing() -> None:
    return None


def failing() -> str:
    raise LookupError("no such page")


TIMEOUTS: dict[str, Any] = {
    "default": DEFAULT_TIMEOUT,
    "None": None,
    "0": 0,
    "negative": -5,
    "0.5": 0.5,
    "1.9": 1.9,
    "100": 100,
    "True": True,
    "Decimal": decimal.Decimal("7.5"),
    "digits": "20",
    "word": "soon",
    "timedelta": datetime.timedelta(seconds=5),
    "nan": float("nan"),
    "infinite": float("inf"),
    "beyond the server": 10**18,
}

VALUES: dict[str, Any] = {
    "None": None,
    "empty str": "",
    "empty bytes": b"",
    "digits as str": "123",
    "digits as bytes": b"123",
    "unicode": "ä€😀\x00\r\n",
    "zero": 0,
    "negative": -7,
    "beyond 64 bits": 2**70,
    "True": True,
    "False": False,
    "float": 1.5,
    "nan": float("nan"),
    "IntEnum": Colour.RED,
    "Decimal": decimal.Decimal("1.10"),
    "Fraction": fractions.Fraction(1, 3),
    "datetime": datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
    "UUID": uuid.UUID(int=5),
    "list": [1, "two", [3.0, None]],
    "tuple": (1, 2),
    "dict": {"a": 1, 2: {"b": b"\xff"}},
    "set": {1},
    "OrderedDict": collections.OrderedDict(b=1, a=2),
    "SafeString": SafeString("<b>"),
    "object": Point(3),
    "class": Point,
    "exception": ValueError("kept"),
    "large": "x" * 200_000,
    "zlib's first bytes": b"\x78\x9cnot compressed",
    "zstd's first bytes": b"\x28\xb5\x2f\xfdnot compressed",
    "lambda": lambda: None,
    "generator": (each for each in ()),
}

KEYS: dict[str, Any] = {
    "plain": "k",
    "empty": "",
    "space": "a b",
    "newline": "a\nb",
    "control character": "a\x01b",
    "DEL": "a\x7fb",
    "250 with prefix": "k" * 247,
    "251 with prefix": "k" * 248,
    "long with space": "k " * 200,
    "unicode": "schlüssel-😀",
    "int": 5,
    "None": None,
    "bytes": b"k",
    "tuple": ("a", 1),
    "percent": "100%s",
    "glob": "a*[b]?",
    "surrogate": "\ud800",
}


def timeouts() -> list[Case]:
    for_each = {
        "set": lambda timeout: [do("set", "k", "v", timeout)],
        "set over another": lambda timeout: [do("set", "k", "old", 50), do("set", "k", "v", timeout=timeout)],
        "add": lambda timeout: [do("add", "k", "v", timeout), do("get", "k")],
        "add to another": lambda timeout: [do("set", "k", "old", 50), do("add", "k", "v", timeout=timeout)],
        "touch": lambda timeout: [do("set", "k", "v", 50), do("touch", "k", timeout), do("get", "k")],
        "touch what never expires": lambda timeout: [do("set", "k", "v", None), do("touch", "k", timeout=timeout)],
        "touch what is missing": lambda timeout: [do("touch", "k", timeout)],
        "set_many": lambda timeout: [do("set_many", {"a": 1, "b": "2"}, timeout)],
        "get_or_set": lambda timeout: [do("get_or_set", "k", "v", timeout), do("get", "k")],
        "get_backend_timeout": lambda timeout: [do("get_backend_timeout", timeout)],
    }
    return [
        case(f"{name}, timeout {spelt}", *steps(timeout), sync_only=name == "get_backend_timeout")
        for name, steps in for_each.items()
        for spelt, timeout in TIMEOUTS.items()
        if (name, spelt) != ("set_many", "beyond the server")  # which has a test of its own
    ]


def values() -> list[Case]:
    return [
        case(
            f"value {spelt}",
            do("set", "k", value),
            do("get", "k", "default"),
            do("has_key", "k"),
            do("add", "added", value),
            do("get_or_set", "computed", value if not callable(value) else (lambda value=value: value)),
            do("set_many", {"a": value, "b": 1}),
            do("get_many", ["a", "b", "missing", "k"]),
            do("incr_version", "k"),
            do("get", "k", version=2),
        )
        for spelt, value in VALUES.items()
    ]


def keys() -> list[Case]:
    return [
        case(
            f"key {spelt}",
            do("set", key, "v"),
            do("get", key),
            do("get_many", [key, "other"]),
            do("has_key", key),
            do("add", key, "w"),
            do("touch", key, 50),
            do("set_many", {key: 4, "other": 5}),
            do("incr", key, 2),
            do("decr", key),
            do("get_or_set", key, "w"),
            do("incr_version", key),
            do("delete_many", ["other", key]),
            do("delete", key, version=2),
            do("delete", key),
        )
        for spelt, key in KEYS.items()
    ]


MISSING = [
    case("get what is missing", do("get", "k")),
    case("get with a default", do("get", "k", "default"), do("get", "k", default=0), do("get", "k", version=3)),
    case("get a stored None with a default", do("set", "k", None), do("get", "k", "default")),
    case("get_many of nothing", do("get_many", [])),
    case("get_many, none there", do("get_many", ["a", "b"])),
    case("get_many, some there", do("set", "b", 1), do("get_many", ["a", "b", "c"])),
    case("get_many, one key twice", do("set", "b", 1), do("get_many", ["b", "b"])),
    case("get_many of a tuple", do("set", "b", 1), do("get_many", ("b",))),
    case("get_many of a set", do("set", "b", 1), do("get_many", {"b"})),
    case("get_many of dict keys", do("set", "b", 1), do("get_many", {"b": 1}.keys())),
    case("get_many in the order asked", do("set_many", {"a": 1, "b": 2, "c": 3}), do("get_many", ["c", "a", "b"])),
    case("get_many with a version", do("set", "b", 1, version=2), do("get_many", ["b"], 2), do("get_many", ["b"])),
    case("has_key", do("has_key", "k"), do("set", "k", None), do("has_key", "k"), do("has_key", "k", version=2)),
    case("in", do("__contains__", "k"), do("set", "k", None), do("__contains__", "k"), sync_only=True),
    case("delete", do("delete", "k"), do("set", "k", 1), do("delete", "k"), do("delete", "k"), do("get", "k")),
    case("delete another version", do("set", "k", 1), do("delete", "k", version=2), do("delete", "k", 1)),
    case("delete_many", do("set_many", {"a": 1, "b": 2, "c": 3}), do("delete_many", ["a", "c", "missing"])),
    case("delete_many of nothing", do("set", "a", 1), do("delete_many", [])),
    case("delete_many with a version", do("set", "a", 1), do("delete_many", ["a"], version=2)),
    case("add", do("add", "k", 1), do("add", "k", 2), do("add", "k", 3, version=2), do("get", "k")),
]

COUNTING = [
    case("incr from 0", do("set", "k", 0), do("incr", "k"), do("incr", "k"), do("get", "k")),
    case("incr by a delta", do("set", "k", 5), do("incr", "k", 10), do("incr", "k", delta=-20), do("get", "k")),
    case("incr by 0", do("set", "k", 5), do("incr", "k", 0)),
    case("incr by a large delta", do("set", "k", 5), do("incr", "k", 2**62)),
    case("decr", do("set", "k", 5), do("decr", "k"), do("decr", "k", 10), do("decr", "k", delta=-1), do("get", "k")),
    case("incr another version", do("set", "k", 5, version=2), do("incr", "k", version=2), do("get", "k")),
    case("decr another version", do("set", "k", 5, version=2), do("decr", "k", version=2)),
    case("incr what never expires", do("set", "k", 5, None), do("incr", "k"), strays=True),
    case("incr keeps the lifetime", do("set", "k", 5, 50), do("incr", "k"), do("decr", "k"), strays=True),
    case("incr what is missing", do("incr", "k"), do("get", "k"), strays=True),
    case("incr what is missing by a delta", do("incr", "k", 5), strays=True),
    case("incr a version that is missing", do("set", "k", 5), do("incr", "k", version=2), strays=True),
    case("decr what is missing", do("decr", "k"), do("has_key", "k"), strays=True),
    case("decr by a word", do("set", "k", 1), do("decr", "k", "two")),
]

VERSIONS = [
    case(
        "versions are apart", do("set", "k", 1), do("set", "k", 2, version=2), do("get", "k"), do("get", "k", None, 2)
    ),
    case("touch a version", do("set", "k", 1, version=2), do("touch", "k", 50, version=2), do("touch", "k", 60, 1)),
    case("add a version", do("add", "k", 1, version=2), do("add", "k", 2, 50, 2), do("add", "k", 3, version=1)),
    case("a version that is a word", do("set", "k", 1, version="blue"), do("get", "k", version="blue"), do("get", "k")),
    case("incr_version", do("set", "k", "v"), do("incr_version", "k"), do("get", "k"), do("get", "k", version=2)),
    case("incr_version by 5", do("set", "k", "v"), do("incr_version", "k", 5), do("get", "k", version=6)),
    case("incr_version of None", do("set", "k", None), do("incr_version", "k"), do("has_key", "k", version=2)),
    case("incr_version of a counter", do("set", "k", 7), do("incr_version", "k"), do("incr", "k", version=2)),
    case("incr_version over another", do("set", "k", 1), do("set", "k", 2, version=2), do("incr_version", "k")),
    case("incr_version, missing", do("incr_version", "k")),
    case("incr_version, missing, of a version", do("set", "k", 1), do("incr_version", "k", version=3)),
    case("decr_version", do("set", "k", "v", version=2), do("decr_version", "k", version=2), do("get", "k")),
    case("decr_version by 2", do("set", "k", "v", version=5), do("decr_version", "k", 2, 5), do("get", "k", version=3)),
    case("decr_version, missing", do("decr_version", "k")),
]

COMPUTED = [
    case("get_or_set a value", do("get_or_set", "k", "v"), do("get_or_set", "k", "w"), do("get", "k")),
    case("get_or_set a callable", do("get_or_set", "k", produced), do("get_or_set", "k", failing)),
    case("get_or_set None", do("get_or_set", "k", None), do("get_or_set", "k", failing), do("has_key", "k")),
    case("get_or_set a callable's None", do("get_or_set", "k", nothing), do("get_or_set", "k", failing)),
    case("get_or_set when a stored None is there", do("set", "k", None), do("get_or_set", "k", "v")),
    case("get_or_set a callable that fails", do("get_or_set", "k", failing), do("get", "k")),
    case("get_or_set with a version", do("get_or_set", "k", 1, 50, 2), do("get", "k"), do("get", "k", version=2)),
    case("get_or_set a counter", do("get_or_set", "k", 0), do("incr", "k")),
]

CONFIGURED = [
    case("KEY_PREFIX", do("set", "k", 1), do("get", "k"), do("incr", "k"), do("delete", "k"), KEY_PREFIX="site"),
    case("KEY_PREFIX with glob characters", do("set", "k", 1), do("get_many", ["k"]), KEY_PREFIX="s*[i]?"),
    case("VERSION", do("set", "k", 1), do("get", "k", version=1), do("incr_version", "k"), VERSION=4),
    case("KEY_FUNCTION", do("set", "k", 1), do("get", "K"), do("incr", "k"), KEY_FUNCTION=shouting_key),
    case(
        "KEY_FUNCTION by its path, with a prefix",
        do("set_many", {"k": 1, "l": 2}, version=3),
        do("get_many", ["k", "l"], version=3),
        do("incr", "missing"),
        strays=True,
        KEY_FUNCTION="tests.support.cache_table.shouting_key",
        KEY_PREFIX="site",
    ),
    case("TIMEOUT", do("set", "k", 1), do("add", "l", 1), do("set_many", {"m": 1}), TIMEOUT=77),
    case("TIMEOUT None", do("set", "k", 1), do("add", "l", 1), do("set_many", {"m": 1}), TIMEOUT=None),
    case("TIMEOUT None, touched", do("set", "k", 1, 50), do("touch", "k"), TIMEOUT=None),
    case("TIMEOUT 0", do("set", "k", 1), do("add", "l", 1), do("get", "k"), TIMEOUT=0),
    case("TIMEOUT as digits", do("set", "k", 1), TIMEOUT="60"),
    case("TIMEOUT as a word", do("set", "k", 1), TIMEOUT="soon"),
    case("make_key", do("make_key", "k"), do("make_key", "k", 3), sync_only=True, KEY_PREFIX="site"),
    case("validate_key", do("validate_key", "a b"), do("validate_key", "k" * 251), sync_only=True),
    case("make_and_validate_key", do("make_and_validate_key", "a b", version=2), sync_only=True, KEY_PREFIX="site"),
    case("close, and go on", do("set", "k", 1), do("close"), do("get", "k"), do("close"), do("close")),
]

FOUND_AT_THE_SERVER = [
    case("a number written by somebody else", at_server("SET", ":1:k", "42"), do("get", "k"), do("get_many", ["k"])),
    case("a number with spaces around", at_server("SET", ":1:k", " 42 "), do("get", "k"), do("get_many", ["k"])),
    case("a list where a value should be", at_server("RPUSH", ":1:k", 1), do("get", "k"), do("incr", "k")),
    case(
        "get_many beside a list",
        at_server("RPUSH", ":1:k", 1),
        do("set", "a", 1),
        do("get_many", ["a", "k"]),
        strays=True,
    ),
    case("a value over a list", at_server("RPUSH", ":1:k", 1), do("set", "k", 1), do("get", "k")),
    case("touch and delete a list", at_server("RPUSH", ":1:k", 1), do("touch", "k", 50), do("delete", "k")),
    case("cut pickle", at_server("SET", ":1:k", b"\x80\x05\x95"), do("get", "k"), do("get_many", ["k"])),
    case("a class that is gone", at_server("SET", ":1:k", b"ctests.cache_table\nGone\n."), do("get", "k")),
]

MANY = [
    case("set_many", do("set_many", {"a": 1, "b": "two", "c": None}), do("get_many", ["a", "b", "c"])),
    case("set_many of nothing", do("set_many", {})),
    case("set_many with a version", do("set_many", {"a": 1}, version=2), do("get", "a"), do("get", "a", version=2)),
    case("set_many over others", do("set", "a", "old", 50), do("set_many", {"a": "new"}, None)),
]

SAME = [
    *timeouts(),
    *values(),
    *keys(),
    *MISSING,
    *COUNTING,
    *VERSIONS,
    *COMPUTED,
    *CONFIGURED,
    *FOUND_AT_THE_SERVER,
    *MANY,
]
UNCOUNTABLE = ValueError("Key ':1:k' cannot be counted: its value or the total is no 64-bit integer; set it anew.")

APART = [
    apart("incr of text", do("set", "k", "text"), do("incr", "k"), ours=UNCOUNTABLE),
    apart("incr of a float", do("set", "k", 1.5), do("incr", "k"), ours=UNCOUNTABLE),
    apart("incr of True", do("set", "k", True), do("incr", "k"), ours=UNCOUNTABLE),
    apart("incr of None", do("set", "k", None), do("incr", "k"), ours=UNCOUNTABLE),
    apart("incr of a value beyond 64 bits", do("set", "k", 2**70), do("incr", "k"), ours=UNCOUNTABLE),
    apart("incr beyond 64 bits", do("set", "k", 2**63 - 1), do("incr", "k"), ours=UNCOUNTABLE),
    apart("decr beyond 64 bits", do("set", "k", -(2**63)), do("decr", "k"), ours=UNCOUNTABLE),
    apart(
        "incr by a float",
        do("set", "k", 1),
        do("incr", "k", 1.5),
        ours=TypeError("'float' object cannot be interpreted as an integer"),
    ),
    apart(
        "incr by a word",
        do("set", "k", 1),
        do("incr", "k", "two"),
        ours=TypeError("'str' object cannot be interpreted as an integer"),
    ),
    apart(
        "incr by True",
        do("set", "k", 1),
        do("incr", "k", True),
        ours=TypeError("A counter is incremented by an integer, not by a bool."),
    ),
    apart(
        "incr_version keeps the lifetime",
        do("set", "k", "v", 50),
        do("incr_version", "k"),
        ours=2,
        lifetimes={b":2:k": 50},
    ),
    apart(
        "incr_version of what never expires",
        do("set", "k", "v", None),
        do("incr_version", "k"),
        ours=2,
        lifetimes={b":2:k": None},
    ),
    apart(
        "decr_version keeps the lifetime",
        do("set", "k", "v", 50),
        do("decr_version", "k"),
        ours=0,
        lifetimes={b":0:k": 50},
    ),
    apart(
        "incr_version by 0 loses nothing",
        do("set", "k", "v"),
        do("incr_version", "k", 0),
        ours=1,
        lifetimes={b":1:k": 300},
    ),
    apart(
        "clear leaves the keys of others",
        at_server("MSET", "others", 1, "1:1:k", 2, "site:1:k", 3),
        do("set_many", {"a": 1, "b": "2"}),
        do("set", "k", "v", version=7),
        do("clear"),
        ours=True,
        lifetimes={b"others": None, b"1:1:k": None, b"site:1:k": None},
    ),
    apart(
        "clear leaves the keys of other prefixes",
        at_server("MSET", "site2:1:k", 1, "site:more:1:k", 2, ":1:k", 3, "site", 4),
        do("set", "k", "v"),
        do("clear"),
        ours=True,
        lifetimes={b"site2:1:k": None, b"site:more:1:k": None, b":1:k": None, b"site": None},
        KEY_PREFIX="site",
    ),
]
