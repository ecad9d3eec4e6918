"""Every fault has its own stable name and its own line, the same from async and from sync code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import ssl

import pytest
from redis import exceptions as redis_exceptions

from redispool_app.engine.errors import ConnectionLostError, ReplyTimeoutError
from redispool_app.engine.health.faults import FaultKind, classify
from redispool_app.exceptions import OutcomeUnknown, PoolClosed, PoolQueueFull, PoolTimeout, RedisUnavailable
from tests.support.faulty_servers import FAULTS, PASSWORD, pool_of
from tests.support.servers import eventually, free_port


@pytest.fixture(params=FAULTS)
def faulty(request, pool_settings):
    _, kind, words = FAULTS[request.param]
    with pool_of(request.param, pool_settings) as manager:
        yield manager, kind, words


def assert_told(error, kind, words):
    assert (error.kind, words in str(error)) == (kind, True), str(error)
    assert "\n" not in str(error)
    assert PASSWORD not in str(error)


def test_sync_code_is_told_the_fault(faulty):
    manager, kind, words = faulty
    with pytest.raises(RedisUnavailable) as caught:
        manager.initialize_sync()
    assert_told(caught.value, kind, words)


async def test_async_code_is_told_the_fault(faulty):
    manager, kind, words = faulty
    with pytest.raises(RedisUnavailable) as caught:
        await manager.initialize()
    assert_told(caught.value, kind, words)


@pytest.mark.parametrize("scenario", ["too many clients", "too many clients of a socket"])
async def test_a_full_server_is_recognised_each_time(scenario, pool_settings):
    # Whether the server's words or the broken pipe come first is a race; neither outcome may win now and then.
    with pool_of(scenario, pool_settings) as manager:
        for _ in range(30):
            assert await manager._health_check() is False
            assert manager.get_pool_info()["fault_kind"] == "maxclients"
            assert manager._health_check_sync() is False
            assert manager.get_pool_info()["fault_kind"] == "maxclients"


async def test_a_refused_connection_leaves_no_descriptor_behind(pool_settings):
    with pool_of("too many clients", pool_settings) as manager:
        await manager._health_check()
        manager._health_check_sync()
        manager._pool_set.monitor._recovery.stop()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            await manager._health_check()
            manager._health_check_sync()
        assert len(os.listdir("/proc/self/fd")) <= before


# Error replies: the server lives, one command fails.


def reply_of(client, *command):
    with pytest.raises(redis_exceptions.RedisError) as caught:
        client.execute_command(*command)
    return classify(caught.value, "here").kind


def test_a_replica_that_is_written_to_is_readonly(own_server):
    with own_server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        assert reply_of(client, "SET", "key", "value") is FaultKind.READONLY
        client.config_set("replica-serve-stale-data", "no")
        assert reply_of(client, "GET", "key") is FaultKind.MASTERDOWN


def test_a_primary_that_misses_its_replicas_says_so_and_is_not_down(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    with own_server.client() as admin:
        admin.config_set("min-replicas-to-write", 1)
    client = manager.get_sync_client()
    assert reply_of(client, "SET", "key", "value") is FaultKind.NOREPLICAS
    assert client.get("key") is None
    info = manager.get_pool_info()
    assert info["is_healthy"] is True
    assert info["last_error_kind"] == "noreplicas"
    assert "min-replicas-to-write" in info["last_error"]


def test_a_server_without_memory_is_out_of_memory(own_server):
    with own_server.client() as client:
        client.config_set("maxmemory", "1mb")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        assert reply_of(client, "SET", "key", "value") is FaultKind.OOM


def test_a_server_that_cannot_save_says_so_and_is_not_down(own_server):
    with own_server.client() as client:
        client.config_set("save", "3600 1")
        # The finished dump cannot replace a directory.
        os.mkdir(os.path.join(client.config_get("dir")["dir"], "dump.rdb"))
        client.bgsave()
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        assert reply_of(client, "SET", "key", "value") is FaultKind.MISCONF


def test_a_server_busy_with_a_script_is_busy(own_server):
    with own_server.client() as client, socket.create_connection(("127.0.0.1", own_server.port)) as blocked:
        client.config_set("busy-reply-threshold", "1")
        blocked.sendall(b'EVAL "while true do end" 0\r\n')
        kinds = []

        def is_refused():
            try:
                client.get("key")
            except redis_exceptions.ResponseError as error:
                kinds.append(classify(error, "here").kind)
            return kinds

        eventually(is_refused)
        client.execute_command("SCRIPT", "KILL")
    assert kinds == [FaultKind.BUSY]


@pytest.mark.parametrize("side", ["async", "sync"])
@pytest.mark.parametrize("alone", [False, True], ids=["shared connection", "connection of its own"])
def test_a_denied_command_is_named_and_is_no_outage(side, alone, own_server, pool_settings):
    with own_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "bob", "on", f">{PASSWORD}", "~*", "+@all", "-incrby", "-blpop")
    manager = pool_settings(own_server.url, USERNAME="bob", PASSWORD=PASSWORD)
    command = ("BLPOP", "list", 1) if alone else ("INCRBY", "n", 1)

    async def denied():
        await (await manager.get_client()).execute_command(*command)

    with pytest.raises(redis_exceptions.NoPermissionError):
        if side == "async":
            asyncio.run(denied())
        else:
            manager.get_sync_client().execute_command(*command)
    info = manager.get_pool_info()
    assert info["last_error_kind"] == "auth"
    assert "denies this user a command" in info["last_error"]
    assert PASSWORD not in info["last_error"]
    assert manager._is_healthy
    assert manager.get_sync_client().ping()


# What lies below redis-py's exceptions.


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis_exceptions.ConnectionError("Connection closed by server."), FaultKind.CLOSED),
        (redis_exceptions.TimeoutError("Timeout reading from socket"), FaultKind.TIMEOUT),
    ],
)
def test_what_the_caller_was_handling_is_not_taken_for_the_cause(error, kind):
    error.__context__ = FileNotFoundError(errno.ENOENT, "the caller's own file")
    assert classify(error, "/run/redis.sock").kind is kind


def test_the_nearest_system_error_is_the_cause_whatever_the_caller_was_handling():
    error = redis_exceptions.ConnectionError("Error while reading from socket")
    error.__context__ = ConnectionResetError(errno.ECONNRESET, "reset")
    error.__context__.__context__ = FileNotFoundError(errno.ENOENT, "the caller's own file")
    assert classify(error, "/run/redis.sock").kind is FaultKind.CLOSED


def test_a_certificate_that_is_not_trusted_is_named():
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    wrapped = redis_exceptions.ConnectionError("Error 1 connecting to here:6379.")
    wrapped.__context__ = error
    found = classify(wrapped, "here:6379")
    assert found.kind is FaultKind.TLS
    assert "self-signed certificate" in found.message


@pytest.mark.parametrize(
    "end",
    [
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF)"),
    ],
)
def test_an_end_within_tls_is_classified_too(end):
    assert classify(end, "here").kind is FaultKind.TLS
    ended = redis_exceptions.ConnectionError("Error 8 while writing to socket.")
    ended.__cause__ = end
    assert classify(ended, "here").kind is FaultKind.TLS, "perhaps this port does not speak it"
    assert classify(ended, "here", speaks_tls=True).kind is FaultKind.CLOSED


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (ConnectionLostError("Connection closed by server.", written=True, started=0), FaultKind.CLOSED),
        (ConnectionLostError("?", written=True, started=0, stuck=True), FaultKind.TIMEOUT),
        (ReplyTimeoutError("?", written=True, started=0), FaultKind.TIMEOUT),
        (redis_exceptions.ConnectionError("Error 104 while reading"), FaultKind.CLOSED),
    ],
)
def test_an_unknown_outcome_is_classified_by_what_cost_the_reply(loss, kind):
    with pytest.raises(OutcomeUnknown) as caught:
        raise OutcomeUnknown("may or may not have been carried out") from loss
    assert classify(caught.value, "here").kind is kind


def test_a_killed_connection_is_closed_whatever_the_caller_was_handling(own_server):
    with own_server.client() as client, own_server.client() as other:
        client.ping()
        connection = client.connection_pool.get_connection()
        connection.send_command("BLPOP", "nothing", "0")
        other.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(redis_exceptions.ConnectionError) as caught:
            try:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "another server")
            except ConnectionRefusedError:
                connection.read_response()
        client.connection_pool.release(connection)
    assert classify(caught.value, "here").kind is FaultKind.CLOSED


@pytest.mark.parametrize("side", ["async", "sync"])
def test_a_host_with_several_addresses_that_all_refuse_is_refused(side, pool_settings, monkeypatch):
    port = free_port()

    def both(host, *args, **kwargs):
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    manager = pool_settings(f"redis://two-addresses:{port}/0")
    with pytest.raises(RedisUnavailable) as caught:
        if side == "sync":
            manager.initialize_sync()
        else:
            asyncio.run(manager.initialize())
    assert caught.value.kind == "refused"


@pytest.mark.parametrize("side", ["async", "sync"])
def test_a_process_without_descriptors_is_told_so(side, server, pool_settings):
    manager = pool_settings(server.url)

    async def check():
        with no_descriptors():
            await manager._health_check()

    if side == "async":
        asyncio.run(check())
    else:
        with no_descriptors():
            manager._health_check_sync()
    assert manager.get_pool_info()["last_error_kind"] == "descriptors"


@contextlib.contextmanager
def no_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "number", [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL]
)
def test_a_network_that_leads_nowhere_is_unreachable(number):
    # Routes cannot be broken without privileges.
    found = classify(OSError(number, os.strerror(number)), "here:6379")
    assert found.kind is FaultKind.UNREACHABLE
    assert os.strerror(number) in found.message


def test_trouble_of_the_pool_itself_keeps_its_own_words():
    assert classify(PoolTimeout("No connection became free."), "here").kind is FaultKind.EXHAUSTED
    assert classify(PoolQueueFull("Too many wait."), "here").kind is FaultKind.EXHAUSTED
    closed = classify(PoolClosed("This manager is closed."), "here")
    assert (closed.kind, closed.message) == (FaultKind.CLOSED, "This manager is closed.")


def test_an_outage_told_before_is_told_again_unchanged():
    error = RedisUnavailable("Nothing listens at here.", kind="refused")
    assert classify(error, "there").message == "Nothing listens at here."
    assert classify(error, "there").kind is FaultKind.REFUSED
    assert classify(RedisUnavailable("?", kind="of another version"), "there").kind is FaultKind.UNKNOWN


def test_an_unknown_fault_is_one_short_line():
    found = classify(redis_exceptions.RedisError("first\nsecond" + "x" * 500), "here")
    assert found.kind is FaultKind.UNKNOWN
    assert "\n" not in found.message
    assert len(found.message) < 300
