"""What several images tell together: which are anomalies, and whether the camera has changed.

Needs scipy, which an installation for exported files alone has not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control, ks_2samp

# Of fewer scores, even ones that all lie outside of what was seen tell little.
MIN_IMAGES = 20


def select_anomalies(p_values: np.ndarray, level: float) -> np.ndarray:
    """Verdicts of a batch of which, on average, at most a share `level` of the alarms is false.

    Y. Benjamini, Y. Hochberg, Controlling the False Discovery Rate, J. R. Stat. Soc. B 57, 1995.
    That it holds for conformal p-values, which share their calibration images, is shown by
    S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, Testing for Outliers with Conformal p-values,
    Ann. Stat. 51, 2023. Of N images, k are found only if k p-values are at most `level * k / N`:
    with n calibration images none can be below 1 / (n + 1).

    >>> select_anomalies(detector.p_values(detector.score(images)), 0.1)

    Args:
        p_values: float `(N,)` in (0, 1], of all images that are judged together; see
            `detection/threshold.py`.
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
    # Conformal p-values are fractions, which meet the level exactly but for their rounding.
    return false_discovery_control(p_values, method="bh") <= level * (1 + 1e-9)


@dataclass(frozen=True)
class DriftCheck:
    """How a stream of images compares with the normal images that the threshold comes from.

    With too few images to tell, `drifted` is None and the other figures are NaN.

    Attributes:
        size: Number of images in the stream.
        statistic: Largest distance of the two distribution functions of scores, in [0, 1].
        p_value: How often it is as large or larger if both come from one source.
        median: Median score of the stream.
        calibration_median: Median score of the calibration images.
        drifted: Whether they differ.
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
                f"drift: cannot tell from {self.size} images; at least {MIN_IMAGES} are needed, "
                "and as many calibration images"
            )
        found = (
            f"(Kolmogorov-Smirnov D = {self.statistic:.3f}, p = {self.p_value:.2g}; median "
            f"{self.median:.4g}, of the calibration images {self.calibration_median:.4g})"
        )
        likeness = f"score as the calibration images do {found}"
        if not self.drifted:
            return f"drift: none seen; these {self.size} images {likeness}"
        return (
            f"drift: these {self.size} images do not {likeness}; look at camera, light and focus; "
            "anomalies among them count too"
        )


def check_drift(
    scores: np.ndarray, calibration_scores: np.ndarray, level: float = 0.01
) -> DriftCheck:
    """Compares the scores of a stream with those of the images that were calibrated on.

    The two-sample Kolmogorov-Smirnov test, two-sided: lower scores are a change, too. Anomalies in
    the stream count as one. With equal scores it alarms more rarely than `level`.

    Args:
        scores: float `(N,)`.
        calibration_scores: float `(n,)`, scores of normal validation images.
        level: How often a stream from the same source may be taken for another, in (0, 1).
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
