"""What the views under load read, and what stands there."""

from __future__ import annotations

from typing import Any

VALUE = b"v" * 100
KEYS = tuple(f"bench:view:{number}" for number in range(5))
STORED = dict.fromkeys(KEYS, VALUE)
"""For the view with five GETs."""

TEXT = VALUE.decode()
PAGE, USER, MENU = "bench:page", "bench:user", "bench:menu"
BLOCKS = tuple(f"bench:block:{number}" for number in range(5))
COUNTER, LAST_SEEN = "bench:counter", "bench:last-seen"
CACHED: dict[str, Any] = {**dict.fromkeys((PAGE, USER, MENU, *BLOCKS), TEXT), COUNTER: 0}
"""For the view with six cache calls."""
