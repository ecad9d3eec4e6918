"""Processes that publish: each with a host name of its choice, told over a pipe what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MAIN = """
import json, socket, sys, warnings
host = sys.argv[1]
sys.argv[:] = [sys.argv[2]]
socket.gethostname = lambda: host
import django
django.setup()
from redispool_app.redis_pool import redis_connection_manager as manager
for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"""


class WorkerProcess:
    """A process whose manager is in use; ``ask`` evaluates an expression in it, which sees ``manager``."""

    def __init__(self, pool, host="web1", program="uvicorn"):
        self.host = host
        env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.sites.settings", "REDIS_POOL": json.dumps(pool)}
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(MAIN), host, program],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ask("manager.get_sync_client().ping()")

    @property
    def id(self):
        return f"{self.host}:{self.process.pid}"

    def ask(self, expression):
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.process.communicate()[1]
        return json.loads(answer)

    def kill(self):
        """SIGKILL: no chance to say goodbye."""
        self.process.kill()
        self._reap()

    def end(self):
        """Let it end by itself; return what it wrote to stderr."""
        if self.process.poll() is not None:
            return ""
        self.process.send_signal(signal.SIGCONT)
        return self._reap()

    def _reap(self):
        return self.process.communicate(timeout=30)[1]
