"""Unlabelled anomalies among the normal training images, for protocol `contaminated`."""

from __future__ import annotations

import math

import numpy as np

from anomaly_tf.errors import UserError

# A stream of random numbers of its own; those of `cutting.random_share` have smaller numbers.
_STREAM = 2**16


def contaminants(
    classes: np.ndarray, normal: tuple[int, ...], share: float, seed: int, name: str
) -> np.ndarray:
    """A mask of the anomalies to mix among the normal images, bool `(N,)`.

    They are drawn at random from all anomalies, so that their classes are about as frequent as in
    the data. With the same seed, a larger share has the anomalies of a smaller one and more.

    Args:
        classes: Classes of the images outside of validation and test set, integers `(N,)`.
        normal: Normal classes.
        share: Share of the anomalies among the normal images and them, above 0 and below 1.
        seed: The run's seed.
        name: Name of the data set, for the error message.

    Raises:
        UserError: If there are too few anomalies, or the share is less than one image.
    """
    anomalies = np.flatnonzero(~np.isin(classes, normal))
    n_normal, there = len(classes) - len(anomalies), len(anomalies)
    count = round(n_normal * share / (1 - share))
    asked = f"--contamination {share:g} of {n_normal} normal training images"
    if not count:
        least = math.ceil(1000 / (n_normal + 1)) / 1000
        raise UserError(f"{asked} is less than one image; give at least --contamination {least:g}")
    if count > there:
        most = math.floor(1000 * there / (n_normal + there)) / 1000
        remedy = f"give at most --contamination {most:g}" if most else "use --protocol one_class"
        raise UserError(
            f"{asked} takes {count} anomalies, and {name} has {there} outside of its validation "
            f"and test set; add anomalies, or {remedy}"
        )
    mixed = np.zeros(len(classes), bool)
    mixed[np.random.default_rng([seed, _STREAM]).permutation(anomalies)[:count]] = True
    return mixed
