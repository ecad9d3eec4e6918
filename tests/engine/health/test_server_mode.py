"""A health check that is refused PING passes, and one that meets a cluster or a Sentinel says so."""

from __future__ import annotations

import asyncio
import html
import io
import json
import re

import pytest
from django.core.management import call_command
from redis import exceptions as redis_exceptions

from redispool_app.engine.health.faults import FaultKind, classify
from redispool_app.engine.health.server_mode import check_slots, is_in_cluster_mode
from redispool_app.exceptions import RedisUnavailable
from tests.support.admin_pages import PAGE
from tests.support.faulty_servers import PASSWORD, cluster_info, cluster_node, listening, running
from tests.support.servers import eventually

SIDES = pytest.mark.parametrize("side", ["async", "sync"])
CONNECTIONS = pytest.mark.parametrize("connections", [1, 10], ids=["connection of its own", "shared connection"])
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3], ids=["RESP2", "RESP3"])


def call(manager, side, *command):
    """Run one command on a new event loop, or in this thread."""

    async def run():
        return await (await manager.get_client()).execute_command(*command)

    if side == "async":
        return asyncio.run(run())
    return manager.get_sync_client().execute_command(*command)


def user(server, *rules):
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", f">{PASSWORD}", "~*", *rules)
    return {"USERNAME": "bob", "PASSWORD": PASSWORD}


@pytest.fixture
def whole_cluster():
    """A server in cluster mode that serves every slot."""
    with cluster_node(0, 16383) as server:
        yield server


# A health check of a user with few permissions.


@SIDES
@CONNECTIONS
@PROTOCOLS
def test_a_user_who_may_not_ping_is_healthy(side, connections, protocol, own_server, pool_settings):
    keys = user(own_server, "-@all", "+get", "+set")
    manager = pool_settings(own_server.url, MAX_CONNECTIONS=connections, PROTOCOL=protocol, **keys)
    assert call(manager, side, "SET", "key", "value")
    assert call(manager, side, "GET", "key") == b"value"
    for _ in range(2):  # the first check asks more than the later ones
        assert asyncio.run(manager._health_check()) if side == "async" else manager._health_check_sync()
    info = manager.get_pool_info()
    assert (info["state"], info["last_error"], info["warning"]) == ("healthy", None, None)
    assert info["latency_ms"] is not None


@SIDES
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("MASTERDOWN Link with MASTER is down", "masterdown"),
        ("BUSY Redis is busy running a script.", "busy"),
        ("MISCONF Redis is configured to save RDB snapshots, but it is currently unable to", "misconf"),
        ("NOAUTH Authentication required.", "auth"),
    ],
)
def test_what_a_server_says_to_a_ping_keeps_its_verdict(side, said, kind, pool_settings):
    def answer(connection):
        while received := connection.recv(65536):
            for word in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", received):
                connection.sendall(f"-{said}\r\n".encode() if word == b"PING" else b"+OK\r\n")

    with listening(answer) as where:
        manager = pool_settings(f"redis://{where}/0")
        assert not (asyncio.run(manager._health_check()) if side == "async" else manager._health_check_sync())
        assert manager.get_pool_info()["fault_kind"] == kind


@SIDES
def test_a_server_without_hello_is_healthy(side, pool_settings):
    with running(rename_command="HELLO nobody-knows") as server:
        manager = pool_settings(server.url)
        assert call(manager, side, "SET", "key", "value")
        assert manager.get_pool_info()["state"] == "healthy"


@SIDES
def test_resp3_without_hello_names_the_setting(side, pool_settings):
    with running(rename_command="HELLO nobody-knows") as server:
        manager = pool_settings(server.url, PROTOCOL=3)
        with pytest.raises(RedisUnavailable, match="set PROTOCOL to 2"):
            call(manager, side, "GET", "key")


# A server in cluster mode.


@SIDES
@CONNECTIONS
@PROTOCOLS
def test_a_node_that_serves_every_slot_works_and_warns(
    side, connections, protocol, whole_cluster, pool_settings, caplog
):
    manager = pool_settings(whole_cluster.url, MAX_CONNECTIONS=connections, PROTOCOL=protocol)
    assert call(manager, side, "SET", "key", "value")
    info = manager.get_pool_info()
    assert (info["state"], info["warning_kind"]) == ("healthy", "cluster")
    assert "must share a hash slot" in info["warning"]
    with pytest.raises(redis_exceptions.ClusterCrossSlotError):
        call(manager, side, "MGET", "a", "b")
    assert manager.get_pool_info()["last_error_kind"] == "cluster"
    assert manager.get_pool_info()["state"] == "healthy"
    assert [record.fault_kind for record in caplog.records if record.levelname == "WARNING"] == ["cluster"]


