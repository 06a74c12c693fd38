"""Images with their classes and, where they are files, the files' paths; optionally labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from anomaly_tf.data.stored import Images, join, subset


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
        """The images of a slice, with these numbers, or where a mask is True."""
        return ImageSet(subset(self.images, chosen), self.classes[chosen], self._files_of(chosen))

    def cut(self, away: np.ndarray) -> tuple[ImageSet, ImageSet]:
        """The images that remain, and those where the mask `away`, bool `(N,)`, is True."""
        return self.take(~away), self.take(away)

    def joined(self, other: ImageSet) -> ImageSet:
        """These images followed by others from the same source."""
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
        classes: Integers `(N,)`, the data set's class numbers, followed by those of the kinds of
            corruption.
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
        """The images of a slice, with these numbers, or where a mask is True."""
        part = super().take(chosen)
        return LabelledImages(part.images, part.classes, part.files, labels=self.labels[chosen])

    @property
    def normal(self) -> Images:
        """The normal images, uint8 `(M, H, W, C)`."""
        return subset(self.images, self.labels == 0)

    @property
    def anomalies(self) -> Images:
        """The anomalous images, uint8 `(M, H, W, C)`."""
        return subset(self.images, self.labels == 1)
