"""Reads the files of a folder once, headers first, into memory or into a cache on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.config import SMALLEST_SIDE, Config, FolderConfig
from anomaly_tf.data.bit_depth import bits_of
from anomaly_tf.data.contents import file_digest
from anomaly_tf.data.decoding import UnreadableImage
from anomaly_tf.data.folder_layout import Layout
from anomaly_tf.data.images import (
    Header,
    Reading,
    decoded,
    fit_image,
    largest_value,
    read_header,
)
from anomaly_tf.data.roi import RegionFolder, Roi, require_sizes
from anomaly_tf.data.split_checks import read_scan
from anomaly_tf.data.stored import PART, ImageFiles, Images, Records, StoredImages, part_size
from anomaly_tf.data.tiles import require_tiles_fit
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.caches import may_write
from anomaly_tf.runs.checks import MAX_SIDE
from anomaly_tf.runs.files import atomic_folder, require_writable
from anomaly_tf.script import printable, show_progress

# Longer side to which larger images are resized, unless a size is given.
MAX_SIDE_BY_DEFAULT = 128
CACHE_VERSION = 3
# Subfolder of the data folder for the caches.
CACHES = "folders"


@dataclass(frozen=True)
class Scan:
    """Properties of the files of a layout, known after reading them; stored with the cache.

    Attributes:
        image_shape: Height, width and channels to which the images are converted.
        sizes: (width, height, number of images), the most frequent first.
        n_grayscale: Number of grayscale images.
        broken: Unreadable file to the reason.
        digests: Digest of the content of each readable image, decoded and upright, in order.
        file_digests: Digest of the bytes of each of these files.
        bit_depth: Bit depth of the 16-bit files; None if there are none.
        deep: Lines for the user on how 16-bit files are read.
    """

    image_shape: tuple[int, int, int]
    sizes: list[list[int]]
    n_grayscale: int
    broken: dict[str, str]
    digests: list[str] = field(default_factory=list)
    file_digests: list[str] = field(default_factory=list)
    bit_depth: int | None = None
    deep: list[str] = field(default_factory=list)


def read_folder(
    folder: Path, layout: Layout, config: Config, roi: Roi | None = None
) -> tuple[Images, Scan]:
    """Reads every file of a layout, or opens the cache of an earlier run.

    Args:
        folder: The folder to which the layout's paths are relative.
        layout: The files to read.
        config: Image size, storage, cache and the allowed share of unreadable files.
        roi: The regions of the images that count; None: everything.

    Returns:
        The readable images, in order; none if too many files have an unreadable header.

    Raises:
        UserError: If the cache is damaged or the disk has no space for it, or a mask of a region
            does not fit its image.
    """
    cache = Path(config.data_dir) / CACHES / _key(folder, layout, config, roi)
    if cache.is_dir():
        stored, scan = _open_cache(cache)
        fits = _fits(len(stored) * int(np.prod(stored.shape[1:])), config.folder)
        return (stored[:] if fits else stored), scan
    asked = reading_asked(config)
    broken, sizes, deep = _read_headers(folder, layout.files, asked)
    if len(broken) > config.max_broken * len(layout.files) or len(broken) == len(layout.files):
        return np.zeros((0, 1, 1, 1), np.uint8), Scan((1, 1, 1), [], 0, broken)
    files = [file for file in layout.files if file not in broken]
    if roi is not None:
        require_sizes(roi, folder, files, sizes[:, :2].tolist())
    frequent = Counter(map(tuple, sizes[:, :2].tolist())).most_common()
    counted = [[width, height, count] for (width, height), count in frequent]
    bit_depth, lines = _bit_depth(folder, deep, asked)
    scan = Scan(
        *(_image_shape(sizes, config), counted, int(sizes[:, 2].sum()), broken),
        bit_depth=bit_depth,
        deep=lines,
    )
    reading = reading_of(scan, config, roi)
    if _fits(len(files) * int(np.prod(scan.image_shape)), config.folder):
        return _into_memory(folder, files, scan, reading)
    if not config.folder.cache or not may_write(cache):
        return _left_as_files(folder, files, scan, reading)
    require_writable(cache.parent, "--data-dir")
    return _into_cache(folder, files, scan, reading, cache)


def reading_asked(config: Config) -> Reading:
    """How the files of a folder are read, as far as the user says it."""
    return Reading(config.folder.bit_depth, config.max_pixels)


def reading_of(scan: Scan, config: Config, roi: Roi | None = None) -> Reading:
    """How the files of a folder are read, with what was found in them."""
    return dataclasses.replace(reading_asked(config), bit_depth=scan.bit_depth, roi=roi)


def _into_memory(
    folder: Path, files: list[str], scan: Scan, reading: Reading
) -> tuple[np.ndarray, Scan]:
    images = np.empty((len(files), *scan.image_shape), np.uint8)

    def place(number: int, image: np.ndarray) -> None:
        images[number] = image

    scan = _decode(folder, files, scan, reading, place)
    return images[: len(scan.digests)], scan


def _left_as_files(
    folder: Path, files: list[str], scan: Scan, reading: Reading
) -> tuple[StoredImages, Scan]:
    """Decodes the files to find the unreadable ones, without keeping their content."""
    scan = _decode(folder, files, scan, reading, lambda number, image: None)
    files = [file for file in files if file not in scan.broken]
    reader = ImageFiles(folder, files, scan.image_shape, reading)
    return StoredImages(reader, np.arange(len(files)), scan.image_shape), scan


def _into_cache(
    folder: Path, files: list[str], scan: Scan, reading: Reading, cache: Path
) -> tuple[StoredImages, Scan]:
    """Writes the decoded images one after the other into `images`, and the scan as JSON.

    If another process was faster, its cache is used.
    """
    _require_space(cache, len(files) * int(np.prod(scan.image_shape)))
    with atomic_folder(cache, replace=False) as new, (new / "images").open("wb") as out:
        scan = _decode(
            folder, files, scan, reading, lambda number, image: out.write(image.tobytes())
        )
        (new / "scan.json").write_text(json.dumps(dataclasses.asdict(scan)), "utf-8")
    return _open_cache(cache)


def _open_cache(cache: Path) -> tuple[StoredImages, Scan]:
    try:
        scan = Scan(**read_scan(cache / "scan.json"))
        height, width, channels = scan.image_shape
        shape = height, width, channels
        expected = len(scan.digests) * height * width * channels
        if (cache / "images").stat().st_size != expected:
            raise ValueError(f"expected {expected} bytes of images")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cache {cache} is damaged ({printable(str(error))}); remove it") from error
    records = Records(cache / "images", shape)
    return StoredImages(records, np.arange(len(scan.digests)), shape), scan


def _key(folder: Path, layout: Layout, config: Config, roi: Roi | None) -> str:
    """Name of the cache; it depends on the content of the files and the options for reading them.

    Names, sizes and dates of files are not enough: archives, containers and cameras reuse them for
    other images. Two existing files never share an inode number on one device, and a change of the
    content updates the file's `ctime`, which no program can set. A renamed folder keeps its cache;
    a copy of a folder is decoded again.
    """
    options = CACHE_VERSION, config.size, config.tile is None, reading_asked(config)
    state = hashlib.sha256(repr(options).encode())
    files = [folder / file for file in layout.files]
    if isinstance(roi, RegionFolder):
        files += [roi.path / mask for mask in roi.masks.values()]
    elif roi is not None:
        state.update(roi.digest_of(()).encode())
    for file in files:
        facts: tuple[object, ...] = (os.path.relpath(file, folder),)
        if file.exists():
            at = os.stat(file)
            facts += at.st_size, at.st_mtime_ns, at.st_dev, at.st_ino, at.st_ctime_ns
        state.update(repr(facts).encode("utf-8", "surrogateescape"))
    return state.hexdigest()[:16]


def _fits(size: int, folder: FolderConfig) -> bool:
    """True if images of `size` bytes are kept in memory."""
    if folder.storage == "auto":
        return size <= folder.memory_limit * 10**6
    return folder.storage == "memory"


def _require_space(cache: Path, size: int) -> None:
    place = cache
    while not place.exists():
        place = place.absolute().parent
    free = shutil.disk_usage(place).free
    if free < size:
        raise UserError(
            f"the decoded images need {size / 1e9:.1f} GB in {cache.parent} and "
            f"{free / 1e9:.1f} GB are free; choose another --data-dir, a smaller --image-size or "
            "--folder.cache false"
        )


def _image_shape(sizes: np.ndarray, config: Config) -> tuple[int, int, int]:
    """The common shape of all images.

    Args:
        sizes: int32 `(N, 3)`: width, height, is grayscale.
        config: The size, if one is given.

    Returns:
        Height, width and channels: 1 if all are grayscale, else 3.
    """
    channels = 1 if sizes[:, 2].all() else 3
    if config.size:
        return (*config.size, channels)
    width, height = np.median(sizes[:, :2], axis=0)
    largest = MAX_SIDE_BY_DEFAULT if config.tile is None else MAX_SIDE
    factor = min(1.0, largest / max(width, height))
    height, width = (max(SMALLEST_SIDE, round(side * factor)) for side in (height, width))
    smallest = sizes[np.argmin(sizes[:, :2].min(axis=1)), :2].tolist()
    require_tiles_fit(config.tiling, height, width, smallest)
    return height, width, channels


def _read_headers(
    folder: Path, files: list[str], reading: Reading
) -> tuple[dict[str, str], np.ndarray, list[str]]:
    """Reads the headers of all files.

    Returns:
        The unreadable files with the reason; int32 `(n, 3)` of the others, as in `_image_shape`;
        the 16-bit files.
    """

    def header(file: str) -> Header | UnreadableImage:
        try:
            return read_header(folder / file, reading)
        except UnreadableImage as error:
            return error

    broken, sizes, deep = {}, np.empty((len(files), 3), np.int32), []
    good = 0
    for file, found in _in_parallel(header, files, "examined"):
        if isinstance(found, UnreadableImage):
            broken[file] = str(found)
        else:
            sizes[good] = found[:3]
            good += 1
            deep += [file] * found.is_deep
    return broken, sizes[:good], deep


def _bit_depth(folder: Path, files: list[str], asked: Reading) -> tuple[int | None, list[str]]:
    """The common bit depth of all 16-bit files, and lines about it.

    Args:
        folder: The folder to which the paths are relative.
        files: The 16-bit files.
        asked: How they are read, with the bit depth that the user gives, if any.
    """

    def largest(file: str) -> int:
        try:
            return largest_value(folder / file, asked)
        except UnreadableImage:  # reported when all files are decoded
            return 0

    if not files:
        return None, []
    values = dict(_in_parallel(largest, files, "measured"))
    value = max(values.values())
    depth = asked.bit_depth or bits_of(value)
    source = "as given" if asked.bit_depth else "--folder.bit-depth sets another"
    lines = [f"16-bit files: {len(files)}, values up to {value}, read as {depth} bits ({source})"]
    if dark := [file for file, found in values.items() if found < 2 ** (depth - 2)]:
        lines.append(
            f"WARNING: {len(dark)} 16-bit files stay below a quarter of {depth} bits (first: "
            f"{dark[0]}): they are dark, or from a camera with fewer bits, whose images need a "
            "separate folder"
        )
    return depth, lines


def _decode(
    folder: Path,
    files: list[str],
    scan: Scan,
    reading: Reading,
    keep: Callable[[int, np.ndarray], object],
) -> Scan:
    """Decodes all files.

    Args:
        folder: The folder to which the paths are relative.
        files: The files with a readable header.
        scan: Properties from the headers.
        reading: How the files are read.
        keep: Called with the number, without gaps, and the image of each readable file.

    Returns:
        The scan with the digests and with further unreadable files.
    """

    def decode(file: str) -> tuple[np.ndarray, str, str] | UnreadableImage:
        try:
            file_bytes = file_digest(folder / file)
            region = reading.region_of(folder / file)
            asked = dataclasses.replace(reading, roi=region)
            with decoded(folder / file, asked) as image:
                content = hashlib.blake2b(repr((image.mode, image.size)).encode(), digest_size=16)
                content.update(image.tobytes())
                pixels = fit_image(image, scan.image_shape, region)
                return pixels, content.hexdigest(), file_bytes
        except UnreadableImage as error:
            return error

    broken = dict(scan.broken)
    digests: list[str] = []
    file_digests: list[str] = []
    at_once = part_size(scan.image_shape)
    for file, found in _in_parallel(decode, files, "decoded", at_once):
        if isinstance(found, UnreadableImage):
            broken[file] = str(found)
            continue
        keep(len(digests), found[0])
        digests.append(found[1])
        file_digests.append(found[2])
    return dataclasses.replace(scan, broken=broken, digests=digests, file_digests=file_digests)


def _in_parallel(
    call: Callable[[str], Any], files: list[str], verb: str, at_once: int = PART
) -> Iterator[tuple[str, Any]]:
    """Yields each file with the result of `call`; at most `at_once` results are in memory."""
    with ThreadPoolExecutor(available_threads()) as pool:
        for start in range(0, len(files), at_once):
            if len(files) > at_once:
                show_progress(start, len(files), f"images {verb}")
            part = files[start : start + at_once]
            yield from zip(part, pool.map(call, part), strict=True)
    show_progress()
