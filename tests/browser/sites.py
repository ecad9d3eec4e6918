"""The demo, served by a real server as a process of its own, with a Redis of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.servers import eventually, free_port

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "correct horse"

_PEOPLE = """
import django, sys
django.setup()
from django.core.management import call_command
from django.contrib.auth.models import Permission, User
call_command("migrate", verbosity=0)
for name, codenames in {people!r}.items():
    user = User.objects.create_user(name, password={password!r}, is_staff=True, is_superuser=codenames is None)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames or []))
"""

PEOPLE = {
    "admin": None,
    "viewer": ["view_redispool"],
    "operator": ["view_redispool", "check_redispool", "reset_redispool"],
}


def prepare(directory: Path) -> None:
    """Make a database with people in it."""
    script = _PEOPLE.format(people=PEOPLE, password=PASSWORD)
    environment = {**os.environ, "DEMO_DIR": str(directory), "DJANGO_SETTINGS_MODULE": "tests.browser.settings"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, timeout=60)


class Site:
    """``kind`` is ``uvicorn`` (ASGI) or ``gunicorn`` (WSGI)."""

    def __init__(self, kind: str, directory: Path, redis_url: str, workers: int = 1, **environment: str) -> None:
        self.kind = kind
        self.port = free_port()
        self.workers = workers
        self.environment = {
            **os.environ,
            "DEMO_DIR": str(directory),
            "DJANGO_SETTINGS_MODULE": "tests.browser.settings",
            "REDIS_URL": redis_url,
            "REDIS_POOL": json.dumps({"PUBLISH_INTERVAL": 1.0, "HEALTH_CHECK_INTERVAL": 2.0}),
            **environment,
        }
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Site:
        arguments = {
            "uvicorn": [
                "project.asgi:application",
                "--port",
                str(self.port),
                "--log-level",
                "warning",
                "--timeout-graceful-shutdown",
                "1",
                "--workers",
                str(self.workers),
            ],
            "gunicorn": [
                "tests.browser.wsgi:application",
                "--bind",
                f"127.0.0.1:{self.port}",
                "--threads",
                "8",
                "--graceful-timeout",
                "1",
                "--workers",
                str(self.workers),
                "--log-level",
                "warning",
            ],
        }[self.kind]
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.kind, *arguments], cwd=ROOT, env=self.environment, start_new_session=True
        )
        eventually(self.answers, 30, 0.05)
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
            self.process = None

    def answers(self) -> bool:
        assert self.process.poll() is None, f"{self.kind} has ended"
        try:
            with urllib.request.urlopen(f"{self.url}/admin/login/", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def get(self, path: str) -> str:
        """Visit a page of the demo, so that Redis has something to do."""
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return response.read().decode()
