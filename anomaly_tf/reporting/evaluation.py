"""A run on the test set: `metrics.json`, pictures and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly_tf.config import Config
from anomaly_tf.data.corruption_sets import corruption_sweep
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.masks import masked_images
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import apply
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.detection.localisation import localisation_metrics
from anomaly_tf.detection.metrics import (
    auroc_by_class,
    classification_metrics,
    detection_metrics,
)
from anomaly_tf.reporting import plots
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import write_json
from anomaly_tf.script import printable

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
    scores = apply(detector.score, test.images)
    info = detector.info
    training = info.training
    all_normal = len(roles.normal) == len(info.class_names) > 1
    judged = split.judged
    metrics: dict[str, Any] = {
        "approach": config.approach,
        "protocol": config.protocol,
        "dataset": info.dataset,
        "normal_class": None if all_normal else _one_or_several(roles.normal),
        "normal_class_name": None
        if all_normal
        else _one_or_several([names[number] for number in roles.normal]),
        "seed": config.seed,
        **detection_metrics(test.labels[judged], scores[judged], detector.threshold),
        "auroc_by_class": auroc_by_class(test.labels, scores, test.classes, names),
        "normal_scores": _distribution(scores[test.labels == 0]),
        "threshold": detector.threshold,
        "threshold_method": detector.threshold_method,
        "validation_auroc": training.validation.get("val_auroc"),
        "n_train": training.n_train,
        "n_validation": training.n_validation,
        "n_test": int(judged.sum()),
        **{key: getattr(training, key) for key in TRAINING_FACTS},
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
    if test.files:
        metrics["most_unusual_normal"] = _most_unusual(test, scores)
    if split.masks and detector.reconstructs:
        metrics |= _localisation(detector, split, config, run)
    _draw(detector, split, scores, metrics, run)
    write_json(run.metrics, metrics)
    return metrics


def _distribution(scores: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(scores, (5, 50, 95))
    return {
        "minimum": float(scores.min()),
        "percentile_5": float(low),
        "median": float(median),
        "percentile_95": float(high),
        "maximum": float(scores.max()),
    }


def _one_or_several(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)


def _most_unusual(test: LabelledImages, scores: np.ndarray) -> list[dict[str, Any]]:
    """The images that count as normal and score highest: look there first."""
    normal = np.flatnonzero(test.labels == 0)
    order = normal[np.argsort(-scores[normal], kind="stable")][:10]
    return [{"file": test.files[number], "score": float(scores[number])} for number in order]


def _localisation(
    detector: Detector, split: Split, config: Config, run: RunDirectory
) -> dict[str, Any]:
    """Error maps against masks, and a picture; anomalies without a mask are left out."""
    chosen = masked_images(split, config, detector.image_shape)
    part, truth = chosen.part, chosen.masks
    if not truth.any() or truth.all():
        return {"pixel_auroc": None, "aupro": None, "n_masks": 0}
    images = part.images[:]
    maps = detector.explain(images)
    count = min(PICTURES, len(part) - chosen.n_normal)
    shown = np.linspace(chosen.n_normal, len(part) - 1, count).astype(int)
    figure = plots.localisation(
        "Error map, and the outline of the mask",
        images[shown],
        maps[shown],
        truth[shown],
        _scale_of(maps[shown]),
        [split.class_names[part.classes[number]] for number in shown],
    )
    plots.save(figure, run.plots / "localisation.png")
    return localisation_metrics(truth, maps)


def _auroc_by_strength(
    detector: Detector, split: Split, scores: np.ndarray, config: Config
) -> dict[str, Any]:
    """AUROC of clean test images against corrupted ones, for each kind and strength."""
    corruption = config.corruption
    clean = split.test.labels == 0
    labels = np.repeat([0, 1], clean.sum())
    curves: dict[str, list[float]] = {kind: [] for kind in corruption.kinds}
    for kind, images in corruption_sweep(split.test, config):
        both = np.concatenate([scores[clean], detector.score(images)])
        curves[kind].append(float(roc_auc_score(labels, both)))
    return {
        "noise": [corruption.noise * factor for factor in corruption.sweep],
        "rotation": [corruption.rotation * factor for factor in corruption.sweep],
        "auroc": curves,
    }


def _classification(detector: Detector, split: Split, metrics: dict[str, Any]) -> dict[str, Any]:
    """What a classifier adds: its accuracy, and how it falls on corrupted images."""
    test, names = split.test, tuple(detector.info.class_names)
    predicted = apply(detector.probabilities, test.images).argmax(axis=1)
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
    if metrics["auroc"] is None and metrics["protocol"] != "classification":
        rows.append(("AUROC", "n/a (no anomalies in the test set)"))
    if metrics["auroc"] is not None:
        spread = "too few images for a confidence interval"
        if metrics["auroc_ci95"]:
            spread = "95 % CI {:.4f} to {:.4f}".format(*metrics["auroc_ci95"])
        if metrics["protocol"] == "corruption":
            spread += "; synthetic anomalies"
        rows += [
            ("AUROC", f"{metrics['auroc']:.4f}  ({spread})"),
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
    if metrics.get("n_masks") == 0:
        rows.append(("pixel AUROC", "n/a (no mask marks a part of a test image)"))
    elif "pixel_auroc" in metrics:
        rows += [
            ("pixel AUROC", f"{metrics['pixel_auroc']:.4f}  ({metrics['n_masks']} masks)"),
            ("per-region overlap", f"{metrics['aupro']:.4f}  (area up to 30 % false positives)"),
        ]
    if metrics["auroc"] is None and metrics["protocol"] != "classification":
        spread = metrics["normal_scores"]
        rows.append(
            (
                "scores of normal images",
                f"median {spread['median']:.4g}, 95th percentile {spread['percentile_95']:.4g}, "
                f"largest {spread['maximum']:.4g}",
            )
        )
        rows += [
            ("most unusual", f"{one['score']:.4g}  {printable(one['file'])}")
            for one in metrics.get("most_unusual_normal", [])[:5]
        ]
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
        else f"normal class {_listed(metrics['normal_class_name'])}"
    )
    head = (
        f"{metrics['approach']}, {metrics['protocol']}, {metrics['dataset']}, {normal}, "
        f"{metrics['n_test']} test images"
    )
    return "\n".join([head, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _listed(names: str | list[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


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
    predicted = np.zeros(0)
    if detector.classifies:
        predicted = apply(detector.probabilities, test.images).argmax(axis=1)
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
    scale = _scale_of(maps)
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


def _scale_of(maps: np.ndarray) -> float:
    """One scale for several pictures; a few extreme pixels should not make the rest pale."""
    return float(np.quantile(maps, 0.995)) or 1.0


def _read_history(path: Path) -> dict[str, np.ndarray]:
    """Columns of `history.csv`; empty if no epoch was finished."""
    if not path.is_file():
        return {}
    rows = np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))
    return {name: rows[name] for name in rows.dtype.names or ()}
