"""Reads the files of a folder once: headers first, then content, into memory or a cache on disk."""

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
from anomaly_tf.data.contents import file_digest
from anomaly_tf.data.folder_layout import Layout
from anomaly_tf.data.images import (
    Header,
    UnreadableImage,
    bits_of,
    decoded,
    fit_image,
    largest_value,
    read_header,
)
from anomaly_tf.data.split_checks import read_scan
from anomaly_tf.data.stored import PART, ImageFiles, Images, Records, StoredImages
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.caches import may_write
from anomaly_tf.runs.files import atomic_folder, require_writable
from anomaly_tf.script import printable, show_progress

# Larger pictures are shrunk to this on their longer side, unless a size is asked for.
MAX_SIDE_BY_DEFAULT = 128
CACHE_VERSION = 2
# Inside the folder of caches.
CACHES = "folders"


@dataclass(frozen=True)
class Scan:
    """What is known about the files of a layout once they were read; stored with the cache.

    Attributes:
        image_shape: Height, width and channels that the images are brought to.
        sizes: (width, height, how many images), the most frequent first.
        n_grayscale: How many are grayscale.
        broken: File to the reason why it cannot be read.
        digests: Digest of the content of each readable image, decoded and upright, in order.
        file_digests: Digest of the bytes of each of these files.
        bit_depth: Bits of the grey levels in 16-bit files; None if there are none.
        deep: How 16-bit files are read, for the user.
    """

    image_shape: tuple[int, int, int]
    sizes: list[list[int]]
    n_grayscale: int
    broken: dict[str, str]
    digests: list[str] = field(default_factory=list)
    file_digests: list[str] = field(default_factory=list)
    bit_depth: int | None = None
    deep: list[str] = field(default_factory=list)


def read_folder(folder: Path, layout: Layout, config: Config) -> tuple[Images, Scan]:
    """Reads every file of a layout, or opens the cache of an earlier reading.

    Args:
        folder: The folder that the layout's paths start from.
        layout: Which files to read.
        config: Size, storage, cache and how many files may be broken.

    Returns:
        The readable images, in order; none if too many files have a broken header.

    Raises:
        UserError: If the cache is damaged or the disk has no space for it.
    """
    cache = Path(config.data_dir) / CACHES / _key(folder, layout, config)
    if cache.is_dir():
        stored, scan = _open_cache(cache)
        fits = _fits(len(stored) * int(np.prod(stored.shape[1:])), config.folder)
        return (stored[:] if fits else stored), scan
    broken, sizes, deep = _read_headers(folder, layout.files)
    if len(broken) > config.max_broken * len(layout.files) or len(broken) == len(layout.files):
        return np.zeros((0, 1, 1, 1), np.uint8), Scan((1, 1, 1), [], 0, broken)
    files = [file for file in layout.files if file not in broken]
    frequent = Counter(map(tuple, sizes[:, :2].tolist())).most_common()
    counted = [[width, height, count] for (width, height), count in frequent]
    bit_depth, lines = _bit_depth(folder, deep, config.folder.bit_depth)
    scan = Scan(
        *(_image_shape(sizes, config), counted, int(sizes[:, 2].sum()), broken),
        bit_depth=bit_depth,
        deep=lines,
    )
    if _fits(len(files) * int(np.prod(scan.image_shape)), config.folder):
        return _into_memory(folder, files, scan)
    if not config.folder.cache or not may_write(cache):
        return _left_as_files(folder, files, scan)
    require_writable(cache.parent, "--data-dir")
    return _into_cache(folder, files, scan, cache)


def _into_memory(folder: Path, files: list[str], scan: Scan) -> tuple[np.ndarray, Scan]:
    images = np.empty((len(files), *scan.image_shape), np.uint8)

    def place(number: int, image: np.ndarray) -> None:
        images[number] = image

    scan = _decode(folder, files, scan, place)
    return images[: len(scan.digests)], scan


def _left_as_files(folder: Path, files: list[str], scan: Scan) -> tuple[StoredImages, Scan]:
    """Decodes the files to find the broken ones, and keeps nothing of their content."""
    scan = _decode(folder, files, scan, lambda number, image: None)
    files = [file for file in files if file not in scan.broken]
    reader = ImageFiles(folder, files, scan.image_shape, scan.bit_depth)
    return StoredImages(reader, np.arange(len(files)), scan.image_shape), scan


def _into_cache(
    folder: Path, files: list[str], scan: Scan, cache: Path
) -> tuple[StoredImages, Scan]:
    """Writes the decoded images one after the other into `images`, and the rest as JSON.

    If another process was faster, its cache is taken.
    """
    _require_space(cache, len(files) * int(np.prod(scan.image_shape)))
    with atomic_folder(cache, replace=False) as new, (new / "images").open("wb") as out:
        scan = _decode(folder, files, scan, lambda number, image: out.write(image.tobytes()))
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


