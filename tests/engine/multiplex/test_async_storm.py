"""Soft time limits that a signal handler raises thousands of times inside an event loop, as they come.

``test_async_interrupts`` strikes each point once; here real signals strike asyncio's own code as well, several in one
run of the loop. No caller gets the reply to another one, none waits for a time-out, and no socket is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import signal
import socket
import sys
import threading
import warnings
import weakref
from time import monotonic

import pytest
from redis import exceptions as redis_exceptions

from tests.support.interrupts import left_sockets_collected as left_sockets_collected
from tests.support.interrupts import socket_left_behind
from tests.support.loop_strikes import LOOPS
from tests.support.servers import eventually
from tests.support.strikes import SoftTimeLimitError

KEYS = 50
CALLERS = 20

PATIENT = 30.0
"""Each time-out, in seconds: no caller may wait for one."""

SOON = 12.0
"""Seconds within which a caller has its reply after a storm; generous, for a busy machine."""

STRUCK = 0.5
"""Seconds after which the run of a loop under fire is ended."""

MOST = 10
"""Exceptions in one storm."""

LOST_SOCKETS = 500
"""An exception in the standard library, between making a socket and keeping it, can lose one. Seen once in some 2000
exceptions was a descriptor that no object held any more. Here it may be one in so many, and one more."""

LOOPS_OWN = {module.__file__ for module in (signal, socket, weakref)}
"""What uvloop calls itself."""

pytestmark = [
    socket_left_behind,
    # What an exception keeps from being awaited, or interrupts in a finalizer, Python can only warn of.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


class Limit:
    """Raises ``SoftTimeLimitError`` in the main thread every 0.7 ms, some times in each ``strike``."""

    def __init__(self):
        self.raised = 0
        self._left = 0

    def __call__(self, number, frame):
        if self._left and not _is_spared(frame):
            self._left -= 1
            self.raised += 1
            raise SoftTimeLimitError

    def strike(self, loop, coroutine):
        """Let ``loop`` run a coroutine in a storm, which may end that run or lose a step of the coroutine."""
        # By a thread: a timer of the loop may be lost.
        stopping = threading.Timer(STRUCK, loop.call_soon_threadsafe, (loop.stop,))
        stopping.start()
        with contextlib.suppress(SoftTimeLimitError, RuntimeError):
            try:
                self._left = random.randint(1, MOST)
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 0.002), 0.0007)
                loop.run_until_complete(loop.create_task(coroutine))
            finally:
                self._left = 0
        signal.setitimer(signal.ITIMER_REAL, 0)
        stopping.cancel()
        stopping.join()


def _is_spared(frame):
    """Whether an exception would harm others than this package.

    At the beginning or end of a run of uvloop it leaves that "running" for ever. Within logging it can leave a lock
    held for ever, until Python 3.13: other threads would wait for it.
    """
    strike, below = Limit.strike.__code__, None
    while frame.f_code is not strike:
        if frame.f_code.co_filename == logging.__file__:
            return True
        frame, below = frame.f_back, frame
    return below is None or below.f_code.co_filename in LOOPS_OWN


@pytest.fixture
def limit():
    limit = Limit()
    former = signal.signal(signal.SIGALRM, limit)
    yield limit
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


def run(loop, coroutine):
    """Run a coroutine to its end, also where one that was interrupted ends meanwhile, and stops the loop."""
    task = loop.create_task(coroutine)
    while True:
        try:
            return loop.run_until_complete(task)
        except RuntimeError as error:
            if "stopped before" not in str(error):
                raise


def storms(manager, server, limit, loop, seconds):
    """Let storm after storm strike callers of one event loop, for so many seconds, and new callers follow each.

    Return the replies that were wrong, how many were right, and how long the slowest of the new callers waited.
    """
    with server.client() as admin:
        admin.mset({f"key:{number}": f"value {number}" for number in range(KEYS)})
    wrong, right, longest = [], 0, 0.0

    async def read(client, number):
        nonlocal right
        reply = await client.get(f"key:{number}")
        if reply == b"value %d" % number:
            right += 1
        else:
            wrong.append((number, reply))

    async def read_all():
        client = await manager.get_client()
        numbers = [random.randrange(KEYS) for _ in range(CALLERS)]
        return await asyncio.gather(*[read(client, number) for number in numbers], return_exceptions=True)

    async def read_often():
        for _ in range(5):
            with contextlib.suppress(redis_exceptions.ConnectionError):
                await read_all()

    async def read_again():
        """Each caller gets its reply. Refused at once, as after a check that was struck, it calls again."""
        ends = monotonic() + SOON
        while True:
            try:
                results = await asyncio.wait_for(read_all(), SOON)
            except redis_exceptions.ConnectionError as error:
                results = [error]
            if not any(results):
                return
            assert monotonic() < ends, results
            await asyncio.sleep(0.02)

    ends = monotonic() + seconds
    while monotonic() < ends:
        limit.strike(loop, read_often())
        asked = monotonic()
        run(loop, read_again())
        longest = max(longest, monotonic() - asked)
    return wrong, right, longest


@pytest.mark.parametrize("seconds", [1.5, pytest.param(20.0, marks=pytest.mark.lab)], ids=["short", "long"])
@pytest.mark.parametrize("name", LOOPS)
def test_soft_time_limits_shift_no_reply_and_let_no_later_caller_wait(
    own_server, pool_settings, limit, monkeypatch, name, seconds
):
    monkeypatch.setattr(sys, "unraisablehook", lambda error: None)
    manager = pool_settings(
        own_server.url, SOCKET_TIMEOUT=PATIENT, SOCKET_CONNECT_TIMEOUT=PATIENT, HEALTH_CHECK_TIMEOUT=PATIENT
    )
    with own_server.client() as admin:
        before = len(admin.client_list())
    loop = LOOPS[name]()
    loop.set_exception_handler(lambda loop, context: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        wrong, right, longest = storms(manager, own_server, limit, loop, seconds)
        assert wrong == []
        assert limit.raised > 10 * seconds
        assert right > limit.raised
        assert longest < SOON, f"a later caller waited {longest:.1f} s"
        run(loop, manager.close())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        del loop
        manager.close_sync()

        def are_closed():
            gc.collect()
            with own_server.client() as admin:
                return len(admin.client_list()) - before <= 1 + limit.raised // LOST_SOCKETS

        eventually(are_closed)
