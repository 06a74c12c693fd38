"""The regions that count in the images of a detector; needs NumPy and Pillow only."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from anomaly_tf.data.images import Reading
from anomaly_tf.data.roi import RegionFolder, Roi, insides, open_roi
from anomaly_tf.data.stored import apply, parts
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.region import Region

if TYPE_CHECKING:
    from anomaly_tf.data.image_set import ImageSet
    from anomaly_tf.deploy.detector import Detector

AnyDetector = TypeVar("AnyDetector", bound="Detector")


class Regional:
    """The regions of a detector's images.

    Attributes:
        info: The metadata of the detector.
    """

    info: DetectorInfo
    # The region of each image; see `within`.
    _inside: np.ndarray | None = None

    @property
    def region(self) -> Region | None:
        """The region of all images, from `--roi`; None if everything counts, or each has its own.

        Pixels outside are blanked, maps are 0 there, and the score does not depend on them.
        """
        return self.info.roi.region if self.info.roi else None

    def within(self, inside: np.ndarray | None) -> Self:
        """A copy for images of which each has its own region.

        Args:
            inside: bool `(N, H, W)` in the detector's size, True where pixels count, for N images,
                or `(H, W)` for all; None returns the detector itself.
        """
        if inside is None or not len(inside):
            return self
        copied = copy.copy(self)
        copied._inside = inside
        return copied

    def inside_of(self, images: np.ndarray) -> np.ndarray | None:
        """The region of images `(N, H, W, C)`: bool `(N, H, W)`; None if everything counts.

        Raises:
            ValueError: If `within` was called for another number or size of images.
        """
        inside = self._inside
        if inside is None and self.region is not None:
            inside = self.region.at(*images.shape[1:3])
        if inside is None:
            return None
        if inside.shape not in (images.shape[:3], images.shape[1:3]):
            raise ValueError(
                f"expected a region for images {images.shape}; got one of {inside.shape}"
            )
        return np.broadcast_to(inside, images.shape[:3])


def reading_of(detector: Detector, files: Sequence[Path], roi: str | Path | None = None) -> Reading:
    """How files are read for a detector, with the regions that count in them.

    Args:
        detector: The detector.
        files: The files.
        roi: A mask for all files, or a folder with a mask for each, of the same path inside the
            common folder of all files or of the same unique name; None: the detector's region.

    Raises:
        UserError: If the detector was trained with a mask for each image and there is no folder of
            masks now, or as `open_roi`.
    """
    own, reading = detector.info.roi, detector.reading
    if roi is None:
        if own and own.region is None:
            raise UserError(
                f"the detector was trained with a mask for each picture ({own.source}); give the "
                "masks of these pictures with --roi (roi in Python)"
            )
        return reading
    paths = [Path(os.path.abspath(file)) for file in files]
    folder = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    inside = dict.fromkeys(os.path.relpath(path, folder) for path in paths)
    return dataclasses.replace(reading, roi=open_roi(roi, folder, [*inside], reading))


def views(
    detector: AnyDetector, part: ImageSet, roi: Roi | None
) -> Iterator[tuple[AnyDetector, np.ndarray]]:
    """Reads the images of a set, some at a time, with the detector for their regions.

    Args:
        detector: The detector.
        part: The set.
        roi: The regions of its images.

    Yields:
        The detector for the regions of some images, and these images, uint8 `(n, H, W, C)`.
    """
    start = 0
    for images in parts(part.images):
        chosen = slice(start, start + len(images))
        start += len(images)
        each = isinstance(roi, RegionFolder)
        inside = insides(roi, part.files[chosen], *images.shape[1:3]) if each else None
        yield detector.within(inside), images


def score_set(detector: Detector, part: ImageSet, roi: Roi | None) -> np.ndarray:
    """Scores float32 `(N,)` of the images of a set, each with its region."""
    if not isinstance(roi, RegionFolder):
        return apply(detector.score, part.images)
    scores = [view.score(images) for view, images in views(detector, part, roi)]
    return np.concatenate([np.zeros(0, np.float32), *scores])
