"""Data sets of four IDX files, as those of MNIST."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from anomaly_tf.data.arrays import dark_images
from anomaly_tf.data.dataset import ImageDataset, SourceUnavailable, TrainAndTest
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.search import Search
from anomaly_tf.errors import UserError

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def has_idx_files(folder: Path) -> bool:
    """Whether at least one of the four IDX files is there, gzipped or not."""
    return any((folder / f"{name}{end}").exists() for name in IDX_NAMES for end in ("", ".gz"))


def load_idx_folder(folder: Path) -> ImageDataset:
    """Loads four IDX files with the names of MNIST's; a class is named by its number.

    Raises:
        UserError: If a file is missing or damaged, or they do not belong together.
    """
    try:
        train, test = read_idx_folder(folder)
    except SourceUnavailable as error:
        raise UserError(f"no data in {folder}: {error}") from error
    names = tuple(str(number) for number in range(int(train.classes.max()) + 1))
    others = Search().images_below(folder)
    left_out = tuple(
        f"left out: {len(others)} image files beside the IDX files (first: {folder / first})"
        for first in others[:1]
    )
    report = (*dark_images(train.images[:]), *left_out)
    return ImageDataset(str(folder), train, test, names, report=report, left_out=left_out)


def read_idx_folder(folder: Path) -> TrainAndTest:
    """Reads four IDX files: images uint8 `(N, H, W, 1)`, classes uint8 `(N,)`.

    Raises:
        SourceUnavailable: If a file is missing or damaged, or they do not belong together.
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
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceUnavailable(f"{path} is unreadable: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise SourceUnavailable(f"{path} is not an IDX file of {dimensions}-dimensional uint8")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    if len(content) - header != np.prod(shape):
        raise SourceUnavailable(f"{path} is truncated: {shape} announced, {len(content)} bytes")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
