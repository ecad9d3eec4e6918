"""Random commands under random faults, against a model that knows every state a key can be in.

The model is a dict from key to the set of states that are possible. A reply keeps the states that explain it, and there
must be one. A command of unknown outcome, or one whose caller left, adds the states that it may have led to. A command
that failed in any other way has not been carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from types import NoneType

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from redis import exceptions as redis_exceptions

from redispool_app.engine import AsyncRedis
from redispool_app.exceptions import OutcomeUnknown
from tests.support.proxy import Proxy

KEYS = ["key:a", "key:b", "key:c", "key:d"]
VALUES = ["x", "y", "7"]
WRONG_TYPE = "WRONGTYPE"
NOT_A_NUMBER = "not an integer"
HANGS = 10.0

# What each command does to the state of its key: (reply, new state). A state is None, bytes (a string), a tuple
# (a list) or a frozenset of pairs (a hash).


def a_get(state):
    return (WRONG_TYPE if isinstance(state, tuple | frozenset) else state), state


def a_set(state, value):
    return True, value.encode()


def a_delete(state):
    return int(state is not None), None


def an_increment(state):
    if isinstance(state, tuple | frozenset):
        return WRONG_TYPE, state
    try:
        number = int(state or b"0") + 1
    except ValueError:
        return NOT_A_NUMBER, state
    return number, b"%d" % number


def an_append(state, value):
    if isinstance(state, tuple | frozenset):
        return WRONG_TYPE, state
    state = (state or b"") + value.encode()
    return len(state), state


def a_push(state, value):
    if state is not None and not isinstance(state, tuple):
        return WRONG_TYPE, state
    state = (value.encode(), *(state or ()))
    return len(state), state


def a_pop(state):
    if state is None:
        return None, None
    if not isinstance(state, tuple):
        return WRONG_TYPE, state
    return state[0], state[1:] or None


def a_range(state):
    return (list(state or ()) if isinstance(state, tuple | NoneType) else WRONG_TYPE), state


def a_field(state, value):
    if state is not None and not isinstance(state, frozenset):
        return WRONG_TYPE, state
    fields = dict(state or ())
    reply = int(b"f" not in fields)
    return reply, frozenset({**fields, b"f": value.encode()}.items())


def all_fields(state):
    return (dict(state or ()) if isinstance(state, frozenset | NoneType) else WRONG_TYPE), state


COMMANDS = {
    "get": (a_get, lambda client, key: client.get(key)),
    "set": (a_set, lambda client, key, value: client.set(key, value)),
    "delete": (a_delete, lambda client, key: client.delete(key)),
    "incr": (an_increment, lambda client, key: client.incr(key)),
    "append": (an_append, lambda client, key, value: client.append(key, value)),
    "lpush": (a_push, lambda client, key, value: client.lpush(key, value)),
    "lpop": (a_pop, lambda client, key: client.lpop(key)),
    "lrange": (a_range, lambda client, key: client.lrange(key, 0, -1)),
    "hset": (a_field, lambda client, key, value: client.hset(key, "f", value)),
    "hgetall": (all_fields, lambda client, key: client.hgetall(key)),
}
TAKE_A_VALUE = ("set", "append", "lpush", "hset")

steps = st.one_of(
    st.tuples(st.sampled_from(sorted(set(COMMANDS) - set(TAKE_A_VALUE)))),
    st.tuples(st.sampled_from(TAKE_A_VALUE), st.sampled_from(VALUES)),
)
units = st.one_of(
    st.tuples(st.just("alone"), st.tuples(steps)),
    st.tuples(st.sampled_from(["pipeline", "transaction"]), st.lists(steps, min_size=1, max_size=4).map(tuple)),
)
endings = st.one_of(
    st.just(("stays",)),
    st.tuples(st.just("leaves after ticks"), st.integers(0, 5)),
    st.tuples(st.just("leaves after milliseconds"), st.integers(0, 4)),
)
faults = st.one_of(
    st.just(("no fault",)),
    st.tuples(st.just("cut before"), st.sampled_from(KEYS)),
    st.tuples(st.just("cut after"), st.sampled_from(KEYS)),
    st.tuples(st.just("cut in a reply"), st.integers(1, 30)),
    st.tuples(st.just("cut"), st.integers(0, 4)),
    st.just(("byte by byte",)),
    st.just(("late replies",)),
)
rounds = st.tuples(faults, st.dictionaries(st.sampled_from(KEYS), st.tuples(units, endings), min_size=1))


def carry_out(unit, state, length=None):
    """Return what a unit replies and where it leads; ``length``: only so many of its commands were carried out."""
    replies = []
    for name, *arguments in unit[1][:length]:
        reply, state = COMMANDS[name][0](state, *arguments)
        replies.append(reply)
    return replies, state


def same(reply, expected):
    if isinstance(reply, redis_exceptions.ResponseError):
        return isinstance(expected, str) and expected in str(reply)
    return type(reply) is type(expected) and reply == expected


class Model:
    def __init__(self):
        self.possible = {key: {None} for key in KEYS}

    def replied(self, key, unit, replies):
        before = self.possible[key]
        after = set()
        for state in before:
            expected, led_to = carry_out(unit, state)
            if len(replies) == len(expected) and all(map(same, replies, expected)):
                after.add(led_to)
        assert after, f"{key}: {unit} replied {replies}, which no state of {before} explains"
        self.possible[key] = after

    def unknown(self, key, unit):
        # A cut can let the first commands of a pipeline pass; a transaction is all or nothing.
        lengths = range(len(unit[1]) + 1) if unit[0] == "pipeline" else (0, len(unit[1]))
        self.possible[key] = {carry_out(unit, state, length)[1] for state in self.possible[key] for length in lengths}


async def send(client, key, unit):
    """Send a unit; return its replies, error replies among them."""
    kind, commands = unit
    if kind == "alone":
        ((name, *arguments),) = commands
        try:
            return [await COMMANDS[name][1](client, key, *arguments)]
        except redis_exceptions.ResponseError as error:
            return [error]
    pipe = client.pipeline(transaction=kind == "transaction")
    for name, *arguments in commands:
        COMMANDS[name][1](pipe, key, *arguments)
    return await pipe.execute(raise_on_error=False)


async def call(client, model, key, unit, ending):
    """One caller's turn: send, perhaps leave, and tell the model what came of it."""
    sending = asyncio.create_task(send(client, key, unit))
    if ending[0] == "leaves after ticks":
        for _ in range(ending[1]):
            await asyncio.sleep(0)
        sending.cancel()
    elif ending[0] == "leaves after milliseconds":
        asyncio.get_running_loop().call_later(ending[1] / 1000, sending.cancel)
    try:
        async with asyncio.timeout(HANGS):
            replies = await sending
    except (asyncio.CancelledError, OutcomeUnknown) as error:
        event(f"{type(error).__name__}")
        model.unknown(key, unit)
    except (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError) as error:
        event(f"not carried out: {type(error).__name__}")
    else:
        model.replied(key, unit, replies)


