"""Image files: checked before they are decoded, and brought to one shape.

Imports only NumPy and Pillow.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from anomaly_tf.data.decoding import PixelBudget, require_few_scans
from anomaly_tf.data.formats import FORMATS, what_else
from anomaly_tf.errors import UserError
from anomaly_tf.runs.paths import user_path

# What Pillow calls those whose file may hold several, of which the first is used.
JPEG = ("JPEG", "MPO")
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
# Bits of a camera's grey levels, which are stored in 16 where they are more than 8.
BIT_DEPTHS = (8, 10, 12, 14, 16)
# A photo of 50 million pixels takes 150 MB once decoded, and a gigabyte while it is put upright and
# on white; a file of a few KB can claim many more.
MAX_PIXELS = 50_000_000
# What all threads decode at the same time.
PIXELS = PixelBudget(MAX_PIXELS)
# Tags of TIFF, and bits of the kind of a page: 1 for a smaller copy of another.
KIND_OF_PAGE, PHOTOMETRIC = 254, 262
# How often each pixel of a TIFF may be decoded, once for each colour; smaller copies in it.
MAX_TIMES_DECODED, MAX_SMALLER_COPIES = 8, 32
# Pillow unpacks such a file in Python.
MAX_RLE_BYTES = 8 * 2**20
ORIENTATION = ExifTags.Base.Orientation
QUARTER_TURNS = (5, 6, 7, 8)
# Too large images are refused here; Pillow's warning would repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What is odd in a file's tags has no part in its picture, and a line for each tag helps nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImage(UserError):
    """A file is not an image, or not one that can be used; the message names the file."""


def open_image(path: Path, bit_depth: int | None = None) -> Image.Image:
    """Decodes an image file: upright, grayscale `L` or colour `RGB`.

    The size in the file's header is checked before anything is decoded. Photos are turned as their
    EXIF tag says, transparent images are put on white, 16-bit grey becomes 8-bit, and the first
    picture of an animation or of a document with several pages is used.

    Args:
        path: The file.
        bit_depth: Bits of the grey levels of a 16-bit file, which many cameras do not fill; white
            is `2 ** bit_depth - 1`. None: 16, for a file whose values leave no other.

    Raises:
        UnreadableImage: If the file cannot be read, is not in one of `FORMATS`, is damaged, holds
            floating-point numbers, has more than `MAX_PIXELS`, or has 16 bits that do not fit
            `bit_depth` or, if that is None, do not tell what white is.
    """
    with decoded(path, bit_depth) as image:
        return image


@contextmanager
def decoded(path: Path, bit_depth: int | None = None) -> Iterator[Image.Image]:
    """As `open_image`; what the block does counts as decoding.

    At most `MAX_PIXELS` are decoded at the same time, whatever the number of threads.
    """
    with _opened(path) as opened, PIXELS.taken(opened.width * opened.height):
        try:
            if opened.format in JPEG:
                require_few_scans(path, opened.width * opened.height)
            deep = _is_deep(opened)
            image = ImageOps.exif_transpose(opened)
            if deep:
                image = _eight_bits(path, image, bit_depth)
            image = _as_grey_or_colour(image)
        except UnreadableImage:
            raise
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error
        yield image


class Levels(NamedTuple):
    """The values of a mask as they are stored.

    Attributes:
        values: `(H, W)`, of any type of number.
        kind: What they are: `grey`, `colour` (of each pixel the largest part) or `opacity`.
        is_lossy: Whether the file's format changes values a little.
    """

    values: np.ndarray
    kind: str
    is_lossy: bool


def read_levels(path: Path) -> Levels:
    """Reads an image file that is no picture but marks pixels, upright.

    Raises:
        UnreadableImage: As `open_image`, except for floating-point numbers.
    """
    with _opened(path) as image:
        try:
            is_lossy = image.format in (*JPEG, "WEBP")
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                opacity = np.asarray(image.convert("RGBA"))[..., 3]
                if opacity.min() < opacity.max():
                    return Levels(opacity, "opacity", is_lossy)
            if image.mode == "P":  # colours stand for numbers, dark ones too
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


def largest_value(path: Path) -> int:
    """The largest grey level in a 16-bit file, 0 to 65535; of colours within 255.

    Raises:
        UnreadableImage: As `open_image`.
    """
    with _opened(path) as image:
        try:
            return _value_range(image)[1]
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error


def bits_of(value: int) -> int:
    """The fewest of `BIT_DEPTHS` that hold a grey level."""
    return next((depth for depth in BIT_DEPTHS if value < 2**depth), BIT_DEPTHS[-1])


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
        width: Of the upright image.
        height: Likewise.
        is_grey: Whether it is grayscale.
        is_deep: Whether a pixel has more than 8 bits for a grey level or a colour.
    """

    width: int
    height: int
    is_grey: bool
    is_deep: bool


