"""The Grafana dashboard and the alert rules ask for what is exported, and for nothing else."""

from __future__ import annotations

import json
import os
import re
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from django.core.management import load_command_class

from redispool_app.engine.runtime import process
from redispool_app.metrics.prometheus import scrape
from tests.support import promql
from tests.support.scrapes import families, samples

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
ALERTS = [(rule["alert"], rule["expr"]) for rule in RULES]
EXPRESSIONS = [pytest.param(expr, id=f"{name} {number}") for number, (name, expr) in enumerate(TARGETS + ALERTS)]
FROM_PROMETHEUS = {"job", "instance"}


@pytest.fixture
def exported(manager):
    """The samples of a real scrape of a pool in use: for each name its labels and their values."""
    client = manager.get_sync_client()
    client.ping()
    client.connection_pool.release(client.connection_pool.get_connection())
    found = {}
    for family in families(scrape()[0].decode()).values():
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_every_metric_and_label_that_is_asked_for_is_exported(exported, expr):
    found = promql.read(expr)
    assert found.selectors
    for selector in found.selectors:
        assert selector.metric in exported
        labels = exported[selector.metric]
        assert {label for label, _, _ in selector.matchers} <= labels.keys() | FROM_PROMETHEUS
        assert found.grouped <= labels.keys() | FROM_PROMETHEUS | found.replaced.keys()
        assert set(found.replaced.values()) <= labels.keys()
        for label, operator, value in selector.matchers:
            if "$" not in value:
                wanted = value.split("|") if operator == "=~" else [value]
                assert set(wanted) <= labels[label], f"{label} is never {value}"


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_totals_are_asked_for_their_rate_and_states_for_their_value(expr):
    for selector in promql.read(expr).selectors:
        grows = selector.metric.endswith(("_total", "_bucket", "_sum")) or selector.metric.endswith("_seconds_count")
        assert selector.has_range == grows, selector.metric


def test_a_name_that_nobody_exports_would_be_found():
    assert promql.read('sum by (a) (rate(b_total{c="d",e=~"f|g"}[5m])) / h > 0.5') == promql.Expression(
        [promql.Selector("b_total", [("c", "=", "d"), ("e", "=~", "f|g")], True), promql.Selector("h")], {"a"}
    )


def test_a_label_that_an_expression_makes_is_read_with_what_it_is_made_from():
    assert promql.read('count by (b) (label_replace(a, "b", "$1", "c", "(.*)x"))') == promql.Expression(
        [promql.Selector("a")], {"b"}, {"b": "c"}
    )


@pytest.mark.parametrize(
    "wrong",
    [
        'label_replace(a, "b", "c")',
        'rate(a, "b")',
        "sum(a",
        "a)",
        "sum a",
        "a{b}",
        'a{b>"c"}',
        "rate(a[x])",
        '"a"',
        "a ; b",
        "[5m]",
    ],
)
def test_what_is_no_promql_is_refused(wrong):
    with pytest.raises(ValueError):
        promql.read(wrong)


# The dashboard.


def test_every_panel_says_what_it_shows_in_which_unit():
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}", "no panel is tied to one Grafana's data source"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_no_two_panels_overlap_and_none_leaves_the_grid():
    def cells(panel):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        return {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }

    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


def test_every_variable_is_defined_and_asks_for_what_is_exported(exported):
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(PANELS)))
    assert used <= variables.keys()
    for name in variables.keys() - {"datasource"}:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables[name]["definition"]).groups()
        assert label in exported[metric].keys() | FROM_PROMETHEUS


def test_every_panel_can_be_narrowed_to_a_pool_and_an_instance():
    for title, expr in TARGETS:
        for selector in promql.read(expr).selectors:
            assert {("redispool_alias", "=~", "$alias"), ("instance", "=~", "$instance")} <= set(selector.matchers), (
                title
            )


@pytest.mark.parametrize("title", ["Processes", "Not healthy"])
def test_a_process_with_several_pools_is_counted_once(server, pools, title):
    pools(default={"CONNECTION_URL": server.url}, sessions={"CONNECTION_URL": server.url, "CLIENT_NAME": "a:b"})
    (expr,) = [expr for name, expr in TARGETS if name == title]
    assert promql.read(expr).grouped == {"process"}
    pattern = re.search(r'"process", "\$1", "db_client_connection_pool_name", "(.*?)"', expr)[1]
    names = samples(scrape()[0].decode(), "redispool_state", redispool_state="healthy")
    assert len(names) == 2
    assert {re.fullmatch(pattern, name)[1] for name in names} == {f"{process.host()}:{os.getpid()}"}


def test_legends_name_labels_that_their_query_keeps():
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= promql.read(target["expr"]).grouped, panel["title"]


# The alerts.


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_severity_a_summary_and_a_runbook(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"].startswith("1. ")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_the_text_of_an_alert_names_only_labels_that_it_has(rule):
    named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    assert named <= promql.read(rule["expr"]).grouped


def test_alerts_have_names_of_their_own():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


RUNBOOKS = "\n".join(rule["annotations"]["runbook"] for rule in RULES)
RUNBOOKS = RUNBOOKS.replace("{{ $labels.redispool_alias }}", "default")


@pytest.mark.parametrize("line", sorted(set(re.findall(r"manage\.py (redis_[^:.,\n]+)", RUNBOOKS))))
def test_what_the_runbooks_tell_to_run_is_understood(line):
    name, *arguments = line.split()
    parser = load_command_class("redispool_app", name).create_parser("manage.py", name)
    assert parser.parse_args(arguments)
