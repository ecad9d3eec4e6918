"""Which keys at the server are a cache's own: glob patterns for SCAN, and the way back from a full key to the caller's.

A key function is asked once with a key and a version that occur nowhere else; where they turn up in its answer shows
how it builds keys. One that hides the key, for instance as a hash, has no pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured

SIDE = "#redispool-"
"""What follows a key in the names of the keys beside it; no caller's key should end like these."""
LOCK = SIDE + "lock"
STALE = SIDE + "stale"

_KEY = "key7305194628"
_VERSION = 9481726350
_PLACES = (_KEY, str(_VERSION))
_PARTS = re.compile(f"({_KEY}|{_VERSION})")


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """What one key function makes of keys with one prefix: text, with places for version and key."""

    parts: tuple[str, ...]
    """In order, the places as ``_KEY`` and ``str(_VERSION)``."""

    @classmethod
    def probe(cls, make_key: Callable[..., str]) -> KeyTemplate:
        """Ask a cache's ``make_key``. Raises ``ImproperlyConfigured`` when its keys don't hold the caller's key."""
        made = make_key(_KEY, _VERSION)
        if made.count(_KEY) != 1:
            raise ImproperlyConfigured(
                "KEY_FUNCTION does not keep a cache's keys readable, so they cannot be searched: give the cache a "
                "database of its own and set OPTIONS['CLEAR_FLUSHES_DB'] to True for clear()."
            )
        return cls(tuple(part for part in _PARTS.split(made) if part))

    def glob(self, pattern: str, version: Any) -> str:
        """Return the glob for keys of one version that match ``pattern``, a glob for the caller's part of the key."""
        return "".join(
            pattern if part == _KEY else escaped(str(version) if part == str(_VERSION) else part) for part in self.parts
        )

    def globs_of_all(self) -> list[str]:
        """Return globs for every key of the cache, of any version. ``owns`` tells about those that they find."""
        glob = "".join("*" if part in _PLACES else escaped(part) for part in self.parts)
        return [glob] if self.parts[-1] in _PLACES else [glob, glob + escaped(SIDE) + "*"]

    def owns(self, version: Any) -> Callable[[str], bool]:
        """Return what tells whether a full key is the cache's: its version is a number, or is ``version``.

        That is what keeps ``clear()`` of a cache without a prefix, or with the prefix ``a``, from the keys of one with
        the prefix ``a:b``, and from whatever else begins the same.
        """
        versions = f"(?:-?[0-9]+|{re.escape(str(version))})"
        places = {_KEY: ".*", str(_VERSION): versions}
        own = "".join(places.get(part) or re.escape(part) for part in self.parts)
        matches = re.compile(f"{own}(?:{SIDE}.*)?", re.DOTALL).fullmatch
        return lambda full: matches(full) is not None

    def reverse(self, full: str, version: Any) -> str:
        """Return the caller's part of a full key of ``version``."""
        place = self.parts.index(_KEY)
        before, after = (
            sum(len(str(version)) if part == str(_VERSION) else len(part) for part in parts)
            for parts in (self.parts[:place], self.parts[place + 1 :])
        )
        return full[before : len(full) - after]


def escaped(text: str) -> str:
    r"""Return ``text`` for a glob, where it stands for itself: the server knows ``* ? [ ] \``."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def is_side_key(full: str) -> bool:
    """Whether it is a lock or a stale copy of this package's, not a key of the cache's."""
    return full.endswith((LOCK, STALE))
