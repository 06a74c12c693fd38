"""Masks of anomalies: paired with their images, checked, read and chosen for comparison."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_tf.config import Config
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.images import UnreadableImage, open_image, read_header
from anomaly_tf.data.split import Split

# Normal images, and images with a mask, of which every pixel is compared.
MAX_COMPARED = 1000


@dataclass(frozen=True)
class MaskedImages:
    """Test images and their masks.

    Attributes:
        part: First normal images, then images with a mask.
        masks: bool `(N, H, W)`, True where an anomaly is; False everywhere without a mask.
        n_normal: How many come first because they are normal.
    """

    part: LabelledImages
    masks: np.ndarray
    n_normal: int


def masked_images(split: Split, config: Config, image_shape: tuple[int, int, int]) -> MaskedImages:
    """Reads the masks of a test set, with the images to compare an error map on.

    Anomalies without a mask are left out. Of the normal images, and of those with a mask, at most
    `MAX_COMPARED` are drawn.

    Args:
        split: The sets of a run whose data is a folder.
        config: The folder and the seed.
        image_shape: Height, width and channels of the detector's images.
    """
    test, masks = split.test, split.masks
    marked = np.array([number for number, file in enumerate(test.files) if file in masks], int)
    random = np.random.default_rng(config.seed)
    normal, marked = (
        np.sort(random.permutation(numbers)[:MAX_COMPARED])
        for numbers in (np.flatnonzero(test.labels == 0), marked)
    )
    numbers = np.concatenate([normal, marked])
    files = [masks.get(test.files[number]) for number in numbers]
    truth = read_masks(Path(config.data), files, image_shape)
    return MaskedImages(test.take(numbers), truth, len(normal))


def read_masks(
    folder: Path, files: Sequence[str | None], image_shape: tuple[int, int, int]
) -> np.ndarray:
    """Reads masks at a detector's size: bool `(N, H, W)`, True where an anomaly is.

    Args:
        folder: The folder that the paths start from.
        files: A mask file for each, white where an anomaly is; None gives an empty mask.
        image_shape: Height, width and channels of the images.

    Returns:
        A pixel is True if at least half of the area it covers is white. If no pixel is, the anomaly
        is too thin, and every pixel that it touches is True.
    """
    height, width, _ = image_shape
    masks = np.zeros((len(files), height, width), bool)
    for number, file in enumerate(files):
        if file is not None:
            white = open_image(folder / file).convert("L").point(lambda grey: 255 * (grey > 127))
            share = np.asarray(white.resize((width, height), Image.Resampling.BOX))
            masks[number] = share >= 128 if (share >= 128).any() else share > 0
    return masks


def pair_masks(files: Sequence[str], masks: Sequence[str], divided: bool) -> dict[str, str]:
    """Pairs images with masks of the same name.

    Args:
        files: Image files of anomaly classes.
        masks: Mask files, `ground_truth/<class>/<image's name>[_mask].<any suffix>`.
        divided: Whether the image files lie below `train/` and `test/`.

    Returns:
        Image file to mask file.
    """
    by_name = {}
    for mask in masks:
        stem = os.path.splitext(mask.split(os.sep, 1)[1])[0]
        by_name[stem.removesuffix("_mask")] = mask
    pairs = {}
    for file in files:
        inside = file.split(os.sep, 1)[1] if divided else file
        stem = os.path.splitext(inside)[0]
        if stem in by_name:
            pairs[file] = by_name[stem]
    return pairs


def check_masks(
    folder: Path, masks: Mapping[str, str], readable: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Checks that masks can be read and have the size of their images.

    Args:
        folder: The folder that the paths start from.
        masks: Image file to mask file.
        readable: Image files that can be read; the masks of others are ignored.

    Returns:
        Image file to mask file where it can be used, and mask file to the reason where not.
    """
    usable, wrong = {}, {}
    for file, mask in masks.items():
        if file not in readable:
            continue
        try:
            size = read_header(folder / mask)[:2]
            image_size = read_header(folder / file)[:2]
            open_image(folder / mask)
        except UnreadableImage as error:
            wrong[mask] = str(error)
            continue
        if size == image_size:
            usable[file] = mask
        else:
            wrong[mask] = (
                f"{folder / mask} is {size[0]}x{size[1]}, its image {image_size[0]}x{image_size[1]}"
            )
    return usable, wrong
