"""Plots that compare approaches or runs; each function returns a matplotlib figure.

Detectors differ by little near an AUROC of 1: scales are stretched there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from anomaly_tf.reporting.plots import COLOURS, LINE
from anomaly_tf.reporting.text import Figure, plain

# Lines of more detectors than there are colours are dashed.
DASHES = ("-", "--", ":", "-.")
# Ticks of the scale of AUROC; values from the last one on are drawn at it.
TICKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)


def roc_overlay(curves: dict[str, dict[str, Any]]) -> Figure:
    """ROC curves of several detectors in one plot.

    The scales are square roots of the false-alarm rate and of the distance of the detection rate
    from 1.

    Args:
        curves: Name to metrics with `roc_curve` and `auroc`.
    """
    figure = Figure(figsize=(5, 5 + 0.2 * len(curves)), layout="constrained")
    axis = figure.subplots()
    for number, (name, metrics) in enumerate(curves.items()):
        curve = metrics["roc_curve"]
        label = f"{plain(name)} ({metrics['auroc']:.4f})"
        axis.plot(
            curve["false_alarm_rate"],
            curve["detection_rate"],
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
            label=label,
        )
    axis.plot([0, 1], [0, 1], ":", color=LINE, linewidth=0.8)
    axis.set_xscale("function", functions=(_root, np.square))
    axis.set_yscale("function", functions=(lambda y: -_root(1 - y), lambda y: 1 - np.square(y)))
    axis.set_xticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    axis.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1])
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_formatter("{x:g}")
    axis.set(
        xlim=(0, 1),
        xlabel="false-alarm rate (stretched near 0)",
        ylim=(0, 1),
        ylabel="detection rate (stretched near 1)",
    )
    figure.legend(loc="outside lower center", title="AUROC", ncols=2)
    axis.grid(alpha=0.3)
    return figure


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))


def auroc_against_time(points: dict[tuple[str, str], tuple[float, float]]) -> Figure:
    """AUROC against training time in seconds, by approach and protocol.

    Both scales are logarithmic, that of the AUROC in its distance from 1.

    Args:
        points: (approach, protocol) to (seconds, AUROC).
    """
    approaches, protocols = (list(dict.fromkeys(names)) for names in zip(*points, strict=True))
    entries = len(approaches) + len(protocols)
    figure = Figure(figsize=(5, 4.5 + 0.12 * entries), layout="constrained")
    axis = figure.subplots()

    def style(number: int) -> dict[str, Any]:
        full = number // len(COLOURS) % 2 == 0
        return {
            "color": COLOURS[number % len(COLOURS)],
            "fillstyle": "full" if full else "none",
            "markersize": 8,
            "linestyle": "none",
        }

    for (approach, protocol), (seconds, auroc) in points.items():
        marker = "os^Dv"[protocols.index(protocol) % 5]
        place = max(seconds, 0.1), min(auroc, TICKS[-1])
        axis.plot(*place, marker=marker, **style(approaches.index(approach)))
    # Legend: approaches have colours, protocols have shapes.
    for number, name in enumerate(approaches):
        axis.plot([], [], marker="o", label=plain(name), **style(number))
    for number, name in enumerate(protocols):
        axis.plot([], [], "os^Dv"[number % 5], color="grey", label=plain(name))
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yscale("function", functions=(_nearness, lambda y: 1 - 10.0**-y))
    values = [auroc for _, auroc in points.values()]
    lowest = max((tick for tick in TICKS if tick < min(values)), default=min(0.0, *values))
    highest = min((tick for tick in TICKS if tick > max(values)), default=TICKS[-1])
    axis.set_yticks([tick for tick in TICKS if lowest <= tick <= highest])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(lowest, 1 - (1 - highest) * 0.9)
    axis.margins(x=0.1)
    axis.set(xlabel="training time, seconds (logarithmic)", ylabel="AUROC (stretched near 1)")
    figure.legend(loc="outside lower center", ncols=3)
    axis.grid(alpha=0.3)
    return figure


def _nearness(auroc: np.ndarray) -> np.ndarray:
    """Logarithm of the distance from 1, negative, so that 1 is at the top."""
    return -np.log10(np.maximum(1 - np.asarray(auroc), 1e-6))
