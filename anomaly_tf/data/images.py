"""Image files: checked before they are decoded, and converted to one shape.

Imports only NumPy and Pillow.
"""

from __future__ import annotations

import io
import math
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from anomaly_tf.data.bit_depth import eight_bits, is_deep, value_range
from anomaly_tf.data.decoding import PixelBudget, UnreadableImage, require_few_scans
from anomaly_tf.data.formats import FORMATS, what_else
from anomaly_tf.errors import UserError
from anomaly_tf.runs.limits import MAX_PIXELS, MAX_PIXELS_ON_REQUEST, require_memory
from anomaly_tf.runs.paths import user_path

# Pillow's names of JPEG files; an MPO holds several images, and the first is used.
JPEG = ("JPEG", "MPO")
# Exceptions that Pillow's parsers raise on damaged data.
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
# Memory for each pixel of an image while it is rotated, composited or copied into an array: 10 for
# colours, 16 with transparency.
BYTES_A_PIXEL = 16
# Pixels that all threads together decode at the same time.
PIXELS = PixelBudget(MAX_PIXELS)
# TIFF tags; bit 1 of the first marks a page that is a smaller copy of another.
KIND_OF_PAGE, PHOTOMETRIC = 254, 262
# Limits of a TIFF: how often each pixel may be decoded (once per colour), and its smaller copies.
MAX_TIMES_DECODED, MAX_SMALLER_COPIES = 8, 32
# Pillow decodes run-length-encoded files in Python, which is slow.
MAX_RLE_BYTES = 8 * 2**20
ORIENTATION = ExifTags.Base.Orientation
QUARTER_TURNS = (5, 6, 7, 8)
# Images that are too large are refused here; Pillow's warning would repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Unusual tags do not affect the pixels; a warning for each would be of no use.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    Attributes:
        bit_depth: Bit depth of the grey levels in 16-bit files; white is `2 ** bit_depth - 1`.
            None means 16, and is accepted only if the values of a file need 16 bits.
        max_pixels: Largest number of pixels of a file, at most `MAX_PIXELS_ON_REQUEST`.
    """

    bit_depth: int | None = None
    max_pixels: int = MAX_PIXELS


AS_USUAL = Reading()


def open_image(path: Path, reading: Reading = AS_USUAL) -> Image.Image:
    """Decodes an image file to an upright image in mode `L` (grayscale) or `RGB`.

    The size in the file's header is checked before anything is decoded. Images are rotated by their
    EXIF tag, transparent images are composited on white, 16-bit grey is converted to 8-bit, and the
    first frame of an animation is used.

    Args:
        path: The file.
        reading: Bit depth and the largest number of pixels.

    Raises:
        UnreadableImage: If the file cannot be read, is not in one of `FORMATS`, is damaged, holds
            floating-point values, has more than `max_pixels`, has values above `bit_depth`, or, if
            that is None, does not need 16 bits, so that its white level is unknown.
    """
    with decoded(path, reading) as image:
        return image


@contextmanager
def decoded(path: Path, reading: Reading = AS_USUAL) -> Iterator[Image.Image]:
    """As `open_image`, as a context manager; work in its block counts as decoding.

    All threads together decode at most `MAX_PIXELS` at the same time, or one larger image.
    """
    with _opened(path, reading.max_pixels) as image, PIXELS.taken(image.width * image.height):
        try:
            if image.format in JPEG:
                require_few_scans(path, image.width * image.height)
            deep = is_deep(image)
            ImageOps.exif_transpose(image, in_place=True)
            if deep:
                image = eight_bits(path, image, reading.bit_depth)
            image = _as_grey_or_colour(image)
        except UnreadableImage:
            raise
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error
        yield image


class Levels(NamedTuple):
    """The stored values of a mask.

    Attributes:
        values: `(H, W)`, of any numeric type.
        kind: Kind of the values: `grey`, `colour` (the largest channel of each pixel) or `opacity`.
        is_lossy: Whether the file's format is lossy.
    """

    values: np.ndarray
    kind: str
    is_lossy: bool


def read_levels(path: Path, reading: Reading = AS_USUAL) -> Levels:
    """Reads the file of a mask, upright; its values are not changed by a bit depth.

    Raises:
        UnreadableImage: As `open_image`, but floating-point values are accepted.
    """
    with _opened(path, reading.max_pixels) as image:
        try:
            is_lossy = image.format in (*JPEG, "WEBP")
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                opacity = np.asarray(image.convert("RGBA"))[..., 3]
                if opacity.min() < opacity.max():
                    return Levels(opacity, "opacity", is_lossy)
            if image.mode == "P":  # colours encode numbers; dark colours count, too
                colours = np.asarray(image.convert("RGB")).max(axis=-1)
                return Levels(np.where(colours > 0, 255, 0).astype(np.uint8), "colour", is_lossy)
            if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
                grey = image.convert("L") if image.mode == "1" else image
                return Levels(np.asarray(grey), "grey", is_lossy)
            parts = np.asarray(image.convert("RGB"))
            is_grey = (parts == parts[..., :1]).all()
            return Levels(parts.max(axis=-1), "grey" if is_grey else "colour", is_lossy)
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error


def largest_value(path: Path, reading: Reading = AS_USUAL) -> int:
    """The largest grey level in a 16-bit file, 0 to 65535; for colours accurate to 255.

    Raises:
        UnreadableImage: As `open_image`.
    """
    with _opened(path, reading.max_pixels) as image:
        try:
            return value_range(image)[1]
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error


class Header(NamedTuple):
    """Properties in the header of an image file.

    Attributes:
        width: Width of the upright image.
        height: Height of the upright image.
        is_grey: Whether it is grayscale.
        is_deep: Whether it has more than 8 bits per channel.
    """

    width: int
    height: int
    is_grey: bool
    is_deep: bool


def read_header(path: Path, reading: Reading = AS_USUAL) -> Header:
    """Reads the size and kind of an image without decoding it.

    Raises:
        UnreadableImage: As `open_image`, except for damage after the header.
    """
    with _opened(path, reading.max_pixels) as image:
        try:
            # If a PNG has no EXIF before the pixels, getexif() would decode them.
            has_exif = image.format != "PNG" or "exif" in image.info
            turned = has_exif and image.getexif().get(ORIENTATION, 1) in QUARTER_TURNS
            grey = image.mode in ("1", "L") or image.mode.startswith("I")
            # Transparent grey is converted to colour when it is composited on white.
            grey = grey and not image.has_transparency_data
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error
        width, height = image.size[::-1] if turned else image.size
        return Header(width, height, grey, is_deep(image))


class _File(io.BufferedReader):
    """A file whose reads are limited to its size, because its content may claim larger chunks.

    For a PNG of 2 KB that claims a chunk of 2 GB, Pillow would allocate 2 GB.
    """

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(io.FileIO(path))
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Opens an image and checks its size; only the header is read."""
    with ExitStack() as stack:
        try:
            path = user_path(path)
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                raise UnreadableImage(f"{path} is a pipe or a device; save it as a file first")
            size = status.st_size
            if size == 0:
                raise UnreadableImage(f"{path} is empty (0 bytes)")
            file = stack.enter_context(_File(path, size))
            image = Image.open(file, formats=tuple(FORMATS))
        except UnreadableImage:
            raise
        except Image.DecompressionBombError as error:
            raise _too_large(path, "its header", MAX_PIXELS_ON_REQUEST) from error
        except UnidentifiedImageError as error:
            raise UnreadableImage(f"{path} {what_else(file)}") from error
        except IsADirectoryError as error:
            raise UnreadableImage(f"{path} is a folder, not an image") from error
        except OSError as error:
            raise UnreadableImage(f"cannot read {path}: {error.strerror or error}") from error
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error
        width, height = image.size
        if width * height > max_pixels:
            raise _too_large(path, f"{width} x {height}", max_pixels, width * height)
        if width * height > MAX_PIXELS:
            try:
                require_memory(BYTES_A_PIXEL * width * height, f"decoding {path}")
            except UserError as error:
                raise UnreadableImage(str(error)) from error
        if image.tile and image.tile[0][0] == "bmp_rle" and size > MAX_RLE_BYTES:
            raise UnreadableImage(f"{path} is a large run-length-encoded BMP; save it as PNG")
        if image.format == "TIFF":
            require_plain_tiff(path, image)
        if image.mode == "F":
            raise UnreadableImage(
                f"{path} holds floating-point values, whose black and white are unknown; convert "
                "it to integers of 8 or 16 bits"
            )
        yield image


