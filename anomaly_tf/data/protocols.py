"""Which images count as normal or anomaly, and which set each belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomaly_tf.data.sources import ImageDataset, unknown_class
from anomaly_tf.errors import UserError


@dataclass(frozen=True)
class LabelledImages:
    """Images with their truth.

    Attributes:
        images: uint8 `(N, H, W, C)`.
        labels: int8 `(N,)`, 1 = anomaly, 0 = normal.
        classes: uint8 `(N,)`, the data set's own class numbers.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """The normal images, uint8 `(M, H, W, C)`."""
        return self.images[self.labels == 0]

    @property
    def anomalies(self) -> np.ndarray:
        """The anomalous images, uint8 `(M, H, W, C)`."""
        return self.images[self.labels == 1]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Split:
    """Three disjoint sets: learn on the first, choose on the second, score the third once."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages


def imbalance(
    dataset: ImageDataset, normal_class: int, validation_fraction: float, seed: int
) -> Split:
    """One normal class and labelled images of all others; tested on the full test set.

    Args:
        dataset: Images and classes.
        normal_class: The class that counts as normal.
        validation_fraction: Share of the training files kept for validation, cut per class.
        seed: Seed of the cut.

    Returns:
        The three sets. The validation set is cut from the training files.

    Raises:
        UserError: If the class does not exist, there is no other, or one is too small to be cut.
    """
    if normal_class not in np.unique(dataset.train_classes):
        raise unknown_class(normal_class, dataset.class_names)

    def labelled(images: np.ndarray, classes: np.ndarray) -> LabelledImages:
        return LabelledImages(images, (classes != normal_class).astype(np.int8), classes)

    # Imported late: it takes a second, and every script imports this module.
    from sklearn.model_selection import train_test_split

    try:
        train, validation = train_test_split(
            np.arange(len(dataset.train_classes)),
            test_size=validation_fraction,
            stratify=dataset.train_classes,
            random_state=seed,
        )
    except ValueError as error:
        raise UserError(
            f"{dataset.name} is too small to cut a validation set from: {error}"
        ) from error
    split = Split(
        train=labelled(dataset.train_images[train], dataset.train_classes[train]),
        validation=labelled(dataset.train_images[validation], dataset.train_classes[validation]),
        test=labelled(dataset.test_images, dataset.test_classes),
    )
    for name, part in (("training", split.train), ("test", split.test)):
        for label, kind in enumerate(("normal", "anomaly")):
            if label not in part.labels:
                raise UserError(
                    f"protocol imbalance needs normal and anomaly images, and {dataset.name} has "
                    f"no {kind} image in its {name} files; choose another class or data set"
                )
    return split


PROTOCOLS = {"imbalance": imbalance}