def _key(folder: Path, layout: Layout, config: Config) -> str:
    """Name of a cache: one for each content of the files, and each way of reading them.

    Names, lengths and dates are not enough: archives, containers and cameras give the same ones to
    other pictures. No two files that exist share a number on one device, and a file whose
    content changes gets a new time of its entry (`ctime`), which no program can set.
    A folder that was renamed keeps its cache, a copy of it is decoded anew.
    """
    way = CACHE_VERSION, config.size, config.folder.bit_depth
    state = hashlib.sha256(repr(way).encode())
    for file in layout.files:
        facts: tuple[object, ...] = (file,)
        if (folder / file).exists():
            at = os.stat(folder / file)
            facts += at.st_size, at.st_mtime_ns, at.st_dev, at.st_ino, at.st_ctime_ns
        state.update(repr(facts).encode("utf-8", "surrogateescape"))
    return state.hexdigest()[:16]


def _fits(size: int, folder: FolderConfig) -> bool:
    """Whether images of `size` bytes are kept in memory."""
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
    """One shape for all images.

    Args:
        sizes: int32 `(N, 3)`: width, height, is grayscale.
        config: The size, if the user asks for one.

    Returns:
        Height, width and channels: 1 if all are grayscale, else 3.
    """
    channels = 1 if sizes[:, 2].all() else 3
    if config.size:
        return (*config.size, channels)
    width, height = np.median(sizes[:, :2], axis=0)
    factor = min(1.0, MAX_SIDE_BY_DEFAULT / max(width, height))
    sides = (max(SMALLEST_SIDE, round(side * factor)) for side in (height, width))
    return (*sides, channels)


def _read_headers(folder: Path, files: list[str]) -> tuple[dict[str, str], np.ndarray, list[str]]:
    """Why files are broken; of the others int32 `(n, 3)`, as `_image_shape`; the 16-bit ones."""

    def header(file: str) -> Header | UnreadableImage:
        try:
            return read_header(folder / file)
        except UnreadableImage as error:
            return error

    broken, sizes, deep = {}, np.empty((len(files), 3), np.int32), []
    good = 0
    for file, found in _in_parallel(header, files, "looked at"):
        if isinstance(found, UnreadableImage):
            broken[file] = str(found)
        else:
            sizes[good] = found[:3]
            good += 1
            deep += [file] * found.is_deep
    return broken, sizes[:good], deep


def _bit_depth(folder: Path, files: list[str], asked: int | None) -> tuple[int | None, list[str]]:
    """Bits of the grey levels in 16-bit files, one number for all, and lines about it.

    Args:
        folder: The folder that the paths start from.
        files: The 16-bit files.
        asked: What the user says.
    """

    def largest(file: str) -> int:
        try:
            return largest_value(folder / file)
        except UnreadableImage:  # which is reported when all files are decoded
            return 0

    if not files:
        return None, []
    values = dict(_in_parallel(largest, files, "measured"))
    value = max(values.values())
    depth = asked or bits_of(value)
    source = "as asked" if asked else "--folder.bit-depth sets another"
    lines = [f"16-bit files: {len(files)}, values up to {value}, read as {depth} bits ({source})"]
    if dark := [file for file, found in values.items() if found < 2 ** (depth - 2)]:
        lines.append(
            f"WARNING: {len(dark)} 16-bit files stay below a quarter of {depth} bits (first: "
            f"{dark[0]}): dark, or of a camera with fewer bits, which belongs into another folder"
        )
    return depth, lines


def _decode(
    folder: Path, files: list[str], scan: Scan, keep: Callable[[int, np.ndarray], object]
) -> Scan:
    """Decodes all files.

    Args:
        folder: The folder that the paths start from.
        files: The files with a readable header.
        scan: What the headers say.
        keep: Called with the number, without gaps, and the image of each readable file.

    Returns:
        The scan with the digests, and with the files that turned out to be broken.
    """

    def decode(file: str) -> tuple[np.ndarray, str, str] | UnreadableImage:
        try:
            file_bytes = file_digest(folder / file)
            with decoded(folder / file, scan.bit_depth) as image:
                content = hashlib.blake2b(repr((image.mode, image.size)).encode(), digest_size=16)
                content.update(image.tobytes())
                return fit_image(image, scan.image_shape), content.hexdigest(), file_bytes
        except UnreadableImage as error:
            return error

    broken = dict(scan.broken)
    digests: list[str] = []
    file_digests: list[str] = []
    for file, found in _in_parallel(decode, files, "decoded"):
        if isinstance(found, UnreadableImage):
            broken[file] = str(found)
            continue
        keep(len(digests), found[0])
        digests.append(found[1])
        file_digests.append(found[2])
    return dataclasses.replace(scan, broken=broken, digests=digests, file_digests=file_digests)


def _in_parallel(
    call: Callable[[str], Any], files: list[str], verb: str
) -> Iterator[tuple[str, Any]]:
    """Each file with the result of `call`; only a part of the results waits in memory."""
    with ThreadPoolExecutor(available_threads()) as pool:
        for start in range(0, len(files), PART):
            if len(files) > PART:
                show_progress(start, len(files), f"images {verb}")
            part = files[start : start + PART]
            yield from zip(part, pool.map(call, part), strict=True)
    show_progress()