def set_fault(proxy, fault, loop):
    kind, *how = fault
    if kind == "cut before":
        proxy.cut_before = how[0].encode()
    elif kind == "cut after":
        proxy.cut_after = how[0].encode()
    elif kind == "cut in a reply":
        proxy.cut_after_reply_bytes = how[0]
    elif kind == "cut":
        loop.call_later(how[0] / 1000, proxy.cut)
    elif kind == "byte by byte":
        proxy.piece = 1
    elif kind == "late replies":
        # Past every deadline. Requests pass at once, so what the server does it does now, not after the next round.
        proxy.reply_delay = 0.15


async def play(proxy, plan, protocol, complaints):
    model = Model()
    client = AsyncRedis.from_url(proxy.url, socket_timeout=0.1, protocol=protocol, socket_connect_timeout=5)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        for fault, calls in plan:
            set_fault(proxy, fault, loop)
            async with asyncio.timeout(2 * HANGS):
                await asyncio.gather(*(call(client, model, key, unit, ending) for key, (unit, ending) in calls.items()))
            await asyncio.sleep(0.005)
            proxy.heal()
        for key in model.possible:
            await settled(client, model, key)
        async with asyncio.timeout(HANGS):
            # Replies that no caller waits for may still be due on a connection beside which another was made.
            while client.sharing.in_flight:
                await asyncio.sleep(0.005)
    finally:
        await client.aclose()


async def settled(client, model, key):
    """Read the key, whatever it holds, until that succeeds."""
    for _ in range(100):
        with contextlib.suppress(redis_exceptions.ConnectionError, redis_exceptions.TimeoutError):
            for name in ("get", "lrange", "hgetall"):
                unit = ("alone", ((name,),))
                model.replied(key, unit, await send(client, key, unit))
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the client does not recover")


@pytest.fixture(scope="module")
def proxy(shared_server):
    with Proxy(shared_server.port) as proxy:
        yield proxy


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=st.lists(rounds, min_size=1, max_size=6), protocol=st.sampled_from([2, 3]))
def test_every_reply_is_explained_by_a_possible_state(shared_server, proxy, plan, protocol):
    proxy.heal()
    with shared_server.client() as admin:
        admin.delete(*KEYS)
    complaints = []
    asyncio.run(play(proxy, plan, protocol, complaints))
    # A task whose exception nobody has seen complains when it is collected.
    gc.collect(1)
    assert complaints == []
