"""What a program does with the engine, one scenario for each way to wait in it.

Each is a coroutine that prepares the world, arms the watch, and does what may be cancelled at any point.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from dataclasses import dataclass
from functools import partial

import redis
from redis import exceptions as redis_exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import StreamingCredentialProvider

from redispool_app.engine import AsyncRedis
from redispool_app.engine.client.login import login_of
from redispool_app.engine.connection.connection_async import AsyncTCPConnection, AsyncTLSConnection
from redispool_app.engine.runtime.single_flight import Flight
from redispool_app.engine.stats.opentelemetry import Telemetry
from redispool_app.engine.stats.request_timing import RequestTiming, current_timing
from redispool_app.exceptions import CommandRefused

from .await_points import Watch

LOST = (redis_exceptions.ConnectionError, redis_exceptions.TimeoutError)


@dataclass
class World:
    manager: object
    server: object
    proxy: object
    watch: Watch
    replica: object
    """A server that refuses writes."""
    node: object
    """A server in cluster mode."""

    def arm(self):
        self.watch.armed = True

    async def client(self):
        return await self.manager.get_client()

    async def client_without_check(self):
        return (await self.manager._built().open()).client

    def bare_client(self, **options):
        """A client on a pool of redis-py's own."""
        url = self.proxy.url.replace("127.0.0.1", options.pop("host", "127.0.0.1"))
        return AsyncRedis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=2, **options)

    def push(self, key):
        with self.server.client() as admin:
            admin.rpush(key, "x")


SCENARIOS = {}


def scenario(**settings):
    def register(function):
        SCENARIOS[function.__name__.replace("_", " ")] = (function, settings)
        return function

    return register


@scenario()
async def the_first_command(world):
    world.arm()
    client = await world.client()
    await client.get("k")


class Thinking(redis.CredentialProvider):
    """Takes a moment to say what it knows."""

    def get_credentials(self):
        return "default", "whatever: this user needs no password"

    async def get_credentials_async(self):
        await asyncio.sleep(0)
        return self.get_credentials()


@scenario(CREDENTIAL_PROVIDER=Thinking())
async def a_first_command_with_credentials_to_wait_for(world):
    world.arm()
    client = await world.client()
    await client.get("k")


class Blocking(redis.CredentialProvider):
    """Has no asynchronous way to answer, and takes a moment."""

    def get_credentials(self):
        time.sleep(0.002)
        return "default", "whatever: this user needs no password"


@scenario(CREDENTIAL_PROVIDER=Blocking())
async def a_first_command_with_credentials_that_block(world):
    world.arm()
    client = await world.client()
    await client.get("k")


class Streaming(Thinking, StreamingCredentialProvider):
    """Would bring new tokens; here it brings none."""

    def on_next(self, callback):
        pass

    def on_error(self, callback):
        pass

    def is_streaming(self):
        return True


@scenario(CREDENTIAL_PROVIDER=Streaming())
async def a_first_command_with_streamed_credentials(world):
    world.arm()
    client = await world.client()
    await client.get("k")


@scenario()
async def streamed_credentials_of_a_bare_client(world):
    async with world.bare_client(credential_provider=Streaming()) as client:
        world.arm()
        await client.get("k")


@scenario()
async def a_new_password_for_all_connections(world):
    client = await world.client()
    await client.ping()
    world.arm()
    assert await client.execute_command("AUTH", "default", "any will do")
    world.proxy.cut()
    await asyncio.sleep(0.01)
    assert await client.execute_command("AUTH", "default", "another")


@scenario(CREDENTIAL_PROVIDER=Thinking())
async def a_new_password_beside_a_provider(world):
    client = await world.client()
    await client.ping()
    world.arm()
    assert await client.execute_command("AUTH", "default", "any will do")


