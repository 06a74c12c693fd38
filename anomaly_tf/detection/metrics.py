"""AUROC and other metrics, from raw scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm, rankdata
from sklearn.metrics import (
    average_precision_score,
    classification_report,
    confusion_matrix,
    roc_auc_score,
    roc_curve,
)

# With fewer normal images or anomalies, the coverage of DeLong's interval is below its level.
ENOUGH_FOR_DELONG = 100
# Level of a confidence interval of one standard error on each side.
ONE_STANDARD_ERROR = 0.6827


def auroc_confidence_interval(
    labels: np.ndarray, scores: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the AUROC, valid for few images and for perfect ranking.

    With at least `ENOUGH_FOR_DELONG` normal images and anomalies, it uses DeLong's variance:
    E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 1988, computed from midranks (X. Sun, W. Xu,
    IEEE Signal Processing Letters 2014), with the normal approximation, clipped to [0, 1]. This
    interval is too narrow for fewer images, and has width 0 if every anomaly scores above every
    normal image. In both cases Newcombe's interval is used.

    Args:
        labels: `(N,)`, 1 = anomaly, 0 = normal, at least two of each.
        scores: float `(N,)`.
        level: Coverage, between 0 and 1.
    """
    above, below = _placements(labels, scores)
    m, n = len(above), len(below)
    error = np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    quantile = norm.ppf(0.5 + level / 2)
    reach, auroc = quantile * error, above.mean()
    if min(m, n) < ENOUGH_FOR_DELONG or not error:
        return _newcombe_interval(float(auroc), m, n, float(quantile))
    return float(max(auroc - reach, 0.0)), float(min(auroc + reach, 1.0))


def auroc_difference_interval(
    labels: np.ndarray, scores: np.ndarray, others: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the difference of two AUROCs on the same images.

    E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 1988: scores of one image are not
    independent, so that the interval is narrower than those of the two AUROCs suggest.

    Args:
        labels: `(N,)`, 1 = anomaly, 0 = normal, at least two of each.
        scores: float `(N,)`.
        others: float `(N,)`, scores of the same images by another detector.
        level: Coverage, between 0 and 1.

    Returns:
        Lower and upper limit of the AUROC of `others` minus that of `scores`. With fewer than
        `ENOUGH_FOR_DELONG` normal images or anomalies its coverage is below the level.
    """
    pairs = zip(_placements(labels, others), _placements(labels, scores), strict=True)
    above, below = (other - one for other, one in pairs)
    error = np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
    reach, difference = norm.ppf(0.5 + level / 2) * error, above.mean()
    return float(difference - reach), float(difference + reach)


def _placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of normal images below each anomaly, and of anomalies above each normal image."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    return (ranks[:m] - rankdata(positive)) / n, 1 - (ranks[m:] - rankdata(negative)) / m


def _newcombe_interval(auroc: float, m: int, n: int, quantile: float) -> tuple[float, float]:
    """The AUROCs whose distance from the observed one is within `quantile` standard errors.

    The standard error is that of the candidate AUROC. Method 5 of R. G. Newcombe, Confidence
    intervals for an effect size measure based on the Mann-Whitney statistic, part 2, Statistics in
    Medicine 2006: as Wilson's interval for a proportion, with the variance of J. Hanley, B. McNeil,
    Radiology 1982, and (m + n) / 2 in place of m and n.

    Args:
        auroc: In [0, 1].
        m: Number of anomalies.
        n: Number of normal images.
        quantile: Quantile of the normal distribution.
    """

    def beyond(value: float) -> float:
        spread = (1 - value) / (2 - value) + value / (1 + value)
        variance = value * (1 - value) * (1 + ((m + n) / 2 - 1) * spread) / (m * n)
        return abs(value - auroc) - quantile * float(np.sqrt(variance))

    # The variance is 0 at 0 and at 1.
    lowest, highest = 1e-12, 1 - 1e-12
    low = brentq(beyond, lowest, min(auroc, highest)) if beyond(lowest) > 0 else 0.0
    high = brentq(beyond, max(auroc, lowest), highest) if beyond(highest) > 0 else 1.0
    return float(low), float(high)


def auroc_limits(auroc: float, n_anomalies: int, n_normal: int) -> tuple[float, float]:
    """The AUROC of some images less and plus its standard error, without their scores.

    Newcombe's method, as `auroc_confidence_interval`; with a single normal image or anomaly, the
    limits are 0 and 1.
    """
    if min(n_anomalies, n_normal) < 2:
        return 0.0, 1.0
    return _newcombe_interval(auroc, n_anomalies, n_normal, 1.0)


def accuracy_limits(accuracy: float, count: int) -> tuple[float, float]:
    """The accuracy on some images less and plus its standard error, by Wilson's interval."""
    found = binomtest(round(accuracy * count), count)
    low, high = found.proportion_ci(ONE_STANDARD_ERROR, method="wilson")
    return float(low), float(high)


def preferred(
    measures: dict[str, float], upper_limit: float, name: str = "validation AUROC"
) -> tuple[str, str]:
    """What to keep of several detectors that were validated on the same images, and why, in words.

    A few images rank detectors at random: the first choice is kept unless another is more than a
    standard error above it.

    Args:
        measures: Measure of each detector, the first choice before the others.
        upper_limit: The measure of the first choice plus its standard error.
        name: Name of the measure.
    """
    best = max(measures, key=lambda one: measures[one])
    choice = next(iter(measures))
    if best != choice and measures[best] <= upper_limit:
        return choice, f"is within a standard error of the largest {name}"
    return best, f"has the largest {name}"


def detection_metrics(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """All metrics of a detector that are computed from scores and labels.

    Args:
        labels: `(N,)`, 1 = anomaly, 0 = normal; at least one normal image.
        scores: float `(N,)`, raw.
        threshold: Scores of at least this value are anomalies.

    Returns:
        `test_false_alarm_rate`, `confusion_matrix` (rows truth, columns verdict; normal, anomaly)
        and `classification_report`. Also `auroc`, `auroc_ci95` (None with fewer than two normal
        images or anomalies), `average_precision`, `fpr_at_95_tpr` (smallest false-alarm rate with a
        detection rate of at least 95 %), `roc_curve` (`false_alarm_rate` and `detection_rate`,
        thinned) and `test_detection_rate`, which are None if there are no anomalies.
    """
    verdicts = (scores >= threshold).astype(int)
    normal = labels == 0
    metrics: dict[str, Any] = dict.fromkeys(
        ("auroc", "auroc_ci95", "average_precision", "fpr_at_95_tpr", "roc_curve")
    )
    if labels.any():
        enough = min(np.bincount(labels)) >= 2  # required for a variance
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
    """Metrics of the classification of images by class.

    Args:
        classes: `(N,)`, true class numbers.
        predicted: `(N,)`, predicted class numbers.
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
    """A ROC curve at `points` false-alarm rates, dense near 0, where detectors are used."""
    at = np.linspace(0, 1, points) ** 2
    # The highest detection rate that a false-alarm rate allows.
    index = np.searchsorted(false_alarms, at, side="right") - 1
    return {
        "false_alarm_rate": [round(float(rate), 6) for rate in at],
        "detection_rate": [round(float(rate), 6) for rate in found[index]],
    }
