"""The laboratory's own way to a server leaves nothing behind."""

from __future__ import annotations

import gc
import socket
import sys
import threading
import time

import pytest

from tests.lab.proxy import Proxy


@pytest.mark.parametrize("end", ["stop", "refuse"])
def test_who_connects_while_a_proxy_ends_is_not_left_open(server, end, monkeypatch):
    left = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: left.append(str(raised.exc_value)))
    for _ in range(3):
        ended = threading.Event()
        with Proxy(server.port) as proxy:
            newcomers = threading.Thread(target=_connect_until, args=(proxy.port, ended))
            newcomers.start()
            time.sleep(0.01)
            getattr(proxy, end)()
            ended.set()
            newcomers.join(10)
    gc.collect()
    assert not left


def _connect_until(port, ended):
    while not ended.is_set():
        with socket.socket() as newcomer:
            newcomer.connect_ex(("127.0.0.1", port))
        time.sleep(0.0001)  # or a proxy that gets no processor for a while runs out of descriptors
