"""``make demo``: prepare the database, start the site on a real ASGI server, say where everything is.

Serves until Ctrl-C; the embedded server ends with this process.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import textwrap
from typing import Any

HOST = "127.0.0.1"


def main() -> int:
    """Return a process exit code: 0 after Ctrl-C, 1 when it cannot start, 2 when it is misconfigured."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    import django
    import uvicorn
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import call_command
    from redis.exceptions import RedisError

    django.setup()
    port = _port()
    if port is None:
        return 1
    from redispool_app.live_stream import end_streams
    from redispool_app.redis_pool import redis_connection_manager

    class Server(uvicorn.Server):
        def handle_exit(self, *args: Any) -> None:
            # A status page that is open would keep the server from stopping.
            end_streams()
            super().handle_exit(*args)

    try:
        with redis_connection_manager.get_sync_connection() as client:
            server = f"process {client.info('server')['process_id']}"
    except ImproperlyConfigured as error:
        print(error, file=sys.stderr)
        return 2
    except RedisError as error:
        server = f"not available: {error}"
    call_command("migrate", verbosity=0)
    password = _one_time_password()
    _announce(port, server, redis_connection_manager.get_pool_info()["url"], password)
    config = uvicorn.Config("project.asgi:application", host=HOST, port=port, lifespan="on", log_level="warning")
    try:
        Server(config).run()
    except KeyboardInterrupt:
        pass
    finally:
        redis_connection_manager.close_sync()
    print("\nStopped.")
    return 0


def _port() -> int | None:
    """Return the port to serve on: PORT, else 8000, else any that is free. None, with a message, when it is taken."""
    asked = os.environ.get("PORT", "")
    if asked and not (asked.isdigit() and 0 < int(asked) < 65536):
        print(f"PORT must be a number from 1 to 65535, not {asked!r}.", file=sys.stderr)
        return None
    for port in [int(asked)] if asked else [8000, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    print(f"Port {asked} is in use: choose another, as in 'PORT=8001 make demo'.", file=sys.stderr)
    return None


def _one_time_password() -> str:
    """Give the user ``admin`` a new password, for this run only."""
    from django.contrib.auth import get_user_model

    password = secrets.token_urlsafe(9)
    user, _ = get_user_model().objects.get_or_create(
        username="admin", defaults={"is_staff": True, "is_superuser": True, "email": "admin@example.com"}
    )
    user.set_password(password)
    user.save()
    return password


def _announce(port: int, server: str, url: str, password: str) -> None:
    site = f"http://{HOST}:{port}"
    print(
        textwrap.dedent(
            f"""
            The demo is running. Stop it with Ctrl-C; nothing stays behind.

              Pages         {site}/
                            {site}/limited/
                            {site}/leaderboard/
                            {site}/session/ and {site}/session/async/
                            {site}/cached/ and {site}/cached/fragment/
              Probe         {site}/redis/health/
              Status page   {site}/admin/redispool_app/redispool/
              Log in as     admin, with the one-time password {password}
              Redis         {url} ({server})

            From another terminal: .venv/bin/python manage.py redis_health
            """
        ),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
