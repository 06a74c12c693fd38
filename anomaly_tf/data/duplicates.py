"""Images with the same content: which are kept, and warnings about the test set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.fashion_mnist import FASHION_MNIST_CLASSES


@dataclass(frozen=True)
class Duplicates:
    """Equal images of a data set; a group holds the numbers of equal images.

    Attributes:
        kept: bool `(N,)`, the images to keep.
        leaked: Groups with images in both the training and the test set.
        n_leaked: Number of test images in these groups.
        contradicting: Groups of training images that are in more than one class.
        n_copies: Number of training images left out because an equal one of the same class is kept.
    """

    kept: np.ndarray
    leaked: list[np.ndarray]
    n_leaked: int
    contradicting: list[np.ndarray]
    n_copies: int


def copies(dataset: ImageDataset) -> list[str]:
    """Lines on equal images in arrays, which are kept in the sets of their publisher.

    No lines for a folder, whose report has them, or for Fashion-MNIST, whose copies are known.
    """
    if dataset.is_folder or dataset.class_names == FASHION_MNIST_CLASSES:
        return []
    images = (image for part in (dataset.train, dataset.test) for image in part.images[:])
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images]
    classes = np.concatenate([dataset.train.classes, dataset.test.classes])
    found = find_duplicates(digests, classes, np.arange(len(digests)) >= len(dataset.train))
    lines = []
    if found.n_leaked:
        lines.append(
            f"WARNING: {found.n_leaked} test images are also among the training images: metrics on "
            "the test set will look better than they are"
        )
    if found.n_copies:
        lines.append(
            f"WARNING: {found.n_copies} training images are copies of others; the training and the "
            "validation set may share them"
        )
    if found.contradicting:
        count = sum(map(len, found.contradicting))
        lines.append(f"WARNING: {count} training images are in two classes")
    return lines


def find_duplicates(digests: Sequence[str], classes: np.ndarray, in_test: np.ndarray) -> Duplicates:
    """Finds images with the same content.

    The training images are later divided into training and validation set, and copies would be in
    both. Of equal training images one is kept, or none if their classes differ. The test set is
    unchanged.

    Args:
        digests: Digest of each image's content.
        classes: Integers `(N,)`.
        in_test: bool `(N,)`, whether each image is in the test set.
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
