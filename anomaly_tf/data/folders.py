"""A folder of pictures becomes a data set, and says how it was understood.

| layout | taken as |
|---|---|
| pictures, in the folder itself or in one subfolder | all normal |
| a subfolder for each class, such as `normal/` and `anomaly/` | classes by those names |
| `train/` and `test/`, each as one of the above | the division is kept |
| with `ground_truth/<class>/<name>_mask.png` (MVTec AD) | where the anomalies of a class are |

Where there is no `test/`, a test set is cut off when a run divides the data (`protocols.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomaly_tf.config import SMALLEST_SIDE, Config, FolderConfig
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.images import (
    SUFFIXES,
    UnreadableImage,
    files_below,
    fit_image,
    no_images,
    open_image,
    read_header,
)
from anomaly_tf.data.stored import PART, ImageFiles, Records, StoredImages
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.files import atomic_folder
from anomaly_tf.script import show_progress

NORMAL_NAMES = ("normal", "good", "ok")
ANOMALY_NAMES = {"abnormal", "anomalies", "anomaly", "bad", "defect", "defective", "defects", "ng"}
TRAIN, TEST, MASKS = "train", "test", "ground_truth"
# A picture of unknown purpose is made no larger than this on its longer side, unless it is asked.
LONGEST_BY_DEFAULT = 128
SHOWN = 3
CACHE_VERSION = 1


@dataclass(frozen=True)
class Layout:
    """What lies in a folder, by its names alone.

    Attributes:
        words: How it was recognised.
        files: Paths of the image files from the folder on, in order.
        classes: int16 `(N,)`, class of each file.
        in_test: bool `(N,)`, whether each lies in `test/`.
        class_names: Name of each class number.
        masks: Image file to its mask file.
        notes: What else was found, in words.
    """

    words: str
    files: list[str]
    classes: np.ndarray
    in_test: np.ndarray
    class_names: tuple[str, ...]
    masks: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def normal(self) -> tuple[int, ...] | None:
        """The classes that their names tell are normal; None if they do not tell."""
        names = [name.lower() for name in self.class_names]
        told = tuple(number for number, name in enumerate(names) if name in NORMAL_NAMES)
        others = tuple(number for number, name in enumerate(names) if name not in ANOMALY_NAMES)
        # A class beside such as `defects`, or alone, is normal whatever its name.
        return told or (others if len(others) == 1 and len(names) <= 2 else None)


@dataclass(frozen=True)
class Scan:
    """What reading every file of a layout told.

    Attributes:
        image_shape: What the images are brought to.
        sizes: (width, height, how many images), the most frequent first.
        n_grayscale: How many are grayscale.
        broken: File to why it cannot be read.
        digests: Digest of the content of each readable image, decoded and upright, in order.
    """

    image_shape: tuple[int, int, int]
    sizes: list[list[int]]
    n_grayscale: int
    broken: dict[str, str]
    digests: list[str]


def load_folder(folder: Path, config: Config) -> ImageDataset:
    """Reads a folder of pictures; every file is decoded once, so that a broken one is known.

    Args:
        folder: In one of the layouts above.
        config: Size, storage and how many files may be broken.

    Raises:
        UserError: If the layout is none of those, holds no image, or too many are broken.
    """
    layout = recognise(folder)
    if not layout.files:
        raise no_images(folder)
    if config.normal_class is None and {n.lower() for n in layout.class_names} <= ANOMALY_NAMES:
        raise UserError(
            f"{folder} holds only anomalies by the names of its folders "
            f"({', '.join(layout.class_names)}); add a folder of normal images, or name the normal "
            "class by --normal-class"
        )
    images, scan = _read(folder, layout, config)
    if not scan.digests:
        raise UserError(f"no image in {folder} can be read; first: {_first(scan.broken)}")
    if len(scan.broken) > config.max_broken * len(layout.files):
        raise UserError(
            f"{len(scan.broken)} of {len(layout.files)} files in {folder} cannot be read, more "
            f"than --max-broken {config.max_broken:g} allows; first: {_first(scan.broken)}"
        )
    good = np.array([file not in scan.broken for file in layout.files])
    files = [file for file in layout.files if file not in scan.broken]
    classes, in_test = layout.classes[good], layout.in_test[good]
    kept, duplicates = _without_duplicates(scan.digests, classes, in_test, files)
    masks, mask_notes = _usable_masks(folder, layout.masks, set(files))
    report = [
        f"{folder}: {layout.words}",
        *_counts(layout.class_names, classes, in_test),
        _sizes(scan),
        *([_skipped(scan.broken)] if scan.broken else []),
        *duplicates,
        *mask_notes,
        *layout.notes,
        _taken_as(scan, images, config),
    ]
    readable = ImageSet(images, classes, tuple(files))
    return ImageDataset(
        str(folder),
        readable.take(kept & ~in_test),
        readable.take(kept & in_test),
        layout.class_names,
        named_normal=layout.normal,
        masks=masks,
        report=tuple(report),
        skipped=tuple(scan.broken.values()),
    )


def recognise(folder: Path) -> Layout:
    """Recognises the layout of a folder by its names.

    Raises:
        UserError: If pictures lie both beside and in subfolders, or there is a test/ alone.
    """
    parts: dict[str, str] = {}  # the folder's own subfolders by their lower-case names
    images, others = [], Counter[str]()
    masks = []
    for file in files_below(folder):
        top = file.split(os.sep, 1)[0] if os.sep in file else ""
        parts.setdefault(top.lower(), top)
        if not file.lower().endswith(SUFFIXES):
            others[os.path.splitext(file)[1].lower() or "no ending"] += 1
        elif top.lower() == MASKS:
            masks.append(file)
        else:
            images.append(file)
    notes = []
    if others:
        endings = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        notes.append(f"left alone: files that are no images by their names ({endings})")
    divided = TRAIN in parts
    if TEST in parts and not divided:
        raise UserError(f"{folder} has a {TEST}/ and no {TRAIN}/ beside it; add or rename one")
    if divided:
        inside = [file for file in images if file.split(os.sep, 1)[0].lower() in (TRAIN, TEST)]
        if len(inside) < len(images):
            notes.append(f"left alone: {len(images) - len(inside)} images beside {TRAIN}/, {TEST}/")
        images = inside
    names = [_class_of(file, divided) for file in images]
    _refuse_mixture(folder, images, names, divided)
    # Pictures without a class folder take the name of the normal class beside them, if there is.
    known = [name for name in dict.fromkeys(names) if name and name.lower() in NORMAL_NAMES]
    names = [name or (known[0] if known else NORMAL_NAMES[0]) for name in names]
    class_names = tuple(sorted(set(names), key=_natural))
    numbers = {name: number for number, name in enumerate(class_names)}
    in_test = [divided and file.split(os.sep, 1)[0].lower() == TEST for file in images]
    words = f"pictures in {', '.join(f'{name}/' for name in class_names[:SHOWN])}"
    if len(class_names) > SHOWN:
        words += f" and {len(class_names) - SHOWN} more folders"
    if len(class_names) == 1:
        words = "pictures without class folders" if not known else words
    if divided:
        words = f"{TRAIN}/ and {TEST}/ with {words}" if any(in_test) else f"{TRAIN}/ with {words}"
    return Layout(
        words + ("" if any(in_test) else "; no test set of its own"),
        images,
        np.array([numbers[name] for name in names], np.int16),
        np.array(in_test, bool),
        class_names,
        _pair_masks(images, names, masks, divided),
        tuple(notes),
    )


def read_masks(
    folder: Path, files: list[str | None], image_shape: tuple[int, int, int]
) -> np.ndarray:
    """Masks at a detector's size, bool `(N, H, W)`, True where an anomaly is.

    Args:
        folder: Where the paths begin.
        files: A mask file for each, white where an anomaly is; None gives an empty mask.
        image_shape: Height, width and channels of the images.

    Returns:
        A pixel is True if at least half of what it covers is white; of an anomaly too thin for
        that, every pixel it touches.
    """
    height, width, _ = image_shape
    masks = np.zeros((len(files), height, width), bool)
    for number, file in enumerate(files):
        if file is not None:
            white = open_image(folder / file).convert("L").point(lambda grey: 255 * (grey > 127))
            share = np.asarray(white.resize((width, height), Image.Resampling.BOX))
            masks[number] = share >= 128 if (share >= 128).any() else share > 0
    return masks


def _class_of(file: str, divided: bool) -> str:
    """The class folder a file lies in; empty if it lies in none."""
    folders = file.split(os.sep)[:-1]
    return (folders[divided:] or [""])[0]


def _refuse_mixture(folder: Path, files: list[str], names: list[str], divided: bool) -> None:
    places: dict[str, set[str]] = {}
    for file, name in zip(files, names, strict=True):
        places.setdefault(file.split(os.sep, 1)[0] if divided else "", set()).add(name)
    for place, found in places.items():
        if "" in found and len(found) > 1:
            classes = ", ".join(f"{name}/" for name in sorted(found) if name)
            raise UserError(
                f"{folder / place} holds images beside folders of images ({classes}); move them "
                "into a folder of their own, such as normal/"
            )


def _natural(name: str) -> list[Any]:
    """Sorts class 10 behind class 9."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _digits(name)]


