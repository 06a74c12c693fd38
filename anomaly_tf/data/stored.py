"""Images that stay on disk and are read when they are needed, a few at a time.

`StoredImages` has the parts of a NumPy array's interface that the package uses: length, shape, and
indexing by a slice or by numbers. Imports only NumPy and Pillow.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from anomaly_tf.data.decoding import UnreadableImage
from anomaly_tf.data.images import AS_USUAL, Reading, read_image
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.limits import count_within
from anomaly_tf.runs.region import RegionError

# Images that are read or processed at a time: at most PART, of PART_BYTES or a single larger one.
PART, PART_BYTES = 500, 2**26


class StoredImages:
    """Images on disk.

    Args:
        read: Function from numbers int `(n,)` to images uint8 `(n, H, W, C)`; called from several
            threads.
        numbers: Numbers of the images, int `(N,)`.
        image_shape: Height, width and channels.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        read: Callable[[np.ndarray], np.ndarray],
        numbers: np.ndarray,
        image_shape: tuple[int, int, int],
    ) -> None:
        self._read, self._numbers, self._image_shape = read, numbers, image_shape

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(N, H, W, C)`."""
        return (len(self), *self._image_shape)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Reads the images of a slice, an array of numbers or a mask: uint8 `(n, H, W, C)`."""
        return self._read(self._numbers[chosen])

    def rows(self, number: int) -> np.ndarray | Rows:
        """One image, of which a slice of rows is taken; from a file of decoded images, only these.

        Args:
            number: Its number among these images.
        """
        stored = self._numbers[number]
        if isinstance(self._read, Records):
            return Rows(self._read, int(stored))
        return self._read(np.array([stored]))[0]

    @property
    def unreadable(self) -> UserError | None:
        """The error of the last unreadable file; tf.data replaces it by an error of its own."""
        return getattr(self._read, "unreadable", None)

    def subset(self, chosen: slice | np.ndarray) -> StoredImages:
        """Selects images without reading them."""
        return StoredImages(self._read, self._numbers[chosen], self._image_shape)

    def joined(self, others: StoredImages) -> StoredImages:
        """These images followed by another subset of the same images."""
        numbers = np.concatenate([self._numbers, others._numbers])
        return StoredImages(self._read, numbers, self._image_shape)


Images = np.ndarray | StoredImages


def subset(images: Images, chosen: slice | np.ndarray) -> Images:
    """Selects images: copies them from an array, reads nothing from disk."""
    return images.subset(chosen) if isinstance(images, StoredImages) else images[chosen]


def sample(images: Images, count: int, seed: int) -> Images:
    """At most `count` of the images, drawn at random, in their original order."""
    return images if len(images) <= count else subset(images, sampled(len(images), count, seed))


def sampled(total: int, count: int, seed: int) -> np.ndarray:
    """At most `count` of `total` numbers, drawn at random, sorted."""
    if total <= count:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def join(first: Images, second: Images) -> Images:
    """Concatenates two subsets of the same images."""
    if isinstance(first, StoredImages) and isinstance(second, StoredImages):
        return first.joined(second)
    return np.concatenate([first[:], second[:]])


def apply(call: Callable[[np.ndarray], np.ndarray], images: Images) -> np.ndarray:
    """The results of `call` for all images, `(N, ...)`; some are read at a time, see `parts`."""
    if isinstance(images, np.ndarray) or len(images) <= part_size(images.shape[1:]):
        return call(images[:])
    return np.concatenate([call(part) for part in parts(images)])


def parts(images: Images) -> Iterator[np.ndarray]:
    """All images, uint8 `(n, H, W, C)`, `part_size` at a time."""
    size = part_size(images.shape[1:])
    for start in range(0, len(images), size):
        yield images[start : start + size]


def part_size(image_shape: tuple[int, ...]) -> int:
    """Number of images `(H, W, C)` that are read or processed at a time."""
    return count_within(PART_BYTES, math.prod(image_shape), PART)


def bounded_sample(images: Images, count: int, seed: int, size: int) -> Images:
    """As `sample`, of fewer images if they are large: at most `size` bytes, or one image."""
    return sample(images, count_within(size, math.prod(images.shape[1:]), count), seed)


class ImageFiles:
    """Reads image files, several in parallel.

    Args:
        folder: The folder to which the paths are relative.
        files: Paths inside the folder.
        image_shape: Height, width and channels to which each image is converted; see `read_image`.
        reading: How they are read.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        image_shape: tuple[int, int, int],
        reading: Reading = AS_USUAL,
    ) -> None:
        self._folder, self._files, self._shape = folder, files, image_shape
        self._reading = reading
        self.unreadable: UserError | None = None

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Reads the files with these numbers: uint8 `(n, H, W, C)`.

        Raises:
            UnreadableImage: If one of them is missing or damaged.
            RegionError: If its mask is.
        """
        images = np.empty((len(numbers), *self._shape), np.uint8)

        def read(place: int) -> None:
            path = self._folder / self._files[numbers[place]]
            images[place] = read_image(path, self._shape, self._reading)

        try:
            list(self._pool.map(read, range(len(numbers))))
        except (UnreadableImage, RegionError) as error:
            self.unreadable = error
            raise
        return images

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(available_threads())


class Records:
    """Reads from one file of decoded images without gaps.

    The file is not memory-mapped, because its pages would count as memory of the process.

    Args:
        path: The file.
        image_shape: Height, width and channels of each image.
    """

    def __init__(self, path: Path, image_shape: tuple[int, int, int]) -> None:
        self._shape = image_shape
        self._file = path.open("rb", buffering=0)  # closed with the last reference

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Reads the images with these numbers: uint8 `(n, H, W, C)`."""
        size = int(np.prod(self._shape))
        images = np.empty((len(numbers), *self._shape), np.uint8)
        for place, number in enumerate(numbers):
            read = os.preadv(self._file.fileno(), [images[place].data], int(number) * size)
            if read != size:
                raise OSError(f"{self._file.name} is truncated at image {number}; remove it")
        return images

    def rows(self, number: int, top: int, end: int) -> np.ndarray:
        """Reads the rows from `top` to `end` of one image: uint8 `(end - top, W, C)`."""
        height, width, channels = self._shape
        rows = np.empty((end - top, width, channels), np.uint8)
        begin = (number * height + top) * width * channels
        if os.preadv(self._file.fileno(), [rows.data], begin) != rows.nbytes:
            raise OSError(f"{self._file.name} is truncated at image {number}; remove it")
        return rows


class Rows:
    """One of the images of `Records`; a slice reads its rows.

    Args:
        records: The images.
        number: Number of the image.
    """

    def __init__(self, records: Records, number: int) -> None:
        self._records, self._number = records, number

    def __getitem__(self, chosen: slice) -> np.ndarray:
        return self._records.rows(self._number, chosen.start, chosen.stop)
