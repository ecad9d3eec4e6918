"""A process tells what it is for, where it runs and since when, and never what else its command line says."""

from __future__ import annotations

import os
import socket
import time

import pytest

from redispool_app.engine.runtime import process


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        (["/srv/.venv/bin/uvicorn", "site.asgi:application"], "server: uvicorn"),
        (["/srv/.venv/lib/uvicorn/__main__.py", "site.asgi:application"], "server: uvicorn"),
        (["/usr/bin/gunicorn", "-w", "4", "site.wsgi"], "server: gunicorn"),
        (["daphne", "site.asgi:application"], "server: daphne"),
        (["manage.py", "runserver", "8000"], "server: runserver"),
        (["./manage.py", "redis_health", "--all"], "command: redis_health"),
        (["/srv/lib/django/__main__.py", "migrate"], "command: migrate"),
        (["/usr/bin/django-admin", "shell"], "command: shell"),
        (["manage.py"], "command"),
        (["manage.py", "--help"], "command"),
        (["/usr/bin/celery", "-A", "site", "worker"], "celery"),
        (["/srv/lib/celery/__main__.py", "-A", "site", "beat"], "celery: beat"),
        (["/srv/bin/nightly.py", "--password", "hunter2"], "program: nightly"),
        (["-c"], "program: python"),
        ([""], "program: python"),
        ([], "program: python"),
    ],
)
def test_the_role_is_read_from_the_names_on_the_command_line(argv, role):
    assert process.role_of(argv) == role


def test_a_server_that_embeds_python_is_known_by_its_module():
    assert process.role_of(["python"], {"mod_wsgi": None, "os": None}) == "server: mod_wsgi"


def test_no_argument_is_ever_part_of_a_role():
    for program in ("manage.py", "gunicorn", "celery", "x.py"):
        assert "hunter2" not in process.role_of([program, "--password=hunter2", "PASSWORD=hunter2"])


def test_a_host_name_has_no_sign_that_would_break_a_connections_name(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Ada's laptop:1\n")
    assert not set(" :\n") & set(process.host())
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert process.host()


def test_a_worker_is_its_host_and_process():
    assert process.worker_id() == f"{process.host()}:{os.getpid()}"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_started_when_it_was_forked():
    before = time.time()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, f"{process.started()} {process.age()}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        started, age = map(float, pipe.read().split())
    assert started >= before > process.started()
    assert age < process.age()
