"""Servers that replace each other: behind Sentinels, and in a cluster of six."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis import exceptions as redis_exceptions

from tests.lab import report
from tests.lab.drivers import driver_of
from tests.lab.operations import OK
from tests.lab.servers import Cluster, Watched
from tests.lab.stage import QUICK, play, rules_of
from tests.lab.topologies import NODES, SENTINELS, TAG, ClusterStage, OtherNodeKilled, PrimaryKilled, SentinelStage
from tests.lab.verdicts import RECOVERY, judge

pytestmark = pytest.mark.lab


@pytest.fixture
def watched():
    with Watched() as watched:
        yield watched


@pytest.fixture
def cluster():
    with Cluster() as cluster:
        yield cluster


def verdict(fault, subject, stage, *, load, **rules):
    driver = driver_of(subject)
    run = play(fault, stage, driver, load=load, log=[])
    # Without a manager a client follows the engine's own backoff, of a second at most.
    rules = replace(rules_of(fault, QUICK | {"RETRY_BACKOFF_CAP": 1.0}, managed=False), **rules)
    findings = judge(run, rules)
    served = min(
        (each.ended for each in run.operations if each.outcome == OK and each.asked >= run.healed), default=None
    )
    if served is None or served - run.healed > RECOVERY + rules.backoff_cap:
        findings.complain("no recovery in time")
    else:
        findings.numbers["recovered_ms"] = round((served - run.healed) * 1000, 1)
    report.record(fault.name, subject.name, "busy" if load else "idle", findings.numbers, findings.complaints)
    return sorted(set(findings.complaints))


@pytest.mark.parametrize("load", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("subject", SENTINELS, ids=lambda subject: subject.name)
def test_the_new_primary_is_found(subject, load, watched):
    stage = SentinelStage(watched)
    # Replicas follow a little later: what the primary acknowledged after they last caught up may die with it.
    assert not verdict(PrimaryKilled(stage), subject(watched), stage, load=load, durable=not load)


@pytest.mark.parametrize("subject", NODES, ids=lambda subject: subject.name)
def test_a_node_serves_its_slots_while_another_is_replaced(subject, cluster, pool_settings):
    stage = ClusterStage(cluster)
    manager = pool_settings(stage.url, **QUICK)
    assert not verdict(OtherNodeKilled(stage), subject(manager), stage, load=True)
    assert manager._is_healthy


def test_a_key_of_another_node_is_that_callers_error_and_nobody_elses(cluster, pool_settings):
    manager = pool_settings(ClusterStage(cluster).url, **QUICK)
    elsewhere = "{elsewhere}"

    async def use():
        client = await manager.get_client()
        await client.set(TAG, "here")
        return await asyncio.gather(*(client.get(key) for key in (TAG, elsewhere) * 50), return_exceptions=True)

    replies = asyncio.run(use())
    assert replies[::2] == [b"here"] * 50
    assert {type(reply) for reply in replies[1::2]} == {redis_exceptions.MovedError}
    with pytest.raises(redis_exceptions.MovedError):
        manager.get_sync_client().get(elsewhere)
    assert manager.get_sync_client().get(TAG) == b"here"
    assert manager._is_healthy
