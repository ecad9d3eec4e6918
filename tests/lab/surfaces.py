"""What a fault looks like from outside: to a load balancer, to somebody at the status page, to a script."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from django.core.management import CommandError, call_command

from tests.support.admin_pages import PAGE, Page, client_of

PASSWORDS = ("first-hunter2", "second-hunter2")


class Viewer:
    """Somebody with permission, who looks once while a fault lasts."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._browser = client_of("view_redispool")
        self.last_error: str | None = None
        self.probe = 0
        self.page = ""
        self.document: dict[str, Any] = {}
        self.command: dict[str, Any] = {}
        self.exit_code = 0

    def look(self) -> None:
        # First what is known without anybody's asking the server.
        self.last_error = self._manager.get_pool_info()["last_error_kind"]
        self.probe = self._browser.get("/redis/health/").status_code
        self.document = self._browser.get("/redis/status/").json()["pools"]["default"]
        self.page = Page(self._browser.get(PAGE)).text
        self._run_command()

    def _run_command(self) -> None:
        out = io.StringIO()
        try:
            call_command("redis_health", "--json", stdout=out)
        except CommandError as error:
            self.exit_code = error.returncode
        self.command = json.loads(out.getvalue())["pools"][0]

    def complaints(self, fault: Any) -> Iterator[str]:
        """Yield what was shown wrongly while ``fault`` lasted."""
        if fault.last_error is not None and self.last_error != fault.last_error:
            yield f"the status names {self.last_error} as the last error, not {fault.last_error}"
        if fault.outage:
            if self.probe != 503:
                yield f"the probe answers {self.probe} during an outage"
            if self.exit_code != 1:
                yield f"redis_health exits with {self.exit_code} during an outage"
            for place, said in (("the status document", self.document), ("redis_health", self.command)):
                if said["fault_kind"] not in fault.kinds:
                    yield f"{place} calls it {said['fault_kind']}, not {', '.join(sorted(fault.kinds))}"
            if self.document["fault"] not in self.page:
                yield f"the page does not say {self.document['fault']!r}"
        elif fault.last_error is not None and (self.probe, self.exit_code) != (200, 0):
            yield f"the server answers, but the probe says {self.probe} and redis_health {self.exit_code}"
        shown = self.page + json.dumps(self.document) + json.dumps(self.command)
        if any(password in shown for password in PASSWORDS):
            yield "a password is shown"