@scenario()
async def a_password_that_is_changed_during_the_handshake(world):
    monitor = (await world.client_without_check()).connection_pool.monitor
    connection = AsyncTCPConnection(
        monitor=monitor,
        host="127.0.0.1",
        port=world.proxy.port,
        protocol=2,
        password="refused: the server has none, and wants a user's name then",
        retry=Retry(NoBackoff(), 0),
    )
    world.proxy.reply_delay = 0.005
    world.arm()
    connecting = asyncio.create_task(connection.connect())
    try:
        while connection._handshake_errors is None and not connecting.done():
            await asyncio.sleep(0)
        monitor.login = login_of(("AUTH", "default", "any will do"))
        await asyncio.gather(connecting)
    finally:
        await connection.disconnect(nowait=True)


@scenario()
async def a_command_on_a_warm_connection(world):
    client = await world.client()
    await client.ping()
    world.arm()
    await client.set("other", "v")


@scenario()
async def commands_counted_by_a_tally(world):
    client = await world.client()
    current_timing.set(RequestTiming())
    world.arm()
    await client.get("k")
    await client.pipeline().get("k").execute()


@scenario()
async def commands_whose_replies_stay_as_they_came(world):
    client = await world.client()
    await client.ping()
    world.arm()
    await client.execute_raw("GET", "k")
    await client.execute_raw("BLPOP", "nothing here", 0.01)
    world.proxy.cut_before = b"GET"
    await client.execute_raw("GET", "k")


@scenario()
async def commands_recorded_for_the_metrics(world):
    client = await world.client()
    await client.ping()
    client.sharing.telemetry = Telemetry(client.connection_pool)
    world.arm()
    await client.get("k")


@scenario()
async def pipelines_of_every_kind(world):
    client = await world.client()
    world.arm()
    await client.pipeline(transaction=False).set("p", 1).get("p").execute()
    await client.pipeline(transaction=True).set("p", 1).get("p").execute()
    async with client.pipeline() as pipe:
        await pipe.watch("p")
        value = await pipe.get("p")
        pipe.multi()
        pipe.set("p", value)
        await pipe.execute()


@scenario()
async def a_watching_pipeline_that_is_cut(world):
    client = await world.client()
    for command in ("get", "incr"):
        async with client.pipeline() as pipe:
            await pipe.watch("p")
            pipe.multi()
            getattr(pipe, command)("p")
            world.proxy.cut_before = b"EXEC"
            world.arm()
            with contextlib.suppress(redis_exceptions.WatchError, *LOST):
                await pipe.execute()


@scenario()
async def a_watching_pipeline_that_is_refused(world):
    client = await world.client()
    async with client.pipeline() as pipe:
        await pipe.watch("p")
        pipe.multi()
        pipe.execute_command("CLIENT", "REPLY", "OFF")
        world.arm()
        with contextlib.suppress(CommandRefused):
            await pipe.execute()


@scenario()
async def a_pipeline_of_reads_that_has_its_own_connection(world):
    client = await world.client()
    async with client.pipeline(transaction=False) as pipe:
        await pipe.watch("p")
        await pipe.unwatch()
        world.arm()
        await pipe.get("k").execute()


@scenario()
async def pipelines_whose_own_connection_has_died(world):
    client = await world.client()
    for transaction in (False, True):
        async with client.pipeline(transaction=transaction) as pipe:
            await pipe.watch("p")
            await pipe.unwatch()
            world.proxy.cut(reset=False)
            await asyncio.sleep(0.01)
            world.arm()
            await pipe.set("p", 1).execute()


@scenario()
async def a_script_in_a_pipeline(world):
    client = await world.client()
    with world.server.client() as admin:
        admin.script_flush()
    world.arm()
    pipe = client.pipeline()
    await client.register_script("return redis.call('GET', KEYS[1])")(keys=["k"], client=pipe)
    await pipe.execute()


@scenario()
async def a_pipeline_with_a_blocking_command(world):
    client = await world.client()
    world.arm()
    await client.pipeline(transaction=False).rpush("list", "x").blpop("list", 1).execute()
    await client.pipeline(transaction=False).blpop("nothing", 0.01).execute()


@scenario()
async def a_blocking_command(world):
    client = await world.client()
    await client.rpush("list", "x")
    world.arm()
    await client.blpop("list", 1)


@scenario()
async def a_command_that_changes_its_connection(world):
    client = await world.client()
    world.arm()
    await client.client_setname("name")


