"""Evaluates a run on the test set: the metrics of `metrics.json`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly_tf.config import Config
from anomaly_tf.data.corruption_sets import corruption_sweep
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.masks import MaskedImages, masked_images
from anomaly_tf.data.roi import Roi, insides
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import apply
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.explained import shrunk_maps, shrunk_size
from anomaly_tf.deploy.regions import score_set
from anomaly_tf.detection.localisation import localisation_metrics
from anomaly_tf.detection.metrics import (
    auroc_by_class,
    classification_metrics,
    detection_metrics,
)
from anomaly_tf.reporting.examples import Groups, choose, describe_mistakes, image_name
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import atomic_path, write_json
from anomaly_tf.runs.outputs import SCORES_HEAD, is_plot
from anomaly_tf.script import csv_cell

# Longest side of maps and masks for pixel metrics, in pixels.
MAX_SIDE = 1024
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
# Facts of protocol contaminated and of `--refine`, in no other metrics.
CLEANING = ("n_unlabelled", "n_left_out", "n_unlabelled_left_out")


@dataclass(frozen=True)
class Evaluation:
    """The results on the test set.

    Attributes:
        metrics: Content of `metrics.json`.
        scores: float32 `(N,)`, scores of the test images.
        examples: Test images of each kind, and the worst mistakes.
        predicted: Predicted classes `(N,)` of a classifier.
        masked: Test images with their masks, if pixel metrics were computed.
    """

    metrics: dict[str, Any]
    scores: np.ndarray
    examples: Groups
    predicted: np.ndarray | None = None
    masked: MaskedImages | None = None


def evaluate(detector: Detector, split: Split, config: Config) -> Evaluation:
    """Scores the test set once.

    Args:
        detector: The run's detector with its threshold.
        split: The sets of the run's protocol; only the test set is scored.
        config: The run's configuration.
    """
    test, roles, names = split.test, split.roles, split.class_names
    scores = score_set(detector, test, split.roi)
    info = detector.info
    training = info.training
    all_normal = len(roles.normal) == len(info.class_names) > 1
    judged = split.judged
    metrics: dict[str, Any] = {
        "approach": config.approach,
        "protocol": config.protocol,
        "dataset": config.data,
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
        **{key: value for key in CLEANING if (value := getattr(training, key)) is not None},
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
    predicted = masked = None
    if detector.classifies:
        predicted = apply(detector.probabilities, test.images).argmax(axis=1)
        metrics |= _classification(detector, split, predicted, metrics)
    examples = choose(split, scores, detector.threshold, predicted)
    metrics |= describe_mistakes(examples, split, scores)
    if test.files:
        metrics["most_unusual_normal"] = _most_unusual(test, scores)
    if split.masks and "error_map" in detector.outputs:
        masked = masked_images(split, config, shrunk_size(detector.image_shape, MAX_SIDE))
        metrics |= _localisation(detector, masked, split.roi)
    compared = masked if metrics.get("n_masks") else None
    return Evaluation(metrics, scores, examples, predicted, compared)


def save_figures(
    evaluation: Evaluation, detector: Detector, split: Split, output: RunDirectory
) -> None:
    """Writes `metrics.json`, and `scores.csv` with a row for each test image.

    Args:
        evaluation: The results on the test set.
        detector: The run's detector with its threshold.
        split: The sets of the run's protocol.
        output: Output folder. Plots, examples and the page of an earlier evaluation are removed,
            because they would not match the metrics.
    """
    write_json(output.metrics, evaluation.metrics)
    earlier = filter(is_plot, output.plots.glob("*.png"))
    for path in (*earlier, output.examples, output.report):
        path.unlink(missing_ok=True)
    test, scores = split.test, evaluation.scores
    p_values = detector.p_values(scores)
    kinds = "normal", "anomaly"
    with atomic_path(output.scores) as path, path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        name = "file" if test.files else "number"
        rows.writerow((name, *SCORES_HEAD.split(",")))
        for number, score in enumerate(scores):
            rows.writerow(
                (
                    csv_cell(str(image_name(test, number)[name])),
                    kinds[test.labels[number]],
                    csv_cell(split.class_names[test.classes[number]]),
                    f"{score:.9g}",
                    kinds[int(score >= detector.threshold)],
                    f"{p_values[number]:.6g}",
                )
            )


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
    """The images that count as normal and have the highest scores."""
    normal = np.flatnonzero(test.labels == 0)
    order = normal[np.argsort(-scores[normal], kind="stable")][:10]
    return [{"file": test.files[number], "score": float(scores[number])} for number in order]


def _localisation(detector: Detector, masked: MaskedImages, roi: Roi | None) -> dict[str, Any]:
    """Pixel metrics of the error maps; anomalies without a mask are left out.

    Masks and maps of larger images are shrunk to `MAX_SIDE`.
    """
    truth = masked.masks
    inside = insides(roi, masked.part.files, *truth.shape[1:])
    if inside is not None:
        truth = truth & inside
    if not truth.any() or truth.all():
        return {"pixel_auroc": None, "aupro": None, "n_masks": 0}
    maps = shrunk_maps(detector, masked.part, truth.shape[1:], roi)
    return localisation_metrics(truth, maps, inside)


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


def _classification(
    detector: Detector, split: Split, predicted: np.ndarray, metrics: dict[str, Any]
) -> dict[str, Any]:
    """Metrics of a classifier: its accuracy, also on corrupted images."""
    test, names = split.test, tuple(detector.info.class_names)
    clean = test.labels == 0
    found = classification_metrics(test.classes[clean], predicted[clean], names)
    if clean.all():
        return found
    # Corrupted copies follow the clean images, kind by kind, in the same order.
    truth = np.resize(test.classes[clean], len(test))
    accuracies = {
        name: float(np.mean((predicted == truth)[test.classes == number]))
        for number, name in enumerate(split.class_names)
        if name in metrics["auroc_by_class"]
    }
    return {"accuracy": found["accuracy"], "accuracy_by_corruption": accuracies}
