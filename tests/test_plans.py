"""Plans: what the two executors send, and what they return or raise."""

from __future__ import annotations

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.plans import Plan, Script, script_plan, send, send_async
from tests.support import stores

at_redis = stores.at_redis

ECHO = Script("return {KEYS[1], ARGV[1]}")


@pytest.fixture(params=["async", "sync"])
def run(request):
    """Carry out a plan on a manager's client, blocking or not."""

    async def run(manager, plan):
        if request.param == "sync":
            return send(manager.get_sync_client(), plan)
        return await send_async(await manager.get_client(), plan)

    return run


def plan(*commands):
    return Plan(commands, lambda reply: reply)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_the_reply_to_one_command_is_not_decoded(server, pool_settings, run, protocol):
    manager = pool_settings(server.url, PROTOCOL=protocol, DECODE_RESPONSES=True)
    await run(manager, plan(("HSET", "h", "field", "value")))
    reply = await run(manager, plan(("HGETALL", "h")))
    assert reply == ([b"field", b"value"] if protocol == 2 else {b"field": b"value"})


async def test_several_commands_are_one_transaction(manager, server, run):
    assert (await run(manager, plan(("SET", "a", 1), ("INCR", "a"), ("INCR", "a"))))[1:] == [2, 3]
    assert server.calls("multi") == server.calls("exec") == 1


async def test_the_first_error_of_several_commands_is_raised_and_quotes_no_value(manager, run, at_redis):
    at_redis.set("text", "x")
    with pytest.raises(redis_exceptions.ResponseError) as raised:
        await run(manager, plan(("SET", "a", "secret"), ("INCRBY", "text", 7), ("LPUSH", "text", "secret")))
    assert "not an integer" in str(raised.value)
    assert "INCRBY" not in str(raised.value)
    assert at_redis.get("a") == b"secret", "the other commands are carried out"


async def test_a_server_that_does_not_know_a_script_gets_its_text_once(manager, server, run, at_redis):
    at_redis.script_flush()
    for _ in range(3):
        assert await run(manager, script_plan(ECHO, ("k",), (5,), list)) == [b"k", b"5"]
    assert server.calls("evalsha") == 3
    assert server.calls("eval") == 1