@scenario()
async def a_monitor(world):
    client = await world.client()
    world.arm()
    monitor = client.monitor()
    try:
        # Not entered: it connects by itself, and nothing comes.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await monitor.next_command()
    finally:
        if monitor.connection is not None:
            await monitor.connection.disconnect(nowait=True)
            await client.connection_pool.release(monitor.connection)
    async with client.monitor() as monitor:
        world.push("list")
        await monitor.next_command()


@scenario()
async def publish_and_subscribe(world):
    client = await world.client()
    world.arm()
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("channel")
        await client.publish("channel", "hello")
        for _ in range(2):
            await pubsub.get_message(timeout=1)


@scenario()
async def a_big_value(world):
    client = await world.client()
    world.arm()
    await client.set("big", b"x" * (2 << 20))
    await client.pipeline(transaction=False).set("big", b"x" * (2 << 20)).execute()


@scenario(MAX_CONNECTIONS=1, TIMEOUT=2.0)
async def waiting_for_the_only_connection(world):
    client = await world.client()
    async with client.pipeline() as pipe:
        await pipe.watch("k")
        world.arm()
        waiting = asyncio.create_task(client.get("k"))
        await asyncio.sleep(0.01)
    with contextlib.suppress(asyncio.CancelledError):
        await waiting


@scenario(MAX_CONNECTIONS=1)
async def a_check_while_the_only_connection_is_held(world):
    client = await world.client()
    async with client.pipeline() as pipe:
        await pipe.watch("k")
        world.manager._last_health_check = 0.0
        world.arm()
        await world.client()


@scenario(MAX_CONNECTIONS=1)
async def a_command_where_nothing_may_be_shared(world):
    client = await world.client()
    await client.ping()
    with world.server.client() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.02)
    world.arm()
    await client.get("k")


@scenario(MAX_IN_FLIGHT=1, SOCKET_TIMEOUT=1.0)
async def waiting_for_room_on_the_shared_connection(world):
    client = await world.client()
    await client.ping()
    world.arm()
    ended = await asyncio.gather(
        *(client.get("k") for _ in range(3)), client.pipeline().get("k").execute(), return_exceptions=True
    )
    for each in ended:
        assert each in (b"v", [b"v"]) or isinstance(each, asyncio.CancelledError), "a bystander lost its turn"


@scenario(SOCKET_TIMEOUT=5.0)
async def a_read_behind_a_write_that_is_held_back(world):
    client = await world.client()
    await client.ping()
    with world.server.client() as admin:
        admin.execute_command("CLIENT", "PAUSE", 2000, "WRITE")
        writing = asyncio.create_task(client.set("held", "back"))
        await asyncio.sleep(0)
        world.arm()
        reading = asyncio.create_task(client.get("k"))
        try:
            while not reading.done():
                await asyncio.sleep(0.001)
                client.sharing.lanes.widen_not_before = 0.0  # the next attempt need not wait
            assert reading.cancelled() or reading.result() == b"v"
        finally:
            world.watch.armed = False
            admin.client_unpause()
            await asyncio.gather(reading, writing, return_exceptions=True)


@scenario(MAX_LIFETIME=0.02)
async def a_connection_at_the_end_of_its_lifetime(world):
    client = await world.client()
    await client.ping()
    await asyncio.sleep(0.03)
    sharing = client.sharing
    world.arm()
    try:
        await client.get("k")
    finally:
        if sharing._spare is not None:
            await asyncio.wait([sharing._spare])


# A primary that has become a replica: the path leads to the new one from the next connection on.


async def demoted(world, open_client):
    """Return a client with connections to a replica; those that it makes later lead to the primary."""
    world.proxy.target_port = world.replica.port
    client = await open_client()
    await client.get("k")
    await client.xread({"stream": 0}, block=1)
    world.proxy.target_port = world.server.port
    world.arm()
    return client


@scenario()
async def commands_that_a_replica_has_refused(world):
    client = await demoted(world, world.client)
    await client.pipeline(transaction=False).set("p", 1).get("p").execute()


@scenario()
async def a_blocking_command_that_a_replica_has_refused(world):
    world.push("list")
    client = await demoted(world, world.client)
    assert await client.blpop("list", 1)


