"""The timeline of a pool's health: each change with its cause."""

from __future__ import annotations

import time

import pytest

from redispool_app.engine.health.faults import Fault, FaultKind
from redispool_app.engine.health.history import LONGEST, with_change
from redispool_app.engine.health.monitor import Monitor
from redispool_app.exceptions import RedisUnavailable
from tests.engine.runtime.test_forks import in_child
from tests.support.servers import eventually, free_port


def states(manager):
    return [(change["state"], change["fault_kind"]) for change in manager.health_history()]


def test_an_outage_and_its_end_are_told_with_the_cause_and_the_time(own_server, pool_settings):
    manager = pool_settings(own_server.url)
    started = time.time()
    manager.get_sync_client().ping()
    assert states(manager) == [("healthy", None)]
    own_server.kill()
    with pytest.raises(Exception):  # noqa: B017 (whoever comes first gets redis-py's own)
        manager.get_sync_client().ping()
    eventually(lambda: states(manager)[-1] == ("unhealthy", "refused"))
    assert own_server.where in manager.health_history()[-1]["fault"]
    own_server.start()
    eventually(lambda: manager._is_healthy)
    assert states(manager)[-1] == ("healthy", None)
    moments = [change["at"] for change in manager.health_history()]
    assert moments == sorted(moments)
    assert started - 1 < moments[0] <= moments[-1] < time.time() + 1


def test_another_cause_of_the_same_outage_is_told_too():
    health = a_monitor().health
    health.failed(Fault(FaultKind.REFUSED, "refused"))
    health.failed(Fault(FaultKind.REFUSED, "refused again"))
    health.failed(Fault(FaultKind.LOADING, "loading"))
    assert [change.fault for change in health.history] == ["refused", "loading"]


def test_a_doubt_is_told_and_so_is_what_becomes_of_it():
    monitor = a_monitor()
    monitor.health.passed(0.001)
    monitor.health.mark_suspect(Fault(FaultKind.UNKNOWN, "a block raised"))
    monitor.health.mark_suspect(Fault(FaultKind.UNKNOWN, "another raised"))
    monitor.health.passed(0.001)
    assert [(change.state, change.fault) for change in monitor.health.history] == [
        ("healthy", None),
        ("unhealthy", "a block raised"),
        ("healthy", None),
    ]


def test_closing_forgets_the_verdict_and_says_so(manager):
    manager.get_sync_client()
    manager.close_sync()
    assert states(manager) == [("healthy", None), ("unknown", None)]


def test_only_the_last_changes_are_kept():
    kept = ()
    for number in range(LONGEST + 5):
        kept = with_change(kept, f"state {number}", None)
    assert len(kept) == LONGEST == 200
    assert (kept[0].state, kept[-1].state) == ("state 5", f"state {LONGEST + 4}")


def test_an_unused_manager_has_no_history(pool_settings):
    assert pool_settings(f"redis://127.0.0.1:{free_port()}").health_history() == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_history_of_its_own(pool_settings):
    manager = pool_settings(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(RedisUnavailable):
        manager.get_sync_client()
    assert states(manager) == [("unhealthy", "refused")]

    def work():
        before = states(manager)
        manager._health_check_sync()
        return before, states(manager)

    assert in_child(work) == "([], [('unhealthy', 'refused')])"


def a_monitor():
    from redispool_app.engine.health.state import Health

    health = Health(interval=15, backoff_base=0.05, backoff_cap=1)
    return Monitor("default", "here:1", health, lambda: 0.0)
