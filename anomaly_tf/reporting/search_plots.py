"""What mattered in a search: the share of each option, and its values against the measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from anomaly_tf.reporting.plots import ANOMALY, LINE, NORMAL
from anomaly_tf.reporting.text import Figure, caption, plain

# Characters of the name of an option and of a choice; choices from which on labels are upright.
NAME, CHOICE, MANY = 34, 16, 3
# Panels side by side, and the inches of one.
COLUMNS, WIDTH, HEIGHT = 3, 3.1, 2.6


@dataclass(frozen=True)
class Searched:
    """An option of a search.

    Attributes:
        name: Its name.
        values: Its value in each trial: a number, or the text of a choice.
        choices: The choices; None if it has a range.
        log: Whether its range is logarithmic.
    """

    name: str
    values: Sequence[Any]
    choices: Sequence[str] | None = None
    log: bool = False


def what_mattered(
    options: Sequence[Searched],
    measures: Sequence[float | None],
    measure: str,
    importances: Mapping[str, float],
) -> Figure:
    """A panel for each option, and one for the importances if there are any.

    Args:
        options: The options; the first trial is that of the defaults.
        measures: What was measured in each trial; None where there is no result.
        measure: Name of the measure.
        importances: Name of each option to its share, largest first.
    """
    order = {name: place for place, name in enumerate(importances)}
    options = sorted(options, key=lambda option: order.get(option.name, len(order)))
    columns = 2 if len(options) == 4 else min(COLUMNS, len(options))
    rows = -(-len(options) // columns)
    bars = 0.8 + 0.26 * len(importances) if importances else 0.0
    height = rows * HEIGHT + bars + 0.5
    figure = Figure(figsize=(max(2, columns) * WIDTH, height), layout="constrained")
    panels: FigureBase = figure
    if importances:
        parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(bars, height - bars))
        _draw_importances(parts[0, 0].subplots(), importances)
        panels = parts[1, 0]
    axes = panels.subplots(rows, columns, squeeze=False, sharey=True)
    for axis, option in zip(axes.ravel(), options, strict=False):
        _draw_option(axis, option, measures)
    for axis in axes.ravel()[len(options) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel(measure)
    marks: dict[str, Artist] = {}
    for axis in axes.ravel():
        marks |= {
            label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
    panels.legend([*marks.values()], [*marks], loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _draw_importances(axis: Axes, importances: Mapping[str, float]) -> None:
    """Bars, the largest on top."""
    names = [plain(name, NAME) for name in importances]
    places = np.arange(len(names))[::-1]
    axis.barh(places, [*importances.values()], color=NORMAL, height=0.7)
    for place, share in zip(places, importances.values(), strict=True):
        axis.text(share, place, f" {share:.0%}", va="center", fontsize=9, color=LINE)
    axis.set_yticks(places, names)
    axis.set(
        xlim=(0, 1.15 * max(importances.values())),
        xlabel="share of the variance over the space (fANOVA)",
    )
    axis.xaxis.set_major_formatter("{x:.0%}")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_option(axis: Axes, option: Searched, measures: Sequence[float | None]) -> None:
    """Points of the trials; the best, the defaults, and those without a result at the bottom."""
    places = _places(axis, option)
    points = [(x, y) for x, y in zip(places, measures, strict=True) if x is not None]
    done = np.array([(x, y) for x, y in points if y is not None], float).reshape(-1, 2)
    without = [x for x, y in points if y is None]
    axis.plot(*done.T, "o", color=NORMAL, alpha=0.55, markersize=5, label="trial")
    finished = [number for number, y in enumerate(measures) if y is not None]
    best = max(finished, key=lambda number: measures[number] or 0.0, default=0)
    _mark(axis, places[0], measures[0], "s", LINE, "defaults", 9, "none")
    _mark(axis, places[best], measures[best], "*", ANOMALY, "best", 12, ANOMALY)
    if without:
        axis.plot(
            without,
            np.full(len(without), 0.02),
            "x",
            color=LINE,
            transform=axis.get_xaxis_transform(),
            label="without a result",
        )
    axis.set_title(plain(option.name, NAME), fontsize=10)
    axis.margins(0.08, 0.12)
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.grid(alpha=0.3)


def _mark(
    axis: Axes,
    x: float | None,
    y: float | None,
    marker: str,
    colour: str,
    label: str,
    size: float,
    filling: str,
) -> None:
    """Marks a trial, if it has a place."""
    if x is None or y is None:
        return
    line = Line2D([x], [y], marker=marker, color=colour, label=label, linestyle="none")
    line.set(markersize=size, markerfacecolor=filling, markeredgewidth=1.8)
    axis.add_line(line)


def _places(axis: Axes, option: Searched) -> list[float | None]:
    """Where the values of an option are on its axis; None for a default that has no place there."""
    if option.choices is None:
        numbers = [None if isinstance(v, str) or v is None else float(v) for v in option.values]
        if option.log and all(number is None or number > 0 for number in numbers):
            axis.set_xscale("log")
            decades = np.ptp(np.log10([number for number in numbers if number is not None]))
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1,)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.xaxis.set_major_locator(MaxNLocator(4))
        return numbers
    texts = [*option.choices]
    if option.values[0] not in texts:
        texts.append(option.values[0])
    wide = len(texts) > MANY or max(map(len, texts)) > CHOICE // 2
    axis.set_xticks(
        range(len(texts)),
        [plain(text, CHOICE) if wide else caption(text, 1) for text in texts],
        rotation=40 if wide else 0,
        ha="right" if wide else "center",
        rotation_mode="anchor" if wide else "default",
    )
    axis.set_xlim(-0.5, len(texts) - 0.5)
    return [float(texts.index(value)) for value in option.values]
