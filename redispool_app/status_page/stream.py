"""How the live documents reach the page: server-sent events where ASGI serves, plain JSON to poll where WSGI does.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. A stream sends only the parts
that changed, and ends by itself after ``STREAM_LIFE`` seconds: the page connects again, so that a permission that was
withdrawn ends the view, and a server that stops gracefully does not wait for longer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils.translation import get_language, override

from . import document
from .document import Watch

INTERVAL = 2.0
"""Seconds between two events, and between two polls of the page."""

STREAM_LIFE = 25.0
"""Below the 30 seconds that gunicorn and most load balancers give a request at the end."""


def can_stream(request: HttpRequest) -> bool:
    """Whether this request came by ASGI, where a stream costs no thread."""
    return isinstance(request, ASGIRequest)


def poll_response(with_history: bool) -> HttpResponse:
    """Answer with the whole documents: ``{"pools": {alias: document}, "history": {alias: series}}``."""
    try:
        watches = document.watches()
    except ImproperlyConfigured as error:
        return HttpResponse(json.dumps({"pools": {}, "problem": str(error)}), content_type="application/json")
    document.refresh_all(watches)
    text = '{"pools":' + _pools({each.manager.alias: each.parts() for each in watches})
    if with_history:
        text += ',"history":' + _history(watches)
    return HttpResponse(text + "}", content_type="application/json")


def stream_response() -> StreamingHttpResponse:
    """Answer with a stream of events ``history`` (once), ``live`` (every ``INTERVAL``) and ``bye``."""
    response = StreamingHttpResponse(_events(get_language()), content_type="text/event-stream")
    response["Cache-Control"] = "no-store, no-transform"
    response["X-Accel-Buffering"] = "no"  # nginx would hold the events back
    return response


_ending = False


def end_streams() -> None:
    """Let every stream of this process end within ``INTERVAL``, because its server is about to stop.

    An ASGI server tells an application of its end only after all responses are complete. Whoever embeds a server can
    call this from its signal handler; without it the server waits for ``STREAM_LIFE`` at most.
    """
    global _ending
    _ending = True


async def _events(language: str | None) -> AsyncIterator[str]:
    # The request, whose language it is, has been dealt with by the time that the stream is read.
    ends = monotonic() + STREAM_LIFE
    sent: dict[str, dict[str, str]] = {}
    is_first = True
    while monotonic() < ends and not _ending:
        try:
            watches = document.watches()
        except ImproperlyConfigured as error:
            yield _event("live", json.dumps({"pools": {}, "problem": str(error)}))
            return
        await document.arefresh_all(watches)
        if is_first:
            yield _event("history", _history(watches))
            is_first = False
        changed = {}
        for each in watches:
            with override(language):
                alias, parts = each.manager.alias, each.parts()
            known = sent.get(alias, {})
            changed[alias] = {key: text for key, text in parts.items() if known.get(key) != text}
            sent[alias] = parts
        yield _event("live", '{"pools":' + _pools(changed) + "}")
        await asyncio.sleep(INTERVAL)
    yield _event("bye", "{}")


def _pools(parts: dict[str, dict[str, str]]) -> str:
    return document.as_json({alias: document.as_json(each) for alias, each in parts.items()})


def _history(watches: list[Watch]) -> str:
    return json.dumps({each.manager.alias: each.history() for each in watches})


def _event(name: str, data: str) -> str:
    # json.dumps makes one line of everything, so one data field is enough.
    return f"event: {name}\ndata: {data}\n\n"
