"""A plain socket is read by one call that waits in the kernel; what may not wait there is polled."""

from __future__ import annotations

import socket
from time import monotonic

import pytest

from redispool_app.engine.multiplex.socket_sync import WOULD_BLOCK, SocketCalls


@pytest.fixture
def ends():
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def test_a_plain_socket_is_waited_for_in_the_kernel_no_longer_than_the_timeout(ends):
    here, there = ends
    calls = SocketCalls(here, 0.2)
    assert calls.waits
    started = monotonic()
    with pytest.raises(WOULD_BLOCK):
        list(map(calls.receive, *calls.receive_waiting))
    assert 0.1 < monotonic() - started < 5
    there.send(b"here")
    assert list(map(calls.receive, *calls.receive_waiting)) == [b"here"]


def test_calls_that_must_not_wait_do_not(ends):
    calls = SocketCalls(ends[0], 60)
    with pytest.raises(WOULD_BLOCK):
        list(map(calls.receive, *calls.receive_now))
    with pytest.raises(WOULD_BLOCK):
        while True:
            list(map(calls.transmit, (b"x" * 65536,), *calls.transmit_now))


def test_without_a_timeout_the_socket_is_polled(ends):
    calls = SocketCalls(ends[0], None)
    assert not calls.waits
    with pytest.raises(WOULD_BLOCK):
        list(map(calls.receive, *calls.receive_waiting))
    assert calls.poll(0) == []
    ends[1].send(b"here")
    assert calls.poll(0)


def test_a_socket_that_somebody_replaced_is_polled(ends):
    class Replaced(socket.socket):
        def recv(self, *args):
            return super().recv(*args)

    replaced = Replaced(fileno=ends[0].detach())
    with replaced:
        assert not SocketCalls(replaced, 1.0).waits
