"""A run on the test set: `metrics.json`, pictures and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data.protocols import LabelledImages
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.detection.metrics import detection_metrics
from anomaly_tf.files import write_json
from anomaly_tf.reporting import plots
from anomaly_tf.run_directory import RunDirectory

PICTURES = 8


def evaluate(
    detector: Detector, test: LabelledImages, config: Config, run: RunDirectory
) -> dict[str, Any]:
    """Scores the test set once and writes `metrics.json` and `plots/*.png` into the run.

    Args:
        detector: The run's detector, with the threshold to judge by.
        test: Test images.
        config: The run's configuration.
        run: Where to write.

    Returns:
        What `metrics.json` holds.
    """
    scores = detector.score(test.images)
    info = detector.info
    names = tuple(info["class_names"])
    training = info["training"]
    metrics = {
        "approach": config.approach,
        "protocol": config.protocol,
        "dataset": info["dataset"],
        "normal_class": config.normal_class,
        "normal_class_name": names[config.normal_class],
        "seed": config.seed,
        **detection_metrics(test.labels, scores, test.classes, names, detector.threshold),
        "threshold": detector.threshold,
        "threshold_method": f"{info['threshold']['method']} {info['threshold']['percentile']:g}",
        "validation_auroc": training["validation_auroc"],
        "n_train": training["n_train"],
        "n_validation": training["n_validation"],
        "n_test": len(test),
        **{
            key: training[key]
            for key in (
                "status",
                "train_seconds",
                "epochs",
                "best_epoch",
                "images_per_second",
                "hardware",
                "command",
            )
        },
    }
    _draw(detector, test, scores, names, metrics, run)
    write_json(run.metrics, metrics)
    return metrics


def table(metrics: dict[str, Any]) -> str:
    """The metrics as a few lines for the terminal."""
    low, high = metrics["auroc_ci95"]
    (kept, alarmed), (missed, found) = metrics["confusion_matrix"]
    rows = [
        ("AUROC", f"{metrics['auroc']:.4f}  (95 % CI {low:.4f} to {high:.4f})"),
        ("average precision", f"{metrics['average_precision']:.4f}"),
        ("false alarms at 95 % found", f"{metrics['fpr_at_95_tpr']:.1%}"),
        ("threshold", f"{metrics['threshold']:.4f}  ({metrics['threshold_method']})"),
        (
            "false-alarm rate",
            f"{metrics['test_false_alarm_rate']:.1%}  ({alarmed} of {kept + alarmed} normal)",
        ),
        (
            "detection rate",
            f"{metrics['test_detection_rate']:.1%}  ({found} of {missed + found} anomalies)",
        ),
    ]
    hardest = sorted(metrics["auroc_by_class"].items(), key=lambda item: item[1])
    rows += [(f"AUROC against {name}", f"{value:.4f}") for name, value in hardest]
    width = max(len(name) for name, _ in rows)
    head = (
        f"{metrics['approach']}, {metrics['protocol']}, {metrics['dataset']}, normal class "
        f"{metrics['normal_class']} ({metrics['normal_class_name']}), "
        f"{metrics['n_test']} test images"
    )
    return "\n".join([head, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _draw(
    detector: Detector,
    test: LabelledImages,
    scores: np.ndarray,
    names: tuple[str, ...],
    metrics: dict[str, Any],
    run: RunDirectory,
) -> None:
    labels = test.labels
    history = _read_history(run.history)
    if history:
        plots.save(plots.loss_curves(history, metrics["best_epoch"]), run.plots / "losses.png")
    plots.save(plots.score_histogram(labels, scores, detector.threshold), run.plots / "scores.png")
    rates = metrics["test_false_alarm_rate"], metrics["test_detection_rate"]
    plots.save(plots.roc(labels, scores, *rates), run.plots / "roc.png")
    plots.save(plots.precision_recall(labels, scores), run.plots / "precision_recall.png")
    plots.save(plots.confusion(metrics["confusion_matrix"]), run.plots / "confusion_matrix.png")
    plots.save(plots.auroc_by_class(metrics["auroc_by_class"]), run.plots / "auroc_by_class.png")

    verdicts = scores >= detector.threshold
    by_score = np.argsort(scores, kind="stable")
    # Any images, but the same ones each time: neither the best nor the first of a sorted file.
    shuffled = np.random.default_rng(0).permutation(len(scores))
    normal, anomalies = shuffled[labels[shuffled] == 0], shuffled[labels[shuffled] == 1]
    _, first_of_class = np.unique(test.classes[anomalies], return_index=True)
    groups = {
        "normal": ("Normal images", normal[:PICTURES]),
        "anomaly": ("Anomalies, one of each class", anomalies[first_of_class[: PICTURES + 1]]),
        "worst_false_alarms": (
            "Worst false alarms: normal images with the highest scores",
            by_score[(labels[by_score] == 0) & verdicts[by_score]][::-1][:PICTURES],
        ),
        "worst_misses": (
            "Worst misses: anomalies with the lowest scores",
            by_score[(labels[by_score] == 1) & ~verdicts[by_score]][:PICTURES],
        ),
    }
    for file, (title, chosen) in groups.items():
        images = test.images[chosen]
        captions = [f"{names[test.classes[i]]}\n{scores[i]:.3f}" for i in chosen]
        figure = plots.reconstructions(
            f"{title} (score below the name; threshold {detector.threshold:.3f})",
            images,
            detector.reconstruct(images),
            detector.explain(images),
            captions,
        )
        plots.save(figure, run.plots / f"{file}.png")


def _read_history(path: Path) -> dict[str, np.ndarray]:
    """Columns of `history.csv`; empty if no epoch was finished."""
    if not path.is_file() or len(path.read_text().splitlines()) < 2:
        return {}
    rows = np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))
    return {name: rows[name] for name in rows.dtype.names or ()}
