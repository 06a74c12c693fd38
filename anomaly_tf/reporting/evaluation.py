"""A run on the test set: `metrics.json`, pictures and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly_tf.config import Config
from anomaly_tf.data.protocols import TEST_STREAM, Split
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.detection.metrics import (
    auroc_by_class,
    classification_metrics,
    detection_metrics,
)
from anomaly_tf.files import write_json
from anomaly_tf.reporting import plots
from anomaly_tf.run_directory import RunDirectory

PICTURES = 8
TRAINING_FACTS = (
    "status",
    "n_weights",
    "train_seconds",
    "epochs",
    "best_epoch",
    "chosen_by",
    "images_per_second",
    "hardware",
    "command",
)


def evaluate(detector: Detector, split: Split, config: Config, run: RunDirectory) -> dict[str, Any]:
    """Scores the test set once and writes `metrics.json` and `plots/*.png` into the run.

    Args:
        detector: The run's detector, with the threshold to judge by.
        split: The sets of the run's protocol; the test set alone is scored.
        config: The run's configuration.
        run: Where to write.

    Returns:
        What `metrics.json` holds.
    """
    test, roles, names = split.test, split.roles, split.class_names
    scores = detector.score(test.images)
    info = detector.info
    training, single = info["training"], len(roles.normal) == 1
    judged = split.judged
    metrics: dict[str, Any] = {
        "approach": config.approach,
        "protocol": config.protocol,
        "dataset": info["dataset"],
        "normal_class": roles.normal[0] if single else None,
        "normal_class_name": names[roles.normal[0]] if single else None,
        "seed": config.seed,
        **detection_metrics(test.labels[judged], scores[judged], detector.threshold),
        "auroc_by_class": auroc_by_class(test.labels, scores, test.classes, names),
        "threshold": detector.threshold,
        "threshold_method": f"{info['threshold']['method']} {info['threshold']['percentile']:g}",
        "validation_auroc": training["validation"].get("val_auroc"),
        "n_train": training["n_train"],
        "n_validation": training["n_validation"],
        "n_test": int(judged.sum()),
        **{key: training[key] for key in TRAINING_FACTS},
    }
    if config.protocol == "unseen":
        seen = (test.labels == 0) | ~judged
        metrics |= {
            "auroc_unseen": metrics["auroc"],
            "auroc_seen": float(roc_auc_score(test.labels[seen], scores[seen])),
            "seen_classes": [names[number] for number in roles.seen],
            "unseen_classes": [names[number] for number in roles.unseen],
        }
    if config.protocol == "corruption":
        metrics["auroc_by_strength"] = _auroc_by_strength(detector, split, scores, config)
    if detector.classifies:
        metrics |= _classification(detector, split, metrics)
    _draw(detector, split, scores, metrics, run)
    write_json(run.metrics, metrics)
    return metrics


def _auroc_by_strength(
    detector: Detector, split: Split, scores: np.ndarray, config: Config
) -> dict[str, Any]:
    """AUROC of clean test images against corrupted ones, for each kind and strength."""
    from anomaly_tf.data.corruptions import corrupted

    corruption = config.corruption
    clean = split.test.labels == 0
    labels = np.repeat([0, 1], clean.sum())
    curves: dict[str, list[float]] = {}
    for kind in corruption.kinds:
        curves[kind] = []
        for factor in corruption.sweep:
            strengths = corruption.noise * factor, corruption.rotation * factor
            images = corrupted(split.test.normal, kind, *strengths, config.seed, TEST_STREAM)
            both = np.concatenate([scores[clean], detector.score(images)])
            curves[kind].append(float(roc_auc_score(labels, both)))
    return {
        "noise": [corruption.noise * factor for factor in corruption.sweep],
        "rotation": [corruption.rotation * factor for factor in corruption.sweep],
        "auroc": curves,
    }


def _classification(detector: Detector, split: Split, metrics: dict[str, Any]) -> dict[str, Any]:
    """What a classifier adds: its accuracy, and how it falls on corrupted images."""
    test, names = split.test, tuple(detector.info["class_names"])
    predicted = detector.probabilities(test.images).argmax(axis=1)
    clean = test.labels == 0
    found = classification_metrics(test.classes[clean], predicted[clean], names)
    if clean.all():
        return found
    # Corrupted copies follow the clean images, kind by kind, in the same order.
    truth = np.resize(test.classes[clean], len(test))
    right = {
        name: float(np.mean((predicted == truth)[test.classes == number]))
        for number, name in enumerate(split.class_names)
        if name in metrics["auroc_by_class"]
    }
    return {"accuracy": found["accuracy"], "accuracy_by_corruption": right}


def table(metrics: dict[str, Any]) -> str:
    """The evaluation in a few lines for the terminal."""
    rows = []
    if "accuracy" in metrics:
        rows.append(("accuracy", f"{metrics['accuracy']:.2%}"))
        corrupted = metrics.get("accuracy_by_corruption", {})
        rows += [(f"accuracy with {name}", f"{value:.2%}") for name, value in corrupted.items()]
    if metrics["auroc"] is not None:
        low, high = metrics["auroc_ci95"]
        rows += [
            ("AUROC", f"{metrics['auroc']:.4f}  (95 % CI {low:.4f} to {high:.4f})"),
            ("average precision", f"{metrics['average_precision']:.4f}"),
            ("false alarms at 95 % found", f"{metrics['fpr_at_95_tpr']:.1%}"),
        ]
    if "auroc_seen" in metrics:
        rows.append(("AUROC, seen classes", f"{metrics['auroc_seen']:.4f}"))
        rows.append(("AUROC, unseen classes", f"{metrics['auroc_unseen']:.4f}"))
    rows += [
        ("threshold", f"{metrics['threshold']:.4g}  ({metrics['threshold_method']})"),
        ("false-alarm rate", f"{metrics['test_false_alarm_rate']:.1%}"),
    ]
    if metrics["test_detection_rate"] is not None:
        rows.append(("detection rate", f"{metrics['test_detection_rate']:.1%}"))
    hardest = sorted(metrics["auroc_by_class"].items(), key=lambda item: item[1])
    unseen = metrics.get("unseen_classes", ())
    rows += [
        (f"AUROC against {name}{' (unseen)' if name in unseen else ''}", f"{value:.4f}")
        for name, value in hardest
    ]
    if metrics["protocol"] == "classification":
        report = metrics["classification_report"].items()
        rows += [
            (f"precision, recall of {name}", f"{part['precision']:.3f}, {part['recall']:.3f}")
            for name, part in report
            if isinstance(part, dict) and not name.endswith(" avg")
        ]
    width = max(len(name) for name, _ in rows)
    normal = (
        "all classes normal"
        if metrics["normal_class"] is None
        else f"normal class {metrics['normal_class']} ({metrics['normal_class_name']})"
    )
    head = (
        f"{metrics['approach']}, {metrics['protocol']}, {metrics['dataset']}, {normal}, "
        f"{metrics['n_test']} test images"
    )
    return "\n".join([head, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _draw(
    detector: Detector,
    split: Split,
    scores: np.ndarray,
    metrics: dict[str, Any],
    run: RunDirectory,
) -> None:
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
    """Groups of test images with what the detector makes of them, on one scale."""
    test, names = split.test, split.class_names
    verdicts = scores >= detector.threshold
    # Any images, but the same ones each time: neither the best nor the first of a sorted file.
    shuffled = np.random.default_rng(0).permutation(len(scores))
    by_score = np.argsort(scores, kind="stable")
    normal, anomalies = (shuffled[test.labels[shuffled] == label] for label in (0, 1))

    def one_of_each(numbers: np.ndarray) -> np.ndarray:
        _, first = np.unique(test.classes[numbers], return_index=True)
        return numbers[first]

    groups = {"normal": ("Normal images", normal[:PICTURES])}
    if len(split.roles.normal) > 1:
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
    alarms = by_score[(test.labels[by_score] == 0) & verdicts[by_score]][::-1]
    groups["worst_false_alarms"] = (
        "Worst false alarms: normal images with the highest scores",
        alarms[:PICTURES],
    )
    predicted = np.zeros(0)
    if detector.classifies:
        predicted = detector.probabilities(test.images).argmax(axis=1)
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
    maps = detector.explain(images)
    rebuilt = detector.reconstruct(images) if detector.reconstructs else None
    # One scale for all pictures of a run; a few extreme pixels should not make the rest pale.
    scale = float(np.quantile(maps, 0.995)) or 1.0
    figures, first = {}, 0
    for name, (title, chosen) in groups.items():
        part = slice(first, first + len(chosen))
        first = part.stop
        figures[name] = plots.explanations(
            f"{title} (score below the name; threshold {detector.threshold:.3g})",
            images[part],
            None if rebuilt is None else rebuilt[part],
            maps[part],
            scale,
            [caption(number) for number in chosen],
        )
    return figures


def _read_history(path: Path) -> dict[str, np.ndarray]:
    """Columns of `history.csv`; empty if no epoch was finished."""
    if not path.is_file() or len(path.read_text().splitlines()) < 2:
        return {}
    rows = np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))
    return {name: rows[name] for name in rows.dtype.names or ()}
