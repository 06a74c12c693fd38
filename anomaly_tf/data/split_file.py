"""`split.json` of a run: the files of a folder in each set, with the digests of their content."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data.contents import (
    SETS,
    FileDigests,
    digests_of,
    facts_of,
    file_digests,
    own_images,
    report_not_compared,
    report_other_masks,
    require_same_content,
    require_same_files,
    require_same_kind,
    require_same_protocol,
)
from anomaly_tf.data.corruption_sets import with_corruptions
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.folder_layout import left_out_of
from anomaly_tf.data.given import open_validation, save_validation
from anomaly_tf.data.image_set import ImageSet, LabelledImages
from anomaly_tf.data.images import Reading
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roi import regions_of, require_same_roi
from anomaly_tf.data.roles import Roles, learnt_as_normal
from anomaly_tf.data.search import folders_of
from anomaly_tf.data.sources import ARRAYS, open_dataset
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_checks import read_split
from anomaly_tf.data.stored import ImageFiles, StoredImages
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.files import write_json
from anomaly_tf.script import printable


def save_split(split: Split, dataset: ImageDataset, path: Path) -> None:
    """Writes the files of each set; for arrays given in Python, the validation set itself.

    Writes nothing for other arrays, whose split follows from the seed.

    Args:
        split: The sets; synthetic anomalies are left out.
        dataset: The data set that was divided.
        path: The file to write.
    """
    if dataset.name == ARRAYS:
        save_validation(split, dataset, RunDirectory(path.parent).validation)
    if not dataset.is_folder:
        return
    sets: dict[str, Any] = {}
    for name in SETS:
        part = own_images(getattr(split, name), len(dataset.class_names))
        sets[name] = {
            "files": list(part.files),
            "classes": part.classes.tolist(),
            "digests": [dataset.digests[file] for file in part.files],
        }
    content = {
        "folder": dataset.name,
        "image_shape": list(split.train.images.shape[1:]),
        "bit_depth": dataset.reading.bit_depth,
        "class_names": list(dataset.class_names),
        "roles": dataclasses.asdict(split.roles),
        "masks": dict(split.masks),
        "mask_digests": file_digests(Path(dataset.name), [*split.masks.values()]),
        "skipped": list(dataset.skipped),
        **sets,
    }
    write_json(path, content)


def open_split(config: Config, path: Path, info: DetectorInfo | None = None) -> Split:
    """The sets of a trained run, from `split.json` or, without it, divided again by the seed.

    Args:
        config: The run's configuration; `data` may name another folder with the same data.
        path: The run's `split.json`, which need not exist.
        info: The run's metadata, with which the data is compared (see `contents.py`). Default: the
            metadata beside the file, if there is any.

    Raises:
        UserError: If the data is missing or is not that of the run, or the file is damaged.
    """
    if info is None and RunDirectory(path.parent).holds_detector:
        _, info = open_run(path.parent)
    given = RunDirectory(path.parent).validation
    if info and config.data == ARRAYS and given.is_file():
        return with_corruptions(open_validation(given, info), config)
    if not path.is_file():
        return make_split(config, open_dataset(config, info.roi if info else None), info)
    folder = Path(config.data)
    content = _read(path)
    height, width, channels = content["image_shape"]
    shape = height, width, channels
    # Earlier versions read all 16-bit files with 16 bits.
    reading = Reading(content.get("bit_depth", 16), config.max_pixels)
    roles = Roles(**{name: tuple(part) for name, part in content["roles"].items()})
    own = [file for name in SETS for file in content[name]["files"]]
    roi = regions_of(config.roi, folder, own, reading, info.roi if info else None)
    reading = dataclasses.replace(reading, roi=roi)
    parts = (_image_set(folder, content[name], shape, reading) for name in SETS)
    labelled_normal = learnt_as_normal(config, roles), roles.normal, roles.normal
    train, validation, test = map(LabelledImages.of, parts, labelled_normal)
    masks, names = content["masks"], tuple(content["class_names"])
    known, known_masks = _known_digests(content), content.get("mask_digests")
    files = [*own, *masks.values()]
    gone = [file for file in files if not (folder / file).is_file()]
    if gone:
        raise UserError(
            f"{len(gone)} of the {len(files)} files of the run are not in {folder} "
            f"(first: {gone[0]}); restore them or give their new folder with --data"
        )
    left_out = left_out_of(folder, files, masks.values(), reading)
    split = Split(train, validation, test, roles, names, masks, left_out, roi)
    if info:
        require_same_roi(roi, info.roi, own)
        require_same_protocol(config, info)
        require_same_kind(config.data, info, names, shape)
        if known is None and info.data is None:
            report_not_compared(config.data)
            return with_corruptions(split, config)
        digests = file_digests(folder, files)
        if known is not None:
            require_same_files(config.data, known, digests_of(split, digests))
        if known_masks is not None:
            report_other_masks(known_masks, {mask: digests[mask] for mask in masks.values()})
        require_same_content(config.data, info, facts_of(split, len(names), digests))
    return with_corruptions(split, config)


def require_same_split(path: Path, split: Split, dataset: ImageDataset) -> None:
    """Refuses other files than those of the run, for a run whose only record is `split.json`.

    Args:
        path: The run's `split.json`, which need not exist.
        split: The sets, divided again.
        dataset: The data set that was divided.

    Raises:
        UserError: If the files differ, or `split.json` is damaged.
    """
    if not path.is_file() or not dataset.is_folder:
        return
    known = _known_digests(_read(path))
    if known is not None:
        part = {name: own_images(getattr(split, name), len(dataset.class_names)) for name in SETS}
        now = {name: {f: dataset.digests[f] for f in one.files} for name, one in part.items()}
        require_same_files(dataset.name, known, now)


def folders_read(config: Config, split: Split) -> list[Path]:
    """The folders that hold the images of a run's sets; none if they are not files of a folder."""
    folder = Path(config.data)
    files = [file for name in SETS for file in getattr(split, name).files]
    return [folder, *folders_of(folder / file for file in files)] if files else [folder]


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_split(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({printable(str(error))}); train again") from error


def _known_digests(content: dict[str, Any]) -> FileDigests | None:
    """The files of each set and their digests; None if an earlier version wrote the file."""
    if not all("digests" in content[name] for name in SETS):
        return None
    parts = {name: content[name] for name in SETS}
    return {
        name: dict(zip(part["files"], part["digests"], strict=True)) for name, part in parts.items()
    }


def _image_set(
    folder: Path, part: dict[str, Any], shape: tuple[int, int, int], reading: Reading
) -> ImageSet:
    files, classes = tuple(part["files"]), np.array(part["classes"], np.int16)
    images = StoredImages(ImageFiles(folder, files, shape, reading), np.arange(len(files)), shape)
    return ImageSet(images, classes, files)
