"""Decisions on several images together: anomalies in a batch, and drift of the input.

Needs SciPy, which an installation for exported files only does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control, ks_2samp

# Fewer scores are not enough, even if all are outside of the range of the calibration scores.
MIN_IMAGES = 20


def select_anomalies(p_values: np.ndarray, level: float) -> np.ndarray:
    """Verdicts of a batch with a false-discovery rate of at most `level`.

    On average, at most a share `level` of the alarms is false (Y. Benjamini, Y. Hochberg,
    Controlling the False Discovery Rate, J. R. Stat. Soc. B 57, 1995). S. Bates, E. Candes, L. Lei,
    Y. Romano, M. Sesia, Testing for Outliers with Conformal p-values, Ann. Stat. 51, 2023, show
    that this holds for conformal p-values, which share their calibration images. k of N images are
    selected only if k p-values are at most `level * k / N`; with n calibration images, no p-value
    is below 1 / (n + 1).

    >>> select_anomalies(np.array([0.01, 0.5, 0.02, 0.9]), level=0.1)
    array([ True, False,  True, False])

    Args:
        p_values: float `(N,)` in (0, 1], of all images of the batch; see `detection/threshold.py`.
        level: False-discovery rate, in (0, 1).

    Returns:
        bool `(N,)`, True for an anomaly.

    Raises:
        ValueError: If the level is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a false-discovery rate above 0 and below 1; got {level:g}")
    if not len(p_values):
        return np.zeros(0, bool)
    # Conformal p-values are fractions that may equal the level up to rounding.
    return false_discovery_control(p_values, method="bh") <= level * (1 + 1e-9)


@dataclass(frozen=True)
class DriftCheck:
    """Comparison of a stream of images with the normal images that the threshold comes from.

    With too few images for the test, `drifted` is None and the other values are NaN.

    Attributes:
        size: Number of images in the stream.
        statistic: Largest distance of the two distribution functions of scores, in [0, 1].
        p_value: Probability of a distance at least as large if both come from the same source.
        median: Median score of the stream.
        calibration_median: Median score of the calibration images.
        drifted: Whether the distributions differ.
    """

    size: int
    statistic: float
    p_value: float
    median: float
    calibration_median: float
    drifted: bool | None

    def __str__(self) -> str:
        """One line for the user."""
        if self.drifted is None:
            return (
                f"drift: not tested with {self.size} images; at least {MIN_IMAGES} are needed, "
                "and as many calibration images"
            )
        found = (
            f"(Kolmogorov-Smirnov D = {self.statistic:.3f}, p = {self.p_value:.2g}; median "
            f"{self.median:.4g}, of the calibration images {self.calibration_median:.4g})"
        )
        if not self.drifted:
            return (
                f"drift: none detected; the scores of these {self.size} images are distributed "
                f"like those of the calibration images {found}"
            )
        return (
            f"drift: detected; the scores of these {self.size} images are not distributed like "
            f"those of the calibration images {found}; check camera, light and focus; anomalies "
            "among the images count, too"
        )


def check_drift(
    scores: np.ndarray, calibration_scores: np.ndarray, level: float = 0.01
) -> DriftCheck:
    """Compares the scores of a stream with those of the calibration images.

    The two-sample Kolmogorov-Smirnov test, two-sided, so that lower scores are a change, too.
    Anomalies in the stream count as a change. With tied scores, the false-alarm rate of the test is
    below `level`.

    Args:
        scores: float `(N,)`.
        calibration_scores: float `(n,)`, scores of normal validation images.
        level: Significance level: the share of streams from the same source that are reported as
            drifted, in (0, 1).
    """
    if min(len(scores), len(calibration_scores)) < MIN_IMAGES:
        nothing = float("nan")
        return DriftCheck(len(scores), nothing, nothing, nothing, nothing, None)
    test = ks_2samp(scores, calibration_scores)
    return DriftCheck(
        len(scores),
        float(test.statistic),
        float(test.pvalue),
        float(np.median(scores)),
        float(np.median(calibration_scores)),
        bool(test.pvalue <= level),
    )
