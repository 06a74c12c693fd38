"""The plots of an evaluation, `plots/*.png` of a run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from anomaly_tf.data.split import Split
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.explained import Explained, explained, shrunk
from anomaly_tf.reporting import plots
from anomaly_tf.reporting.examples import PICTURES, image_name
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.script import printable

if TYPE_CHECKING:
    from anomaly_tf.reporting.evaluation import Evaluation

# A line of history.csv has some hundred bytes.
MAX_HISTORY = 16 * 2**20
# Longest side of the images in plots; a plot has about 150 pixels for each.
LONGEST = 512
Drawings = dict[str, Callable[[], Figure]]


def draw(
    detector: Detector, split: Split, evaluation: Evaluation, history: Path, output: RunDirectory
) -> list[str]:
    """Draws curves, tables and examples of the test set into `plots/`.

    Args:
        detector: The run's detector.
        split: The sets of the run's protocol.
        evaluation: The results on the test set.
        history: `history.csv` of the run.
        output: Output folder.

    Returns:
        A line for each plot that could not be drawn; the other plots are written.
    """
    failures = []
    for name, figure in _drawings(detector, split, evaluation, history).items():
        path = output.plots / f"{name}.png"
        try:
            plots.save(figure(), path)
        except Exception as error:  # must not prevent the other plots
            reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))
            failures.append(f"{printable(str(path))} was not drawn ({reason})")
    return failures


def _drawings(detector: Detector, split: Split, evaluation: Evaluation, history: Path) -> Drawings:
    """Name of each plot to the function that draws it."""
    metrics, scores, labels = evaluation.metrics, evaluation.scores, split.test.labels
    drawings: Drawings = {
        "scores": lambda: plots.score_histogram(labels, scores, detector.threshold)
    }
    if history.is_file():
        best = metrics["best_epoch"], metrics["chosen_by"]
        drawings["losses"] = lambda: plots.loss_curves(_read_history(history), *best)
    classified = metrics["protocol"] == "classification"
    names = split.class_names if classified else ("normal", "anomaly")
    if metrics["auroc"] is not None:
        rates = metrics["test_false_alarm_rate"], metrics["test_detection_rate"]
        truth = labels[split.judged], scores[split.judged]
        name = metrics["approach"]
        drawings["roc"] = lambda: plots.roc(*truth, *rates, name)
        drawings["precision_recall"] = lambda: plots.precision_recall(*truth, name)
        drawings["auroc_by_class"] = lambda: plots.auroc_by_class(
            metrics["auroc_by_class"], metrics.get("unseen_classes", ())
        )
    drawings["confusion_matrix"] = lambda: plots.confusion(metrics["confusion_matrix"], names)
    if "auroc_by_strength" in metrics:
        drawings["auroc_by_strength"] = lambda: plots.auroc_by_strength(
            metrics["auroc_by_strength"]
        )
    if evaluation.masked is not None:
        drawings["localisation"] = lambda: _localisation(detector, split, evaluation)
    return drawings | _explanations(detector, split, evaluation)


def _explanations(detector: Detector, split: Split, evaluation: Evaluation) -> Drawings:
    """Plots of groups of test images with maps and reconstructions, on the scale of heat maps."""
    test, names, scores = split.test, split.class_names, evaluation.scores
    groups, predicted = evaluation.examples, evaluation.predicted

    def caption(number: int) -> str:
        lines = [names[test.classes[number]]]
        if predicted is not None:
            lines.append(f"predicted {names[predicted[number]]}")
        name = image_name(test, number)
        lines.append(Path(name["file"]).name if "file" in name else f"number {name['number']}")
        return "\n".join([*map(printable, lines), f"{scores[number]:.3g}"])

    @cache
    def of_all_groups() -> Explained:
        """Images, maps and reconstructions of all groups, computed in one pass."""
        chosen = np.concatenate([chosen for _, chosen in groups.values()])
        return explained(detector, test.take(chosen), LONGEST, split.roi)

    def drawn(title: str, chosen: np.ndarray, first: int) -> Figure:
        images, maps, rebuilt = of_all_groups()
        part = slice(first, first + len(chosen))
        return plots.explanations(
            f"{title} (score below the name; threshold {detector.threshold:.3g})",
            images[part],
            None if rebuilt is None else rebuilt[part],
            maps[part],
            "error" if "error_map" in detector.outputs else "Grad-CAM",
            detector.heat_scale,
            [caption(number) for number in chosen],
        )

    drawings: Drawings = {}
    first = 0
    for name, (title, chosen) in groups.items():
        drawings[name] = partial(drawn, title, chosen, first)
        first += len(chosen)
    return drawings


def _localisation(detector: Detector, split: Split, evaluation: Evaluation) -> Figure:
    """A plot of some anomalies with a mask."""
    assert evaluation.masked
    part, n_normal = evaluation.masked.part, evaluation.masked.n_normal
    count = min(PICTURES, len(part) - n_normal)
    shown = np.linspace(n_normal, len(part) - 1, count).astype(int)
    images, maps, _ = explained(detector, part.take(shown), LONGEST, split.roi)
    masks = evaluation.masked.masks[shown]

    def caption(number: int) -> str:
        name = split.class_names[part.classes[number]]
        return f"{printable(name)}\n{printable(Path(part.files[number]).name)}"

    return plots.localisation(
        "Error map, and the outline of the mask",
        images,
        maps,
        shrunk(masks.astype(np.float32), maps.shape[1:]) > 0,
        detector.heat_scale,
        [caption(number) for number in shown],
    )


def _read_history(path: Path) -> dict[str, np.ndarray]:
    """Reads the columns of `history.csv`, each with a value per epoch.

    Raises:
        ValueError: If it is damaged.
    """
    if path.stat().st_size > MAX_HISTORY:
        raise ValueError(f"{path} has more than {MAX_HISTORY // 2**20} MB")
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    if not rows:  # no epoch was finished
        return {}
    if "epoch" not in head or any(len(row) != len(head) for row in rows):
        raise ValueError(f"{path} is damaged; train again for this plot")
    columns = zip(*rows, strict=True)
    return {
        name: np.array([float(value or "nan") for value in column])
        for name, column in zip(head, columns, strict=True)
    }
