"""Tiles of pictures as training images. Imports only NumPy and Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.roi import RegionFolder, Roi
from anomaly_tf.data.stored import Images, Rows, StoredImages
from anomaly_tf.errors import OptionError, UserError
from anomaly_tf.runs.sections import Tiling


def tiles_of(part: ImageSet, tiling: Tiling | None, roi: Roi | None = None) -> Images:
    """The tiles of pictures, in order; without those that lie outside of the regions.

    Args:
        part: Pictures, both sides at least a tile's.
        tiling: How they are cut; None returns the pictures themselves.
        roi: The regions of the pictures that count; None: everything.
    """
    images = part.images
    if tiling is None:
        return images
    reader = _TileReader(images, tiling)
    numbers = np.arange(len(images) * len(reader.places))
    if isinstance(roi, RegionFolder):
        regions = [roi.of(roi.folder / file) for file in part.files]
    else:
        regions = [] if roi is None else [roi]
    if regions:
        shape, side = images.shape[1:3], tiling.tile
        counted = [
            [inside[top : top + side, left : left + side].any() for top, left in reader.places]
            for inside in (region.at(*shape) for region in regions)
        ]
        shape = len(images), len(reader.places)
        numbers = numbers[np.broadcast_to(counted, shape).ravel()]
    return StoredImages(reader, numbers, (tiling.tile, tiling.tile, images.shape[-1]))


def require_tiles_fit(
    tiling: Tiling | None, height: int, width: int, smallest: Sequence[int] = ()
) -> None:
    """Refuses tiles that are larger than the pictures.

    Args:
        tiling: How pictures are cut, if they are.
        height: Height of the pictures, after they are resized.
        width: Width of the pictures, after they are resized.
        smallest: Width and height of the smallest file, if they are files.

    Raises:
        UserError: If a tile is larger.
    """
    if tiling is None or tiling.tile <= min(height, width):
        return
    files = f" (the smallest file: {smallest[0]}x{smallest[1]})" if smallest else ""
    raise OptionError(
        "tile",
        f"must be at most the shorter side of the images, which are {width}x{height} (width x "
        f"height){files}; got {tiling.tile}; give a smaller tile, or leave it out",
    ).as_user_error()


class _TileReader:
    """Reads tiles by their numbers, and of each picture only what is needed.

    Args:
        images: The pictures.
        tiling: How they are cut.
    """

    def __init__(self, images: Images, tiling: Tiling) -> None:
        self._images, self._tiling = images, tiling
        self.places = tiling.places(images.shape[1:])

    @property
    def unreadable(self) -> UserError | None:
        """As `StoredImages.unreadable`, of the pictures."""
        return self._images.unreadable if isinstance(self._images, StoredImages) else None

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Reads the tiles with these numbers: uint8 `(n, tile, tile, C)`."""
        side = self._tiling.tile
        tiles = np.empty((len(numbers), side, side, self._images.shape[-1]), np.uint8)
        pictures, inside = np.divmod(numbers, len(self.places))
        for picture in np.unique(pictures):
            rows_of = self._rows(int(picture))
            for number in np.flatnonzero(pictures == picture):
                top, left = self.places[inside[number]]
                tiles[number] = rows_of[top : top + side][:, left : left + side]
        return tiles

    def _rows(self, picture: int) -> np.ndarray | Rows:
        """A picture, of which a slice of rows can be taken."""
        if isinstance(self._images, StoredImages):
            return self._images.rows(picture)
        return self._images[picture]