@scenario()
async def a_pipeline_of_its_own_that_a_replica_has_refused(world):
    client = await demoted(world, world.client)
    await client.pipeline(transaction=False).rpush("list", "x").blpop("list", 1).execute()


@scenario()
async def a_transaction_of_its_own_that_a_replica_has_refused(world):
    client = await demoted(world, world.client)
    await client.pipeline(transaction=True).rpush("list", "x").blpop("list", 1).execute()


@contextlib.asynccontextmanager
async def bare_and_demoted(world):
    client = world.bare_client()
    try:
        yield await demoted(world, client.initialize)
    finally:
        world.watch.armed = False
        await client.aclose()


@scenario()
async def a_command_of_a_bare_client_that_a_replica_has_refused(world):
    world.push("list")
    async with bare_and_demoted(world) as client:
        assert await client.blpop("list", 1)


@scenario()
async def a_pipeline_of_a_bare_client_that_a_replica_has_refused(world):
    async with bare_and_demoted(world) as client:
        await client.pipeline(transaction=False).rpush("list", "x").blpop("list", 1).execute()


@scenario()
async def a_transaction_of_a_bare_client_that_a_replica_has_refused(world):
    async with bare_and_demoted(world) as client:
        await client.pipeline(transaction=True).rpush("list", "x").blpop("list", 1).execute()


async def refused_again_and_again(world, client, *writes):
    """Let a replica refuse each write three times: not each refusal may replace connections."""
    try:
        for write in writes * 3:
            with contextlib.suppress(redis_exceptions.ReadOnlyError):
                await write(client)
            world.arm()
    finally:
        world.watch.armed = False
        world.proxy.target_port = world.server.port
        world.proxy.cut(reset=False)  # what comes later finds the primary
        await asyncio.sleep(0.05)


def single(client):
    return client.set("p", 1)


def pipeline(client):
    return client.pipeline(transaction=False).set("p", 1).get("p").execute()


async def watching(client, *, queued=False):
    async with client.pipeline() as pipe:
        await pipe.watch("p")
        pipe.multi()
        # A replica refuses the one as it is queued, and the other in the reply to EXEC.
        if queued:
            pipe.set("p", 1)
        else:
            pipe.eval("return redis.call('set', KEYS[1], 1)", 1, "p")
        await pipe.execute(raise_on_error=queued)


@scenario(BY_NAME=True)
async def commands_that_a_replica_goes_on_refusing(world):
    world.proxy.target_port = world.replica.port
    await refused_again_and_again(world, await world.client(), single)


@scenario(BY_NAME=True)
async def pipelines_that_a_replica_goes_on_refusing(world):
    world.proxy.target_port = world.replica.port
    await refused_again_and_again(world, await world.client(), pipeline)


@scenario(BY_NAME=True)
async def watching_pipelines_that_a_replica_goes_on_refusing(world):
    world.proxy.target_port = world.replica.port
    await refused_again_and_again(world, await world.client(), watching, partial(watching, queued=True))


@scenario()
async def a_bare_client_by_name_that_a_replica_goes_on_refusing(world):
    world.proxy.target_port = world.replica.port
    client = world.bare_client(host="localhost")
    try:
        await refused_again_and_again(world, client, watching)
    finally:
        world.watch.armed = False
        await client.aclose()


@scenario()
async def a_single_connection_that_has_died(world):
    async with world.bare_client(single_connection_client=True) as client:
        await client.set("p", 1)
        world.proxy.cut(reset=False)
        await asyncio.sleep(0.01)
        world.arm()
        await client.set("p", 1)


@scenario()
async def waiting_for_the_end_of_a_pause(world):
    client = await world.client()
    await client.ping()
    world.manager.pause(0.01)
    world.arm()
    await client.get("k")
    world.manager.pause(0.01)
    await client.client_getname()
    world.manager.pause(0.01)
    await client.pipeline().get("k").execute()


@scenario()
async def a_read_whose_connection_is_cut(world):
    client = await world.client()
    await client.ping()
    world.proxy.cut_before = b"GET"
    world.arm()
    await client.get("k")
    world.proxy.cut_before = b"GET"
    await client.pipeline(transaction=False).get("k").execute()


