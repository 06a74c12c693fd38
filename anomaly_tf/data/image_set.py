"""Images with their classes, the paths of their files (if any), and optionally labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from anomaly_tf.data.stored import Images, join, sampled, subset
from anomaly_tf.runs.limits import count_within


@dataclass(frozen=True)
class ImageSet:
    """Images and the class of each.

    Attributes:
        images: uint8 `(N, H, W, C)`, an array or images on disk.
        classes: Integers `(N,)`, the data set's class numbers.
        files: Path of each image inside the data set's folder; empty if they are not files.
    """

    images: Images
    classes: np.ndarray
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: slice | np.ndarray) -> ImageSet:
        """Selects images by a slice, an array of numbers or a mask."""
        return ImageSet(subset(self.images, chosen), self.classes[chosen], self._files_of(chosen))

    def sample(self, count: int, size: int) -> ImageSet:
        """At most `count` of the images, drawn at random, always the same, in their order.

        Args:
            count: Number of images.
            size: Bytes of all of them; a single image may have more.
        """
        count = count_within(size, math.prod(self.images.shape[1:]), count)
        return self.take(sampled(len(self), count, seed=0))

    def cut(self, away: np.ndarray) -> tuple[ImageSet, ImageSet]:
        """Splits off the images where the mask `away`, bool `(N,)`, is True; returns both sets."""
        return self.take(~away), self.take(away)

    def joined(self, other: ImageSet) -> ImageSet:
        """Concatenates these images and others from the same source."""
        return ImageSet(
            join(self.images, other.images),
            np.concatenate([self.classes, other.classes]),
            self.files + other.files,
        )

    def _files_of(self, chosen: slice | np.ndarray) -> tuple[str, ...]:
        if not self.files:
            return ()
        return tuple(self.files[number] for number in np.arange(len(self))[chosen])


@dataclass(frozen=True)
class LabelledImages(ImageSet):
    """An `ImageSet` with the true label of each image.

    Attributes:
        images: uint8 `(N, H, W, C)`, an array or images on disk.
        classes: Integers `(N,)`, the data set's class numbers; the kinds of corruption have the
            numbers after them.
        files: Path of each image inside the data set's folder; empty if they are not files.
        labels: int8 `(N,)`, 1 = anomaly, 0 = normal.
    """

    labels: np.ndarray = field(kw_only=True)

    @classmethod
    def of(cls, part: ImageSet, normal: Sequence[int]) -> Self:
        """Labels images by their class: 0 for the classes `normal`, 1 for all others."""
        labels = (~np.isin(part.classes, normal)).astype(np.int8)
        return cls(part.images, part.classes, part.files, labels=labels)

    def take(self, chosen: slice | np.ndarray) -> LabelledImages:
        """Selects images by a slice, an array of numbers or a mask."""
        part = super().take(chosen)
        return LabelledImages(part.images, part.classes, part.files, labels=self.labels[chosen])

    @property
    def normal(self) -> Images:
        """The normal images, uint8 `(M, H, W, C)`."""
        return subset(self.images, self.labels == 0)

    @property
    def normal_part(self) -> LabelledImages:
        """The normal images with their classes and files."""
        return self.take(self.labels == 0)

    @property
    def anomalies(self) -> Images:
        """The anomalous images, uint8 `(M, H, W, C)`."""
        return subset(self.images, self.labels == 1)
