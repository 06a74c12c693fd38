"""Masks of anomalies: paired with their images, checked, and read for pixel metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data.decoding import UnreadableImage
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.images import AS_USUAL, Reading, read_header, read_levels
from anomaly_tf.data.mask_rules import looks_like_image, marked, marked_levels
from anomaly_tf.data.split import Split
from anomaly_tf.runs.limits import count_within
from anomaly_tf.runs.region import area_share

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
            share = area_share(marked(folder / file, reading)[0], height, width)
            masks[number] = share >= 128 if (share >= 128).any() else share > 0
    return masks


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
            where, by = marked_levels(levels)
        except UnreadableImage as error:
            wrong[mask] = str(error)
            continue
        if size != image_size:
            wrong[mask] = (
                f"{folder / mask} is {size[0]}x{size[1]}, its image {image_size[0]}x{image_size[1]}"
            )
        elif not where.any():
            wrong[mask] = f"{folder / mask} marks nothing"
        elif looks_like_image(levels):
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
