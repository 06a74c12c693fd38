"""When a score becomes an alarm (score >= threshold), and how unusual a score is.

Needs numpy alone: exported detectors are judged where nothing else is installed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from anomaly_tf.errors import UserError

if TYPE_CHECKING:
    from anomaly_tf.config import ThresholdConfig

# TensorFlow counts smaller numbers as 0, on which a threshold between the two would be lost.
SMALLEST = float(np.finfo(np.float32).tiny)


def percentile_threshold(normal_scores: np.ndarray, percentile: float) -> float:
    """Sets the threshold from scores of normal images that were not trained on.

    Args:
        normal_scores: float `(N,)`, scores of normal validation images.
        percentile: In [0, 100]; numpy's linear interpolation between the two nearest scores, so
            about `100 - percentile` per cent of normal images are false alarms.

    Returns:
        The threshold, in units of the score.

    Raises:
        ValueError: If there is no score, one is not finite, or the percentile is out of range.
    """
    return float(np.percentile(_checked(normal_scores), percentile))


def conformal_threshold(normal_scores: np.ndarray, rate: float) -> float:
    """Sets the threshold that a new normal image reaches with a probability of at most `rate`.

    Split conformal prediction (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World,
    2005): of n scores the k-th smallest, k = ceil((n + 1)(1 - rate)). An image is to be an alarm
    when it scores above that one, so that normal images that score alike are no alarms together.
    Because an alarm is a score >= threshold everywhere, the threshold is the smallest float32
    above the k-th score, as scores are float32. Then an alarm is exactly a p-value <= rate, see
    `p_values`, with ties as well.

    The probability is over both the calibration images and the new one, which have to come from
    the same source (be exchangeable).

    Args:
        normal_scores: float `(n,)`, scores of normal validation images.
        rate: False-alarm rate, in (0, 1).

    Returns:
        The threshold, in units of the score; a float32.

    Raises:
        ValueError: If there is no score, one is not finite, the rate is out of range, or is so
            small that n images cannot promise it: below 1 / (n + 1).
    """
    scores = _checked(normal_scores).astype(np.float32)
    highest = np.sort(scores)[conformal_rank(len(scores), rate) - 1]
    above = float(np.nextafter(highest, np.float32(np.inf)))
    return SMALLEST if 0 < above < SMALLEST else above


def conformal_rank(size: int, rate: float) -> int:
    """Which of the sorted scores the conformal threshold lies above, counted from 1.

    k = ceil((n + 1)(1 - rate)), in a form that keeps 0.05 of 100 at 5 in floating point.

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


def require_calibration(config: ThresholdConfig, size: int) -> None:
    """Refuses a threshold that `size` normal validation images cannot set, before work begins.

    Raises:
        UserError: If they are too few for the false-alarm rate.
    """
    if config.method == "conformal":
        try:
            conformal_rank(size, config.false_alarm_rate)
        except ValueError as error:
            raise UserError(f"--threshold.false-alarm-rate: {error}") from error


def p_values(scores: np.ndarray, normal_scores: np.ndarray) -> np.ndarray:
    """How rarely a normal image scores as high: (1 + number of normal scores >= score) / (n + 1).

    The conformal p-value: of a new normal image it is at most r with a probability of at most r,
    whatever r in (0, 1).

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
            f"expected finite scores of at least one normal image, shape (N,); got shape "
            f"{scores.shape} with {np.count_nonzero(~np.isfinite(scores))} not finite"
        )
    return scores
