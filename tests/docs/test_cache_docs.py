"""The manual of the cache says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from redispool_app.cache import RedisPoolCache
from redispool_app.cache.operations import MOST_KEYS
from redispool_app.conf.cache_options import CacheOptions

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "cache.md").read_text()


def test_the_table_of_options_lists_every_key_with_its_default() -> None:
    section = MANUAL.split("## OPTIONS")[1].split("## What differs")[0]
    rows = re.findall(r"^\| `([A-Z_]+)` \| `([^`]*)` \|", section, re.MULTILINE)
    defaults = {item.name.upper(): item.default for item in fields(CacheOptions)}
    assert rows == [(key, f'"{value}"' if isinstance(value, str) else repr(value)) for key, value in defaults.items()]


def test_every_call_it_names_exists_with_its_twin() -> None:
    section = MANUAL.split("## Beyond Django's API")[1]
    names = set(re.findall(r"`(\w+)\(", section)) - {"a"}
    assert {"ttl", "pexpire_at", "iter_keys", "get_client"} <= names
    assert [
        name for name in names if not hasattr(RedisPoolCache, name) or not hasattr(RedisPoolCache, f"a{name}")
    ] == []


def test_the_size_of_a_portion_is_the_codes() -> None:
    assert f"one MGET up to {MOST_KEYS:,} keys" in MANUAL
