"""ROC-AUC and friends, from raw scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.metrics import (
    average_precision_score,
    classification_report,
    confusion_matrix,
    roc_auc_score,
    roc_curve,
)


def auroc_confidence_interval(
    labels: np.ndarray, scores: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the AUROC by DeLong's variance.

    E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 1988, computed from midranks (X. Sun,
    W. Xu, IEEE Signal Processing Letters 2014); normal approximation, cut to [0, 1].

    Args:
        labels: `(N,)`, 1 = anomaly, 0 = normal, at least two of each.
        scores: float `(N,)`.
        level: Coverage, between 0 and 1.
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    # Share of normal images below each anomaly, and of anomalies above each normal image.
    above = (ranks[:m] - rankdata(positive)) / n
    below = 1 - (ranks[m:] - rankdata(negative)) / m
    error = np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    reach = norm.ppf(0.5 + level / 2) * error
    auroc = above.mean()
    return float(max(auroc - reach, 0.0)), float(min(auroc + reach, 1.0))


def detection_metrics(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """Everything that scores and truth tell about a detector.

    Args:
        labels: `(N,)`, 1 = anomaly, 0 = normal; at least one normal image.
        scores: float `(N,)`, raw.
        threshold: An image is called an anomaly when its score is at least this.

    Returns:
        `auroc`, `auroc_ci95` (None with fewer than two images of a kind), `average_precision`,
        `fpr_at_95_tpr` (smallest false-alarm rate with at least 95 % of anomalies found),
        `roc_curve` (`false_alarm_rate` and `detection_rate`, thinned), `test_detection_rate`: None
        where there is no anomaly.
        Always `test_false_alarm_rate`, `confusion_matrix` (rows truth, columns verdict; normal,
        anomaly) and `classification_report`.
    """
    verdicts = (scores >= threshold).astype(int)
    normal = labels == 0
    metrics: dict[str, Any] = dict.fromkeys(
        ("auroc", "auroc_ci95", "average_precision", "fpr_at_95_tpr", "roc_curve")
    )
    if labels.any():
        enough = min(np.bincount(labels)) >= 2  # what a variance needs
        false_alarms, found, _ = roc_curve(labels, scores)
        metrics = {
            "auroc": float(roc_auc_score(labels, scores)),
            "auroc_ci95": list(auroc_confidence_interval(labels, scores)) if enough else None,
            "average_precision": float(average_precision_score(labels, scores)),
            "fpr_at_95_tpr": float(false_alarms[np.argmax(found >= 0.95)]),
            "roc_curve": _thinned(false_alarms, found),
        }
    return {
        **metrics,
        "test_false_alarm_rate": float(verdicts[normal].mean()),
        "test_detection_rate": float(verdicts[~normal].mean()) if labels.any() else None,
        "confusion_matrix": confusion_matrix(labels, verdicts, labels=[0, 1]).tolist(),
        "classification_report": classification_report(
            labels,
            verdicts,
            labels=[0, 1],
            target_names=["normal", "anomaly"],
            output_dict=True,
            zero_division=0,
        ),
    }


def auroc_by_class(
    labels: np.ndarray, scores: np.ndarray, classes: np.ndarray, class_names: tuple[str, ...]
) -> dict[str, float]:
    """AUROC of all normal images against the anomalies of each class, by the class's name.

    Args:
        labels: `(N,)`, 1 = anomaly, 0 = normal.
        scores: float `(N,)`, raw.
        classes: `(N,)`, class number of each image.
        class_names: Name of each class number.
    """
    normal = labels == 0
    by_class = {}
    for number in np.unique(classes[~normal]):
        chosen = normal | (classes == number)
        by_class[class_names[number]] = float(roc_auc_score(labels[chosen], scores[chosen]))
    return by_class


def classification_metrics(
    classes: np.ndarray, predicted: np.ndarray, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """How well classes were told apart.

    Args:
        classes: `(N,)`, true class numbers.
        predicted: `(N,)`, predicted ones.
        class_names: Name of each class number.

    Returns:
        `accuracy`, `confusion_matrix` (rows truth, columns prediction), `classification_report`.
    """
    numbers = list(range(len(class_names)))
    return {
        "accuracy": float(np.mean(classes == predicted)),
        "confusion_matrix": confusion_matrix(classes, predicted, labels=numbers).tolist(),
        "classification_report": classification_report(
            classes,
            predicted,
            labels=numbers,
            target_names=list(class_names),
            output_dict=True,
            zero_division=0,
        ),
    }


def _thinned(false_alarms: np.ndarray, found: np.ndarray, points: int = 101) -> dict[str, list]:
    """A ROC curve at given false-alarm rates, dense near 0, where detectors are used."""
    at = np.linspace(0, 1, points) ** 2
    # The highest detection rate that a false-alarm rate allows.
    index = np.searchsorted(false_alarms, at, side="right") - 1
    return {
        "false_alarm_rate": [round(float(rate), 6) for rate in at],
        "detection_rate": [round(float(rate), 6) for rate in found[index]],
    }
