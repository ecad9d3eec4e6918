"""What of redis-py, asyncio and ssl the package overrides or reads, found by looking through all of its modules."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import redispool_app
from redispool_app.engine.runtime import compatibility

FOREIGN = {"asyncio", "hiredis", "redis", "socket", "ssl", "uvloop", "_asyncio", "_socket", "_ssl"}
DOCUMENTED = {"_exit", "_getframe", "_replace"}
"""Public in spite of their names: ``os._exit``, ``sys._getframe``, and ``_replace`` of named tuples."""

_MODULES = ["redis", "redis.asyncio", "redis.client", "redis.connection", "redis.retry", "redis.credentials"]
_MODULES += ["redis.asyncio.client", "redis.asyncio.connection", "redis.asyncio.retry", "redis.lock", "redis.event"]
_MODULES += ["redis._parsers.base", "redis._parsers.hiredis", "redis.asyncio.lock", "ssl", "socket"]
_MODULES += ["asyncio.base_events", "asyncio.events", "asyncio.futures", "asyncio.locks", "asyncio.protocols"]
_MODULES += ["asyncio.selector_events", "asyncio.sslproto", "asyncio.streams", "asyncio.transports", "asyncio.tasks"]
_MODULES += ["asyncio.unix_events", "asyncio.runners"]


def is_foreign(module):
    return module.partition(".")[0] in FOREIGN


@cache
def modules():
    found = pkgutil.walk_packages(redispool_app.__path__, "redispool_app.")
    return [importlib.import_module(each.name) for each in found if ".migrations" not in each.name]


def overrides():
    """Yield each override as (our function, the foreign class that has the name, name)."""
    for module in modules():
        for ours in vars(module).values():
            if inspect.isclass(ours) and ours.__module__ == module.__name__:
                yield from _overrides_of(ours)


def _overrides_of(ours):
    lineage = inspect.getmro(ours)
    for position, each in enumerate(lineage):
        if each.__module__.partition(".")[0] != "redispool_app":
            continue
        for name, value in vars(each).items():
            if not inspect.isfunction(value) or (name.startswith("__") and name not in ("__del__",)):
                continue
            for owner in lineage[position + 1 :]:
                if is_foreign(owner.__module__) and name in vars(owner):
                    yield value, owner, name
                    break


def private_reads():
    """Yield each private name that a module reads or sets of what is not its own, as (place, name).

    A name is its own where only this package defines it, and where it is reached through ``self`` or ``cls`` (what
    foreign base classes use, too, is found by ``shared_attributes``).
    """
    ours, theirs = _names_defined_by_us(), _names_defined_by_others()
    for path in _sources():
        for node, receiver, name in _private_attributes(ast.parse(path.read_text())):
            own_receiver = receiver == "manager" or (receiver in ("self", "cls") and name in ours)
            if not own_receiver and name not in DOCUMENTED and (name not in ours or name in theirs):
                yield f"{path.name}:{node.lineno}", name


def private_imports():
    """Yield each name that is imported from a private module of others, as (place, name)."""
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and is_foreign(node.module) and not node.level:
                for each in node.names:
                    if "._" in node.module or each.name.startswith("_"):
                        yield f"{path.name}:{node.lineno}", each.name


def shared_attributes():
    """Yield each private name that a class of ours sets on ``self`` and a foreign base of it uses, as (class, name)."""
    for module in modules():
        for ours in vars(module).values():
            if inspect.isclass(ours) and ours.__module__ == module.__name__:
                bases = [each for each in inspect.getmro(ours) if is_foreign(each.__module__)]
                theirs = set().union(*map(_defined_in_class, bases))
                own = [each for each in inspect.getmro(ours) if each.__module__.startswith("redispool_app")]
                for name in set().union(*map(_defined_in_class, own)) & theirs:
                    yield ours.__name__, name


@cache
def _defined_in_class(kind):
    try:
        return _defined_in(ast.parse(textwrap.dedent(inspect.getsource(kind))))
    except (OSError, TypeError):  # written in C
        return set()


def _sources():
    paths = Path(redispool_app.__file__).parent.rglob("*.py")
    return sorted(path for path in paths if path != Path(compatibility.__file__))


def _is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _private_attributes(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            yield node, getattr(node.value, "id", None), node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("getattr", "setattr", "hasattr"):
            name = getattr(node.args[1], "value", None)
            if isinstance(name, str) and _is_private(name):
                yield node, getattr(node.args[0], "id", None), name


def _defined_in(tree):
    """Return the private names that a module's classes and functions define, or set on ``self``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if getattr(node.value, "id", None) in ("self", "cls"):
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # in ``__slots__``
    return {name for name in found if _is_private(name)}


@cache
def _names_defined_by_us():
    return set().union(*(_defined_in(ast.parse(path.read_text())) for path in _sources()))


@cache
def _names_defined_by_others():
    paths = [inspect.getsourcefile(importlib.import_module(name)) for name in _MODULES]
    return set().union(*(_defined_in(ast.parse(Path(path).read_text())) for path in paths))


@contextmanager
def calls_recorded(functions) -> Iterator[set]:
    """Record for each call of ``functions``, in any thread, (name, type of ``self``, calling module's package)."""
    codes = {function.__code__: function.__name__ for function in functions}
    seen = set()

    def record(frame, event, _):
        if event == "call" and frame.f_code in codes:
            caller = frame.f_back.f_globals.get("__name__", "") if frame.f_back is not None else ""
            seen.add((codes[frame.f_code], type(next(iter(frame.f_locals.values()))), caller.partition(".")[0]))

    threading.setprofile(record)
    sys.setprofile(record)
    try:
        yield seen
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
