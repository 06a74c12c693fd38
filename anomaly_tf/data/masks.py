"""Masks of anomalies: paired with their images, checked, and read for pixel metrics."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_tf.config import Config
from anomaly_tf.data.decoding import UnreadableImage
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.images import AS_USUAL, Levels, Reading, read_header, read_levels
from anomaly_tf.data.split import Split
from anomaly_tf.runs.limits import count_within

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
# Largest number of normal images, and of images with a mask, for pixel metrics, and their pixels.
MAX_COMPARED, MAX_COMPARED_PIXELS = 1000, 2**26


@dataclass(frozen=True)
class MaskedImages:
    """Test images and their masks.

    Attributes:
        part: The normal images, followed by the images with a mask.
        masks: bool `(N, H, W)`, True where an anomaly is; all False for normal images.
        n_normal: Number of normal images.
    """

    part: LabelledImages
    masks: np.ndarray
    n_normal: int


def masked_images(split: Split, config: Config, size: tuple[int, ...]) -> MaskedImages:
    """Reads the masks of a test set, with the images for pixel metrics.

    Anomalies without a mask are left out. At most `MAX_COMPARED` normal images and as many images
    with a mask are drawn, fewer of large ones.

    Args:
        split: The sets of a run whose data is a folder.
        config: The folder and the seed.
        size: Height and width of the masks.
    """
    count = count_within(MAX_COMPARED_PIXELS, math.prod(size[:2]), MAX_COMPARED)
    test, masks = split.test, split.masks
    pairs = enumerate(zip(test.files, test.labels, strict=True))
    marked = np.array([number for number, (file, label) in pairs if label and file in masks], int)
    random = np.random.default_rng(config.seed)
    normal, marked = (
        np.sort(random.permutation(numbers)[:count])
        for numbers in (np.flatnonzero(test.labels == 0), marked)
    )
    numbers = np.concatenate([normal, marked])
    files = [masks.get(test.files[number]) for number in numbers]
    truth = read_masks(Path(config.data), files, size, Reading(max_pixels=config.max_pixels))
    return MaskedImages(test.take(numbers), truth, len(normal))


def read_masks(
    folder: Path,
    files: Sequence[str | None],
    size: tuple[int, ...],
    reading: Reading = AS_USUAL,
) -> np.ndarray:
    """Reads masks at another size: bool `(N, H, W)`, True where an anomaly is.

    Args:
        folder: The folder to which the paths are relative.
        files: The mask file of each image, see `marked`; None gives an empty mask.
        size: Height and width.
        reading: How the files are read.

    Returns:
        A pixel is True if at least half of its area is marked. If no pixel is, because the anomaly
        is thin, every pixel that it touches is True.
    """
    height, width = size[:2]
    masks = np.zeros((len(files), height, width), bool)
    for number, file in enumerate(files):
        if file is not None:
            white = Image.fromarray(np.uint8(255) * marked(folder / file, reading)[0])
            share = np.asarray(white.resize((width, height), Image.Resampling.BOX))
            masks[number] = share >= 128 if (share >= 128).any() else share > 0
    return masks


def marked(path: Path, reading: Reading = AS_USUAL) -> tuple[np.ndarray, str]:
    """The pixels that a mask marks as anomaly, bool `(H, W)`, and the rule for it, in words.

    The background is black or transparent. White pixels are marked (above 127, because edges may be
    smooth). In a mask without white pixels, all pixels that are not black are marked: values 0 and
    1, or numbers of kinds.

    Raises:
        UnreadableImage: If the file cannot be read.
    """
    return _marked(read_levels(path, reading))


def _marked(levels: Levels) -> tuple[np.ndarray, str]:
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


def _looks_like_image(levels: Levels) -> bool:
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
            `mask_files.py` finds them. Without a class folder, the name must be unique.
        divided: Whether the image files are in `train/` and `test/`.
        normal: Image files of normal classes, which need no mask.

    Returns:
        Image file to mask file.
    """
    by_place, by_name = {}, {}
    for mask in masks:
        *folders, name = mask.split(os.sep)
        if divided and folders[0].lower() in ("train", "test"):
            del folders[0]
        kept = [folder for folder in folders if not is_mask_folder(folder)]
        stem = image_of(os.path.splitext(name)[0])
        by_place[os.path.join(*kept, stem)] = mask
        by_name[stem] = mask
    alike = Counter(os.path.splitext(os.path.basename(file))[0] for file in (*files, *normal))
    pairs = {}
    for file in files:
        inside = file.split(os.sep, 1)[1] if divided else file
        place, stem = os.path.splitext(inside)[0], os.path.splitext(os.path.basename(inside))[0]
        if place in by_place:
            pairs[file] = by_place[place]
        elif alike[stem] == 1 and stem in by_name:
            pairs[file] = by_name[stem]
    return pairs


def is_mask_folder(name: str) -> bool:
    """True if a folder's name is one for masks."""
    plain = re.sub(r"\W", "_", name.lower())
    return plain in MASK_NAMES or plain.endswith(tuple(f"_{word}" for word in MASK_WORDS))


def image_of(stem: str) -> str:
    """The name of an image from the name of its mask, both without suffix."""
    found = NAME_OF_MASK.fullmatch(stem)
    return (found["image"] or found["image_behind"]) if found else stem


@dataclass(frozen=True)
class CheckedMasks:
    """The result of checking mask files.

    Attributes:
        usable: Image file to mask file.
        wrong: Mask file to the reason why it cannot be used.
        lines: Lines for the user on how anomalies are marked, with warnings.
    """

    usable: dict[str, str]
    wrong: dict[str, str]
    lines: list[str]


def check_masks(
    folder: Path, masks: Mapping[str, str], readable: Collection[str], reading: Reading
) -> CheckedMasks:
    """Checks that masks can be read, have the size of their images and mark a part of them.

    Args:
        folder: The folder to which the paths are relative.
        masks: Image file to mask file.
        readable: Image files that can be read; the masks of others are ignored.
        reading: How the files are read.
    """
    usable, wrong = {}, {}
    kinds, large, dim = Counter[str](), [], []
    for file, mask in masks.items():
        if file not in readable:
            continue
        try:
            size = read_header(folder / mask, reading)[:2]
            image_size = read_header(folder / file, reading)[:2]
            levels = read_levels(folder / mask, reading)
            where, by = _marked(levels)
        except UnreadableImage as error:
            wrong[mask] = str(error)
            continue
        if size != image_size:
            wrong[mask] = (
                f"{folder / mask} is {size[0]}x{size[1]}, its image {image_size[0]}x{image_size[1]}"
            )
        elif not where.any():
            wrong[mask] = f"{folder / mask} marks nothing"
        elif _looks_like_image(levels):
            wrong[mask] = f"{folder / mask} looks like an image, not like a mask"
        else:
            usable[file] = mask
            kinds[by] += 1
            large += [mask] * bool(where.mean() > 0.5)
            dim += [mask] * bool((levels.values > 0).sum() > 2 * where.sum())
    lines = []
    if usable:
        found = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
        lines.append(f"masks mark the anomaly by {found}")
    if dim:
        lines.append(
            f"WARNING: {len(dim)} of {len(usable)} masks have more dark grey than white pixels, "
            f"and only white marks the anomaly (first: {dim[0]}); save masks with 0 and 255"
        )
    if large:
        lines.append(
            f"WARNING: {len(large)} of {len(usable)} masks mark more than half of their image "
            f"(first: {large[0]}); if they mark the normal part, invert them"
        )
    return CheckedMasks(usable, wrong, lines)
