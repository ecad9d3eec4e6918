"""docs/acl.md lists what each feature needs: with exactly these rules it works, without any one of them it does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redispool_app.redis_pool import redis_connection_manager as manager
from tests.support.acl_features import FEATURES, KEYS
from tests.support.faulty_servers import PASSWORD
from tests.support.servers import RedisServer

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "acl.md").read_text()
TABLE = MANUAL.split("| feature | rules |")[1].split("##")[0]
RULES = {name: rules.split() for name, rules in re.findall(r"^\| (.+?) \| `([^`]+)` \|$", TABLE, re.MULTILINE)}

Use = Callable[[str, list[str]], None]
PoolSettings = Callable[..., object]


@pytest.fixture(scope="module")
def acl_server() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def use(acl_server: RedisServer, pool_settings: PoolSettings) -> Use:
    """Use a feature as a user with these rules."""

    def use(name: str, rules: list[str]) -> None:
        with acl_server.client() as admin:
            admin.flushall()
            admin.script_flush()
            admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", f">{PASSWORD}", "~*", "-@all", *rules)
            url = acl_server.url.removesuffix("/0")
            manager.close_sync()
            manager.reload_settings()
            pool_settings(url, USERNAME="bob", PASSWORD=PASSWORD, **KEYS[name])
            try:
                FEATURES[name](admin, manager)
            finally:
                manager.close_sync()

    return use


def test_the_table_lists_every_feature() -> None:
    assert list(RULES) == list(FEATURES)


@pytest.mark.parametrize("name", RULES)
def test_a_feature_works_with_its_rules(name: str, use: Use) -> None:
    use(name, RULES[name])


@pytest.mark.parametrize(("name", "rule"), [(name, rule) for name, rules in RULES.items() for rule in rules])
def test_a_feature_needs_each_of_its_rules(name: str, rule: str, use: Use) -> None:
    with pytest.raises(Exception, match=r".*"):
        use(name, [each for each in RULES[name] if each != rule])


def test_the_example_is_a_user_that_a_server_accepts(acl_server: RedisServer) -> None:
    (example,) = re.findall(r"^ACL SETUSER .+$", MANUAL, re.MULTILINE)
    with acl_server.client() as admin:
        assert admin.execute_command(*example.split())
