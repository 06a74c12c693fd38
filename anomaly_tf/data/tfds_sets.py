"""Data sets of TensorFlow Datasets (TFDS) with one class per image."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.data.arrays import MAX_CLASSES, dark_images, fit_array, in_one_order
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.errors import UserError
from anomaly_tf.reachability import Unreachable, probe
from anomaly_tf.runs.region import Region

# TFDS retries an unreachable host for minutes, so a small file of the same host is probed first.
TFDS_PROBE = "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz"

# Without a namespace, which would download and import code, and without options of a builder.
NAME = r"\w+(/[\w.-]+){0,2}(:[\d*][\d.*]*)?"


def load_tfds(
    name: str, size: tuple[int, int] | None = None, region: Region | None = None
) -> ImageDataset:
    """Loads a data set of TensorFlow Datasets with the features `image` and `label`.

    A data set prepared in `tfds_folder` is read without a network; TFDS downloads any other.

    Args:
        name: Its name in TFDS: `mnist`, `cifar10`, `plant_village`, `name/config:version`.
        size: Height and width that every image is resized to; may be None if all have one size.
        region: The pixels that count, in the original size; None: all.

    Returns:
        Splits `train` and `test`, both in a fixed order although TFDS shuffles; `test` is empty if
        TFDS has none. Images without a class (label -1) are left out. Classes are int16.

    Raises:
        UserError: If the data set does not exist, its images are not 8-bit grey or colour images
            with one class each, sizes vary and `size` is None, or it can be neither read nor
            downloaded.
    """
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"tfds:{name} is not a name of TFDS's own data sets; give NAME, NAME/CONFIG or "
            "NAME/CONFIG:VERSION, without a namespace"
        )
    with _tfds_errors(name):
        builder = _tfds_builder(name)
        shape = _tfds_image_shape(name, builder.info.features, size)
        if not builder.is_prepared():
            probe(TFDS_PROBE)
            builder.download_and_prepare()
        # Some builders have their class names only after preparation.
        class_names = builder.info.features["label"].names
        if "train" not in builder.info.splits or not 0 < len(class_names or ()) <= MAX_CLASSES:
            raise UserError(
                f"tfds:{name} must have a split 'train' and up to {MAX_CLASSES} named classes; "
                f"got splits {', '.join(builder.info.splits)} and {len(class_names or ())} names; "
                "choose another data set"
            )
        train = _read_tfds_split(builder, "train", shape, region)
        has_test = "test" in builder.info.splits
        test = (
            _read_tfds_split(builder, "test", shape, region) if has_test else train.take(slice(0))
        )
    used = ("train", "test") if has_test else ("train",)
    examples = sum(builder.info.splits[split].num_examples for split in used)
    unlabelled, splits = examples - len(train) - len(test), set(builder.info.splits) - set(used)
    lines = []
    if unlabelled:
        lines.append(f"left out: {unlabelled} images without a class")
    if splits:
        lines.append(f"left out: splits that are not read ({', '.join(sorted(splits))})")
    left_out = tuple(lines)
    report = (*(dark_images(train.images[:], test.images[:]) if len(train) else ()), *left_out)
    names = tuple(class_names)
    return ImageDataset(f"tfds:{name}", train, test, names, report=report, left_out=left_out)


def tfds_folder() -> Path:
    """The folder of TFDS's data sets: TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


@contextmanager
def _tfds_errors(name: str) -> Iterator[None]:
    """Converts the exceptions of TFDS and its back ends into a `UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except Unreachable as error:
        raise UserError(
            f"tfds:{name} is not prepared in {tfds_folder()}, and {error}; connect to the "
            "internet, or set TFDS_DATA_DIR to the folder that holds it"
        ) from error
    except Exception as error:
        raise UserError(
            f"tfds:{name} cannot be read: {type(error).__name__}: {error}".splitlines()[0]
        ) from error


def _tfds_builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=tfds_folder(), try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], known, 1)
        hint = f"did you mean tfds:{near[0]}?" if near else "see tensorflow.org/datasets/catalog"
        raise UserError(
            f"TFDS has no data set {name!r}, nor is one in {tfds_folder()}; {hint}"
        ) from error


def _tfds_image_shape(
    name: str, features: Any, wanted: tuple[int, int] | None
) -> tuple[int, int, int]:
    """Checks the features and returns the shape to which the images are resized."""
    import tensorflow_datasets as tfds

    if not {"image", "label"} <= set(features) or not isinstance(
        features["label"], tfds.features.ClassLabel
    ):
        raise UserError(
            f"tfds:{name} must have the features 'image' and 'label' (a class); "
            f"got {', '.join(features)}; choose another data set"
        )
    image = features["image"]
    shape = image.shape
    if len(shape) != 3 or shape[-1] not in (1, 3) or image.np_dtype != np.uint8:
        raise UserError(
            f"tfds:{name} must have 8-bit images of 1 or 3 channels; got {image.np_dtype} "
            f"{tuple(shape)}; choose another data set"
        )
    if wanted is None and None in shape:
        raise UserError(
            f"the images of tfds:{name} vary in size; give the size to resize them to with "
            "--image-size"
        )
    return (*(wanted or shape[:2]), shape[-1])


def _read_tfds_split(
    builder: Any, split: str, shape: tuple[int, int, int], region: Region | None
) -> ImageSet:
    import tensorflow_datasets as tfds

    count = builder.info.splits[split].num_examples
    images, classes = np.empty((count, *shape), np.uint8), np.full(count, -1, np.int16)
    examples = builder.as_dataset(split=split, shuffle_files=False)
    for number, example in enumerate(tfds.as_numpy(examples)):
        images[number] = fit_array(example["image"], shape, region)
        classes[number] = example["label"]
    known = classes >= 0
    if not known.all():
        images, classes = images[known], classes[known]
    return in_one_order(ImageSet(images, classes))
