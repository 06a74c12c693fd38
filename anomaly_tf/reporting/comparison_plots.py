"""Plots that compare approaches; each function returns a matplotlib figure."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from anomaly_tf.reporting.plots import LINE
from anomaly_tf.reporting.text import Figure, plain


def roc_overlay(curves: dict[str, dict[str, Any]]) -> Figure:
    """ROC curves of several detectors in one plot, with false alarms on a square-root scale.

    Args:
        curves: Name to metrics with `roc_curve` and `auroc`.
    """
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axis = figure.subplots()
    for name, metrics in curves.items():
        curve = metrics["roc_curve"]
        label = f"{plain(name)} ({metrics['auroc']:.4f})"
        axis.plot(curve["false_alarm_rate"], curve["detection_rate"], label=label)
    axis.plot([0, 1], [0, 1], ":", color=LINE, linewidth=0.8)
    axis.set_xscale("function", functions=(np.sqrt, np.square))
    axis.set_xticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    axis.set(xlim=(0, 1), xlabel="false-alarm rate (square-root scale)", ylabel="detection rate")
    axis.legend(loc="lower right", title="AUROC")
    axis.grid(alpha=0.3)
    return figure


def auroc_heat_map(values: dict[str, dict[str, float]], columns: str) -> Figure:
    """AUROC of several detectors (rows) on several problems (columns), as a heat map.

    Args:
        values: Row to column to AUROC; missing values are left empty.
        columns: Label of the columns.
    """
    names = list(dict.fromkeys(name for row in values.values() for name in row))
    grid = np.array([[row.get(name, np.nan) for name in names] for row in values.values()])
    figure = Figure(
        figsize=(1.8 + 0.75 * max(len(names), 4), 1.6 + 0.42 * len(values)), layout="constrained"
    )
    axis = figure.subplots()
    axis.imshow(grid, cmap="RdYlGn", vmin=0.5, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if value > 0.95 or value < 0.55 else "black"
            axis.text(
                column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color=colour
            )
    rotated = max(map(len, names)) > 3
    axis.set_xticks(
        range(len(names)),
        [plain(name) for name in names],
        rotation=40 * rotated,
        ha="right" if rotated else "center",
    )
    axis.set_yticks(range(len(values)), [plain(name) for name in values])
    axis.set_xlabel(plain(columns))
    return figure


def auroc_against_time(points: dict[tuple[str, str], tuple[float, float]]) -> Figure:
    """AUROC against training time in seconds (logarithmic), by approach and protocol.

    Args:
        points: (approach, protocol) to (seconds, AUROC).
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    approaches, protocols = (list(dict.fromkeys(names)) for names in zip(*points, strict=True))
    for (approach, protocol), point in points.items():
        marker = "os^Dv"[protocols.index(protocol) % 5]
        axis.plot(*point, marker, color=f"C{approaches.index(approach)}", markersize=8)
    # Legend: approaches have colours, protocols have shapes.
    for number, name in enumerate(approaches):
        axis.plot([], [], "o", color=f"C{number}", label=plain(name))
    for number, name in enumerate(protocols):
        axis.plot([], [], "os^Dv"[number % 5], color="grey", label=plain(name))
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(x=0.1)
    axis.set(xlabel="training time, seconds (logarithmic)", ylabel="AUROC")
    axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    axis.grid(alpha=0.3)
    return figure
