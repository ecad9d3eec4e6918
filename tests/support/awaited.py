"""A sync client behind the face of its asyncio twin, so that one table of calls proves both.

Whatever is called is carried out at once, in the calling thread; awaiting it then only hands over what came of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Generator
from typing import Any

import redis.client
from redis.commands.core import Script

_FACED = (redis.client.Redis, redis.client.Pipeline, Script)
"""Objects whose own methods are to be awaited in turn."""


class Awaited:
    """What a sync call returned: to be awaited for its value, or to be called further without that."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, Any, Any]:
        return self if isinstance(self._value, _FACED) else self._value
        yield  # never reached; it makes a generator of this

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._value, "close" if name == "aclose" else name)
        return _faced(attribute) if callable(attribute) else attribute

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _faced(self._value)(*args, **options)

    def __len__(self) -> int:
        return len(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    async def __aenter__(self) -> Awaited:
        self._value.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._value.__exit__(*error)


def awaited(client_class: type[Any]) -> Any:
    """Return what makes clients of a sync class that are used as their asyncio twins are."""
    return _faced(client_class)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that awaits nothing but sync calls; it needs no event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("a sync call cannot leave anything to wait for")


def _faced(function: Any) -> Any:
    def call(*args: Any, **options: Any) -> Awaited:
        given = [_bare(each) for each in args]
        return Awaited(function(*given, **{name: _bare(each) for name, each in options.items()}))

    return call


def _bare(argument: Any) -> Any:
    """Return what a sync method takes in place of its twin's argument."""
    if isinstance(argument, Awaited):
        return argument._value
    if inspect.iscoroutinefunction(argument) or inspect.isfunction(argument):
        return lambda *args, **options: _answer(argument(*map(_face_of, args), **options))
    return argument


def _face_of(argument: Any) -> Any:
    return Awaited(argument) if isinstance(argument, _FACED) else argument


def _answer(answer: Any) -> Any:
    return run(answer) if inspect.iscoroutine(answer) else _bare(answer)
