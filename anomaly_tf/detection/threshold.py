"""When a score becomes an alarm: score >= threshold."""

from __future__ import annotations

import numpy as np

from anomaly_tf.config import ThresholdConfig


def fit_threshold(normal_scores: np.ndarray, config: ThresholdConfig) -> float:
    """Sets the threshold from scores of normal images that were not trained on.

    Args:
        normal_scores: float `(N,)`, scores of normal validation images.
        config: Method and its parameter. `percentile`: numpy's linear interpolation between
            the two nearest scores, so about `100 - percentile` per cent of normal images are
            false alarms.

    Returns:
        The threshold, in units of the score.

    Raises:
        ValueError: If there is no score or one is not finite.
    """
    scores = np.asarray(normal_scores, np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(
            f"expected finite scores of at least one normal image, shape (N,); got shape "
            f"{scores.shape} with {np.count_nonzero(~np.isfinite(scores))} not finite"
        )
    return float(np.percentile(scores, config.percentile))