def _digits(name: str) -> list[str]:
    return [part for part in re.split(r"(\d+)", name) if part]


def _pair_masks(
    files: list[str], names: list[str], masks: list[str], divided: bool
) -> dict[str, str]:
    """Image file to mask file: ground_truth/<class>/<image's name>[_mask].<any ending>."""
    if not masks:
        return {}
    by_name = {}
    for mask in masks:
        stem = os.path.splitext(mask.split(os.sep, 1)[1])[0]
        by_name[stem.removesuffix("_mask")] = mask
    pairs = {}
    for file, name in zip(files, names, strict=True):
        inside = file.split(os.sep, 1)[1] if divided else file
        stem = os.path.splitext(inside)[0]
        if stem in by_name and name.lower() not in NORMAL_NAMES:
            pairs[file] = by_name[stem]
    return pairs


def _usable_masks(
    folder: Path, masks: dict[str, str], readable: set[str]
) -> tuple[dict[str, str], list[str]]:
    """The masks that can be read and are of their image's size, and what there is to tell."""
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
    notes = [f"masks: {len(usable)}"] if masks else []
    if wrong:
        notes.append(f"left out: {_several(wrong, 'mask')}")
    return usable, notes


def _read(folder: Path, layout: Layout, config: Config) -> tuple[np.ndarray | StoredImages, Scan]:
    """Reads all files, into memory or onto the disk, and what they told."""
    cache = Path(config.data_dir) / "folders" / _key(folder, layout, config)
    if cache.is_dir():
        stored, scan_before = _open_cache(cache)
        fits = _fits(len(stored) * int(np.prod(stored.shape[1:])), config.folder)
        return (stored[:] if fits else stored), scan_before
    broken, sizes = _read_headers(folder, layout.files)
    if len(broken) > config.max_broken * len(layout.files) or len(broken) == len(layout.files):
        return np.zeros((0, 1, 1, 1), np.uint8), Scan((1, 1, 1), [], 0, broken, [])
    files = [file for file in layout.files if file not in broken]
    shape = _image_shape(sizes, config)
    size = len(files) * int(np.prod(shape))
    frequent = Counter(map(tuple, sizes[:, :2].tolist())).most_common()
    counted = [[width, height, count] for (width, height), count in frequent]

    def scan(digests: list[str]) -> Scan:
        return Scan(shape, counted, int(sizes[:, 2].sum()), broken, digests)

    if _fits(size, config.folder):
        images = np.empty((len(files), *shape), np.uint8)

        def place(number: int, image: np.ndarray) -> None:
            images[number] = image

        digests = _decode(folder, files, shape, broken, place)
        return images[: len(digests)], scan(digests)
    if not config.folder.cache:
        digests = _decode(folder, files, shape, broken, lambda number, image: None)
        files = [file for file in files if file not in broken]
        reader = ImageFiles(folder, files, shape)
        return StoredImages(reader, np.arange(len(files)), shape), scan(digests)
    _require_space(cache, size)
    with atomic_folder(cache) as new, (new / "images").open("wb") as out:
        digests = _decode(
            folder, files, shape, broken, lambda number, image: out.write(image.tobytes())
        )
        text = json.dumps(dataclasses.asdict(scan(digests)))
        (new / "scan.json").write_text(text, "utf-8")
    return _open_cache(cache)


