"""The pictures of an evaluation, `plots/*.png` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import apply
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.reporting import plots
from anomaly_tf.runs.directory import RunDirectory

# Images in a picture of one kind.
PICTURES = 8
# Title and numbers of test images, by the name of the picture that shows them.
Groups = dict[str, tuple[str, np.ndarray]]


def draw(
    detector: Detector,
    split: Split,
    scores: np.ndarray,
    metrics: dict[str, Any],
    run: RunDirectory,
) -> None:
    """Draws curves, tables and examples of the test set into `plots/` of a run.

    Args:
        detector: The run's detector.
        split: The sets of the run's protocol.
        scores: float32 `(N,)`, of the test images.
        metrics: What `metrics.json` holds.
        run: Where to write.
    """
    labels = split.test.labels
    figures = {"scores": plots.score_histogram(labels, scores, detector.threshold)}
    history = _read_history(run.history)
    if history:
        best = metrics["best_epoch"], metrics["chosen_by"]
        figures["losses"] = plots.loss_curves(history, *best)
    classified = metrics["protocol"] == "classification"
    names = split.class_names if classified else ("normal", "anomaly")
    if metrics["auroc"] is not None:
        rates = metrics["test_false_alarm_rate"], metrics["test_detection_rate"]
        truth = labels[split.judged], scores[split.judged]
        figures["roc"] = plots.roc(*truth, *rates)
        figures["precision_recall"] = plots.precision_recall(*truth)
        figures["auroc_by_class"] = plots.auroc_by_class(
            metrics["auroc_by_class"], metrics.get("unseen_classes", ())
        )
    figures["confusion_matrix"] = plots.confusion(metrics["confusion_matrix"], names)
    if "auroc_by_strength" in metrics:
        figures["auroc_by_strength"] = plots.auroc_by_strength(metrics["auroc_by_strength"])
    figures |= _explanations(detector, split, scores)
    for name, figure in figures.items():
        plots.save(figure, run.plots / f"{name}.png")


def _explanations(detector: Detector, split: Split, scores: np.ndarray) -> dict[str, Any]:
    """Groups of test images with their maps and reconstructions, on the scale of heat maps."""
    test, names = split.test, split.class_names
    predicted = np.zeros(0)
    if detector.classifies:
        predicted = apply(detector.probabilities, test.images).argmax(axis=1)
    groups = _groups(split, scores, scores >= detector.threshold)
    if detector.classifies:
        by_score = np.argsort(scores, kind="stable")
        wrong = by_score[(predicted != test.classes)[by_score] & (test.labels[by_score] == 0)]
        groups["surest_mistakes"] = (
            "Surest mistakes: taken for another class, with the lowest scores",
            wrong[:PICTURES],
        )

    def caption(number: int) -> str:
        name = names[test.classes[number]].replace(" and ", "\nand ")
        if detector.classifies:
            name += f"\ntaken for {names[predicted[number]]}"
        return f"{name}\n{scores[number]:.3g}"

    images = test.images[np.concatenate([chosen for _, chosen in groups.values()])]
    maps, rebuilt = detector.explain_and_reconstruct(images)
    figures, first = {}, 0
    for name, (title, chosen) in groups.items():
        part = slice(first, first + len(chosen))
        first = part.stop
        figures[name] = plots.explanations(
            f"{title} (score below the name; threshold {detector.threshold:.3g})",
            images[part],
            None if rebuilt is None else rebuilt[part],
            maps[part],
            detector.heat_scale,
            [caption(number) for number in chosen],
        )
    return figures


def _groups(split: Split, scores: np.ndarray, verdicts: np.ndarray) -> Groups:
    """Which test images are shown: some of each kind, and the worst mistakes."""
    test = split.test
    # Any images, but the same ones each time: neither the best nor the first of a sorted file.
    shuffled = np.random.default_rng(0).permutation(len(scores))
    by_score = np.argsort(scores, kind="stable")
    normal, anomalies = (shuffled[test.labels[shuffled] == label] for label in (0, 1))

    def one_of_each(numbers: np.ndarray) -> np.ndarray:
        _, first = np.unique(test.classes[numbers], return_index=True)
        return numbers[first]

    groups = {"normal": ("Normal images", normal[:PICTURES])}
    if len(split.roles.normal) > 1 and len(normal):
        groups["normal"] = ("Normal images, one of each class", one_of_each(normal)[:10])
    if len(anomalies):
        chosen = one_of_each(anomalies)
        if len(chosen) < PICTURES:  # a few kinds: several of each
            chosen = np.concatenate(
                [anomalies[test.classes[anomalies] == kind][:3] for kind in test.classes[chosen]]
            )
        groups["anomaly"] = ("Anomalies of each kind", chosen[: PICTURES + 2])
        missed = by_score[(test.labels[by_score] == 1) & ~verdicts[by_score]]
        groups["worst_misses"] = (
            "Worst misses: anomalies with the lowest scores",
            missed[:PICTURES],
        )
    else:
        unusual = by_score[::-1][:PICTURES]
        groups["most_unusual"] = ("Most unusual: normal images with the highest scores", unusual)
    alarms = by_score[(test.labels[by_score] == 0) & verdicts[by_score]][::-1]
    groups["worst_false_alarms"] = (
        "Worst false alarms: normal images with the highest scores",
        alarms[:PICTURES],
    )
    return groups


def _read_history(path: Path) -> dict[str, np.ndarray]:
    """Columns of `history.csv`; empty if no epoch was finished."""
    if not path.is_file():
        return {}
    rows = np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))
    return {name: rows[name] for name in rows.dtype.names or ()}
