"""The same faults against what a project may have instead: nobody else is asserted to keep what only this one promises.

``make faults`` prints what each client's callers saw; docs/faults.md quotes it.
"""

from __future__ import annotations

import pytest
import redis

from redispool_app.redis_pool import RedisConnectionManager
from tests.lab import comparison
from tests.lab.faults import ConnectionsKilled, Loading, ReadOnly, ServerFrozen, ServerKilled
from tests.lab.network_faults import BlackHole, HalfOpen, Refused, SilentMidReply, Truncated
from tests.lab.peers import CONTENDERS, WITH_COROUTINES, WITH_THREADS, caches_of, pools_of
from tests.lab.side_by_side import Ordeal, SideBySide, Watchdog
from tests.lab.stage import Stage

pytestmark = [
    pytest.mark.lab,
    # What a peer leaves to the garbage collector is no verdict on it.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

_LONG = 12.0
"""Seconds: more than twice as long as any client's deadline."""

_ORDEALS = [
    Ordeal(ServerKilled, 3.0),
    Ordeal(ServerFrozen, _LONG),
    Ordeal(ServerFrozen, 5.0, coroutines=300, threads=120),
    Ordeal(Loading, 3.0),
    Ordeal(ConnectionsKilled, 4.0),
    Ordeal(ReadOnly, 2.0),
    Ordeal(Refused, 3.0),
    Ordeal(BlackHole, _LONG),
    Ordeal(SilentMidReply, _LONG),
    Ordeal(HalfOpen, 1.0),
    Ordeal(Truncated, 5.0, twice_in_a_row=True),
]


@pytest.mark.parametrize("ordeal", _ORDEALS, ids=lambda ordeal: ordeal.name)
def test_every_client_goes_through_it_and_ours_keeps_its_promises(ordeal, pools, settings):
    # Where everybody but waits, nobody is in the others' way.
    groups = (CONTENDERS,) if ordeal.hold >= _LONG else (WITH_COROUTINES, WITH_THREADS)
    told = []
    for subjects in groups:
        with SideBySide(ordeal, subjects) as side_by_side:
            pools(**pools_of(side_by_side.urls))
            settings.CACHES = caches_of(side_by_side.urls)
            found = side_by_side.play()
            for alias in pools_of({}):
                RedisConnectionManager(alias).close_sync()
                RedisConnectionManager(alias).reload_settings()
        for subject, findings in found.items():
            comparison.record(ordeal.name, ordeal.hold, subject.name, findings.numbers)
            told += [f"{subject.name}: {each}" for each in findings.complaints if subject.ours]
    assert not told, "\n".join([f"{len(told)} complaints", *sorted(set(told))[:10]])


def test_whoever_would_wait_for_ever_is_cut_off():
    with Stage(proxied=False) as stage, redis.Redis.from_url(stage.plain_url, socket_timeout=None) as client:
        with Watchdog(stage, 0.3) as watchdog, pytest.raises(redis.ConnectionError):
            client.blpop("nothing", 0)
        assert watchdog.has_cut


def test_nobody_is_cut_off_who_is_done_in_time():
    with Stage(proxied=False) as stage:
        with Watchdog(stage, 30) as watchdog:
            pass
        assert not watchdog.has_cut
