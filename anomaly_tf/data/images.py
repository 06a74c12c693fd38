"""Finds image files, checks them before they are decoded, and brings them to one shape.

Imports only NumPy and Pillow.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from anomaly_tf.data.decoding import PixelBudget, require_few_scans
from anomaly_tf.errors import UserError

FORMATS = {
    "BMP": (".bmp",),
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# What the parsers of Pillow's formats raise on damaged data.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
)
# A photo of 50 million pixels takes 150 MB once decoded, and a gigabyte while it is put upright and
# on white; a file of a few KB can claim many more.
MAX_PIXELS = 50_000_000
# What all threads decode at the same time.
PIXELS = PixelBudget(MAX_PIXELS)
ORIENTATION = ExifTags.Base.Orientation
QUARTER_TURNS = (5, 6, 7, 8)
# Too large images are refused here; Pillow's warning would repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImage(UserError):
    """A file is not an image, or not one that can be used; the message names the file."""


def find_images(places: list[str]) -> Iterator[tuple[Path, Path]]:
    """Finds image files; in folders and their subfolders by suffix, in order of name.

    Links to folders are not followed, so that loops do no harm.

    Args:
        places: Files and folders. A file may have any suffix and need not exist.

    Yields:
        Each file, and its path relative to the parent of the given folder, or the name of the given
        file.

    Raises:
        UserError: If a folder holds no image.
    """
    for place in map(Path, places):
        if not place.is_dir():
            yield place, Path(place.name)
            continue
        found, folder = False, place.resolve().name
        for name in files_below(place):
            if name.lower().endswith(SUFFIXES):
                found = True
                yield place / name, Path(folder, name)
        if not found:
            raise no_images(place)


def no_images(folder: Path) -> UserError:
    """The error for a folder without images."""
    return UserError(f"folder {folder} holds no images; give one with {', '.join(SUFFIXES)} files")


def files_below(folder: str | Path) -> Iterator[str]:
    """Relative paths of the files in a folder and its subfolders, in order of name.

    Hidden files and folders are left out; links to folders are not followed.
    """
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = os.path.relpath(place, folder)
        for name in sorted(names):
            if not name.startswith("."):
                yield name if below == "." else os.path.join(below, name)


def open_image(path: Path) -> Image.Image:
    """Decodes an image file: upright, grayscale `L` or colour `RGB`.

    The size in the file's header is checked before anything is decoded. Photos are turned as their
    EXIF tag says, transparent images are put on white, 16-bit grey becomes 8-bit, and the first
    picture of an animation or of a document with several pages is used.

    Raises:
        UnreadableImage: If the file cannot be read, is not in one of `FORMATS`, is damaged or has
            more than `MAX_PIXELS`.
    """
    with decoded(path) as image:
        return image


@contextmanager
def decoded(path: Path) -> Iterator[Image.Image]:
    """As `open_image`; what the block does counts as decoding.

    At most `MAX_PIXELS` are decoded at the same time, whatever the number of threads.
    """
    with _opened(path) as opened, PIXELS.taken(opened.width * opened.height):
        try:
            if opened.format == "JPEG":
                require_few_scans(path, opened.width * opened.height)
            image = _as_grey_or_colour(ImageOps.exif_transpose(opened))
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error
        yield image


def read_header(path: Path) -> tuple[int, int, bool]:
    """Width and height of the upright image, and whether it is grayscale, without decoding it.

    Raises:
        UnreadableImage: As `open_image`, except for damage after the header.
    """
    with _opened(path) as image:
        try:
            # In a PNG without EXIF before the pixels, asking for it would decode them.
            asked = image.format != "PNG" or "exif" in image.info
            turned = asked and image.getexif().get(ORIENTATION, 1) in QUARTER_TURNS
            grey = image.mode in ("1", "L") or image.mode.startswith("I")
            # Transparent grey becomes colour on its white ground.
            grey = grey and not image.has_transparency_data
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error
        width, height = image.size[::-1] if turned else image.size
        return width, height, grey


class _File(io.BufferedReader):
    """A file that is read no further than its size, whatever lengths its content claims.

    For a PNG of 2 KB that claims a chunk of 2 GB, Pillow would allocate 2 GB.
    """

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(io.FileIO(path))
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Opens an image and checks its size; only the header is read."""
    with ExitStack() as stack:
        try:
            size = path.stat().st_size
            if size == 0:
                raise UnreadableImage(f"{path} is empty (0 bytes)")
            file = stack.enter_context(_File(path, size))
            image = Image.open(file, formats=tuple(FORMATS))
        except UnreadableImage:
            raise
        except Image.DecompressionBombError as error:
            raise _too_large(path, "its header") from error
        except UnidentifiedImageError as error:
            raise UnreadableImage(f"{path} is not an image ({', '.join(FORMATS)})") from error
        except IsADirectoryError as error:
            raise UnreadableImage(f"{path} is a folder, not an image") from error
        except OSError as error:
            raise UnreadableImage(f"cannot read {path}: {error.strerror or error}") from error
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _too_large(path, f"{width} x {height}")
        yield image


def fit_image(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """Converts an image to the shape of a detector's input.

    Args:
        image: In mode `L` or `RGB`.
        shape: Height, width and channels, 1 or 3.

    Returns:
        uint8 `(H, W, C)`; resized by Pillow's bilinear filter (which averages when it shrinks)
        if the size differs.
    """
    height, width, channels = shape
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(shape)


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """`open_image` and `fit_image` in one: uint8 `(H, W, C)`."""
    with decoded(path) as image:
        return fit_image(image, shape)


def _too_large(path: Path, size: str) -> UnreadableImage:
    return UnreadableImage(
        f"{path} claims too many pixels ({size}); at most {MAX_PIXELS // 10**6} million are read"
    )


def _as_grey_or_colour(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would cut off at 255
        values = np.asarray(image)
        return Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
