"""The README says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from redispool_app.conf import RedisPoolConfig
from redispool_app.engine.health.faults import FaultKind

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def test_the_settings_table_lists_every_key_with_its_default():
    section = README.split("## Settings")[1].split("### Several servers")[0]
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]*)` \|", section, re.MULTILINE))
    wanted = {
        item.name.upper(): f'"{item.default}"' if isinstance(item.default, str) else repr(item.default)
        for item in fields(RedisPoolConfig)
    }
    assert rows == wanted
    assert list(rows) == list(wanted)


def test_every_kind_of_fault_is_named():
    section = README.split("What a fault is called")[1].split("## Settings")[0]
    assert set(re.findall(r"`([a-z_]+)`", section)) >= set(FaultKind)


def test_every_picture_and_file_that_is_linked_exists():
    root = Path(__file__).resolve().parents[2]
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if "://" not in link and not (root / link).exists()] == []


def test_the_tests_that_hold_what_security_promises_exist():
    root = Path(__file__).resolve().parents[2]
    text = (root / "SECURITY.md").read_text()
    assert re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert [path for path in re.findall(r"`(tests/[\w/]+\.py)`", text) if not (root / path).exists()] == []
    assert [
        name for name in re.findall(r"`(test_[\w*]+\.py)`", text) if not list(root.glob(f"tests/faults/{name}"))
    ] == []
