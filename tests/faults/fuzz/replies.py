"""Any bytes for a reply: who asked gets what redis-py makes of them or a clear error, nobody else notices.

Run it as ``python -m tests.faults.fuzz.replies -runs=2000``.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import hiredis
import redis
from redis import exceptions as redis_exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from redispool_app.engine import AsyncRedis, SyncRedis

from .scripted_server import ScriptedServer

NEIGHBOURS = ("left", "bad", "right")
PATIENCE = 10.0
INCOMPLETE = object()


def shape(data: bytes, protocol: int) -> str:
    """Tell ``one`` whole reply from ``several``, from one that is ``cut``, and from what is none and so ``wrong``."""
    reader, replies = hiredis.Reader(replyError=redis_exceptions.ResponseError, notEnoughData=INCOMPLETE), 0
    try:
        reader.feed(data)
        while (reply := reader.gets(False)) is not INCOMPLETE:
            if not isinstance(reply, hiredis.PushNotification):
                replies += 1
            elif protocol == 2:
                return "several"  # its place is in RESP3
    except Exception:
        return "wrong" if replies == 0 else "several"
    if replies > 1 or (replies and _has_whole_reply(data[:-1])):
        return "several"
    return "one" if replies else "cut"


def _has_whole_reply(data: bytes) -> bool:
    """Whether a reply ends somewhere in ``data``, which is known to hold no two."""
    reader = hiredis.Reader(replyError=redis_exceptions.ResponseError, notEnoughData=INCOMPLETE)
    try:
        reader.feed(data)
        while (reply := reader.gets(False)) is not INCOMPLETE:
            if not isinstance(reply, hiredis.PushNotification):
                return True
    except Exception:
        return True
    return False


class Witness:
    """Asks the same server with redis-py, with threads and with coroutines; raises AssertionError for a difference."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.threads = ThreadPoolExecutor(len(NEIGHBOURS))

    def check(self, data: bytes, protocol: int, decode: bool) -> str:
        found = shape(data, protocol)
        # With half a reply left over, what comes next would only complete it.
        self.server.answers[b"bad"] = data if found == "one" else (data, None)
        options = {
            "port": self.server.port,
            "protocol": protocol,
            "decode_responses": decode,
            "socket_timeout": PATIENCE,
        }
        with redis.Redis(**options, retry=Retry(NoBackoff(), 0)) as plain:
            wanted = _outcome(lambda: plain.get("bad"))
        together = NEIGHBOURS if found != "several" else ("bad",)
        for replies in (self._threads(options, together), asyncio.run(_coroutines(options, together))):
            self._judge(dict(zip((*together, "later", "last"), replies, strict=True)), wanted, found, decode)
        return found

    def _threads(self, options, together):
        with SyncRedis(**options) as client:
            asked = [self.threads.submit(_outcome, lambda key=key: client.get(key)) for key in together]
            replies = [each.result(PATIENCE * 2) for each in asked]
            return [*replies, _outcome(lambda: client.get("later")), _outcome(lambda: client.get("last"))]

    def _judge(self, replies, wanted, found, decode):
        bad = replies.pop("bad")
        if found == "one":
            same = type(bad) is type(wanted) and repr(bad) == repr(wanted)
            unclear = isinstance(wanted, Exception) and not isinstance(wanted, redis_exceptions.RedisError)
            clearer = unclear and (not isinstance(bad, Exception) or isinstance(bad, redis_exceptions.RedisError))
            too_deep = isinstance(bad, RecursionError)
            # redis-py raises a connection error that is first in a list.
            within = isinstance(bad, list) and isinstance(wanted, redis_exceptions.ConnectionError)
            assert same or clearer or too_deep or within, f"{bad!r:.200}, not {wanted!r:.200}"
        elif found != "several":
            assert isinstance(bad, redis_exceptions.RedisError), f"{bad!r} for what is no reply"
        for key, reply in replies.items():
            own = key if decode else key.encode()
            # Whoever shared the lost connection again and again may be told so, but nothing else.
            lost = key in NEIGHBOURS and found != "one" and isinstance(reply, redis_exceptions.ConnectionError)
            assert reply == own or lost, f"{key} got {reply!r}"


def _outcome(call):
    try:
        return call()
    except Exception as error:
        return error


async def _coroutines(options, together):
    client = AsyncRedis(**options)
    try:
        async with asyncio.timeout(PATIENCE * 2):
            replies = await asyncio.gather(*map(client.get, together), return_exceptions=True)
            last = [*await asyncio.gather(client.get("later"), return_exceptions=True)]
            last += await asyncio.gather(client.get("last"), return_exceptions=True)
    finally:
        await client.aclose()
    return [*replies, *last]


def main() -> None:
    import atheris

    with ScriptedServer() as server:
        witness = Witness(server)

        def one(data: bytes) -> None:
            # A length of gigabytes is a promise that the parser believes; memory is not what is asked here.
            if len(data) > 1 and not _is_large(data):
                witness.check(data[1:], 2 + (data[0] & 1), bool(data[0] & 2))

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


def _is_large(data: bytes) -> bool:
    return any(data[at : at + 6].isdigit() for at in range(len(data)))


if __name__ == "__main__":
    main()
