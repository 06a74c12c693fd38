"""Loads a folder of images as a data set, with a report of how it was read.

| layout | read as |
|---|---|
| images, in the folder itself or in one subfolder | all normal |
| a subfolder for each class, such as `normal/` and `anomaly/` | classes by those names |
| `train/` and `test/`, each as one of the above | the division is kept |
| with `ground_truth/<class>/<name>_mask.png` (MVTec AD) | masks of the anomalies |

Without a `test/`, a test set is split off when a run divides the data (`protocols.py`).
`folder_layout.py` recognises the layout, `folder_reading.py` reads the files, `folder_report.py`
describes what was found.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data import folder_report as report
from anomaly_tf.data.arrays import dark_images
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.duplicates import find_duplicates
from anomaly_tf.data.folder_layout import Layout, recognise
from anomaly_tf.data.folder_reading import (
    CACHES,
    Scan,
    read_folder,
    reading_asked,
    reading_of,
)
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.masks import check_masks
from anomaly_tf.data.roi import RegionFolder, Roi, describe, insides, regions_of, require_outside
from anomaly_tf.data.roles import ANOMALY_NAMES
from anomaly_tf.data.search import folders_of, no_images
from anomaly_tf.data.stored import PART_BYTES
from anomaly_tf.errors import UserError
from anomaly_tf.runs.outputs import IsOwn, require_own_place
from anomaly_tf.runs.paths import user_path
from anomaly_tf.runs.sections import RoiFacts

# Images that are checked for darkness.
DARKNESS_SAMPLE = 500


def load_folder(folder: Path, config: Config, facts: RoiFacts | None = None) -> ImageDataset:
    """Loads a folder of images; every file is decoded once, to find the unreadable ones.

    Args:
        folder: A folder with one of the layouts above.
        config: Image size, storage, regions and the allowed share of unreadable files.
        facts: As for `open_dataset`.

    Raises:
        UserError: If the folder has another layout, holds no image, or too many unreadable files.
    """
    folder = user_path(folder)
    if config.roi is not None:
        require_outside(config.roi, folder)
    return load_layout(folder, recognise(folder, reading_asked(config)), config, facts)


def load_layout(
    folder: Path, layout: Layout, config: Config, facts: RoiFacts | None = None
) -> ImageDataset:
    """Loads the files of a layout, as `load_folder` does.

    Args:
        folder: The folder to which the layout's paths are relative.
        layout: Files and classes.
        config: Image size, storage, regions and the allowed share of unreadable files.
        facts: As for `open_dataset`.

    Raises:
        UserError: As `load_folder`.
    """
    read_from = [folder, *folders_of(folder / file for file in layout.files)]
    data_dir = user_path(config.data_dir)
    cache: dict[Path, IsOwn] = {data_dir / CACHES / "any": Path.is_dir}
    require_own_place("--data-dir", data_dir, cache, read_from)
    _require_normal_images(folder, layout, config)
    roi = regions_of(config.roi, folder, layout.files, reading_asked(config), facts)
    if config.protocol == "corruption" and isinstance(roi, RegionFolder):
        raise UserError(
            f"--roi {config.roi} is a folder, and protocol corruption takes one mask for all "
            "pictures; give one"
        )
    images, scan = read_folder(folder, layout, config, roi)
    _require_readable(folder, layout, scan, config)
    good = np.array([file not in scan.broken for file in layout.files])
    files = tuple(file for file in layout.files if file not in scan.broken)
    readable = ImageSet(images, layout.classes[good], files)
    in_test = layout.in_test[good]
    found = find_duplicates(scan.digests, readable.classes, in_test)
    masks = check_masks(folder, layout.masks, set(files), reading_asked(config))
    lines = [
        f"{folder}: {layout.words}",
        *report.counts(layout.class_names, readable.classes, in_test),
        report.sizes(scan),
        *scan.deep,
        *(describe(roi) if roi else ()),
        *dark_images(_pixels(readable.sample(DARKNESS_SAMPLE, PART_BYTES), roi)),
        *report.skipped(scan.broken),
        *report.duplicates(found, files),
        *report.masks(layout.masks, masks.usable, masks.wrong),
        *masks.lines,
        *layout.notes,
        *layout.left_out,
        report.read_as(scan, images, config),
        *report.shrunk(scan),
    ]
    return ImageDataset(
        str(folder),
        readable.take(found.kept & ~in_test),
        readable.take(found.kept & in_test),
        layout.class_names,
        masks=masks.usable,
        digests=dict(zip(files, scan.file_digests, strict=True)),
        reading=reading_of(scan, config, roi),
        report=tuple(lines),
        left_out=tuple(line for line in lines if line.startswith(report.LEFT_OUT)),
        skipped=tuple(scan.broken.values()),
    )


def _pixels(part: ImageSet, roi: Roi | None) -> np.ndarray:
    """The pixels of images that are not blanked, uint8 `(N, C)`."""
    images = part.images[:]
    inside = insides(roi, part.files, *images.shape[1:3])
    return images if inside is None else images[np.broadcast_to(inside, images.shape[:3])]


def _require_normal_images(folder: Path, layout: Layout, config: Config) -> None:
    """Refuses a folder without images, or with class names for anomalies only."""
    if not layout.files:
        raise no_images(folder)
    if config.normal_class is None and {n.lower() for n in layout.class_names} <= ANOMALY_NAMES:
        raise UserError(
            f"{folder} holds only anomalies by the names of its folders "
            f"({', '.join(layout.class_names)}); add a folder of normal images, or name the normal "
            "class with --normal-class"
        )


def _require_readable(folder: Path, layout: Layout, scan: Scan, config: Config) -> None:
    """Refuses a folder in which no file, or too few, can be read."""
    if len(scan.broken) == len(layout.files):
        first = next(iter(scan.broken.values()))
        raise UserError(f"no image in {folder} can be read; first: {first}")
    if len(scan.broken) > config.max_broken * len(layout.files):
        first = next(iter(scan.broken.values()))
        raise UserError(
            f"{len(scan.broken)} of {len(layout.files)} files in {folder} cannot be read, more "
            f"than --max-broken {config.max_broken:g} allows; first: {first}"
        )
