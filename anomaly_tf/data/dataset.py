"""The data set that every source of images returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.images import AS_USUAL, Reading
from anomaly_tf.data.stored import Images

# A training and a test set.
TrainAndTest = tuple[ImageSet, ImageSet]


class SourceUnavailable(Exception):
    """A source cannot be used, for the reason in the message; another one may be tried."""


@dataclass(frozen=True)
class ImageDataset:
    """Images and their classes, divided by their publisher or undivided.

    Attributes:
        name: The value of `--data`.
        train: Training images.
        test: Test images; empty if the publisher has no test set.
        class_names: Name of each class number.
        masks: Image file to the file of its mask, which marks the anomaly.
        digests: Digest of the bytes of each image file.
        reading: How the image files are read; its bit depth is None if there are no 16-bit files.
            Its regions are also those of arrays.
        report: Lines for the user on how the images were read.
        left_out: The lines of the report on images that were left out.
        skipped: The reason for each skipped file.
    """

    name: str
    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    masks: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    reading: Reading = AS_USUAL
    report: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def train_images(self) -> Images:
        """uint8 `(N, H, W, C)`."""
        return self.train.images

    @property
    def train_classes(self) -> np.ndarray:
        """Integers `(N,)`."""
        return self.train.classes

    @property
    def test_images(self) -> Images:
        """uint8 `(M, H, W, C)`."""
        return self.test.images

    @property
    def test_classes(self) -> np.ndarray:
        """Integers `(M,)`."""
        return self.test.classes

    @property
    def is_folder(self) -> bool:
        """True if the images are files of a folder."""
        return bool(self.train.files)
