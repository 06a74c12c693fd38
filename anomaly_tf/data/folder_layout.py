"""Recognises the layout of a folder of images by the names of its files and subfolders.

Only files that may be masks by their names are opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomaly_tf.data.images import AS_USUAL, Reading
from anomaly_tf.data.mask_files import set_masks_apart
from anomaly_tf.data.mask_rules import pair_masks
from anomaly_tf.data.roles import ANOMALY_NAMES, NORMAL_NAMES
from anomaly_tf.data.search import LeftOut, Search
from anomaly_tf.errors import UserError
from anomaly_tf.script import shortened

TRAIN, TEST, MASKS = "train", "test", "ground_truth"
SET_NAMES = (TRAIN, TEST, "training", "testing", "val", "valid", "validation")
# Reasons for which files are left out; {s} is the plural ending.
BESIDE = f"image{{s}} beside {TRAIN}/ and {TEST}/"
UNPAIRED = (
    f"mask{{s}} that match no image of an anomaly; name them {MASKS}/<class>/<image>_mask.png"
)
UNUSED = "mask{s} that the run does not use: no image of an anomaly has the same name"
IN_NO_SET = (
    "image{s} in no set of the run: of classes that its protocol does not use, copies, unreadable, "
    "or added since training"
)
# Class folders that are named in the description of the layout.
MAX_NAMED = 3


@dataclass(frozen=True)
class Layout:
    """The content of a folder, known from its names only.

    Attributes:
        words: Description of the layout.
        files: Paths of the image files inside the folder, in order.
        classes: int16 `(N,)`, class of each file.
        in_test: bool `(N,)`, whether each file is in `test/`.
        class_names: Name of each class number.
        masks: Image file to its mask file.
        notes: Further findings, for the report.
        left_out: Files that are left out, for the report.
    """

    words: str
    files: list[str]
    classes: np.ndarray
    in_test: np.ndarray
    class_names: tuple[str, ...]
    masks: dict[str, str]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def recognise(folder: Path, reading: Reading = AS_USUAL) -> Layout:
    """Recognises the layout of a folder by its names; `folders.py` lists the layouts.

    Args:
        folder: The folder.
        reading: How files are read whose names leave open whether they are masks.

    Raises:
        UserError: If images lie both beside and in subfolders, or there is a `test/` without a
            `train/`.
    """
    files, images, masks, notes, left_out = _search(folder, reading)
    tops = {_top(file).lower() for file in files}
    divided = TRAIN in tops
    if TEST in tops and not divided:
        raise UserError(f"{folder} has a {TEST}/ and no {TRAIN}/ beside it; add or rename one")
    if divided:
        for file in images:
            if _top(file).lower() not in (TRAIN, TEST):
                left_out.add(BESIDE, folder / file)
        images = [file for file in images if _top(file).lower() in (TRAIN, TEST)]
    names = [_class_of(file, divided) for file in images]
    _refuse_mixture(folder, images, names, divided)
    _refuse_classes_below(folder, images, divided)
    # Images without a class folder belong to the normal class beside them, if there is one.
    known = [name for name in dict.fromkeys(names) if name and name.lower() in NORMAL_NAMES]
    names = [name or (known[0] if known else NORMAL_NAMES[0]) for name in names]
    class_names = tuple(sorted(set(names), key=_natural))
    numbers = {name: number for number, name in enumerate(class_names)}
    in_test = np.array([divided and _top(file).lower() == TEST for file in images], bool)
    by_kind: tuple[list[str], list[str]] = [], []
    for file, name in zip(images, names, strict=True):
        by_kind[name.lower() in NORMAL_NAMES].append(file)
    pairs = pair_masks(by_kind[0], masks, divided, by_kind[1])
    _count_unused(folder, masks, pairs.values(), UNPAIRED, left_out)
    return Layout(
        _words(class_names, bool(known), divided, bool(in_test.any())),
        images,
        np.array([numbers[name] for name in names], np.int16),
        in_test,
        class_names,
        pairs,
        tuple(notes),
        tuple(left_out.lines()),
    )


def left_out_of(
    folder: Path, in_sets: Collection[str], masks: Collection[str], reading: Reading
) -> tuple[str, ...]:
    """Lines on the files of a folder that a run does not use, counted by reason.

    Args:
        folder: The folder in its current state.
        in_sets: Files of the run's sets.
        masks: Mask files that the run uses.
        reading: How the run's files are read.
    """
    _, images, truth, _, left_out = _search(folder, reading)
    _count_unused(folder, truth, masks, UNUSED, left_out)
    known = {*in_sets, *truth}
    for file in images:
        if file not in known:
            left_out.add(IN_NO_SET, folder / file)
    return tuple(left_out.lines())


class _Found(NamedTuple):
    """The content of a folder: all image files, divided into images and masks, and notes."""

    files: list[str]
    images: list[str]
    masks: list[str]
    notes: list[str]
    left_out: LeftOut


def _search(folder: Path, reading: Reading) -> _Found:
    search = Search()
    files = search.images_below(folder)
    beside = [file for file in files if _top(file).lower() != MASKS]
    images, masks, notes = set_masks_apart(folder, beside, reading)
    masks = [file for file in files if _top(file).lower() == MASKS] + masks
    return _Found(files, images, masks, notes, search.left_out)


def _count_unused(
    folder: Path, masks: Sequence[str], used: Collection[str], reason: str, left_out: LeftOut
) -> None:
    for mask in sorted(set(masks) - set(used)):
        left_out.add(reason, folder / mask)


def _top(file: str) -> str:
    """The first folder of a path; empty if it has none."""
    return file.split(os.sep, 1)[0] if os.sep in file else ""


def _class_of(file: str, divided: bool) -> str:
    """The class folder of a file; empty if it is in none."""
    folders = file.split(os.sep)[:-1]
    return (folders[divided:] or [""])[0]


def _refuse_mixture(
    folder: Path, files: Sequence[str], names: Sequence[str], divided: bool
) -> None:
    """Refuses images that lie beside class folders with images."""
    places: dict[str, set[str]] = {}
    for file, name in zip(files, names, strict=True):
        places.setdefault(_top(file) if divided else "", set()).add(name)
    for place, found in places.items():
        if "" in found and len(found) > 1:
            classes = ", ".join(f"{name}/" for name in sorted(found) if name)
            raise UserError(
                f"{folder / place} holds images beside folders of images ({classes}); move them "
                "into a separate folder, such as normal/"
            )


def _refuse_classes_below(folder: Path, files: Sequence[str], divided: bool) -> None:
    """Refuses folders with the name of a class or a set inside the folder of another class."""
    for parts in dict.fromkeys(tuple(file.split(os.sep)[divided:-1]) for file in files):
        for place, name in enumerate(parts[1:], 1):
            if name.lower() in SET_NAMES or _says_other_class(name.lower(), parts[0].lower()):
                above = folder.joinpath(*parts[:place])
                raise UserError(
                    f"{name}/ has the name of a class or a set and lies below {parts[0]}/, so that "
                    f"its images would count as {parts[0]}; give --data {above}, or move each "
                    f"class into a folder directly below {folder}"
                )


def _says_other_class(name: str, class_name: str) -> bool:
    """True if a name means normal or anomaly, and the class's name does not mean the same."""
    return any(name in words and class_name not in words for words in (NORMAL_NAMES, ANOMALY_NAMES))


def _words(class_names: tuple[str, ...], known: bool, divided: bool, has_test: bool) -> str:
    """Describes a layout; `known` is True if a class folder is normal by its name."""
    folders = [f"{name}/" for name in class_names]
    words = f"images in {shortened(folders, MAX_NAMED, 'folders')}"
    if len(class_names) == 1 and not known:
        words = "images without class folders"
    if divided:
        words = f"{TRAIN}/ and {TEST}/ with {words}" if has_test else f"{TRAIN}/ with {words}"
    return words if has_test else f"{words}; no test set"


def _natural(name: str) -> list[Any]:
    """A sort key that sorts class 10 after class 9."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
