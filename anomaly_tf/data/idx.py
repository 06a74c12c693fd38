"""Data sets of four IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from anomaly_tf.data.arrays import dark_images
from anomaly_tf.data.dataset import ImageDataset, SourceUnavailable, TrainAndTest
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.search import Search
from anomaly_tf.errors import UserError
from anomaly_tf.runs.limits import require_memory

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def has_idx_files(folder: Path) -> bool:
    """True if at least one of the four IDX files exists, gzipped or not."""
    return any((folder / f"{name}{end}").exists() for name in IDX_NAMES for end in ("", ".gz"))


def load_idx_folder(folder: Path) -> ImageDataset:
    """Loads four IDX files with the names of MNIST; the class names are the class numbers.

    Raises:
        UserError: If a file is missing or damaged, or the files do not match.
    """
    try:
        train, test = read_idx_folder(folder)
    except SourceUnavailable as error:
        raise UserError(f"no data in {folder}: {error}") from error
    there = {*np.unique(train.classes).tolist(), *np.unique(test.classes).tolist()}
    names = tuple(str(number) for number in range(max(there) + 1))
    others = Search().images_below(folder)
    left_out = tuple(
        f"left out: {len(others)} image files beside the IDX files (first: {folder / first})"
        for first in others[:1]
    )
    report = (*dark_images(train.images[:], test.images[:]), *left_out)
    return ImageDataset(str(folder), train, test, names, report=report, left_out=left_out)


def read_idx_folder(folder: Path) -> TrainAndTest:
    """Reads four IDX files: images uint8 `(N, H, W, 1)`, classes uint8 `(N,)`.

    Raises:
        SourceUnavailable: If a file is missing or damaged, or the files do not match.
    """
    train_images, train_classes, test_images, test_classes = IDX_NAMES
    train, test = (
        ImageSet(_read_idx(folder, images, 3)[..., np.newaxis], _read_idx(folder, classes, 1))
        for images, classes in ((train_images, train_classes), (test_images, test_classes))
    )
    if any(len(part.images) != len(part.classes) for part in (train, test)):
        raise SourceUnavailable("its image and label files differ in length")
    if not len(train) or not len(test) or train.images.shape[1:] != test.images.shape[1:]:
        raise SourceUnavailable("its training and test images are empty or differ in size")
    return train, test


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Reads one uint8 IDX file (the format of yann.lecun.com/exdb/mnist), gzipped or not."""
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.exists()), None)
    if path is None:
        raise SourceUnavailable(f"{name}[.gz] is not in {folder}")
    try:
        with cast("IO[bytes]", (gzip.open if path.suffix == ".gz" else open)(path, "rb")) as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes((0, 0, 8, dimensions)):
                raise SourceUnavailable(
                    f"{path} is not an IDX file of {dimensions}-dimensional uint8"
                )
            shape = tuple(int(size) for size in np.frombuffer(head[4:], ">u4"))
            size, length = math.prod(shape), path.stat().st_size
            if path.suffix != ".gz" and length != len(head) + size:
                raise SourceUnavailable(f"{path} is truncated: {shape} expected, {length} bytes")
            # Twice the size: the images are read, and copied once when they are divided.
            require_memory(2 * size, f"{path}, read and divided,", 2 * length)
            # One byte more than the header gives, to detect a longer file.
            content = np.empty(size + 1, np.uint8)
            read = _read_into(file, content.data)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceUnavailable(f"{path} is unreadable: {error}") from error
    if read != size:
        raise SourceUnavailable(f"{path} is truncated: {shape} expected, {read} bytes of images")
    return content[:size].reshape(shape)


def _read_into(file: IO[bytes], content: memoryview) -> int:
    """Reads into `content` until it is full or the file ends; returns the number of bytes."""
    read = 0
    while read < len(content) and (part := file.read(min(2**20, len(content) - read))):
        content[read : read + len(part)] = part
        read += len(part)
    return read
