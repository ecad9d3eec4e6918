"""A running site as a subject: its visitors check what its views say that Redis says."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import quote

from redispool_app.exceptions import OutcomeUnknown, RedisUnavailable

from .sites import Site
from .subjects import SyncEngine

FAST = 0.25
"""Seconds in which a page fails while the outage is known."""
_PATIENCE = 15.0


class Visitors(SyncEngine):
    """Threads that ask a site over HTTP, each request on a connection of its own."""

    arguments: tuple[str, ...]
    """How the server is started; ``{port}`` is the site's."""
    views: str
    """``sync`` or ``async``."""
    workers = 2

    def __init__(self, site: Site) -> None:
        self.site = site
        self.processes: set[int] = set()
        """The workers that have answered."""

    def start(self) -> None:
        self.site.start(*self.arguments).serves()

    def client(self) -> Any:
        return None

    def set(self, client: Any, key: str, value: str) -> None:
        assert self._ask("set", key, value) is True

    def get(self, client: Any, key: str) -> str | None:
        return self._ask("get", key)

    def incr(self, client: Any, key: str) -> int:
        return self._ask("incr", key)

    def status(self, path: str) -> int:
        """Return the status of a page."""
        return self._request(path)[0]

    def _ask(self, *words: str) -> Any:
        status, body = self._request(f"/{self.views}/" + "/".join(quote(word) for word in words) + "/")
        if status == 503:
            # The middleware's answer to everything but an unknown outcome: nothing has been done.
            raise RedisUnavailable(body.decode())
        answer = json.loads(body)
        if status == 500 and "unknown" in answer:
            raise OutcomeUnknown(answer["unknown"])
        assert status == 200, (status, body)
        return answer["reply"]

    def _request(self, path: str) -> tuple[int, bytes]:
        try:
            connection = socket.create_connection(("127.0.0.1", self.site.port), _PATIENCE)
        except OSError as error:
            raise RedisUnavailable(f"the site does not listen: {error}") from error
        asking = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=_PATIENCE)
        asking.sock = connection
        try:
            asking.request("GET", path, headers={"Accept": "application/json"})
            response = asking.getresponse()
            if (process := response.headers["X-Process"]) is not None:
                self.processes.add(int(process))
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            # A worker that died may have done what it was asked.
            raise OutcomeUnknown(f"no answer from the site: {error!r}") from error
        finally:
            asking.close()


class Uvicorn(Visitors):
    """Two processes with an event loop each."""

    name = "uvicorn, 2 workers"
    views = "async"
    arguments = ("uvicorn", "tests.lab.site:asgi", "--port", "{port}", "--workers", "2", "--log-level", "warning")


class Gunicorn(Visitors):
    """Two processes with eight threads each."""

    name = "gunicorn, 2 workers"
    views = "sync"
    arguments = ("gunicorn", "tests.lab.site:wsgi", "-b", "127.0.0.1:{port}", "-w", "2", "--threads", "8")


SITES = (Uvicorn, Gunicorn)
