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
from anomaly_tf.data.roi import describe, kept_region, open_mask
from anomaly_tf.data.tfds_sets import load_tfds
from anomaly_tf.errors import UserError
from anomaly_tf.runs.outputs import require_own_place
from anomaly_tf.runs.paths import user_path
from anomaly_tf.runs.region import Region
from anomaly_tf.runs.sections import RoiFacts

FASHION_MNIST, TFDS = "fashion_mnist", "tfds:"
# Value of `data` in the configuration of a run that was trained on arrays of a Python program.
ARRAYS = "arrays"


def open_dataset(config: Config, facts: RoiFacts | None = None) -> ImageDataset:
    """Opens the data set of a run's configuration, at the configured size.

    Args:
        config: The configuration.
        facts: The regions that the run was trained with, if there is a run; its own copy of a mask
            replaces one that is missing.

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
            return load_folder(folder, config, facts)
        require_own_place("--data-dir", Path(config.data_dir), {}, [folder])
    region = None
    if config.roi is not None:
        region = kept_region(config.roi, facts)
        region = region or open_mask(config.roi, f"the images of {config.data}")
    return load_dataset(config.data, Path(config.data_dir), config.size, region)


def load_dataset(
    source: str,
    data_dir: Path,
    size: tuple[int, int] | None = None,
    region: Region | None = None,
) -> ImageDataset:
    """Loads a data set of arrays.

    Args:
        source: `fashion_mnist`; `tfds:NAME`, a set of TensorFlow Datasets; an `.npz` file of
            arrays; or a folder that holds the four IDX files of an MNIST-like set.
        data_dir: Folder in which Fashion-MNIST is cached; created when needed.
        size: Height and width to which every image is resized, by Pillow's bilinear filter; None
            keeps the original size.
        region: The pixels that count, in the original size; None: all.

    Raises:
        UserError: If the data set cannot be found or has the wrong content.
    """
    path = user_path(source)
    data_dir = user_path(data_dir)
    if source.startswith(TFDS):
        return with_region(load_tfds(source.removeprefix(TFDS), size, region), region)
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
    return fitted(dataset, size, region)


def known_class_names(source: str) -> tuple[str, ...] | None:
    """Class names of a data set that are known without loading it, else None."""
    return FASHION_MNIST_CLASSES if source == FASHION_MNIST else None


def fitted(
    dataset: ImageDataset, size: tuple[int, int] | None, region: Region | None
) -> ImageDataset:
    """Resizes the images of a data set of arrays, and blanks what lies outside of a region.

    Args:
        dataset: The data set.
        size: Height and width; None keeps the size.
        region: The pixels that count, in the original size; None: all.

    Raises:
        RegionError: If the region has another size than the images.
    """
    images = dataset.train.images
    shape = (*(size or images.shape[1:3]), images.shape[-1])
    if region is None and images.shape[1:] == shape:
        return dataset

    def fit(part: ImageSet) -> ImageSet:
        new = np.empty((len(part), *shape), np.uint8)
        for number, image in enumerate(part.images[:]):
            new[number] = fit_array(image, shape, region)
        return dataclasses.replace(part, images=new)

    sets = fit(dataset.train), fit(dataset.test)
    return with_region(dataclasses.replace(dataset, train=sets[0], test=sets[1]), region)


def with_region(dataset: ImageDataset, region: Region | None) -> ImageDataset:
    """Names the region of blanked images, also in the report."""
    if region is None:
        return dataset
    reading = dataclasses.replace(dataset.reading, roi=region)
    return dataclasses.replace(
        dataset, reading=reading, report=(*dataset.report, *describe(region))
    )
