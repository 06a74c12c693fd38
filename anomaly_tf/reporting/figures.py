"""What the pages of runs say in the same words, and the figures of a run."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from anomaly_tf.reporting import plots
from anomaly_tf.reporting.doubts import detections, false_alarms
from anomaly_tf.reporting.kept import Kept
from anomaly_tf.reporting.page import Drawing


def duration(seconds: float) -> str:
    """A duration in words.

    >>> duration(308.4), duration(7380)
    ('5 min 8 s', '2 h 3 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def shown_option(value: Any) -> str:
    """The value of an option as a user would type it."""
    if isinstance(value, list):
        return ",".join(map(shown_option, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def names(value: str | list[str] | None) -> str:
    """Names of the normal classes, in words."""
    if value is None:
        return "all classes"
    return value if isinstance(value, str) else ", ".join(value)


def drawings(kept: Kept) -> list[Drawing]:
    """The figures of a run's page that its evaluation allows."""
    metrics, tested, judged = kept.metrics, kept.tested, kept.judged
    labels, scores = tested.labels, tested.scores
    found, alarms = detections(kept), false_alarms(kept)
    at_threshold = f"At the threshold, {alarms.value:.1%} of the normal images are alarms"
    at_threshold += f" and {found.value:.1%} of the anomalies." if found else "."
    drawn = [
        Drawing(
            "Scores of the test images",
            f"Histogram of the anomaly scores; the threshold is {metrics['threshold']:.4g}. "
            f"{at_threshold} {_medians(labels, scores)}",
            lambda: _fitted(plots.score_histogram(labels, scores, metrics["threshold"])),
        )
    ]
    if metrics["auroc"] is not None and found:
        truth = labels[judged], scores[judged]
        drawn += [
            Drawing(
                "ROC curve",
                f"Detection rate against false-alarm rate, area {metrics['auroc']:.4f}. "
                f"{at_threshold}",
                lambda: _fitted(plots.roc(*truth, alarms.value, found.value, metrics["approach"])),
            ),
            Drawing(
                "Precision and recall",
                "Precision against recall with anomalies as the positive class, average precision "
                f"{metrics['average_precision']:.4f}.",
                lambda: _fitted(plots.precision_recall(*truth, metrics["approach"])),
            ),
        ]
    if sweep := metrics.get("auroc_by_strength"):
        ends = "; ".join(
            f"{kind} from {values[0]:.3f} to {values[-1]:.3f}"
            for kind, values in sweep["auroc"].items()
            if values
        )
        drawn.append(
            Drawing(
                "AUROC by strength of the corruption",
                f"AUROC of clean against corrupted images, from weakest to strongest: {ends}.",
                lambda: _fitted(plots.auroc_by_strength(sweep)),
            )
        )
    return drawn


def _fitted(figure: Figure) -> Figure:
    """A figure in the width of a page's column, without the title that stands above it."""
    figure.set_size_inches(5, 4.2)
    for axis in figure.axes:
        axis.set_title("")
    return figure


def _medians(labels: np.ndarray, scores: np.ndarray) -> str:
    parts = [
        f"{name} {np.median(scores[labels == label]):.4g}"
        for label, name in enumerate(("normal", "anomaly"))
        if (labels == label).any()
    ]
    return f"Median score: {', '.join(parts)}."


def loss_drawing(kept: Kept) -> list[Drawing]:
    """The figure of the losses over the epochs; none with fewer than two epochs."""
    history, metrics = kept.history, kept.metrics
    columns = plots.loss_names(history)
    if len(history.get("epoch", ())) < 2 or not columns:
        return []
    ends = "; ".join(
        f"{name.replace('_', ' ')} from {history[name][0]:.4g} to {history[name][-1]:.4g}"
        for name in columns
    )
    chosen = metrics.get("best_epoch", 0), kept.info.training.chosen_by
    return [
        Drawing(
            "Losses and validation measures",
            f"Values over {len(history['epoch'])} epochs, from the first to the last: {ends}.",
            partial(plots.loss_curves, history, *chosen, max_columns=2),
        )
    ]