def _fits(size: int, folder: FolderConfig) -> bool:
    """Whether images of so many bytes are kept in memory."""
    if folder.storage == "auto":
        return size <= folder.memory_limit * 10**6
    return folder.storage == "memory"


def _open_cache(cache: Path) -> tuple[StoredImages, Scan]:
    try:
        scan = Scan(**json.loads((cache / "scan.json").read_text("utf-8")))
        height, width, channels = scan.image_shape
        shape = height, width, channels
        expected = len(scan.digests) * height * width * channels
        if (cache / "images").stat().st_size != expected:
            raise ValueError(f"expected {expected} bytes of images")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cache {cache} is damaged ({error}); remove it") from error
    records = Records(cache / "images", shape)
    return StoredImages(records, np.arange(len(scan.digests)), shape), scan


def _key(folder: Path, layout: Layout, config: Config) -> str:
    """Name of a cache: changes with any file's name, length or date."""
    state = hashlib.sha256(repr((CACHE_VERSION, config.size)).encode())
    for file in layout.files:
        status = os.stat(folder / file, follow_symlinks=True) if (folder / file).exists() else None
        facts = (file, status.st_size, status.st_mtime_ns) if status else (file,)
        state.update(repr(facts).encode("utf-8", "surrogateescape"))
    return state.hexdigest()[:16]


