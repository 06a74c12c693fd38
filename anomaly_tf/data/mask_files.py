"""Finds the masks among the image files of a folder, by their names and their content.

| masks | images |
|---|---|
| `ground_truth/crack/1_mask.png` | `test/crack/1.jpg` or `crack/1.jpg` |
| `masks/crack/1.png`, `masks/1.png` | `crack/1.jpg` |
| `crack/mask/1.png` | `crack/1.jpg` |
| `crack/1_label.bmp` | `crack/1.jpg` |

`mask_rules.is_mask_folder` and `mask_rules.image_of` list the other names. All except
`ground_truth` may also be classes, such as images of labels: their files must look like masks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from anomaly_tf.data.images import Reading
from anomaly_tf.data.mask_rules import image_of, is_mask_folder, looks_like_mask
from anomaly_tf.errors import UserError

# Files that are examined per folder with the name of a mask folder.
MAX_EXAMINED = 20
# Files that are examined in other folders whose files have the names of other images.
MAX_DOUBTED = 4


def set_masks_apart(
    folder: Path, images: Sequence[str], reading: Reading
) -> tuple[list[str], list[str], list[str]]:
    """Separates masks from images.

    Args:
        folder: The folder to which the paths are relative.
        images: Paths of the image files, without those in `ground_truth/`.
        reading: How the files are read.

    Returns:
        Images, masks, and a line for the user on each folder that may hold masks.

    Raises:
        UserError: If a folder holds both files that look like masks and files that do not.
    """
    stems = {os.path.splitext(file)[0] for file in images}
    places: dict[str, list[str]] = {}
    for file in images:
        if place := _place_of_masks(file, stems):
            places.setdefault(place, []).append(file)
    masks: set[str] = set()
    notes = []
    for place, files in places.items():
        chosen = np.unique(np.linspace(0, len(files) - 1, MAX_EXAMINED).astype(int))
        examined = {
            files[number]: looks_like_mask(folder / files[number], reading) for number in chosen
        }
        alike = {file: found for file, found in examined.items() if found is not None}
        if not any(alike.values()):
            notes.append(
                f"WARNING: {place} is read as images of a class, by its content; put masks into "
                "ground_truth/"
            )
        elif not all(alike.values()):
            image = next(file for file, found in alike.items() if not found)
            raise UserError(
                f"{folder / place} has a name for masks and also holds images (such as "
                f"{image}); move masks into ground_truth/, and rename the images"
            )
        elif len(files) < len(images):
            masks.update(files)
            notes.append(f"{place}: {len(files)} masks of anomalies, by name and content")
    others = [file for file in images if file not in masks]
    return others, sorted(masks), notes + _doubts(folder, others, reading)


def _doubts(folder: Path, images: Sequence[str], reading: Reading) -> list[str]:
    """A line on each folder that may hold masks although its own name is not one for masks.

    All its files have the names of files in another folder, or some have the name of another file
    in the same folder with a word added; and these files look like masks while the others do not.
    """
    places: dict[str, dict[str, str]] = {}
    by_stem: dict[str, list[str]] = {}
    for file in images:
        stem = os.path.splitext(os.path.basename(file))[0]
        places.setdefault(os.path.dirname(file), {})[stem] = file
        by_stem.setdefault(stem, []).append(file)
    notes = []
    for place, files in places.items():
        if all(len(by_stem[stem]) > 1 for stem in files):
            stems = list(files)[:MAX_DOUBTED]
            others = (file for stem in stems for file in by_stem[stem] if file != files[stem])
            if all(looks_like_mask(folder / files[stem], reading) for stem in stems) and not any(
                looks_like_mask(folder / file, reading) for file in others
            ):
                notes.append(
                    f"WARNING: {place}/ is read as a class but looks like masks of images with "
                    "the same names; put masks into ground_truth/"
                )
        added: dict[str, dict[str, str]] = {}
        for stem, file in files.items():
            if base := _base(stem, files):
                added.setdefault(stem.removeprefix(base), {})[file] = files[base]
        for ending, longer in added.items():
            examined = list(longer)[:MAX_DOUBTED]
            if all(looks_like_mask(folder / file, reading) for file in examined) and not any(
                looks_like_mask(folder / longer[file], reading) for file in examined
            ):
                notes.append(
                    f"WARNING: {len(longer)} images with {ending} after the name of another image "
                    f"look like its mask (first: {examined[0]}); put masks into ground_truth/"
                )
    return notes


def _base(stem: str, stems: Mapping[str, str]) -> str:
    """The stem that another stem extends, as `1` for `1_defect`; empty if there is none."""
    ends = (found.start() for found in re.finditer(r"[ _.-]", stem))
    return next((stem[:end] for end in ends if stem[:end] in stems), "")


def _place_of_masks(file: str, stems: set[str]) -> str:
    """The folder or name pattern that makes a file a possible mask; empty if there is none."""
    *folders, name = file.split(os.sep)
    for number, inside in enumerate(folders):
        if is_mask_folder(inside):
            return os.path.join(*folders[: number + 1], "")
    stem = os.path.splitext(name)[0]
    image = image_of(stem)
    if image != stem and os.path.join(*folders, image) in stems:
        return os.path.join(*folders, f"{stem.replace(image, '*', 1)}.*")
    return ""
