"""Which files of a folder are no pictures but masks of others: by their names and their content.

| masks | beside |
|---|---|
| `ground_truth/crack/1_mask.png` | `test/crack/1.jpg` or `crack/1.jpg` |
| `masks/crack/1.png`, `masks/1.png` | `crack/1.jpg` |
| `crack/mask/1.png` | `crack/1.jpg` |
| `crack/1_label.bmp` | `crack/1.jpg` |

`masks.is_mask_folder` and `masks.image_of` know the other names. All but `ground_truth` may also be
a class, such as photos of labels: what lies in them must look like masks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from anomaly_tf.data.masks import image_of, is_mask_folder, looks_like_mask
from anomaly_tf.errors import UserError

# Files that are looked at to tell what a folder holds.
MAX_LOOKED_AT = 20
# Files of a folder without such a name that are looked at if all have names as others.
MAX_DOUBTED = 4


def set_masks_apart(folder: Path, images: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Divides image files into pictures and masks.

    Args:
        folder: The folder that the paths start from.
        images: Paths of the image files, without those in `ground_truth/`.

    Returns:
        Pictures, masks, and a line for the user on each place that may hold masks.

    Raises:
        UserError: If a place holds both what looks like masks and what does not.
    """
    stems = {os.path.splitext(file)[0] for file in images}
    places: dict[str, list[str]] = {}
    for file in images:
        if place := _place_of_masks(file, stems):
            places.setdefault(place, []).append(file)
    masks: set[str] = set()
    notes = []
    for place, files in places.items():
        chosen = np.unique(np.linspace(0, len(files) - 1, MAX_LOOKED_AT).astype(int))
        looked_at = {files[number]: looks_like_mask(folder / files[number]) for number in chosen}
        alike = {file: found for file, found in looked_at.items() if found is not None}
        if not any(alike.values()):
            notes.append(
                f"WARNING: {place} is taken for pictures of a class, by its content; masks belong "
                "into ground_truth/"
            )
        elif not all(alike.values()):
            picture = next(file for file, found in alike.items() if not found)
            raise UserError(
                f"{folder / place} is named as masks are and holds pictures as well (such as "
                f"{picture}); move masks into ground_truth/, and give pictures another name"
            )
        elif len(files) < len(images):
            masks.update(files)
            notes.append(f"{place}: {len(files)} masks of anomalies, by name and content")
    pictures = [file for file in images if file not in masks]
    return pictures, sorted(masks), notes + _doubts(folder, pictures)


def _doubts(folder: Path, pictures: Sequence[str]) -> list[str]:
    """A line on each folder that holds what may be masks, by its content and the names in it only.

    Each of its files has the name of one in another folder, or some have that of another in the
    same folder with something added, and look like masks where those do not.
    """
    places: dict[str, dict[str, str]] = {}
    by_stem: dict[str, list[str]] = {}
    for file in pictures:
        stem = os.path.splitext(os.path.basename(file))[0]
        places.setdefault(os.path.dirname(file), {})[stem] = file
        by_stem.setdefault(stem, []).append(file)
    notes = []
    for place, files in places.items():
        if all(len(by_stem[stem]) > 1 for stem in files):
            stems = list(files)[:MAX_DOUBTED]
            others = (file for stem in stems for file in by_stem[stem] if file != files[stem])
            if all(looks_like_mask(folder / files[stem]) for stem in stems) and not any(
                looks_like_mask(folder / file) for file in others
            ):
                notes.append(
                    f"WARNING: {place}/ is taken for a class and looks like masks of pictures "
                    "with the same names; masks belong into ground_truth/"
                )
        added: dict[str, dict[str, str]] = {}
        for stem, file in files.items():
            if base := _base(stem, files):
                added.setdefault(stem.removeprefix(base), {})[file] = files[base]
        for ending, longer in added.items():
            looked_at = list(longer)[:MAX_DOUBTED]
            if all(looks_like_mask(folder / file) for file in looked_at) and not any(
                looks_like_mask(folder / longer[file]) for file in looked_at
            ):
                notes.append(
                    f"WARNING: {len(longer)} pictures with {ending} behind the name of another "
                    f"look like its mask (first: {looked_at[0]}); masks belong into ground_truth/"
                )
    return notes


def _base(stem: str, stems: Mapping[str, str]) -> str:
    """The stem of which another is a longer one, as `1` of `1_defect`; empty if there is none."""
    ends = (found.start() for found in re.finditer(r"[ _.-]", stem))
    return next((stem[:end] for end in ends if stem[:end] in stems), "")


def _place_of_masks(file: str, stems: set[str]) -> str:
    """The folder, or the pattern of names, by which a file may be a mask; empty if by none."""
    *folders, name = file.split(os.sep)
    for number, inside in enumerate(folders):
        if is_mask_folder(inside):
            return os.path.join(*folders[: number + 1], "")
    stem = os.path.splitext(name)[0]
    image = image_of(stem)
    if image != stem and os.path.join(*folders, image) in stems:
        return os.path.join(*folders, f"{stem.replace(image, '*', 1)}.*")
    return ""
