"""Each connection carries a name by which the server's CLIENT LIST tells whose it is."""

from __future__ import annotations

import asyncio
import os
import re
import socket

import hiredis
import pytest

from redispool_app.engine.runtime.client_name import client_name
from redispool_app.redis_pool import RedisConnectionManager
from tests.support.faulty_servers import listening

from .test_forks import in_child


def names(server):
    with server.client() as admin:
        return sorted(client["name"] for client in admin.client_list() if client["name"])


@pytest.mark.parametrize("protocol", [2, 3])
async def test_every_connection_of_a_pool_carries_its_name(own_server, pool_settings, protocol):
    manager = pool_settings(own_server.url, CLIENT_NAME="shop", PROTOCOL=protocol)
    client, blocking = await manager.get_client(), manager.get_sync_client()
    await client.ping()  # the loop's shared connection
    blocking.ping()  # the threads'
    await client.client_getname()  # one that is borrowed
    blocking.client_getname()
    expected = f"shop:{socket.gethostname()}:{os.getpid()}:default"
    assert names(own_server) == [expected] * 4
    assert manager.get_pool_info()["client_name"] == expected


def test_the_app_is_the_projects_package_unless_it_has_a_name(server, manager, monkeypatch):
    manager.get_sync_client()
    assert manager.get_pool_info()["client_name"].startswith("tests:")
    assert names(server) == [manager.get_pool_info()["client_name"]]
    manager.reload_settings()
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    assert manager.get_pool_info()["client_name"].startswith("django:")


def test_the_alias_is_part_of_it(server, pools):
    pools(default={"CONNECTION_URL": server.url}, sessions={"CONNECTION_URL": server.url})
    RedisConnectionManager("sessions").get_sync_client().ping()
    assert [name.rpartition(":")[2] for name in names(server)] == ["sessions"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_its_own_pid_in_it(server, manager):
    manager.get_sync_client().ping()

    def work():
        borrowed = manager.get_sync_client().client_getname()
        return os.getpid(), borrowed, [name for name in names(server) if f":{os.getpid()}:" in name] != []

    pid, borrowed, shared_too = eval(in_child(work))
    assert pid != os.getpid()
    assert borrowed.split(":")[2] == str(pid)
    assert shared_too


def test_a_user_who_may_not_name_its_connections_is_served_all_the_same(own_server, pool_settings):
    with own_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "bob", "on", ">word", "~*", "+@all", "-client")
    manager = pool_settings(own_server.url, USERNAME="bob", PASSWORD="word")
    assert manager.get_sync_client().set("a", 1)
    assert asyncio.run(_get(manager)) == b"1"
    assert manager.get_pool_info()["state"] == "healthy"


async def _get(manager):
    return await (await manager.get_client()).get("a")


def test_a_name_costs_no_round_trip(pool_settings):
    """The server answers the name only when it has the command that follows it."""
    said = []

    def answer(connection):
        reader, due, said[:] = hiredis.Reader(), [], []
        while received := connection.recv(65536):
            reader.feed(received)
            due += iter(reader.gets, False)
            if due[-1][:2] == [b"CLIENT", b"SETNAME"]:
                continue
            connection.sendall(b"".join(b"+PONG\r\n" if command == [b"PING"] else b"+OK\r\n" for command in due))
            said.extend(due)
            due.clear()

    with listening(answer) as where:
        manager = pool_settings(f"redis://{where}", CLIENT_NAME="shop")
        assert manager.get_sync_client().ping()
        assert [b"CLIENT", b"SETNAME", manager.get_pool_info()["client_name"].encode()] in said
    with listening(answer) as where:
        manager = pool_settings(f"redis://{where}", CLIENT_NAME="shop")
        manager.reload_settings()
        assert asyncio.run(manager._health_check())
        assert [b"CLIENT", b"SETNAME", manager.get_pool_info()["client_name"].encode()] in said


def test_a_name_holds_only_what_the_server_takes(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "my host:with\u00fc\n")
    assert re.fullmatch(r"a-b:c:my-host-with--:\d+:al-ias", client_name("a b:c", "al:ias"))
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert client_name("", "").startswith("unknown:unknown:")


def test_a_hostile_host_name_reaches_the_server_as_a_valid_name(server, manager, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "web 1\x00:\u2028")
    manager.get_sync_client().ping()
    assert names(server) == [f"tests:web-1---:{os.getpid()}:default"]
