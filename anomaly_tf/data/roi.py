"""Regions that the user names: one mask for all pictures, or a folder with a mask for each.

Needs NumPy and Pillow only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anomaly_tf.data.decoding import UnreadableImage
from anomaly_tf.data.images import AS_USUAL, Reading, read_header, read_levels
from anomaly_tf.data.mask_rules import looks_like_image, marked_levels, pair_masks
from anomaly_tf.data.search import Search
from anomaly_tf.errors import UserError
from anomaly_tf.runs.paths import user_path
from anomaly_tf.runs.region import MIN_PIXELS, Region, RegionError
from anomaly_tf.runs.sections import RoiFacts


@dataclass(frozen=True)
class RegionFolder:
    """A folder with a mask for each picture.

    Attributes:
        path: The folder of the masks.
        folder: The folder of the pictures.
        masks: Path of a picture inside its folder to the path of its mask inside `path`.
        reading: How the masks are read.
    """

    path: Path
    folder: Path
    masks: Mapping[str, str]
    reading: Reading = AS_USUAL

    def of(self, path: Path) -> Region:
        """The region of a picture; read from its mask.

        Args:
            path: The picture, inside `folder`.

        Raises:
            RegionError: If there is no mask, or as `read_region`.
        """
        name = os.path.relpath(path, self.folder)
        if name not in self.masks:
            raise RegionError(f"{self.path} holds no mask for {path}; add one of the same name")
        return read_region(self.path / self.masks[name], self.reading)

    @property
    def name(self) -> str:
        """The folder of the masks, for messages."""
        return str(self.path)

    def digest_of(self, files: Iterable[str]) -> str:
        """SHA-256 of the names of pictures and the content of their masks, in order of names."""
        state = hashlib.sha256()
        for file in sorted(files):
            state.update(file.encode("utf-8", "surrogateescape"))
            state.update((self.path / self.masks[file]).read_bytes())
        return state.hexdigest()


Roi = Region | RegionFolder


def regions_of(
    source: str | None,
    folder: Path,
    files: Sequence[str],
    reading: Reading,
    facts: RoiFacts | None = None,
) -> Roi | None:
    """The regions of the pictures of a run; None if everything counts.

    Args:
        source: The value of `--roi`.
        folder: The folder of the pictures.
        files: Paths of the pictures inside it.
        reading: How files are read.
        facts: The regions that the run was trained with; its own copy of a mask replaces one that
            is missing.

    Raises:
        UserError: As `open_roi`.
    """
    if source is None:
        return None
    return kept_region(source, facts) or open_roi(source, folder, files, reading)


def kept_region(source: str, facts: RoiFacts | None) -> Region | None:
    """A run's own copy of a mask that is missing; None if it is there, or there is no copy.

    Args:
        source: The value of `--roi`.
        facts: The regions that the run was trained with, if there is a run.
    """
    return facts.region if facts and not user_path(source).exists() else None


def require_outside(source: str | Path, folder: Path) -> None:
    """Refuses masks inside the folder of the pictures, where they would be read as pictures.

    Raises:
        UserError: If they are.
    """
    path = user_path(source).resolve()
    if path.is_relative_to(folder.resolve()):
        raise UserError(
            f"--roi {source} lies in the data, {folder}, where masks would be read as pictures; "
            "move it to another place"
        )


def open_roi(
    source: str | Path, folder: Path, files: Sequence[str], reading: Reading = AS_USUAL
) -> Roi:
    """The regions of pictures.

    Args:
        source: A mask for all pictures, or a folder with a mask for each: with the same path
            inside the folder, or the same name if it is unique, and any suffix.
        folder: The folder of the pictures.
        files: Paths of the pictures inside it.
        reading: How files are read.

    Raises:
        UserError: If there is no such file or folder, the mask cannot be used, the folder holds no
            mask, or pictures have none.
    """
    path = user_path(source)
    if not path.is_dir():
        return read_region(path, reading)
    found = Search().images_below(path)
    if not found:
        raise UserError(f"--roi {path} holds no masks; give a mask, or a folder with masks")
    masks = pair_masks(files, found, divided=False)
    missing = [file for file in files if file not in masks]
    if missing:
        raise UserError(
            f"--roi {path} holds no mask for {len(missing)} of {len(files)} pictures (first: "
            f"{missing[0]}); add masks with the pictures' names"
        )
    return RegionFolder(path, folder, masks, replace(reading, roi=None))


def open_mask(source: str | Path, owner: str) -> Region:
    """The one mask of pictures that have no names.

    Args:
        source: The mask.
        owner: The pictures, for the message.

    Raises:
        UserError: If it is a folder, or as `read_region`.
    """
    path = user_path(source)
    if path.is_dir():
        raise UserError(
            f"--roi {path} is a folder, and {owner} have no names to find their masks by; give one "
            "mask for all"
        )
    return read_region(path)


def facts_of_roi(roi: Roi | None, source: str | None, files: Iterable[str]) -> RoiFacts | None:
    """What is stored of the regions of a run; None if everything counts.

    Args:
        roi: The regions.
        source: The value of `--roi`.
        files: The pictures of the run; none if they are not files.
    """
    if roi is None:
        return None
    mask = roi.to_png() if isinstance(roi, Region) else None
    return RoiFacts(source or roi.name, roi.digest_of(files), mask)


def require_same_roi(roi: Roi | None, facts: RoiFacts | None, files: Iterable[str]) -> None:
    """Refuses other regions than those of the run.

    Args:
        roi: The regions as they are now.
        facts: Those of the run.
        files: The pictures of the run; none if they are not files.

    Raises:
        UserError: If they differ.
    """
    if facts is None and roi is None:
        return
    if facts is None or roi is None:
        were = "without regions" if facts is None else f"with --roi {facts.source}"
        raise UserError(f"the run was trained {were}; restore the roi in its config.yaml")
    if roi.digest_of(files) != facts.sha256:
        raise UserError(
            f"{roi.name} is not what the run was trained with as --roi (a mask was changed); "
            "restore it, give its location with --roi, or train again"
        )


def insides(roi: Roi | None, files: Sequence[str], height: int, width: int) -> np.ndarray | None:
    """The regions of pictures at a detector's size: bool `(N, H, W)`, `(H, W)` or None.

    Args:
        roi: The regions; None: everything counts.
        files: Paths of the pictures inside their folder.
        height: Height of the detector's images.
        width: Their width.
    """
    if isinstance(roi, RegionFolder):
        found = [roi.of(roi.folder / file).at(height, width) for file in files]
        return np.stack(found) if found else np.zeros((0, height, width), bool)
    return None if roi is None else roi.at(height, width)


def read_region(path: Path, reading: Reading = AS_USUAL) -> Region:
    """Reads a mask: white counts, black does not; see `mask_rules.marked`.

    Raises:
        RegionError: If the file is missing or unreadable, looks like a picture, or leaves fewer
            than `MIN_PIXELS`.
    """
    try:
        levels = read_levels(path, reading)
    except UnreadableImage as error:
        raise RegionError(f"--roi: {error}") from error
    if looks_like_image(levels):
        raise RegionError(
            f"--roi {path} looks like a picture, not like a mask; paint what counts white and the "
            "rest black"
        )
    inside, _ = marked_levels(levels)
    if inside.sum() < MIN_PIXELS:
        raise RegionError(
            f"--roi {path} leaves {inside.sum()} pixels, and at least {MIN_PIXELS} are needed; "
            "paint what counts white"
        )
    return Region(np.ascontiguousarray(inside), str(path))


def require_sizes(
    roi: Roi, folder: Path, files: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> None:
    """Refuses masks of another size than their pictures, by the headers of the files.

    Args:
        roi: The regions.
        folder: The folder of the pictures.
        files: Paths of the pictures inside it.
        sizes: Width and height of each.

    Raises:
        RegionError: If sizes differ, or the header of a mask cannot be read.
    """
    wrong = []
    for file, size in zip(files, sizes, strict=True):
        if isinstance(roi, Region):
            name, own = roi.name, roi.size
        else:
            mask = roi.path / roi.masks[file]
            try:
                name, own = str(mask), read_header(mask, roi.reading)[:2]
            except UnreadableImage as error:
                raise RegionError(f"--roi: {error}") from error
        if tuple(size) != own:
            wrong.append((name, own, folder / file, size))
    if wrong:
        name, own, picture, size = wrong[0]
        raise RegionError(
            f"--roi: {len(wrong)} of {len(files)} pictures have another size than their mask "
            f"(first: {name} is {own[0]}x{own[1]}, {picture} is {size[0]}x{size[1]}); save masks "
            "in the size of the pictures"
        )


def describe(roi: Roi) -> list[str]:
    """Lines for the user on the regions, with a warning about a mask without effect."""
    if isinstance(roi, RegionFolder):
        return [f"roi: {roi.path}, a mask for each of {len(roi.masks)} pictures"]
    lines = [f"roi: {roi.name}, {roi.share:.0%} of the picture"]
    if roi.inside.all():
        lines.append(
            f"WARNING: {roi.name} marks the whole picture, so that --roi changes nothing; paint "
            "black what does not count"
        )
    return lines
