"""The fork registry: each hook runs once in each child, in order, whatever interrupts it."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from redispool_app.engine.runtime import fork

from .test_forks import in_child, pytestmark  # noqa: F401


@pytest.fixture
def registry(monkeypatch):
    """A registry of the test's own."""
    monkeypatch.setattr(fork, "_first", {})
    monkeypatch.setattr(fork, "_others", {})
    return fork


def as_in_a_child(registry):
    """Take the mark away, as a fork does."""
    registry.mark[0] = 0


def test_hooks_run_in_the_order_of_registration_and_first_ones_before(registry):
    ran = []
    registry.register(lambda: ran.append("a"))
    registry.register(lambda: ran.append("b"))
    registry.register(lambda: ran.append("sockets"), first=True)
    as_in_a_child(registry)
    registry.renew()
    assert ran == ["sockets", "a", "b"]
    assert registry.mark[0]


def test_nothing_runs_in_a_process_that_has_its_mark(registry):
    registry.register(lambda: pytest.fail("ran"))
    registry.renew()


def test_an_ordinary_fork_runs_each_hook_once(registry):
    ran = []
    registry.register(lambda: ran.append("ran"))

    def use():
        registry.renew()
        return f"{ran} {registry.mark[0]}"

    assert in_child(use) == "['ran'] 1"
    assert ran == []
    assert registry.mark[0]


def test_a_bound_method_does_not_keep_its_object_alive(registry):
    class Owner:
        ran = 0

        def after_fork_in_child(self):
            Owner.ran += 1

    owner = Owner()
    registry.register(owner.after_fork_in_child)
    as_in_a_child(registry)
    registry.renew()
    assert Owner.ran == 1
    del owner
    gc.collect()
    assert registry._others == {}


def test_a_lock_is_renewed_and_does_not_keep_its_owner_alive(registry):
    class Owner:
        pass

    owner = Owner()
    registry.renew_lock(owner)
    held = owner._lock
    held.acquire()
    as_in_a_child(registry)
    registry.renew()
    assert owner._lock is not held
    assert not owner._lock.locked()
    del owner
    gc.collect()
    assert registry._others == {}


def test_threads_that_look_together_run_each_hook_once_and_wait_for_its_end(registry):
    ran, entered, go_on = [], threading.Event(), threading.Event()

    def hook():
        entered.set()
        assert go_on.wait(10)
        ran.append(threading.get_ident())

    registry.register(hook)
    as_in_a_child(registry)
    seen = []

    def look():
        registry.renew()
        seen.append(list(ran))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert entered.wait(10)
    assert not seen
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(ran) == 1
    assert seen == [ran] * 8


def test_an_interrupted_renewal_is_not_over_and_runs_again(registry):
    ran, fails = [], [KeyboardInterrupt()]

    def hook():
        ran.append("b")
        if fails:
            raise fails.pop()

    registry.register(lambda: ran.append("a"))
    registry.register(hook)
    registry.register(lambda: ran.append("c"))
    as_in_a_child(registry)
    with pytest.raises(KeyboardInterrupt):
        registry.renew()
    assert not registry.mark[0]
    registry.renew()
    assert ran == ["a", "b", "a", "b", "c"]
    assert registry.mark[0]


def test_what_interrupts_a_renewal_and_looks_completes_it(registry):
    """A signal handler, or a finalizer, on the same thread."""
    ran, nested = [], []

    def hook():
        ran.append("b")
        if not nested:
            nested.append(True)
            registry.renew()
            assert registry.mark[0]

    registry.register(lambda: ran.append("a"))
    registry.register(hook)
    registry.register(lambda: ran.append("c"))
    as_in_a_child(registry)
    registry.renew()
    assert ran == ["a", "b", "a", "b", "c"], "the interrupted one destroys nothing that was made since"


def test_the_renewal_takes_no_lock_that_could_be_inherited(registry):
    """The parent forks while a thread of it is inside a renewal."""
    entered, go_on = threading.Event(), threading.Event()

    def hook():
        if os.getpid() == parent:
            entered.set()
            assert go_on.wait(10)

    parent = os.getpid()
    registry.register(hook)
    as_in_a_child(registry)
    thread = threading.Thread(target=registry.renew)
    thread.start()
    assert entered.wait(10)
    try:
        assert in_child(lambda: registry.mark[0]) == "1"
    finally:
        go_on.set()
        thread.join(10)
    assert registry._renewals == {}


def test_where_no_page_can_be_wiped_process_ids_are_compared(registry, monkeypatch):
    monkeypatch.setattr(fork, "mark", fork._ProcessIdMark())
    fork.mark[0] = 1
    assert fork.mark[0]
    ran = []
    registry.register(lambda: ran.append("ran"))

    def use():
        registry.renew()
        return f"{ran} {registry.mark[0]}"

    assert in_child(use) == "['ran'] True"
    assert fork.mark[0]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert not fork.mark[0]


def test_a_kernel_without_the_page_is_no_error(monkeypatch):
    monkeypatch.setattr(fork, "_WIPE_ON_FORK", 123_456)
    assert isinstance(fork._make_mark(), fork._ProcessIdMark)