def _read_headers(folder: Path, files: list[str]) -> tuple[dict[str, str], np.ndarray]:
    """Why files are broken, and int32 `(n, 3)` of the others: width, height, is grayscale."""

    def header(file: str) -> tuple[int, int, bool] | UnreadableImage:
        try:
            return read_header(folder / file)
        except UnreadableImage as error:
            return error

    broken, sizes = {}, np.empty((len(files), 3), np.int32)
    good = 0
    for file, found in _in_parallel(header, files, "looked at"):
        if isinstance(found, UnreadableImage):
            broken[file] = str(found)
        else:
            sizes[good] = found
            good += 1
    return broken, sizes[:good]


def _decode(
    folder: Path,
    files: list[str],
    shape: tuple[int, int, int],
    broken: dict[str, str],
    keep: Callable[[int, np.ndarray], object],
) -> list[str]:
    """Decodes all files.

    Args:
        folder: Where the paths begin.
        files: Paths from there.
        shape: What each image is brought to.
        broken: Takes why a file cannot be read.
        keep: Called with the number, without gaps, and the image of each that can.

    Returns:
        The digest of the content of each readable file, decoded and upright.
    """

    def decode(file: str) -> tuple[np.ndarray, str] | UnreadableImage:
        try:
            image = open_image(folder / file)
        except UnreadableImage as error:
            return error
        content = hashlib.blake2b(repr((image.mode, image.size)).encode(), digest_size=16)
        content.update(image.tobytes())
        return fit_image(image, shape), content.hexdigest()

    digests: list[str] = []
    for file, found in _in_parallel(decode, files, "decoded"):
        if isinstance(found, UnreadableImage):
            broken[file] = str(found)
            continue
        keep(len(digests), found[0])
        digests.append(found[1])
    return digests


def _in_parallel(
    call: Callable[[str], Any], files: list[str], verb: str
) -> Iterator[tuple[str, Any]]:
    """Each file with what `call` makes of it; only a part of the results waits in memory."""
    with ThreadPoolExecutor(available_threads()) as pool:
        for start in range(0, len(files), PART):
            if len(files) > PART:
                show_progress(start, len(files), f"images {verb}")
            part = files[start : start + PART]
            yield from zip(part, pool.map(call, part), strict=True)
    show_progress()


