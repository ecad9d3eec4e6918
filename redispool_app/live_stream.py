"""The event stream of the status page; ``end_streams()`` ends it."""

from __future__ import annotations

from .status_page.stream import INTERVAL, STREAM_LIFE, can_stream, end_streams, poll_response, stream_response

__all__ = ["INTERVAL", "STREAM_LIFE", "can_stream", "end_streams", "poll_response", "stream_response"]