@scenario()
async def a_connection_refused_for_a_while(world):
    client = await world.client()
    await client.ping()
    world.proxy.refuse()
    world.proxy.cut()
    await asyncio.sleep(0.01)
    world.arm()
    try:
        for _ in range(2):
            with contextlib.suppress(*LOST):
                await client.get("k")
    finally:
        world.proxy.accept()
    for _ in range(2):
        with contextlib.suppress(*LOST):
            await client.get("k")


@scenario()
async def several_who_wait_for_one_reconnection(world):
    client = await world.client()
    world.proxy.cut()
    await asyncio.sleep(0.01)
    world.arm()
    await all_of(*(client.get("k") for _ in range(3)))


@scenario()
async def checks_that_share_one_ping(world):
    await world.client()
    world.arm()
    await all_of(world.manager._health_check(), world.manager._health_check())


@scenario()
async def a_check_on_a_connection_that_has_died(world):
    client = await world.client()
    await client.ping()
    world.proxy.cut(reset=False)
    world.arm()
    await world.manager._health_check()
    world.proxy.cut_before = b"PING"
    await world.manager._health_check()


@scenario()
async def a_check_whose_pool_is_replaced_twice(world):
    pool_set = world.manager._built()
    world.proxy.reply_delay = 0.05
    checking = asyncio.create_task(world.manager._health_check())
    try:
        for _ in range(2):
            await asyncio.sleep(0.005)
            await pool_set.drain(0)
        world.proxy.heal()
        world.arm()
    finally:
        await asyncio.gather(checking, return_exceptions=True)


@scenario()
async def a_check_within_a_check_of_this_thread(world):
    monitor, blocking = world.manager._built().monitor, Flight()
    assert monitor.claim(blocking) is blocking
    world.arm()
    try:
        await world.manager._health_check()
    finally:
        blocking.ended = True
        blocking.leave()


@scenario()
async def a_check_of_a_server_in_cluster_mode(world):
    world.proxy.target_port = world.node.port
    world.arm()
    try:
        await world.manager._health_check()
    finally:
        world.watch.armed = False
        world.proxy.target_port = world.server.port
        world.proxy.cut()


@scenario(CLOSE_TIMEOUT=0.5)
async def a_reset_while_commands_run(world):
    client = await world.client()
    blocked = asyncio.create_task(client.blpop("nothing", 0.02))
    world.proxy.reply_delay = 0.01
    running = asyncio.create_task(client.get("k"))
    await asyncio.sleep(0.005)
    world.arm()
    try:
        await world.manager.reset_pool()
    finally:
        world.proxy.heal()
        await asyncio.gather(blocked, running, return_exceptions=True)


@scenario(CLOSE_TIMEOUT=0.02)
async def a_close_that_has_to_cut(world):
    client = await world.client()
    blocked = asyncio.create_task(client.blpop("nothing", 0.1))
    world.proxy.swallow_replies_of_open_connections()
    running = asyncio.create_task(client.get("k"))
    await asyncio.sleep(0.01)
    world.arm()
    try:
        await world.manager.close()
    finally:
        world.watch.armed = False
        world.proxy.cut()
        await asyncio.gather(blocked, running, return_exceptions=True)