def _image_shape(sizes: np.ndarray, config: Config) -> tuple[int, int, int]:
    """Height, width and channels for all, from widths, heights and colours."""
    channels = 1 if sizes[:, 2].all() else 3
    if config.size:
        return (*config.size, channels)
    width, height = np.median(sizes[:, :2], axis=0)
    factor = min(1.0, LONGEST_BY_DEFAULT / max(width, height))
    sides = (max(SMALLEST_SIDE, round(side * factor)) for side in (height, width))
    return (*sides, channels)


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


def _without_duplicates(
    digests: list[str], classes: np.ndarray, in_test: np.ndarray, files: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Which images to keep, bool `(N,)`, and what there is to tell.

    Training files are about to be divided, at least into training and validation set: copies would
    come to lie on both sides. A test set of the user's own is left as it is.
    """
    kept = np.ones(len(files), bool)
    same: dict[str, list[int]] = {}
    for number, digest in enumerate(digests):
        same.setdefault(digest, []).append(number)
    groups = [np.array(group) for group in same.values() if len(group) > 1]
    notes = []
    shared = [group for group in groups if len(set(in_test[group].tolist())) == 2]
    if shared:
        count = sum(int(in_test[group].sum()) for group in shared)
        first = " and ".join(files[number] for number in shared[0][:2])
        notes.append(
            f"WARNING: {count} test images are also among the training images ({first}, ...): "
            "figures on the test set will look better than they are"
        )
    copies, contradicting = 0, []
    for group in (group[~in_test[group]] for group in groups):
        if len(set(classes[group].tolist())) > 1:
            kept[group] = False
            contradicting.append(group)
        else:
            kept[group[1:]] = False
            copies += len(group[1:])
    if copies:
        notes.append(f"left out: {copies} copies of other images (same content)")
    if contradicting:
        first = " and ".join(files[number] for number in contradicting[0][:2])
        count = sum(map(len, contradicting))
        notes.append(f"left out: {count} images that lie in two classes at once ({first}, ...)")
    return kept, notes


def _counts(names: tuple[str, ...], classes: np.ndarray, in_test: np.ndarray) -> list[str]:
    def count(chosen: np.ndarray) -> str:
        numbers = np.bincount(classes[chosen], minlength=len(names))
        shown = [f"{name} {number}" for name, number in zip(names, numbers, strict=True) if number]
        return ", ".join(shown[:12]) + (f", and {len(shown) - 12} more" if len(shown) > 12 else "")

    if not in_test.any():
        return [f"images: {count(~in_test)}"]
    return [f"images in {TRAIN}/: {count(~in_test)}", f"images in {TEST}/: {count(in_test)}"]


def _sizes(scan: Scan) -> str:
    shown = ", ".join(f"{width}x{height} ({count})" for width, height, count in scan.sizes[:SHOWN])
    if len(scan.sizes) > SHOWN:
        shown += f" and {len(scan.sizes) - SHOWN} other sizes"
    count = sum(count for _, _, count in scan.sizes)
    grey = scan.n_grayscale
    colours = {0: "colour", count: "grayscale"}.get(grey, f"{grey} grayscale, the rest colour")
    return f"width x height: {shown}; {colours}"


def _taken_as(scan: Scan, images: np.ndarray | StoredImages, config: Config) -> str:
    height, width, channels = scan.image_shape
    colours = "colour" if channels == 3 else "grayscale"
    size = len(images) * height * width * channels / 1e6
    place = "kept in memory"
    if isinstance(images, StoredImages):
        cached = f"decoded into {config.data_dir}/folders" if config.folder.cache else "not cached"
        place = f"read from disk as they are needed ({cached})"
    chosen = "as asked" if config.size else "chosen from the data"
    return (
        f"taken as {height}x{width} (height x width, {chosen}), {colours}; {place}, {size:.0f} MB"
    )


def _skipped(broken: dict[str, str]) -> str:
    return f"skipped: {_several(broken, 'unreadable file')}"


def _several(reasons: dict[str, str], what: str) -> str:
    shown = "; ".join(list(reasons.values())[:SHOWN])
    more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return f"{len(reasons)} {what}{'s' * (len(reasons) > 1)} ({shown}{more})"


def _first(reasons: dict[str, str]) -> str:
    return next(iter(reasons.values()))
