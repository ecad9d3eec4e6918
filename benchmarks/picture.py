"""The bar chart for the README. It has a background of its own, so it reads the same on a light and a dark page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .django_view import CLIENTS, WITHOUT
from .floor import FLOOR
from .peers import OURS, REDIS_PY

_PAPER, _INK, _QUIET = "#f6f8fa", "#1f2328", "#59636e"
_OURS, _OTHERS, _BOUND = "#c6302b", "#9aa4b0", "#d8dee4"
_SIZE = 100


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the GETs of 100 bytes, a panel for each number of callers, and the Django view."""
    panels: list[tuple[str, list[dict[str, Any]]]] = [
        # Without the floor, which is no client and would shrink the bars of those that are.
        (f"{block['callers']} caller{'s' * (block['callers'] > 1)}", _without_floor(block["results"]))
        for block in results["get"]
        if block["bytes"] == _SIZE
    ]
    facts = results["machine"]
    title_of_view = f"Django async view with five GETs, {CLIENTS} clients: requests per second"
    with plt.rc_context({"font.family": "DejaVu Sans", "text.color": _INK}):
        figure = plt.figure(figsize=(12, 7), facecolor=_PAPER)
        rows = figure.add_gridspec(3, 2, hspace=0.5, wspace=0.42, left=0.135, right=0.965, top=0.835, bottom=0.045)
        for number, (title, bars) in enumerate(panels):
            _panel(figure.add_subplot(rows[number // 2, number % 2]), title, bars)
        _panel(figure.add_subplot(rows[2, :]), title_of_view, results["django_view"])
        figure.text(0.03, 0.945, "GET of 100 bytes, operations per second in one process", size=17, weight="bold")
        figure.text(
            0.03,
            0.905,
            f"Whole round trips on one server, medians of alternating rounds. Python {facts['python']}, "
            f"{facts['cpus']} CPUs, Valkey {facts['valkey']}. Longer is better; each panel has its own scale.",
            size=10.5,
            color=_QUIET,
        )
        figure.savefig(path, dpi=130, facecolor=_PAPER)
        plt.close(figure)


def _without_floor(bars: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [bar for bar in bars if bar["contender"] != FLOOR]


def _panel(axes: Axes, title: str, bars: list[dict[str, Any]]) -> None:
    names = [bar["contender"] for bar in bars]
    rates = [bar["per_second"] for bar in bars]
    reference = dict(zip(names, rates, strict=True))[REDIS_PY]
    colours = [_OURS if name == OURS else _BOUND if name == WITHOUT else _OTHERS for name in names]
    drawn = axes.barh(names, rates, color=colours, height=0.72)
    for bar, name, rate in zip(drawn, names, rates, strict=True):
        ratio = f"   {rate / reference:.1f}x redis-py" if name == OURS else ""
        axes.annotate(
            f"{rate:,}{ratio}",
            (bar.get_width(), bar.get_y() + bar.get_height() / 2),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            size=10,
            weight="bold" if name == OURS else "normal",
            color=_OURS if name == OURS else _INK,
        )
    axes.set_title(title, loc="left", size=12, weight="bold", color=_INK)
    axes.set_xlim(0, max(rates) * (1.75 if len(names) > 3 else 1.25))
    axes.invert_yaxis()
    axes.set_facecolor(_PAPER)
    axes.tick_params(axis="y", length=0, labelcolor=_INK, labelsize=10.5)
    for label in axes.get_yticklabels():
        if label.get_text() == OURS:
            label.set_color(_OURS)
            label.set_fontweight("bold")
    axes.xaxis.set_visible(False)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
