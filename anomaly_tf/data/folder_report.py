"""The report on a folder of images: one line for each finding."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data.duplicates import Duplicates
from anomaly_tf.data.folder_layout import TEST, TRAIN
from anomaly_tf.data.folder_reading import Scan
from anomaly_tf.data.stored import Images, StoredImages
from anomaly_tf.script import shortened

# Beginnings of the lines on files that were left out.
LEFT_OUT = ("left out: ", "skipped: ")
# Sizes, reasons and classes that are listed; further ones are only counted.
MAX_SHOWN, MAX_CLASSES_SHOWN = 3, 12
# How many times smaller the most frequent size has to become for a warning about small defects.
MAX_SHRINKING = 8


def counts(names: tuple[str, ...], classes: np.ndarray, in_test: np.ndarray) -> list[str]:
    """The number of images of each class, in one line for each set."""

    def count(chosen: np.ndarray) -> str:
        numbers = np.bincount(classes[chosen], minlength=len(names))
        shown = [f"{name} {number}" for name, number in zip(names, numbers, strict=True) if number]
        return shortened(shown, MAX_CLASSES_SHOWN)

    if not in_test.any():
        return [f"images: {count(~in_test)}"]
    return [f"images in {TRAIN}/: {count(~in_test)}", f"images in {TEST}/: {count(in_test)}"]


def sizes(scan: Scan) -> str:
    """The most frequent sizes and the colours of the files."""
    shown = ", ".join(
        f"{width}x{height} ({count})" for width, height, count in scan.sizes[:MAX_SHOWN]
    )
    if len(scan.sizes) > MAX_SHOWN:
        shown += f" and {len(scan.sizes) - MAX_SHOWN} other sizes"
    count = sum(count for _, _, count in scan.sizes)
    grey = scan.n_grayscale
    colours = {0: "colour", count: "grayscale"}.get(grey, f"{grey} grayscale, the rest colour")
    return f"width x height: {shown}; {colours}"


def skipped(broken: dict[str, str]) -> list[str]:
    """The number of unreadable files and the first reasons; no line if there are none."""
    return [f"skipped: {_several(broken, 'unreadable file')}"] if broken else []


def duplicates(found: Duplicates, files: Sequence[str]) -> list[str]:
    """Images in both sets, copies that were left out, and images in two classes."""
    lines = []
    if found.leaked:
        first = " and ".join(files[number] for number in found.leaked[0][:2])
        lines.append(
            f"WARNING: {found.n_leaked} test images are also among the training images ({first}, "
            "...): metrics on the test set will look better than they are"
        )
    if found.n_copies:
        lines.append(f"left out: {found.n_copies} copies of other images (same content)")
    if found.contradicting:
        first = " and ".join(files[number] for number in found.contradicting[0][:2])
        count = sum(map(len, found.contradicting))
        lines.append(f"left out: {count} images that are in two classes ({first}, ...)")
    return lines


def masks(found: Collection[str], usable: Collection[str], wrong: dict[str, str]) -> list[str]:
    """The number of masks used, and why others are not; no line if there are none."""
    lines = [f"masks: {len(usable)}"] if found else []
    if wrong:
        lines.append(f"left out: {_several(wrong, 'mask')}")
    return lines


def read_as(scan: Scan, images: Images, config: Config) -> str:
    """The shape to which the images are converted, and where they are kept."""
    height, width, channels = scan.image_shape
    colours = "colour" if channels == 3 else "grayscale"
    size = len(images) * height * width * channels / 1e6
    place = "kept in memory"
    if isinstance(images, StoredImages):
        cached = f"decoded into {config.data_dir}/folders" if config.folder.cache else "not cached"
        place = f"read from disk when needed ({cached})"
    chosen = "as given" if config.size else "chosen from the data"
    return f"read as {height}x{width} (height x width, {chosen}), {colours}; {place}, {size:.0f} MB"


def shrunk(scan: Scan) -> list[str]:
    """What is lost where large pictures become small; no line where little is."""
    (width, height, _), *_ = scan.sizes
    factor = max(width, height) / max(scan.image_shape[:2])
    if factor < MAX_SHRINKING:
        return []
    return [
        f"note: pictures of {width}x{height} become {factor:.0f} times smaller, and defects below "
        f"{factor:.0f} pixels disappear; to keep them, cut the pictures into tiles (--tile 256), "
        "crop to the part, or give a larger --image-size"
    ]


def _several(reasons: dict[str, str], what: str) -> str:
    shown = "; ".join(list(reasons.values())[:MAX_SHOWN])
    more = f"; and {len(reasons) - MAX_SHOWN} more" if len(reasons) > MAX_SHOWN else ""
    return f"{len(reasons)} {what}{'s' * (len(reasons) > 1)} ({shown}{more})"
