"""Any dict as REDIS_POOL or as an entry of CACHES: a configuration, or ``ImproperlyConfigured`` in one line.

Run it as ``python -m tests.faults.fuzz.settings -runs=20000``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from typing import Any

from django.core.exceptions import ImproperlyConfigured

SECRET = "hunter2"

# Imported late, so that the fuzzer can look inside.


def words() -> list[str]:
    from redispool_app.conf import KEYS
    from redispool_app.conf.cache_options import NAMES

    return [*KEYS, *NAMES, "LOCATION", "connection_url"]


def check_pool(pool: Any) -> None:
    from redispool_app.conf import RedisPoolConfig

    _refused_or(lambda: RedisPoolConfig.from_mapping(pool), _show)


def check_cache(location: Any, options: Any) -> None:
    from redispool_app.cache import RedisPoolCache

    _refused_or(lambda: RedisPoolCache(location, {"OPTIONS": options}), lambda found: None)


def _show(config: Any) -> None:
    config.effective()
    json.dumps(config.masked())
    # Under a key such as USERNAME it is no secret, whatever it looks like.
    if not any(SECRET in str(getattr(config, key.name)) for key in fields(config) if not key.metadata["secret"]):
        assert SECRET not in repr(config)


def _refused_or(read, show) -> None:
    try:
        show(read())
    except ImproperlyConfigured as error:
        refusal = str(error)
    else:
        return
    assert refusal.isprintable()
    assert len(refusal) < 500
    assert SECRET not in refusal


def main() -> None:
    import atheris
    import django

    with atheris.instrument_imports(include=["redispool_app"]):
        django.setup()
        known = words()

    def value(data: Any, depth: int = 0) -> Any:
        kind = data.ConsumeIntInRange(0, 8 if depth < 2 else 6)
        if kind < 2:
            return data.ConsumeUnicode(30)
        if kind == 2:
            return data.ConsumeInt(8)
        if kind == 3:
            return data.ConsumeFloat()
        if kind == 4:
            return data.PickValueInList([None, True, False, b"", object(), 10**30])
        if kind == 5:
            return f"redis://u:{SECRET}@{data.ConsumeUnicode(20)}"
        if kind == 6:
            return data.PickValueInList(["pickle", "json", "redis://h/1", "rediss://h", "utf-8", 3, 2.5])
        if kind == 7:
            return [value(data, depth + 1) for _ in range(data.ConsumeIntInRange(0, 2))]
        return mapping(data, depth + 1)

    def mapping(data: Any, depth: int = 0) -> dict[Any, Any]:
        found = {}
        for _ in range(data.ConsumeIntInRange(0, 4)):
            key = data.PickValueInList(known) if data.ConsumeBool() else data.ConsumeUnicode(12)
            found[key] = value(data, depth)
        return {**found, "PASSWORD": SECRET} if data.ConsumeBool() else found

    def one(given: bytes) -> None:
        data = atheris.FuzzedDataProvider(given)
        if data.ConsumeBool():
            check_pool(mapping(data))
        else:
            check_cache(value(data), mapping(data))

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
