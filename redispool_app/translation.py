"""Lines that the app says of itself, which travel as English text and are told in the reader's language.

Commands, the status document and logs take them for the text that they are; the status page translates them. What
Redis and the engine say about a fault is plain text and stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

from django.utils.translation import gettext, gettext_noop

__all__ = ["Sentence", "listed", "translated"]


class Sentence(str):
    """English text made of a template, marked by ``gettext_noop``, and its values, some of which may be sentences."""

    __slots__ = ("_template", "_values")
    _template: str
    _values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Sentence:
        sentence = super().__new__(cls, template % values if values else template)
        sentence._template, sentence._values = template, values
        return sentence

    def translated(self) -> str:
        """Return it in the current language."""
        template = gettext(self._template)
        return template % {key: translated(value) for key, value in self._values.items()} if self._values else template


def translated(value: Any) -> Any:
    """Return a sentence, or a list of them, in the current language; anything else as it is."""
    if isinstance(value, list):
        return [translated(each) for each in value]
    return value.translated() if isinstance(value, Sentence) else value


def listed(parts: Iterable[str]) -> str:
    """Put parts of a sentence, at least one, in a row."""
    return reduce(lambda left, right: Sentence(gettext_noop("%(left)s, %(right)s"), left=left, right=right), parts)
