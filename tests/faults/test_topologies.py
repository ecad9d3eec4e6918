"""Servers that replace each other: behind Sentinels, and in a cluster of six."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from redispool_app.exceptions import RedisUnavailable
from tests.lab import report
from tests.lab.drivers import driver_of
from tests.lab.operations import OK
from tests.lab.servers import Cluster, Watched
from tests.lab.stage import QUICK, play, rules_of
from tests.lab.topologies import SENTINELS, PrimaryKilled, SentinelStage
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


def test_a_node_of_a_cluster_is_named_with_its_cure(cluster, pool_settings):
    """It would answer most keys with MOVED."""
    manager = pool_settings(cluster.nodes[0].url, **QUICK)
    cure = "is a node of a cluster and does not serve every key: use a server without cluster mode"
    with pytest.raises(RedisUnavailable, match=cure):
        asyncio.run(manager.initialize())
    with pytest.raises(RedisUnavailable, match=cure):
        manager.get_sync_client().get("k")
    assert manager.get_pool_info()["fault_kind"] == "cluster"
