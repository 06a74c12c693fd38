"""Images with the same content: which are kept and what they mean for a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Duplicates:
    """What was found among the images of a data set; a group holds the numbers of equal images.

    Attributes:
        kept: bool `(N,)`, the images to keep.
        leaked: Groups with images in both the training and the test set.
        n_leaked: Test images in these groups.
        contradicting: Groups of training images that lie in more than one class.
        n_copies: Training images left out because an equal one of the same class is kept.
    """

    kept: np.ndarray
    leaked: list[np.ndarray]
    n_leaked: int
    contradicting: list[np.ndarray]
    n_copies: int


def find_duplicates(digests: Sequence[str], classes: np.ndarray, in_test: np.ndarray) -> Duplicates:
    """Finds images with the same content.

    The training images are still to be divided, at least into training and validation set, and
    copies would come to lie on both sides. Of equal training images one is kept, or none if their
    classes differ. The test set is left as it is.

    Args:
        digests: Digest of each image's content.
        classes: Integers `(N,)`.
        in_test: bool `(N,)`, whether each lies in the test set.
    """
    same: dict[str, list[int]] = {}
    for number, digest in enumerate(digests):
        same.setdefault(digest, []).append(number)
    groups = [np.array(group) for group in same.values() if len(group) > 1]
    leaked = [group for group in groups if len(set(in_test[group].tolist())) == 2]
    kept = np.ones(len(digests), bool)
    contradicting, n_copies = [], 0
    for group in (group[~in_test[group]] for group in groups):
        if len(set(classes[group].tolist())) > 1:
            kept[group] = False
            contradicting.append(group)
        else:
            kept[group[1:]] = False
            n_copies += len(group[1:])
    n_leaked = sum(int(in_test[group].sum()) for group in leaked)
    return Duplicates(kept, leaked, n_leaked, contradicting, n_copies)
