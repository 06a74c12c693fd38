"""When a score becomes an alarm (score >= threshold), and how unusual a score is.

Needs numpy alone: exported detectors are judged where nothing else is installed.
"""

from __future__ import annotations

import numpy as np


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
    scores = np.asarray(normal_scores, np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(
            f"expected finite scores of at least one normal image, shape (N,); got shape "
            f"{scores.shape} with {np.count_nonzero(~np.isfinite(scores))} not finite"
        )
    return float(np.percentile(scores, percentile))


def ranks(scores: np.ndarray, normal_scores: np.ndarray) -> np.ndarray:
    """How rarely a normal image scores as high: (1 + number of normal scores >= score) / (n + 1).

    Args:
        scores: float `(N,)`.
        normal_scores: float `(n,)`, scores of normal validation images.

    Returns:
        float64 `(N,)` in (0, 1]; small is unusual.
    """
    ordered = np.sort(normal_scores)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least) / (len(ordered) + 1)