def require_plain_tiff(path: Path, image: Image.Image) -> None:
    """Refuses a TIFF that would be read incompletely or wrongly.

    Raises:
        UnreadableImage: If it has several pages (smaller copies of the first do not count), strips
            that are read many times, or 16 bits with 0 as white.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for _, box, *_ in image.tile)  # type: ignore[attr-defined]
    if sum(areas) > MAX_TIMES_DECODED * image.width * image.height:
        raise UnreadableImage(f"{path} is damaged (more strips than rows); save it again")
    if tags.get(PHOTOMETRIC) == 0 and is_deep(image):
        raise UnreadableImage(
            f"{path} has 16 bits with 0 as white, which is not supported; save it with 8 bits"
        )
    kinds = []
    try:
        for page in range(1, MAX_SMALLER_COPIES):
            image.seek(page)
            kinds.append(image.tag_v2.get(KIND_OF_PAGE, 0))  # type: ignore[attr-defined]
    except EOFError:
        image.seek(0)
    except DAMAGE as error:
        raise UnreadableImage(f"{path} is damaged ({error})") from error
    if any(not kind & 1 for kind in kinds):
        raise UnreadableImage(f"{path} has several pages; save each as a separate image")


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
    image = _in_mode(image, "L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(shape)


def read_image(path: Path, shape: tuple[int, int, int], reading: Reading = AS_USUAL) -> np.ndarray:
    """`open_image` and `fit_image` in one: uint8 `(H, W, C)`."""
    with decoded(path, reading) as image:
        return fit_image(image, shape)


def _too_large(path: Path, size: str, limit: int, pixels: float = math.inf) -> UnreadableImage:
    """The error for an image of more pixels than `limit`."""
    read = f"{limit // 10**6} million" if limit >= 10**6 else limit
    remedy = "resize it or cut it into parts"
    if pixels <= MAX_PIXELS_ON_REQUEST:
        remedy = f"give --max-pixels {pixels}, {remedy}"
    return UnreadableImage(
        f"{path} claims too many pixels ({size}); at most {read} are read: {remedy}"
    )


def _as_grey_or_colour(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return _in_mode(image, "L" if image.mode in ("1", "L") else "RGB")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image itself if it has the mode: `convert` would copy it."""
    return image if image.mode == mode else image.convert(mode)
