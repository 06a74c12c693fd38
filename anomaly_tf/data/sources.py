"""Opens a data set given by its name, a file or a folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data.arrays import fit_array
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.fashion_mnist import FASHION_MNIST_CLASSES, load_fashion_mnist
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.idx import has_idx_files, load_idx_folder
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.npz import load_npz
from anomaly_tf.data.tfds_sets import load_tfds
from anomaly_tf.errors import UserError
from anomaly_tf.runs.outputs import require_own_place
from anomaly_tf.runs.paths import user_path

FASHION_MNIST, TFDS = "fashion_mnist", "tfds:"
# Value of `data` in the configuration of a run that was trained on arrays of a Python program.
ARRAYS = "arrays"


def open_dataset(config: Config) -> ImageDataset:
    """Opens the data set of a run's configuration, at the configured size.

    Raises:
        UserError: If the data set cannot be found or has the wrong content.
    """
    if not config.data:  # an empty path would mean the current folder
        raise UserError("--data is empty; give the name of a data set, a file or a folder")
    folder = Path(config.data)
    if config.data == ARRAYS and not folder.exists():
        raise UserError(
            "the run was trained on arrays in Python and does not contain them; give them as an "
            ".npz file with --data"
        )
    if config.data != FASHION_MNIST and folder.is_dir():
        if not has_idx_files(folder):
            return load_folder(folder, config)
        require_own_place("--data-dir", Path(config.data_dir), {}, [folder])
    return load_dataset(config.data, Path(config.data_dir), config.size)


def load_dataset(source: str, data_dir: Path, size: tuple[int, int] | None = None) -> ImageDataset:
    """Loads a data set of arrays.

    Args:
        source: `fashion_mnist`; `tfds:NAME`, a set of TensorFlow Datasets; an `.npz` file of
            arrays; or a folder that holds the four IDX files of an MNIST-like set.
        data_dir: Folder in which Fashion-MNIST is cached; created when needed.
        size: Height and width to which every image is resized, by Pillow's bilinear filter; None
            keeps the original size.

    Raises:
        UserError: If the data set cannot be found or has the wrong content.
    """
    path = user_path(source)
    data_dir = user_path(data_dir)
    if source.startswith(TFDS):
        return load_tfds(source.removeprefix(TFDS), size)
    if source == FASHION_MNIST:
        dataset = load_fashion_mnist(data_dir)
    elif path.is_dir():
        dataset = load_idx_folder(path)
    elif path.suffix.lower() == ".npz":
        dataset = load_npz(path)
    else:
        raise UserError(
            f"data {source!r} is neither {FASHION_MNIST!r} nor a folder of images or IDX files, "
            f"nor an .npz file of arrays, nor {TFDS}NAME, a set of TensorFlow Datasets; give one "
            "with --data"
        )
    return dataset if size is None else resized(dataset, size)


def known_class_names(source: str) -> tuple[str, ...] | None:
    """Class names of a data set that are known without loading it, else None."""
    return FASHION_MNIST_CLASSES if source == FASHION_MNIST else None


def resized(dataset: ImageDataset, size: tuple[int, int]) -> ImageDataset:
    """Resizes all images of a data set of arrays to `size`, height and width."""
    shape = (*size, dataset.train.images.shape[-1])
    if dataset.train.images.shape[1:] == shape:
        return dataset

    def fit(part: ImageSet) -> ImageSet:
        fitted = np.empty((len(part), *shape), np.uint8)
        for number, image in enumerate(part.images[:]):
            fitted[number] = fit_array(image, shape)
        return dataclasses.replace(part, images=fitted)

    return dataclasses.replace(dataset, train=fit(dataset.train), test=fit(dataset.test))
