"""The shared connection is replaced at the end of its lifetime, and when a certificate changes; no caller notices."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time

import pytest

from redispool_app.engine.connection import renewal
from tests.support.proxy import Proxy
from tests.support.servers import eventually
from tests.support.tls import TLSEnd, make_certificate

PATIENT = {"SOCKET_TIMEOUT": 30, "SOCKET_CONNECT_TIMEOUT": 30, "HEALTH_CHECK_TIMEOUT": 30}
SIDES = pytest.mark.parametrize("side", ["async", "sync"])


class Traffic:
    """Callers of one side that increment counters until they are told to end."""

    def __init__(self, manager, side, callers=4):
        self.manager, self.side, self.callers = manager, side, callers
        self.done, self.errors, self.longest = [0] * callers, [], 0.0
        self._ends = False

    def __enter__(self):
        if self.side == "async":
            self._threads = [threading.Thread(target=lambda: asyncio.run(self._on_loop()))]
        else:
            self._threads = [threading.Thread(target=self._in_thread, args=(at,)) for at in range(self.callers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args):
        self._ends = True
        for thread in self._threads:
            thread.join(40)
        assert not any(thread.is_alive() for thread in self._threads)

    def _count(self, at, reply, started):
        self.done[at] += 1
        self.longest = max(self.longest, time.monotonic() - started)
        if reply != self.done[at]:
            self.errors.append(f"caller {at}: {reply} after {self.done[at]}")

    def _in_thread(self, at):
        client = self.manager.get_sync_client()
        while not self._ends:
            started = time.monotonic()
            try:
                self._count(at, client.incr(f"{self.side}-{at}"), started)
            except Exception as error:
                self.errors.append(repr(error))

    async def _on_loop(self):
        client = await self.manager.get_client()

        async def call(at):
            while not self._ends:
                started = time.monotonic()
                try:
                    self._count(at, await client.incr(f"{self.side}-{at}"), started)
                except Exception as error:
                    self.errors.append(repr(error))

        await asyncio.gather(*map(call, range(self.callers)))


@SIDES
def test_a_connection_at_the_end_of_its_lifetime_is_replaced_under_traffic(side, own_server, pool_settings):
    manager = pool_settings(own_server.url, MAX_LIFETIME=0.2, **PATIENT)
    with Traffic(manager, side) as traffic:
        eventually(lambda: manager.get_pool_info()["connections_opened_total"] >= 5, 20)
        eventually(lambda: own_server.connections() <= 2, 10)  # the former ones are closed
        info = manager.get_pool_info()
    assert traffic.errors == []
    assert min(traffic.done) > 0
    assert traffic.longest < 5
    assert (info["is_healthy"], info["errors_total"], info["outcome_unknown_total"]) == (True, 0, 0)


@SIDES
def test_a_new_connection_that_cannot_be_made_leaves_the_old_one_in_use(side, own_server, pool_settings, monkeypatch):
    monkeypatch.setattr(renewal, "_AGAIN_AFTER", 0.1)
    with Proxy(own_server.port) as proxy:
        manager = pool_settings(proxy.url, MAX_LIFETIME=0.3, **PATIENT)
        with Traffic(manager, side) as traffic:
            eventually(lambda: min(traffic.done) > 0)
            proxy.refuse()
            eventually(lambda: manager.get_pool_info()["errors_total"] >= 3, 20)
            before = traffic.done[0]
            eventually(lambda: traffic.done[0] > before + 50, 20)
            proxy.accept()
            opened = manager.get_pool_info()["connections_opened_total"]
            eventually(lambda: manager.get_pool_info()["connections_opened_total"] > opened, 20)
    assert traffic.errors == []


@SIDES
def test_a_certificate_that_changed_is_read_again(side, own_server, pool_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(renewal, "_LOOK_AFTER", 0.05)
    (tmp_path / "first").mkdir()
    certificate, key = make_certificate(tmp_path / "first")
    trusted = tmp_path / "ca.pem"
    shutil.copy(certificate, trusted)
    with TLSEnd(own_server.port, certificate, key) as end:
        manager = pool_settings(f"rediss://localhost:{end.port}/0", SSL_CA_CERTS=str(trusted), **PATIENT)
        with Traffic(manager, side) as traffic:
            eventually(lambda: min(traffic.done) > 0)
            opened = manager.get_pool_info()["connections_opened_total"]
            time.sleep(0.3)
            assert manager.get_pool_info()["connections_opened_total"] == opened
            # The server's certificate and what is trusted change together.
            (tmp_path / "second").mkdir()
            certificate, key = make_certificate(tmp_path / "second")
            end.context.load_cert_chain(certificate, key)
            shutil.copy(certificate, tmp_path / "new.pem")
            os.replace(tmp_path / "new.pem", trusted)
            eventually(lambda: manager.get_pool_info()["connections_opened_total"] > opened, 20)
            eventually(lambda: manager.get_pool_info()["connections_open"] == 1, 20)
    assert traffic.errors == []


def test_a_file_that_changes_while_a_connection_is_made_is_noticed(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text("one")

    class Pool:
        connection_kwargs = {"ssl_ca_certs": str(path), "ssl_certfile": None}

    watched = renewal.Renewal(Pool())
    stamp = watched.before_connecting()
    path.write_text("two, longer")
    watched.connected(stamp)
    assert watched.is_due()
    watched.connected(watched.before_connecting())
    assert not watched.is_due()
    path.unlink()
    assert watched.is_due()