def read_header(path: Path) -> Header:
    """Size and kind of an image, without decoding it.

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
        return Header(width, height, grey, _is_deep(image))


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
            raise _too_large(path, "its header") from error
        except UnidentifiedImageError as error:
            raise UnreadableImage(f"{path} {what_else(file)}") from error
        except IsADirectoryError as error:
            raise UnreadableImage(f"{path} is a folder, not an image") from error
        except OSError as error:
            raise UnreadableImage(f"cannot read {path}: {error.strerror or error}") from error
        except DAMAGE as error:
            raise UnreadableImage(f"{path} is damaged ({error})") from error
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _too_large(path, f"{width} x {height}")
        if image.tile and image.tile[0][0] == "bmp_rle" and size > MAX_RLE_BYTES:
            raise UnreadableImage(f"{path} is a large BMP of packed rows; save it as PNG")
        if image.format == "TIFF":
            require_plain_tiff(path, image)
        if image.mode == "F":
            raise UnreadableImage(
                f"{path} holds floating-point numbers, of which nothing says what is black and "
                "what is white; convert it to whole numbers of 8 or 16 bits"
            )
        yield image


def require_plain_tiff(path: Path, image: Image.Image) -> None:
    """Refuses a TIFF of which a part would be passed over, or read wrongly.

    Raises:
        UnreadableImage: If it has several pages (smaller copies of the first are none), strips that
            are read again and again, or 16 bits of which 0 is white.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for _, box, *_ in image.tile)  # type: ignore[attr-defined]
    if sum(areas) > MAX_TIMES_DECODED * image.width * image.height:
        raise UnreadableImage(f"{path} is damaged (more strips than rows); save it again")
    if tags.get(PHOTOMETRIC) == 0 and _is_deep(image):
        raise UnreadableImage(
            f"{path} has 16 bits of which 0 is white, which is not read; save it with 8 bits"
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
        raise UnreadableImage(f"{path} has several pages; save each as a picture of its own")


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


def read_image(path: Path, shape: tuple[int, int, int], bit_depth: int | None = None) -> np.ndarray:
    """`open_image` and `fit_image` in one: uint8 `(H, W, C)`."""
    with decoded(path, bit_depth) as image:
        return fit_image(image, shape)


def _too_large(path: Path, size: str) -> UnreadableImage:
    return UnreadableImage(
        f"{path} claims too many pixels ({size}); at most {MAX_PIXELS // 10**6} million are read: "
        "make it smaller or cut it into parts"
    )


def _is_deep(image: Image.Image) -> bool:
    """Whether an image that is not yet decoded has more than 8 bits for a grey level or colour."""
    if image.mode.startswith("I"):
        return True
    tile = image.tile[0] if image.tile else None  # type: ignore[attr-defined]
    stored = tile.args if tile else ""
    return ";16" in str(stored if isinstance(stored, str) else (stored or [""])[0])


def _value_range(image: Image.Image) -> tuple[int, int]:
    """Smallest and largest value of a deep image; of colours Pillow keeps the upper 8 bits."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        return int(values.min()), int(values.max())
    bands = image.getextrema()[:3]
    return 0, 256 * max(int(high) for _, high in bands) + 255  # type: ignore[misc]


def _eight_bits(path: Path, image: Image.Image, bit_depth: int | None) -> Image.Image:
    """A deep image with 8 bits; Pillow's own conversion would cut grey off at 255."""
    low, high = _value_range(image)
    grey = image.mode.startswith("I")
    if low < 0 or high >= 2**16:
        raise UnreadableImage(
            f"{path} holds values from {low} to {high}, which are no grey levels of 16 bits; save "
            "it with 8 or 16 bits"
        )
    fewer = bits_of(high)
    if bit_depth is None and fewer < 16 and high > 0:
        # A dark picture, or one of a camera with fewer bits: they look the same.
        remedy = f"say which by --bit-depth {fewer} or 16, or save it with 8 bits"
        if not grey:
            remedy = "say --bit-depth 16 for the second, or save it with 8 bits for each colour"
        raise UnreadableImage(
            f"{path} has 16 bits and no value above {high}, so that white may be {2**fewer - 1} "
            f"({fewer} bits) or 65535; {remedy}"
        )
    if bit_depth is not None and high >= 2**bit_depth and grey:
        raise UnreadableImage(
            f"{path} holds values up to {high}, more than the {bit_depth} bits that the others "
            "have; leave it out, or give another bit depth"
        )
    if not grey:
        if bit_depth not in (None, 16):
            raise UnreadableImage(
                f"{path} has colours of {bit_depth} bits stored in 16, of which only the upper 8 "
                "can be read; save it with 8 bits for each colour"
            )
        return image
    white = 2 ** (bit_depth or 16) - 1
    return Image.fromarray((np.asarray(image).astype(np.uint32) * 255 // white).astype(np.uint8))


def _as_grey_or_colour(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
