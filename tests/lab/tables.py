"""Lines of cells that stand below each other: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Line = Sequence[str]


def aligned(lines: Sequence[Line], left: int) -> Iterator[str]:
    """Yield the lines of a table for a terminal, whose first ``left`` columns are words and the rest numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        words = [cell.ljust(width) for cell, width in zip(cells[:left], widths, strict=False)]
        numbers = [cell.rjust(width) for cell, width in zip(cells[left:], widths[left:], strict=True)]
        yield "  ".join([*words, *numbers])


def markdown(lines: Sequence[Line], left: int) -> Iterator[str]:
    """Yield the same as Markdown."""
    head, *rest = lines
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    for cells in (head, rule, *rest):
        yield f"| {' | '.join(cells)} |"
