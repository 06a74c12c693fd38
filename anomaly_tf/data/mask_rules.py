"""Masks: the pixels that they mark, and the images that they belong to by their names.

Masks mark anomalies (`masks.py`) or regions (`roi.py`). Needs NumPy and Pillow only.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anomaly_tf.data.decoding import UnreadableImage
from anomaly_tf.data.images import AS_USUAL, Levels, Reading, read_levels

# Names of mask folders, in lower case; only the first is one independent of its content.
MASK_NAMES = (
    *("ground_truth", "groundtruth", "gt", "mask", "masks", "annotation", "annotations"),
    *("label", "labels", "segmentation", "segmentations"),
)
# Words at the end of a mask folder's name, after another word.
MASK_WORDS = ("mask", "masks", "ground_truth", "segmentation", "segmentations", "annotations")
# Words that mask files add to the names of their images, at the end or at the beginning.
MASK_AFFIX = "mask|label|gt|ground[ _-]?truth|seg|segmentation|annotation"
NAME_OF_MASK = re.compile(
    rf"(?P<image>.+)[ _.-](?:{MASK_AFFIX})|(?:{MASK_AFFIX})[ _.-](?P<image_behind>.+)",
    re.IGNORECASE | re.DOTALL,
)
# Largest number of levels of a mask, and the change of a level by a lossy format.
MAX_LEVELS, MAX_NOISE = 16, 32


def marked(path: Path, reading: Reading = AS_USUAL) -> tuple[np.ndarray, str]:
    """The pixels that a mask marks, bool `(H, W)`, and the rule for it, in words.

    The background is black or transparent. White pixels are marked (above 127, because edges may be
    smooth). In a mask without white pixels, all pixels that are not black are marked: values 0 and
    1, or numbers of kinds.

    Raises:
        UnreadableImage: If the file cannot be read.
    """
    return marked_levels(read_levels(path, reading))


def marked_levels(levels: Levels) -> tuple[np.ndarray, str]:
    """As `marked`, of a mask that is already read."""
    values, kind, is_lossy = levels
    limit = MAX_NOISE if is_lossy else 0
    if values.dtype == np.uint8 and values.max() > 127:
        limit = 127
    return values > limit, f"{kind} above {limit}"


def looks_like_mask(path: Path, reading: Reading = AS_USUAL) -> bool | None:
    """True if an image has as few levels as a mask; None if it is unreadable."""
    try:
        values, _, is_lossy = read_levels(path, reading)
    except UnreadableImage:
        return None
    if not is_lossy:
        return len(np.unique(values)) <= MAX_LEVELS
    return _share_of_extremes(values) >= 0.95


def looks_like_image(levels: Levels) -> bool:
    """True if a mask has more levels between its extremes than smooth edges give."""
    values = levels.values
    return len(np.unique(values)) > MAX_LEVELS and _share_of_extremes(values) < 0.8


def _share_of_extremes(values: np.ndarray) -> float:
    """Share of the pixels with nearly the darkest or the brightest level."""
    noise = MAX_NOISE if values.dtype == np.uint8 else MAX_NOISE / 255 * np.ptp(values)
    values = values.astype(np.float64)
    distance = np.minimum(values - values.min(), values.max() - values)
    return float(np.mean(distance <= noise))


def pair_masks(
    files: Sequence[str], masks: Sequence[str], divided: bool, normal: Sequence[str] = ()
) -> dict[str, str]:
    """Pairs images with masks of the same name.

    Args:
        files: Image files of anomaly classes.
        masks: Mask files, `ground_truth/<class>/<image's name>[_mask].<any suffix>`, or as
            `mask_files.py` finds them. Without a class folder, the name must be unique among the
            images and among the masks.
        divided: Whether the image files are in `train/` and `test/`.
        normal: Image files of normal classes, which need no mask.

    Returns:
        Image file to mask file.
    """
    by_place: dict[str, str] = {}
    by_name: dict[str, list[str]] = {}
    for is_own_name in (True, False):  # a mask with the image's own name comes first
        for mask in masks:
            *folders, name = mask.split(os.sep)
            if divided and folders[0].lower() in ("train", "test"):
                del folders[0]
            kept = [folder for folder in folders if not is_mask_folder(folder)]
            stem = os.path.splitext(name)[0]
            if is_own_name or image_of(stem) != stem:
                stem = stem if is_own_name else image_of(stem)
                by_place.setdefault(os.path.join(*kept, stem), mask)
                by_name.setdefault(stem, []).append(mask)
    alike = Counter(os.path.splitext(os.path.basename(file))[0] for file in (*files, *normal))
    pairs = {}
    for file in files:
        inside = file.split(os.sep, 1)[1] if divided else file
        place, stem = os.path.splitext(inside)[0], os.path.splitext(os.path.basename(inside))[0]
        if place in by_place:
            pairs[file] = by_place[place]
        elif alike[stem] == 1 and len(by_name.get(stem, ())) == 1:
            pairs[file] = by_name[stem][0]
    return pairs


def is_mask_folder(name: str) -> bool:
    """True if a folder's name is one for masks."""
    plain = re.sub(r"\W", "_", name.lower())
    return plain in MASK_NAMES or plain.endswith(tuple(f"_{word}" for word in MASK_WORDS))


def image_of(stem: str) -> str:
    """The name of an image from the name of its mask, both without suffix."""
    found = NAME_OF_MASK.fullmatch(stem)
    return (found["image"] or found["image_behind"]) if found else stem
