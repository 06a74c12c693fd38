"""Data sets that a Python program gives: arrays of images, or a list of image files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data.arrays import checked_images, checked_labels, dark_images, numbered
from anomaly_tf.data.contents import facts_of, own_images, roles_of
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.folder_layout import Layout
from anomaly_tf.data.folders import load_layout
from anomaly_tf.data.image_set import ImageSet, LabelledImages
from anomaly_tf.data.npz import load_npz
from anomaly_tf.data.roles import ANOMALY_NAMES, NORMAL_NAMES, Roles
from anomaly_tf.data.sources import ARRAYS, resized
from anomaly_tf.data.split import Split
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.runs.paths import user_path

# The names of the classes that labels 0 and 1 stand for.
NORMAL, ANOMALY = "normal", "anomaly"
assert NORMAL in NORMAL_NAMES
assert ANOMALY in ANOMALY_NAMES


def dataset_of_arrays(images: np.ndarray, labels: Any, config: Config) -> ImageDataset:
    """A data set of arrays, without a test set.

    Args:
        images: uint8 `(N, H, W)` or `(N, H, W, C)` with C 1 or 3.
        labels: One for each image: 0 normal, 1 anomaly, or the classes' names or numbers; None: all
            are normal.
        config: The size that images are brought to, if it names one.

    Raises:
        UserError: If they are something else.
    """
    images = checked_images("images", images, "give")
    names, classes = _classes(labels, len(images))
    part = ImageSet(images, classes)
    report = dark_images(images)
    dataset = ImageDataset(ARRAYS, part, part.take(slice(0)), names, report=report)
    return dataset if config.size is None else resized(dataset, config.size)


def dataset_of_files(files: Sequence[str | Path], labels: Any, config: Config) -> ImageDataset:
    """A data set of image files, without a test set; its name is the folder that holds them all.

    Args:
        files: At least one, in any folders.
        labels: As for `dataset_of_arrays`.
        config: Size, storage and how many files may be broken.

    Raises:
        UserError: If there are none, too many cannot be read, or the labels are something else.
    """
    paths = [Path(os.path.abspath(user_path(file))) for file in files]
    if not paths:
        raise UserError("the list of files is empty; give at least one image file")
    names, classes = _classes(labels, len(paths))
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    inside = [path.relative_to(folder).as_posix() for path in paths]
    words = f"{len(paths)} files"
    return load_layout(
        folder, Layout(words, inside, classes, np.zeros(len(paths), bool), names, {}), config
    )


def save_validation(split: Split, dataset: ImageDataset, path: Path) -> None:
    """Writes the validation set, from which the run can be exported later, as `.npz`."""
    part = own_images(split.validation, len(dataset.class_names))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=part.images[:], labels=part.classes)


def open_validation(path: Path, info: DetectorInfo) -> Split:
    """The sets of a run that was trained on arrays: of those it holds the validation set only.

    Args:
        path: What `save_validation` wrote.
        info: The run's metadata.

    Raises:
        UserError: If the file is damaged or belongs to another run.
    """
    stored = load_npz(path)
    names = tuple(info.class_names)
    roles = roles_of(info) or Roles((0,))
    classes = np.array([int(name) for name in stored.class_names], np.int16)[stored.train.classes]
    validation = LabelledImages.of(ImageSet(stored.train.images, classes), roles.normal)
    nothing = validation.take(slice(0))
    split = Split(nothing, validation, nothing, roles, names)
    if info.data and facts_of(split, len(names), {}).validation != info.data.validation:
        raise UserError(
            f"{path} is not the validation set of the run; bring it back or train again"
        )
    return split


def _classes(labels: Any, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes, and the class of each image, int16 `(N,)`."""
    if labels is None:
        return (NORMAL,), np.zeros(count, np.int16)
    checked = checked_labels("labels", np.asarray(labels), count, "give")
    names, (classes,) = numbered("labels", [checked])
    if set(names) <= {"0", "1"} or set(names) <= {"False", "True"}:
        if "0" not in names and "False" not in names:
            raise UserError("labels mark every image as an anomaly (1); give normal images (0) too")
        names = (NORMAL, ANOMALY)[: len(names)]
    return names, classes