@scenario()
async def a_close_while_connecting(world):
    client = await world.client()
    await client.ping()
    world.proxy.cut()
    await asyncio.sleep(0.01)
    running = asyncio.create_task(client.get("k"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.arm()
    try:
        await world.manager.close()
    finally:
        await asyncio.gather(running, return_exceptions=True)


@scenario(CLOSE_TIMEOUT=0.5)
async def a_reset_while_a_blocking_command_runs(world):
    client = await world.client()
    blocked = asyncio.create_task(client.blpop("list", 1))
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().call_later(0.02, world.push, "list")
    world.arm()
    try:
        await world.manager.reset_pool()
    finally:
        world.proxy.cut()
        await asyncio.gather(blocked, return_exceptions=True)


@scenario()
async def a_close_while_the_embedded_server_starts(world):
    pool_set = world.manager._built()
    embedded = SlowStart()
    pool_set.settings = dataclasses.replace(pool_set.settings, embedded=embedded)
    world.arm()
    checking = asyncio.create_task(world.manager._health_check())
    try:
        await asyncio.sleep(0.001)
        await world.manager.close()
        await checking
    finally:
        embedded.release()
        await asyncio.gather(checking, return_exceptions=True)


class SlowStart:
    """What an ``EmbeddedServer`` is to a pool set; it takes until the pool is closed to start."""

    def __init__(self):
        self._started = threading.Event()

    def ensure_running(self, timeout):
        self._started.wait(timeout)

    def release(self):
        self._started.set()


@scenario()
async def the_end_of_an_event_loop(world):
    client = await world.client()
    await client.ping()
    entry = await world.manager._built().open()
    world.arm()
    await entry.keeper.aclose()


@scenario()
async def disconnecting_the_pool(world):
    client = await world.client()
    await client.rpush("list", "x")
    await client.blpop("list", 1)
    world.arm()
    await client.connection_pool.disconnect()


@scenario(HEALTH_CHECK_TIMEOUT=0.03)
async def a_first_check_that_nobody_answers(world):
    world.proxy.swallow = True
    world.arm()
    await world.manager._health_check()


@scenario(MAX_CONNECTIONS=1)
async def checks_where_nothing_may_be_shared(world):
    client = await world.client()
    await client.ping()
    world.arm()
    await world.manager._health_check()
    world.proxy.cut_before = b"PING"
    await world.manager._health_check()
    world.proxy.cut()
    await asyncio.sleep(0.01)
    await world.manager._health_check()


@scenario()
async def a_host_that_must_be_resolved(world):
    monitor = (await world.client_without_check()).connection_pool.monitor
    connection = AsyncTCPConnection(monitor=monitor, host="localhost", port=world.proxy.port)
    world.arm()
    try:
        with contextlib.suppress(*LOST):
            await connection.connect()
    finally:
        await connection.disconnect(nowait=True)


@scenario()
async def a_tls_handshake_that_nobody_answers(world):
    world.proxy.swallow = True
    monitor = (await world.client_without_check()).connection_pool.monitor
    connection = AsyncTLSConnection(
        monitor=monitor,
        host="127.0.0.1",
        port=world.proxy.port,
        ssl_cert_reqs="none",
        ssl_check_hostname=False,
        socket_connect_timeout=0.02,
        retry=Retry(NoBackoff(), 0),
    )
    world.arm()
    with contextlib.suppress(*LOST):
        await connection.connect()


@scenario()
async def a_response_callback_that_has_to_wait(world):
    async def slowly(response, **options):
        await asyncio.sleep(0.001)
        return response

    client = await world.client()
    await client.ping()
    usual = client.response_callbacks.get("GET")
    client.set_response_callback("GET", slowly)
    world.arm()
    try:
        await client.get("k")
    finally:
        client.response_callbacks.pop("GET")
        assert usual is None


@scenario()
async def waiting_before_the_next_attempt_to_connect(world):
    world.proxy.refuse()
    retry = Retry(NoBackoff(), 0)
    async with AsyncRedis.from_url(world.proxy.url, retry=retry, socket_timeout=1) as client:
        world.arm()
        try:
            for _ in range(2):
                with contextlib.suppress(*LOST):
                    await client.get("k")
        finally:
            world.watch.armed = False
            world.proxy.accept()


@scenario()
async def a_client_of_its_own(world):
    world.arm()
    async with AsyncRedis.from_url(world.proxy.url) as client:
        await client.rpush("list", "x")
        await client.blpop("list", 1)


@scenario()
async def closing_a_client_of_its_own(world):
    client = AsyncRedis.from_url(world.proxy.url)
    await client.get("k")
    world.arm()
    try:
        await client.aclose()
    finally:
        world.watch.armed = False
        await client.aclose()


async def all_of(*awaitables):
    """Await all; one that was cancelled as the victim does not end the others."""
    ended = await asyncio.gather(*awaitables, return_exceptions=True)
    for each in ended:
        if isinstance(each, Exception):
            raise each
