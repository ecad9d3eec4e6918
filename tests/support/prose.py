"""Reads Markdown as sentences, for the tests that hold the documentation to plain language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "decisions").glob("*.md"),
    )
)

AVOIDED = {
    "whoever": "the caller that ..., the first process that ...",
    "whomever": "name the subject",
    "whosoever": "name the subject",
    "nobody": "no caller, no process, no user",
    "somebody": "a caller, a user",
    "anybody": "any caller, any user",
    "everybody": "every caller, every user",
    "anew": "again, new",
    "thereby": "so",
    "therein": "in it",
    "hereby": "leave it out",
    "hence": "so, therefore",
    "whence": "from where",
    "struck": "injected, hit",
    "restlessness": "noise",
    "wherefrom": "name the place",
    "its kin": "list them, or: and related commands",
    "who is told": "name what the caller gets",
    "is told": "gets, receives, raises",
    "are told": "get, receive, raise",
    "was told": "got, received",
    "were told": "got, received",
    "be told": "get, receive",
    "told to": "configured to, patched to",
    "break a promise": "violate a guarantee",
    "broke a promise": "violated a guarantee",
    "carried out": "executed",
    "under way": "in flight",
    "fleet": "all processes",
    "costs the others": "affects other calls",
    "a thread or a few": "name the number",
    "is of before": "was created before",
    "has no memory": "does not fit in memory",
    "made anew": "replaced",
}
"""Words that readers with average English stumble over, and what to write instead."""

LONGEST = 30
"""Words in a sentence, at most."""

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
_RULE = re.compile(r"^\s*\|[\s|:-]+$")
_END = re.compile(r"(?<=[.!?])[)\"'*_]*\s+")
_WORD = re.compile(r"[^\W_][\w'.,-]*")


def sentences(markdown: str) -> Iterator[str]:
    """Yield each sentence of a page, and each cell of its tables. Code and pictures are left out.

    A name in code counts as one word, whatever it holds.
    """
    for block in _blocks(markdown):
        yield from (part.strip() for part in _END.split(block) if part.strip())


def words(sentence: str) -> int:
    """Return how many words a sentence has."""
    return len(_WORD.findall(sentence))


def avoided_words(sentence: str) -> list[str]:
    """Return the words of ``AVOIDED`` that a sentence holds."""
    return [word for word in AVOIDED if re.search(rf"\b{word}\b", sentence, re.IGNORECASE)]


def _blocks(markdown: str) -> Iterator[str]:
    """Yield paragraphs, list items, headings and cells, each as one line."""
    text = _COMMENT.sub("", _FENCE.sub("\n\n", markdown))
    text = _LINK.sub(r"\1", _IMAGE.sub("", _CODE.sub("code", text)))
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        is_row = line.lstrip().startswith("|")
        if not line.strip() or is_row or line.startswith("#") or _ITEM.match(line):
            yield from filter(None, [" ".join(lines)])
            lines = []
        if is_row:
            if not _RULE.match(line):
                yield from (cell.strip() for cell in line.strip().strip("|").split("|") if cell.strip())
        elif line.startswith("#"):
            yield line.lstrip("# ")
        elif line.strip():
            lines.append(_ITEM.sub("", line).strip())