@SIDES
@CONNECTIONS
def test_slots_that_move_away_are_named_by_the_first_caller_that_notices(
    side, connections, whole_cluster, pool_settings
):
    manager = pool_settings(whole_cluster.url, MAX_CONNECTIONS=connections)
    assert call(manager, side, "SET", "key", "value")
    with whole_cluster.client() as admin:
        admin.execute_command("CLUSTER", "DELSLOTSRANGE", 8000, 16383)  # the slot of "key" is 12539
    with pytest.raises(redis_exceptions.ResponseError):
        call(manager, side, "GET", "key")
    with pytest.raises(RedisUnavailable, match="does not serve every key") as caught:
        call(manager, side, "GET", "key")
    assert caught.value.kind == "cluster"


@SIDES
def test_a_user_who_may_not_ask_for_the_nodes_is_told_by_the_first_key_elsewhere(side, pool_settings):
    with cluster_node(0, 8191) as server, cluster_node(8192, 16383) as other:
        with server.client() as admin:
            admin.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, other.config["cluster-port"])
            eventually(lambda: b"cluster_state:ok" in cluster_info(admin), timeout=30)
        keys = user(server, "+@all", "-cluster")
        manager = pool_settings(server.url, **keys)
        assert call(manager, side, "SET", "b", "value")  # slot 3300
        assert manager.get_pool_info()["warning_kind"] == "cluster"
        with pytest.raises(redis_exceptions.MovedError):
            call(manager, side, "GET", "key")
        with pytest.raises(RedisUnavailable, match="does not serve every key"):
            call(manager, side, "GET", "b")


@SIDES
def test_the_mode_is_asked_for_once_and_costs_no_round_trip(side, own_server, pool_settings):
    manager = pool_settings(own_server.url)
    call(manager, side, "SET", "key", "value")
    before = own_server.calls("hello")
    assert before == 1
    for _ in range(3):
        assert asyncio.run(manager._health_check()) if side == "async" else manager._health_check_sync()
    assert own_server.calls("hello") == before
    assert own_server.calls("cluster|nodes") == 0


def test_the_health_command_shows_a_warning(whole_cluster, pool_settings):
    pool_settings(whole_cluster.url)
    out = io.StringIO()
    call_command("redis_health", stdout=out)
    assert "hash slot" in out.getvalue()
    out = io.StringIO()
    call_command("redis_health", "--json", stdout=out)
    (pool,) = json.loads(out.getvalue())["pools"]
    assert (pool["state"], pool["warning_kind"]) == ("healthy", "cluster")
    assert "hash slot" in pool["warning"]


def test_the_health_document_and_the_status_page_show_a_warning(whole_cluster, pool_settings, client, admin_user):
    manager = pool_settings(whole_cluster.url)
    manager.initialize_sync()
    client.force_login(admin_user)
    said = manager.get_pool_info()["warning"]
    document = client.get("/redis/health.json").json()
    assert document["status"] == "warn"
    assert document["checks"]["default:responseTime"][0]["output"] == said
    assert said in html.unescape(client.get(PAGE).content.decode())


# What replies say.


def test_replies_to_hello():
    assert is_in_cluster_mode([b"server", b"valkey", b"mode", b"cluster"])
    assert is_in_cluster_mode({b"mode": b"cluster"})
    assert is_in_cluster_mode({"mode": "cluster"})
    for answer in (
        [b"mode", b"standalone"],
        [b"server"],
        redis_exceptions.ResponseError("unknown command"),
        None,
        b"x",
    ):
        assert not is_in_cluster_mode(answer)


MYSELF = b"07c3 127.0.0.1:1@2 myself,master - 0 0 1 connected"


@pytest.mark.parametrize(
    ("nodes", "was_moved", "is_whole"),
    [
        (MYSELF + b" 0-16383\n", True, True),
        (MYSELF + b" 0-100 101 102-16383 [93-<-other]\n", False, True),
        (MYSELF + b" 0-16382\n", False, False),
        (MYSELF + b"\n", False, False),
        (b"99 127.0.0.1:3@4 master - 0 0 1 connected 0-16383\n" + MYSELF + b"\n", False, False),
        (redis_exceptions.NoPermissionError("no"), False, True),
        (redis_exceptions.NoPermissionError("no"), True, False),
        (b"nothing", False, True),
    ],
)
def test_replies_to_cluster_nodes(nodes, was_moved, is_whole):
    if is_whole:
        check_slots(nodes, was_moved=was_moved)
    else:
        with pytest.raises(redis_exceptions.ResponseError):
            check_slots(nodes, was_moved=was_moved)


@pytest.mark.parametrize("said", ["MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1", "CLUSTERDOWN Hash slot not served"])
def test_what_a_node_answers_for_a_key_of_another_is_named(said):
    from redis._parsers.base import BaseParser

    fault = classify(BaseParser.parse_error(said), "here")
    assert (fault.kind, "does not serve every key" in fault.message) == (FaultKind.CLUSTER, True)
