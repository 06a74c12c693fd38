"""Thresholds on the anomaly score (alarm if score >= threshold), and p-values of scores.

Needs NumPy only, because exported detectors run where nothing else is installed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from anomaly_tf.errors import UserError
from anomaly_tf.runs.sections import LABELLED, Calibration

if TYPE_CHECKING:
    from anomaly_tf.config import ThresholdConfig

# TensorFlow rounds smaller numbers to 0, so that a threshold between 0 and this one would be lost.
SMALLEST = float(np.finfo(np.float32).tiny)


def percentile_threshold(normal_scores: np.ndarray, percentile: float) -> float:
    """Computes the threshold as a percentile of the scores of normal validation images.

    Args:
        normal_scores: float `(N,)`, scores of normal validation images.
        percentile: In [0, 100]; NumPy interpolates linearly between the two nearest scores, so that
            about `100 - percentile` per cent of normal images are false alarms.

    Returns:
        The threshold, in units of the score.

    Raises:
        ValueError: If there is no score, one is not finite, or the percentile is out of range.
        TypeError: If the percentile is not a number.
    """
    if isinstance(percentile, bool) or not isinstance(percentile, (int, float, np.number)):
        raise TypeError(f"expected a percentile from 0 to 100; got {percentile!r}")
    if not 0 <= percentile <= 100:
        raise ValueError(f"expected a percentile from 0 to 100; got {percentile:g}")
    return float(np.percentile(_checked(normal_scores), percentile))


def conformal_threshold(normal_scores: np.ndarray, rate: float) -> float:
    """Computes the threshold that a new normal image reaches with a probability of at most `rate`.

    Split conformal prediction (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World,
    2005) uses the k-th smallest of n scores, k = ceil((n + 1)(1 - rate)). An image is an alarm if
    its score is above that one, so that normal images with equal scores are not alarms together.
    Because an alarm is defined as score >= threshold, and scores are float32, the threshold is the
    smallest float32 above the k-th score. An alarm is then exactly a p-value <= rate, see
    `p_values`, also with ties.

    The probability is over both the calibration images and the new image, which must come from the
    same source (be exchangeable).

    Args:
        normal_scores: float `(n,)`, scores of normal validation images.
        rate: False-alarm rate, in (0, 1).

    Returns:
        The threshold, in units of the score; a float32.

    Raises:
        ValueError: If there is no score, one is not finite, the rate is out of range, or is so
            small that n images cannot guarantee it: below 1 / (n + 1).
    """
    scores = _checked(normal_scores).astype(np.float32)
    highest = np.sort(scores)[conformal_rank(len(scores), rate) - 1]
    above = float(np.nextafter(highest, np.float32(np.inf)))
    return SMALLEST if 0 < above < SMALLEST else above


def conformal_rank(size: int, rate: float) -> int:
    """Rank, from 1, of the sorted score above which the conformal threshold lies.

    k = ceil((n + 1)(1 - rate)), computed so that 0.05 of 100 is 5 in floating point.

    Args:
        size: Number n of scores of normal images.
        rate: False-alarm rate, in (0, 1).

    Raises:
        ValueError: If the rate is out of range, or below 1 / (n + 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"expected a false-alarm rate above 0 and below 1; got {rate:g}")
    alarms = math.floor((size + 1) * rate + 1e-9)
    if alarms < 1:
        needed = math.ceil(1 / rate - 1e-9) - 1
        possible = math.ceil(1e4 / (size + 1)) / 1e4
        raise ValueError(
            f"a rate of {rate:g} needs {needed} normal validation images, and there are {size}; "
            f"give more, or a rate of at least {possible:g}"
        )
    return size + 1 - min(alarms, size)


def labelled_threshold(calibration: Calibration) -> float:
    """Computes the threshold that separates normal images and labelled anomalies best.

    The mean of detection rate and of 1 - false-alarm rate is largest (W. Youden, Index for Rating
    Diagnostic Tests, Cancer 3, 1950). The threshold is midway between the two nearest scores; of
    several the lowest.

    Args:
        calibration: Scores of normal and anomalous validation images.

    Returns:
        The threshold, in units of the score.

    Raises:
        ValueError: If there are no scores of normal images or of anomalies, or one is not finite.
    """
    kinds = calibration.scores, calibration.anomaly_scores or ()
    normal, anomalies = (np.sort(_checked(np.array(scores))) for scores in kinds)
    scores = np.unique(np.concatenate([normal, anomalies]))
    cuts = (scores[1:] + scores[:-1]) / 2 if len(scores) > 1 else scores
    false_alarms = 1 - np.searchsorted(normal, cuts) / len(normal)
    detected = 1 - np.searchsorted(anomalies, cuts) / len(anomalies)
    return float(cuts[np.argmax(detected - false_alarms)])


def require_calibration(config: ThresholdConfig, size: int, n_anomalies: int) -> None:
    """Refuses, before starting work, too few validation images for the threshold.

    Args:
        config: The threshold.
        size: Number of normal validation images.
        n_anomalies: Number of labelled anomalies in the validation set that may be used.

    Raises:
        UserError: If they are too few.
    """
    if config.method == LABELLED and not n_anomalies:
        raise UserError(
            "--threshold.method labelled needs labelled anomalies in the validation set, and "
            "there are none; give some for training under protocol imbalance, or use percentile"
        )
    if config.method == "conformal":
        try:
            conformal_rank(size, config.false_alarm_rate)
        except ValueError as error:
            raise UserError(f"--threshold.false-alarm-rate: {error}") from error


def p_values(scores: np.ndarray, normal_scores: np.ndarray) -> np.ndarray:
    """Conformal p-values of scores: (1 + number of normal scores >= score) / (n + 1).

    The p-value of a new normal image is at most r with a probability of at most r, for every r in
    (0, 1).

    Args:
        scores: float `(N,)`.
        normal_scores: float `(n,)`, scores of normal validation images.

    Returns:
        float64 `(N,)` in (0, 1]; small is unusual.
    """
    ordered = np.sort(normal_scores)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least) / (len(ordered) + 1)


def _checked(normal_scores: np.ndarray) -> np.ndarray:
    """The scores as float64.

    Raises:
        ValueError: If there is none or one is not finite.
    """
    scores = np.asarray(normal_scores, np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(
            f"expected finite scores of at least one image, shape (N,); got shape "
            f"{scores.shape} with {np.count_nonzero(~np.isfinite(scores))} not finite"
        )
    return scores
