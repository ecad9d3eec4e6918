"""What a dotted path in a cache's settings names; Django imports it with the cache, and so does this package."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string


def imported(path: str) -> Any:
    """Return what ``path`` names. Raises ``ValueError``, whose text says what to use instead."""
    wanted = "the dotted path of something that can be imported"
    try:
        return import_string(path)
    except ImportError:
        raise ValueError(wanted) from None
    except Exception as error:
        # The module is there, and fails itself.
        raise ValueError(f"{wanted} (this raises {type(error).__name__})") from None


def imported_function(function: Any) -> Any:
    """Return a function that is one, or that a dotted path names. Raises ``ValueError`` as ``imported`` does."""
    found = imported(function) if isinstance(function, str) else function
    if not callable(found):
        raise ValueError("a function, its dotted path, or None")
    return found
