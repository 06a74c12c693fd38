"""`split.json` of a run: which file of a folder is in which set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data.corruption_sets import with_corruptions
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.image_set import ImageSet, LabelledImages
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roles import Roles
from anomaly_tf.data.sources import open_dataset
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_checks import read_split
from anomaly_tf.data.stored import ImageFiles, StoredImages
from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import write_json
from anomaly_tf.script import printable

SETS = ("train", "validation", "test")


def save_split(split: Split, dataset: ImageDataset, path: Path) -> None:
    """Writes which file is in which set; writes nothing for arrays, where the seed is enough.

    Args:
        split: With or without synthetic anomalies; they are left out.
        dataset: The data set that was divided.
        path: The file to write.
    """
    if not dataset.is_folder:
        return
    sets: dict[str, Any] = {}
    for name in SETS:
        part: LabelledImages = getattr(split, name)
        own = np.flatnonzero(part.classes < len(dataset.class_names))
        sets[name] = {
            "files": [part.files[number] for number in own],
            "classes": part.classes[own].tolist(),
        }
    content = {
        "folder": dataset.name,
        "image_shape": list(split.train.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "roles": dataclasses.asdict(split.roles),
        "masks": dict(split.masks),
        "skipped": list(dataset.skipped),
        **sets,
    }
    write_json(path, content)


def open_split(config: Config, path: Path) -> Split:
    """The sets of a trained run: from `split.json` or, without it, divided again by the seed.

    Args:
        config: The run's configuration; `data` may name another folder with the same data.
        path: The run's `split.json`, which need not exist.

    Raises:
        UserError: If the data is not there or is not that of the run, or the file is damaged.
    """
    if not path.is_file():
        return make_split(config, open_dataset(config))
    folder = Path(config.data)
    try:
        content = read_split(path)
        height, width, channels = content["image_shape"]
        shape = height, width, channels
        roles = Roles(**{name: tuple(part) for name, part in content["roles"].items()})
        parts = (_image_set(folder, content[name], shape) for name in SETS)
        train, validation, test = (LabelledImages.of(part, roles.normal) for part in parts)
        masks, names = content["masks"], tuple(content["class_names"])
        files = [file for part in (train, validation, test) for file in part.files]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({printable(str(error))}); train again") from error
    gone = [file for file in files if not (folder / file).is_file()]
    if gone:
        raise UserError(
            f"{len(gone)} of the {len(files)} files that the run was made of are not in {folder} "
            f"(first: {gone[0]}); bring them back or give their new place by --data"
        )
    return with_corruptions(Split(train, validation, test, roles, names, masks), config)


def _image_set(folder: Path, part: dict[str, Any], shape: tuple[int, int, int]) -> ImageSet:
    files, classes = tuple(part["files"]), np.array(part["classes"], np.int16)
    if len(files) != len(classes):
        raise ValueError(f"{len(files)} files and {len(classes)} classes")
    images = StoredImages(ImageFiles(folder, files, shape), np.arange(len(files)), shape)
    return ImageSet(images, classes, files)
