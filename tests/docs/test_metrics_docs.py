"""docs/metrics.md and docs/health.md say what the code does; their commands run, their files parse."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.test import Client
from django.urls import resolve

from redispool_app.metrics.definitions import METRICS, STATES, Kind
from redispool_app.redis_pool import RedisConnectionManager
from tests.lab.sites import Site
from tests.support.servers import RedisServer, eventually

ROOT = Path(__file__).resolve().parents[2]
METRICS_PAGE = (ROOT / "docs/metrics.md").read_text()
HEALTH_PAGE = (ROOT / "docs/health.md").read_text()
PoolSettings = Callable[..., RedisConnectionManager]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)


def test_the_table_of_metrics_is_the_table_of_definitions() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (\w+) \| `([^`]+)` \| (.*) \|$", METRICS_PAGE, re.MULTILINE)
    assert rows == [
        (
            metric.name,
            metric.prometheus_name + ("_total" if metric.kind is Kind.COUNTER else ""),
            metric.kind.value,
            metric.unit,
            metric.description,
        )
        for metric in METRICS
    ]


def test_every_state_and_attribute_is_named() -> None:
    section = METRICS_PAGE.split("## What there is")[1]
    named = set(re.findall(r"`([\w.]+)`", section))
    assert set(STATES) <= named
    assert {attribute for metric in METRICS for attribute in metric.attributes} <= named


@pytest.mark.parametrize("page", [METRICS_PAGE, HEALTH_PAGE], ids=["metrics", "health"])
def test_code_compiles_and_files_that_are_linked_exist(page: str) -> None:
    for source in blocks(page, "python"):
        compile(textwrap.dedent(source), "docs", "exec")
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert "://" in link or (ROOT / "docs" / link).exists()


def test_extras_that_are_named_exist() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    extras = set(re.findall(r"django-redispool-app\[([\w-]+)\]", METRICS_PAGE + HEALTH_PAGE))
    assert extras == {"prometheus", "opentelemetry", "health-check"}
    for extra in extras:
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)


def test_the_prometheus_configuration_parses_and_leads_to_the_metrics() -> None:
    (source,) = blocks(METRICS_PAGE, "yaml")
    (job,) = yaml.safe_load(source)["scrape_configs"]
    assert resolve(job["metrics_path"]).view_name == "redispool_app:metrics"


def test_the_paths_of_the_table_exist() -> None:
    for path in re.findall(r"^\| (`.*?`) \|", HEALTH_PAGE, re.MULTILINE):
        for each in re.findall(r"`([^`]+)`", path):
            assert resolve("/redis/" + each.replace("<alias>", "default"))


def test_the_probes_for_kubernetes_lead_to_views_that_answer(manager: RedisConnectionManager, settings: Any) -> None:
    (source,) = blocks(HEALTH_PAGE, "yaml")
    (container,) = yaml.safe_load(source)["containers"]
    (port,) = container["ports"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] == port["name"]
        (header,) = asked["httpHeaders"]
        settings.ALLOWED_HOSTS = [header["value"]]
        assert Client().get(asked["path"], headers={header["name"]: header["value"]}).status_code == 200
    assert container["livenessProbe"]["httpGet"]["path"] == "/redis/live/"
    assert container["readinessProbe"]["timeoutSeconds"] > 1.0, "more than the default of HEALTH_CHECK_TIMEOUT"


def test_the_exemption_from_the_redirect_to_tls_holds_for_the_probes(
    manager: RedisConnectionManager, settings: Any
) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", *settings.MIDDLEWARE]
    settings.SECURE_REDIRECT_EXEMPT = [re.search(r'SECURE_REDIRECT_EXEMPT = \[r"(.*?)"\]`', HEALTH_PAGE)[1]]
    for path in ("live/", "ready/", "health/", "ready/default/", "health.json"):
        assert Client().get(f"/redis/{path}").status_code == 200
    assert Client().get("/redis/status/").status_code == 301


def docker_commands() -> Iterator[tuple[dict[str, str], list[str]]]:
    for source in blocks(HEALTH_PAGE, "dockerfile"):
        instruction = " ".join(source.replace("\\\n", " ").split())
        options, command = re.fullmatch(r"HEALTHCHECK ((?:--[a-z-]+=\w+ )*)CMD (\[.*\])", instruction).groups()
        yield dict(option.split("=") for option in options.split()), json.loads(command)


def test_the_options_of_the_docker_check_leave_the_command_its_time() -> None:
    for options, command in docker_commands():
        assert options.keys() <= {"--interval", "--timeout", "--start-period", "--retries"}
        inner = re.search(r"timeout=(\d+)", " ".join(command))
        if inner:
            assert int(inner[1]) < int(options["--timeout"].removesuffix("s"))


def test_the_docker_check_ends_as_it_says(own_server: RedisServer, tmp_path: Path) -> None:
    (_, command), *_ = docker_commands()
    assert command[0] == "python"

    def ends(path: str) -> int:
        arguments = [each.replace(":8000/redis/live/", f":{site.port}/redis/{path}") for each in command[1:]]
        return subprocess.run([sys.executable, *arguments], capture_output=True, timeout=30).returncode

    site = Site(tmp_path, {"CONNECTION_URL": own_server.url})
    try:
        assert ends("live/") == 1, "no process listens yet"
        site.start("uvicorn", "tests.sites.asgi_site:application", "--port", "{port}").serves()
        assert (ends("live/"), ends("ready/"), ends("health/")) == (0, 0, 0)
        own_server.kill()
        eventually(lambda: ends("health/") == 1)
        assert (ends("live/"), ends("ready/")) == (0, 1)
    finally:
        site.kill()


def test_curl_is_asked_with_options_that_fail_for_503() -> None:
    command = shlex.split(re.search(r"`(curl [^`]+)`", HEALTH_PAGE)[1])
    assert command[:4] == ["curl", "-fsS", "-m", "4"]


def test_the_management_command_of_the_recipe_exists() -> None:
    *_, (_, command) = docker_commands()
    assert command[:2] == ["python", "manage.py"]
    assert (ROOT / f"redispool_app/management/commands/{command[2]}.py").exists()


def test_the_documents_shown_have_the_fields_of_real_ones(
    own_server: RedisServer, pool_settings: PoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDISPOOL_METRICS_TOKEN", "token")
    manager = pool_settings(own_server.url)
    short, long = map(json.loads, blocks(HEALTH_PAGE, "json"))
    assert Client().get("/redis/health.json").json() == short
    assert manager.get_pool_info()["latency_ms"] is not None
    own_server.kill()
    eventually(lambda: Client().get("/redis/health.json").status_code == 503)
    real = Client().get("/redis/health.json", headers={"Authorization": "Bearer token"}).json()
    assert real.keys() == long.keys()
    assert real["status"] == long["status"]
    for name, (check,) in long["checks"].items():
        assert real["checks"][name][0].keys() == check.keys()
        assert real["checks"][name][0]["status"] == check["status"]
