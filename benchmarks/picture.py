"""The bar charts for the README. They have a background of their own, so they read alike on a light and a dark page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .async_engine import GET
from .cache_backends import DJANGO
from .django_cache import CACHE_AGET, CACHE_GET
from .django_view import CACHE_VIEW, CLIENTS, VIEW, WITHOUT
from .floor import FLOOR
from .peers import REDIS_PY
from .samples import Work
from .sync_engine import GET_SYNC, REDIS_PY_SYNC

_PAPER, _INK, _QUIET = "#f6f8fa", "#1f2328", "#59636e"
_OURS, _OTHERS, _BOUND = "#c6302b", "#9aa4b0", "#d8dee4"
_SIZE = 100


@dataclass(frozen=True)
class Panel:
    """One chart. ``title`` may name {callers}; ``against``: the contender that our bar's ratio is against."""

    work: Work
    callers: int
    title: str
    against: str

    def bars(self, results: dict[str, Any]) -> list[dict[str, Any]]:
        blocks = results[self.work.key]
        found = next(block for block in blocks if (block["bytes"], block["callers"]) == (_SIZE, self.callers))
        # Without the floor, which is no client and would shrink the bars of those that are.
        return [bar for bar in found["results"] if bar["contender"] != FLOOR]


def draw_all(results: dict[str, Any], folder: Path) -> None:
    under_load = "Django async view with {calls}, {{callers}} clients: requests per second"
    panels = [
        Panel(GET, 1, "1 caller", REDIS_PY),
        *(Panel(GET, callers, "{callers} callers", REDIS_PY) for callers in (10, 50, 200)),
        Panel(VIEW, CLIENTS, under_load.format(calls="five GETs"), REDIS_PY),
    ]
    _draw(results, "GET of 100 bytes, operations per second in one process", panels, folder / "benchmark.png")
    panels = [
        *(Panel(CACHE_AGET, callers, "await cache.aget(), {callers} callers", DJANGO) for callers in (50, 300)),
        Panel(CACHE_GET, 1, "cache.get(), 1 thread", DJANGO),
        Panel(CACHE_GET, 16, "cache.get(), {callers} threads", DJANGO),
        Panel(GET_SYNC, 1, "GET without a cache backend, 1 thread", REDIS_PY_SYNC),
        Panel(GET_SYNC, 16, "GET without a cache backend, {callers} threads", REDIS_PY_SYNC),
        Panel(
            CACHE_VIEW,
            CLIENTS,
            "Django async view with six cache calls, {callers} clients: requests per second",
            DJANGO,
        ),
    ]
    title = "Django cache backends and threads, operations per second in one process"
    _draw(results, title, panels, folder / "benchmark-cache.png")


def _draw(results: dict[str, Any], title: str, panels: list[Panel], path: Path) -> None:
    """Draw two panels in a row, and the last one over the whole width."""
    facts = results["machine"]
    rows = len(panels) // 2 + 1
    height = 1 + 2 * rows
    with plt.rc_context({"font.family": "DejaVu Sans", "text.color": _INK}):
        figure = plt.figure(figsize=(12, height), facecolor=_PAPER)
        edges = {"left": 0.15, "right": 0.965, "top": 1 - 1.155 / height, "bottom": 0.315 / height}
        grid = figure.add_gridspec(rows, 2, hspace=0.5, wspace=0.45, **edges)
        for number, panel in enumerate(panels):
            wide = number == len(panels) - 1
            place = grid[rows - 1, :] if wide else grid[number // 2, number % 2]
            _panel(figure.add_subplot(place), panel, results, room=1.25 if wide else 1.75)
        figure.text(0.03, 1 - 0.385 / height, title, size=17, weight="bold")
        figure.text(
            0.03,
            1 - 0.665 / height,
            f"Whole round trips on one server, medians of alternating rounds. Python {facts['python']}, "
            f"{facts['cpus']} CPUs, Valkey {facts['valkey']}. Longer is better; each panel has its own scale.",
            size=10.5,
            color=_QUIET,
        )
        figure.savefig(path, dpi=130, facecolor=_PAPER)
        plt.close(figure)


def _panel(axes: Axes, panel: Panel, results: dict[str, Any], room: float) -> None:
    """Draw one chart; ``room``: its width in longest bars, so that the figures have a place behind them."""
    bars = panel.bars(results)
    ours = panel.work.ours
    names = [bar["contender"] for bar in bars]
    rates = [bar["per_second"] for bar in bars]
    reference = dict(zip(names, rates, strict=True))[panel.against]
    colours = [_OURS if name == ours else _BOUND if name == WITHOUT else _OTHERS for name in names]
    drawn = axes.barh(names, rates, color=colours, height=0.72)
    for bar, name, rate in zip(drawn, names, rates, strict=True):
        ratio = f"   {rate / reference:.1f}x {panel.against.split()[0]}" if name == ours else ""
        axes.annotate(
            f"{rate:,}{ratio}",
            (bar.get_width(), bar.get_y() + bar.get_height() / 2),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            size=10,
            weight="bold" if name == ours else "normal",
            color=_OURS if name == ours else _INK,
        )
    axes.set_title(panel.title.format(callers=panel.callers), loc="left", size=12, weight="bold", color=_INK)
    axes.set_xlim(0, max(rates) * room)
    axes.invert_yaxis()
    axes.set_facecolor(_PAPER)
    axes.tick_params(axis="y", length=0, labelcolor=_INK, labelsize=10.5)
    for label in axes.get_yticklabels():
        if label.get_text() == ours:
            label.set_color(_OURS)
            label.set_fontweight("bold")
    axes.xaxis.set_visible(False)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
