"""The page that compares several runs side by side, from what their evaluations keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.detection.metrics import ENOUGH_FOR_DELONG, auroc_difference_interval
from anomaly_tf.reporting import comparison_plots
from anomaly_tf.reporting.doubts import doubts
from anomaly_tf.reporting.figures import shown_option
from anomaly_tf.reporting.kept import Kept
from anomaly_tf.reporting.page import Drawing, TableCell, drawn, shaded, write_page
from anomaly_tf.reporting.run_page import facts, headline


def write_comparison(runs: list[Kept], path: Path) -> list[str]:
    """Writes the page that compares runs.

    Args:
        runs: What is kept of each run, at least two.
        path: The file.

    Returns:
        A line for each figure that could not be drawn and is left out.
    """
    labels = labels_of(runs)
    curves, failures = drawn(_drawings(labels, runs))
    values = {
        "labels": labels,
        "runs": runs,
        "doubts": [*_on_comparing(runs), *_doubts_of_runs(labels, runs)],
        "figures": _figures(labels, runs),
        "by_class": _by_class(labels, runs),
        "curves": curves,
        "facts": _facts(labels, runs),
        "options": _different_options(labels, runs),
    }
    write_page("runs.html.j2", values, path)
    return failures


def labels_of(runs: list[Kept]) -> list[str]:
    """A short name for each run: of its folder, or its path if several have that name."""
    counts = Counter(run.run.path.name for run in runs)
    return [
        run.run.path.name if counts[run.run.path.name] == 1 else str(run.run.path) for run in runs
    ]


def same_images(one: Kept, other: Kept) -> bool:
    """Whether two runs were tested on the same images with the same labels."""
    first, second = one.info.data, other.info.data
    known = first is None or second is None or first.test == second.test
    return known and (
        one.tested.names == other.tested.names
        and np.array_equal(one.tested.labels, other.tested.labels)
        and np.array_equal(one.judged, other.judged)
    )


def _on_comparing(runs: list[Kept]) -> Iterator[str]:
    """Reasons why figures of these runs do not compare, or not as they seem."""
    if not all(same_images(runs[0], run) for run in runs[1:]):
        yield "The runs were not all tested on the same images: their figures do not compare"
    protocols = list(dict.fromkeys(run.metrics["protocol"] for run in runs))
    if len(protocols) > 1:
        yield (
            f"The protocols differ ({', '.join(protocols)}): the detectors learnt from different "
            "kinds of images"
        )


def _doubts_of_runs(labels: list[str], runs: list[Kept]) -> Iterator[str]:
    """The doubts of each run; those that all of them share are said once."""
    found = [doubts(run) for run in runs]
    shared = [line for line in found[0] if all(line in lines for lines in found)]
    yield from shared
    for label, lines in zip(labels, found, strict=True):
        yield from (f"{label}: {line}" for line in lines if line not in shared)


def _figures(labels: list[str], runs: list[Kept]) -> Any:
    """The headline figures: a row for each, with a column for each run."""
    found = [{name: (value, detail) for name, value, detail in headline(run)} for run in runs]
    rows = list(dict.fromkeys(name for lines in found for name in lines))
    table = []
    for name in rows:
        cells = []
        for run, lines in zip(runs, found, strict=True):
            value, detail = lines.get(name, ("", ""))
            level = shaded(run.metrics["auroc"]).level if name == "AUROC" and value else None
            cells.append(TableCell(value, level, detail))
        table.append((name, cells))
        if name == "AUROC":
            differences = [TableCell(""), *(_difference(runs[0], run) for run in runs[1:])]
            if any(cell.text for cell in differences):
                table.append((f"Difference from {labels[0]}", differences))
    thresholds = [
        TableCell(f"{run.metrics['threshold']:.4g}", None, run.metrics["threshold_method"])
        for run in runs
    ]
    return "Figures on the test set", ("figure", *labels), [*table, ("Threshold", thresholds)]


def _difference(first: Kept, other: Kept) -> TableCell:
    """Difference of the AUROCs of two runs on the same images, with its confidence interval."""
    if None in (first.metrics["auroc"], other.metrics["auroc"]) or not same_images(first, other):
        return TableCell("")
    difference = other.metrics["auroc"] - first.metrics["auroc"]
    judged = first.judged
    labels = first.tested.labels[judged]
    if min(np.bincount(labels, minlength=2)) < ENOUGH_FOR_DELONG:
        return TableCell(f"{difference:+.4f}", None, "too few images for an interval")
    scores = (run.tested.scores[judged] for run in (first, other))
    low, high = auroc_difference_interval(labels, *scores)
    return TableCell(f"{difference:+.4f}", None, f"95 % CI {low:+.4f} to {high:+.4f}")


def _by_class(labels: list[str], runs: list[Kept]) -> Any:
    """AUROC by anomaly, the hardest first, with a column for each run."""
    values = [run.metrics["auroc_by_class"] for run in runs]
    kinds = list(dict.fromkeys(name for found in values for name in found))
    kinds.sort(key=lambda name: min(found[name] for found in values if name in found))
    rows = [(name, [shaded(found.get(name)) for found in values]) for name in kinds]
    return ("AUROC by anomaly, the hardest first", ("anomaly", *labels), rows) if rows else None


def _drawings(labels: list[str], runs: list[Kept]) -> list[Drawing]:
    curves = {
        label: run.metrics
        for label, run in zip(labels, runs, strict=True)
        if run.metrics["auroc"] is not None and run.metrics.get("roc_curve")
    }
    if not curves:
        return []
    areas = ", ".join(f"{name} {metrics['auroc']:.4f}" for name, metrics in curves.items())
    return [
        Drawing(
            "ROC curves",
            f"Detection rate against false-alarm rate of each run; areas: {areas}.",
            lambda: comparison_plots.roc_overlay(curves),
        )
    ]


def _facts(labels: list[str], runs: list[Kept]) -> Any:
    """How each run was trained, a row for each fact."""
    found = [dict(facts(run)) for run in runs]
    rows = [
        (name, *(lines.get(name, "") for lines in found))
        for name in dict.fromkeys(name for lines in found for name in lines)
    ]
    return "How the runs were trained", ("fact", *labels), rows


def _different_options(labels: list[str], runs: list[Kept]) -> Any:
    """Options whose values differ between the runs, a row for each."""
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.options):
        values = [shown_option(run.options[name]) if name in run.options else "-" for run in runs]
        if len(set(values)) > 1:
            rows.append((name, *values))
    return ("Options that differ", ("option", *labels), rows) if rows else None
