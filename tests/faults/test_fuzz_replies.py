"""Whatever a server answers, each caller gets what redis-py makes of it or a clear error, and nobody hangs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings

from .fuzz.replies import Witness
from .fuzz.scripted_server import ScriptedServer

fuzz = hypothesis_settings(
    # The same examples each time: on others hiredis 3.5 has crashed the interpreter twice, under redis-py itself.
    derandomize=True,
    deadline=timedelta(seconds=30),
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

lines = strategies.text(alphabet=strategies.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
codes = strategies.sampled_from(
    "ERR MOVED ASK LOADING NOAUTH NOPERM READONLY OOM WRONGTYPE MISCONF DENIED NOSCRIPT".split()
)
texts = strategies.one_of(lines, strategies.builds("{} {}".format, codes, lines), codes).map(str.encode)


def line(kind):
    return lambda text: kind + text + b"\r\n"


def bulk(kind):
    return lambda data: kind + b"%d\r\n" % len(data) + data + b"\r\n"


def aggregate(kind, size=1):
    return lambda items: kind + b"%d\r\n" % (len(items) // size) + b"".join(items[: len(items) // size * size])


integers = strategies.integers(-(2**63), 2**63 - 1).map(lambda number: b"%d" % number)
data = strategies.one_of(strategies.binary(max_size=12), texts)
leaves = strategies.one_of(
    texts.map(line(b"+")),
    texts.map(line(b"-")),
    integers.map(line(b":")),
    integers.map(line(b"(")),
    strategies.floats().map(lambda number: b",%r\r\n" % number),
    data.map(bulk(b"$")),
    data.map(lambda content: bulk(b"=")(b"txt:" + content)),
    strategies.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b"#f\r\n", b",inf\r\n", b",nan\r\n"]),
)
replies = strategies.recursive(
    leaves,
    lambda inner: strategies.one_of(
        strategies.lists(inner, max_size=4).map(aggregate(b"*")),
        strategies.lists(inner, max_size=4).map(aggregate(b"~")),
        strategies.lists(inner, max_size=4).map(aggregate(b"%", 2)),
    ),
    max_leaves=8,
)
flags = strategies.tuples(strategies.sampled_from([2, 3]), strategies.booleans())


@strategies.composite
def mutated(draw):
    """A reply with a few bytes changed, dropped or put in."""
    reply = bytearray(draw(replies))
    for _ in range(draw(strategies.integers(1, 3))):
        at = draw(strategies.integers(0, len(reply)))
        # No digits put in: a length of gigabytes would be tried.
        reply[at : at + draw(strategies.integers(0, 2))] = draw(
            strategies.sampled_from([b"", b"\r", b"\n", b"\r\n", b"-", b"*", b"$", b"%", b">", b"_", b"\x00", b"\xff"])
        )
    return bytes(reply)


@pytest.fixture(scope="module")
def witness():
    with ScriptedServer() as server:
        yield Witness(server)


@fuzz
@given(replies, flags)
def test_a_well_formed_reply_is_what_redis_py_makes_of_it(witness, reply, how):
    assert witness.check(reply, *how) in ("one", "wrong")


@fuzz
@given(mutated(), flags)
def test_a_damaged_reply_is_an_error_of_its_own_caller_only(witness, reply, how):
    witness.check(reply, *how)


@fuzz
@given(
    strategies.binary(min_size=1, max_size=30).filter(lambda garbage: not any(map(str.isdigit, map(chr, garbage)))),
    flags,
)
def test_garbage_is_an_error_of_its_own_caller_only(witness, garbage, how):
    witness.check(garbage, *how)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(
    "reply",
    [
        b"-MOVED\r\n",
        b"-ASK 1 nowhere\r\n",
        b"%1\r\n*0\r\n:1\r\n",
        b"-\r\n",
        b"$-2\r\n",
        b"*1\r\n" * 100_000 + b":1\r\n",
        b"*1\r\n" * 900 + b"+deep\r\n",
        b"$5\r\nab",
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
)
def test_replies_that_have_been_trouble(witness, reply, protocol, decode):
    witness.check(reply, protocol, decode)
