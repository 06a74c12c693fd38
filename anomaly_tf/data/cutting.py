"""Splits a random share of each class off a set; depends on the seed only."""

from __future__ import annotations

import numpy as np

from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.errors import UserError

# From a small class at least this many images are split off, or a third of them, because a
# threshold or a false-alarm rate measured on three images is not reliable.
MIN_CUT = 20
# Anomaly classes with fewer images than this are split as one group.
MIN_GROUP = 5


def random_share(
    classes: np.ndarray, share: float, seed: int, normal: tuple[int, ...]
) -> np.ndarray:
    """A mask of the images to split off, bool `(N,)`: a random share of each class.

    Anomaly classes of fewer than `MIN_GROUP` images form one group, so that both sets have some of
    them.

    Args:
        classes: Integers `(N,)`.
        share: Share of each class, from 0 to 1.
        seed: The run's seed.
        normal: Normal classes.
    """
    numbers, counts = np.unique(classes, return_counts=True)
    rare = [number for number in numbers[counts < MIN_GROUP] if number not in normal]
    groups = np.where(np.isin(classes, rare), -1, classes.astype(np.int64))
    cut = np.zeros(len(classes), bool)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        count = max(round(share * len(members)), min(MIN_CUT, len(members) // 3), 1)
        count = min(count, len(members) - 1)
        cut[np.random.default_rng([seed, group + 1]).permutation(members)[:count]] = True
    return cut


def stratified_cut(part: ImageSet, share: float, seed: int, name: str) -> tuple[ImageSet, ImageSet]:
    """Divides a set into two, in random order, with the same proportions of classes.

    Args:
        part: Images to divide.
        share: Share of the second set.
        seed: The run's seed.
        name: Name of the data set, for the error message.

    Raises:
        UserError: If a class has too few images.
    """
    # Imported late: it takes a second, and every script imports this module.
    from sklearn.model_selection import train_test_split

    try:
        kept, cut = train_test_split(
            np.arange(len(part)), test_size=share, stratify=part.classes, random_state=seed
        )
    except ValueError as error:
        raise UserError(f"{name} is too small to cut a validation set from: {error}") from error
    return part.take(kept), part.take(cut)
