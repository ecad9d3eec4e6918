"""A process that may not have the memory that a reply takes.

``python -m tests.lab.memory_limit URL async|sync busy|idle`` asks for the key ``big`` with little memory to spare,
beside others or alone, then goes on working, and prints what came of it all as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from redispool_app.engine.health.faults import classify

_SPARE = 60 * 1024 * 1024


def limit_memory() -> None:
    """Allow little more address space than is in use."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _SPARE, resource.RLIM_INFINITY))


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _shown(result: Any, expected: str) -> Any:
    return _named(result) if isinstance(result, BaseException) else result == expected.encode()


async def run_async(manager: Any, load: bool) -> dict[str, Any]:
    client = await manager.get_client()
    await client.ping()
    limit_memory()
    echoes = [asyncio.ensure_future(client.echo(str(number))) for number in range(20 if load else 0)]
    started = monotonic()
    try:
        big, kind = f"{len(await client.get('big'))} bytes", ""
    except Exception as error:
        big, kind = _named(error), classify(error, "here").kind
    took = monotonic() - started
    results = await asyncio.gather(*echoes, return_exceptions=True)
    after = []
    for number in range(50):
        try:
            after.append(await (await manager.get_client()).echo(f"after {number}") == f"after {number}".encode())
        except Exception as error:
            after.append(_named(error))
        await asyncio.sleep(0.05)
    beside = [_shown(result, str(number)) for number, result in enumerate(results)]
    return {"big": big, "kind": kind, "took": took, "beside": beside, "after": after}


def run_sync(manager: Any, load: bool) -> dict[str, Any]:
    client, beside, ended = manager.get_sync_client(), [], threading.Event()

    def echo() -> None:
        while not ended.is_set():
            try:
                beside.append(client.echo("beside") == b"beside")
            except Exception as error:
                beside.append(_named(error))

    # A thread reserves address space for itself when it first works.
    threads = [threading.Thread(target=echo) for _ in range(4 if load else 0)]
    for thread in threads:
        thread.start()
    sleep(0.2)
    limit_memory()
    started = monotonic()
    try:
        big, kind = f"{len(manager.get_sync_client().get('big'))} bytes", ""
    except Exception as error:
        big, kind = _named(error), classify(error, "here").kind
    took = monotonic() - started
    after = []
    for number in range(50):
        try:
            after.append(manager.get_sync_client().echo(f"after {number}") == f"after {number}".encode())
        except Exception as error:
            after.append(_named(error))
        sleep(0.05)
    ended.set()
    for thread in threads:
        thread.join()
    return {"big": big, "kind": kind, "took": took, "beside": sorted(set(beside), key=str), "after": after}


def main(url: str, face: str, when: str) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.lab.site_settings"
    os.environ["REDIS_POOL"] = json.dumps({"CONNECTION_URL": url, "SOCKET_TIMEOUT": 10.0})
    import django

    django.setup()
    from redispool_app.redis_pool import redis_connection_manager as manager

    load = when == "busy"
    print(json.dumps(asyncio.run(run_async(manager, load)) if face == "async" else run_sync(manager, load)))


if __name__ == "__main__":
    main(*sys.argv[1:])
