"""Data sets of the Python API: arrays of images, or lists of image files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.config import SMALLEST_SIDE, Config
from anomaly_tf.data.arrays import checked_images, checked_labels, dark_images, numbered
from anomaly_tf.data.contents import facts_of, own_images, roles_of
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.folder_layout import Layout
from anomaly_tf.data.folders import load_layout
from anomaly_tf.data.image_set import ImageSet, LabelledImages
from anomaly_tf.data.npz import load_npz
from anomaly_tf.data.roi import open_mask
from anomaly_tf.data.roles import ANOMALY_NAMES, NORMAL_NAMES, Roles
from anomaly_tf.data.sources import ARRAYS, fitted
from anomaly_tf.data.split import Split
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.runs.paths import user_path

# Class names for labels 0 and 1.
NORMAL, ANOMALY = "normal", "anomaly"
assert NORMAL in NORMAL_NAMES
assert ANOMALY in ANOMALY_NAMES


def dataset_of_arrays(images: np.ndarray, labels: Any, config: Config) -> ImageDataset:
    """Creates a data set from arrays, without a test set.

    Args:
        images: uint8 `(N, H, W)` or `(N, H, W, C)` with C 1 or 3.
        labels: A label for each image: 0 for normal and 1 for anomaly, or the names or numbers of
            classes. None means that all images are normal.
        config: The size to which images are resized, and the mask of the region that counts, if
            they are set.

    Raises:
        UserError: If images or labels have another type or shape.
    """
    images = checked_images("images", images, "give")
    if config.size is None and min(images.shape[1:3]) < SMALLEST_SIDE:
        raise UserError(
            f"images must be at least {SMALLEST_SIDE} pixels high and wide; got "
            f"{images.shape[1]}x{images.shape[2]}; give larger ones or --image-size {SMALLEST_SIDE}"
        )
    names, classes = _classes(labels, len(images))
    part = ImageSet(images, classes)
    report = dark_images(images)
    dataset = ImageDataset(ARRAYS, part, part.take(slice(0)), names, report=report)
    region = None if config.roi is None else open_mask(config.roi, "arrays")
    return fitted(dataset, config.size, region)


def dataset_of_files(files: Sequence[str | Path], labels: Any, config: Config) -> ImageDataset:
    """Creates a data set from image files, without a test set; its name is their common folder.

    Args:
        files: At least one file, in any folders.
        labels: As for `dataset_of_arrays`.
        config: Image size, storage and the allowed share of unreadable files.

    Raises:
        UserError: If there are no files, too many are unreadable, or the labels are wrong.
    """
    paths = [Path(os.path.abspath(user_path(file))) for file in files]
    if not paths:
        raise UserError("the list of files is empty; give at least one image file")
    names, classes = _classes(labels, len(paths))
    first: dict[Path, int] = {}
    for number, path in enumerate(paths):
        if classes[first.setdefault(path, number)] != classes[number]:
            raise UserError(f"{path} is in the list with two labels; give each file once")
    left_out: tuple[str, ...] = ()
    if repeated := len(paths) - len(first):
        left_out = (f"left out: {repeated} files that are in the list before",)
        paths, classes = [*first], classes[[*first.values()]]
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    inside = [path.relative_to(folder).as_posix() for path in paths]
    words = f"{len(paths)} files"
    return load_layout(
        folder,
        Layout(words, inside, classes, np.zeros(len(paths), bool), names, {}, left_out=left_out),
        config,
    )


def save_validation(split: Split, dataset: ImageDataset, path: Path) -> None:
    """Writes the validation set as `.npz`; it is needed for later exports of the run."""
    part = own_images(split.validation, len(dataset.class_names))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=part.images[:], labels=part.classes)


def open_validation(path: Path, info: DetectorInfo) -> Split:
    """The sets of a run that was trained on arrays; only the validation set is not empty.

    Args:
        path: The file that `save_validation` wrote.
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
    # The run's own copy of the mask, because its images are its own.
    region = info.roi.region if info.roi else None
    split = Split(nothing, validation, nothing, roles, names, roi=region)
    if info.data and facts_of(split, len(names), {}).validation != info.data.validation:
        raise UserError(f"{path} is not the validation set of the run; restore it or train again")
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
