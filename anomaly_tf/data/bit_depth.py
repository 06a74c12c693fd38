"""Images with more than 8 bits per channel, converted to 8 bits.

Imports only NumPy and Pillow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_tf.data.decoding import UnreadableImage

# Bit depths of cameras; those above 8 are stored in 16 bits.
BIT_DEPTHS = (8, 10, 12, 14, 16)


def bits_of(value: int) -> int:
    """The smallest of `BIT_DEPTHS` that holds a grey level."""
    return next((depth for depth in BIT_DEPTHS if value < 2**depth), BIT_DEPTHS[-1])


def is_deep(image: Image.Image) -> bool:
    """True if an image that is not yet decoded has more than 8 bits per channel."""
    if image.mode.startswith("I"):
        return True
    tile = image.tile[0] if image.tile else None  # type: ignore[attr-defined]
    stored = tile.args if tile else ""
    return ";16" in str(stored if isinstance(stored, str) else (stored or [""])[0])


def value_range(image: Image.Image) -> tuple[int, int]:
    """Smallest and largest value of a deep image; Pillow keeps the upper 8 bits of colours."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        return int(values.min()), int(values.max())
    bands = image.getextrema()[:3]
    return 0, 256 * max(int(high) for _, high in bands) + 255  # type: ignore[misc]


def eight_bits(path: Path, image: Image.Image, bit_depth: int | None) -> Image.Image:
    """Converts a deep image to 8 bits; Pillow's own conversion would clip grey at 255."""
    low, high = value_range(image)
    grey = image.mode.startswith("I")
    if low < 0 or high >= 2**16:
        raise UnreadableImage(
            f"{path} holds values from {low} to {high}, outside the range of 16 bits; save it "
            "with 8 or 16 bits"
        )
    fewer = bits_of(high)
    if bit_depth is None and fewer < 16 and high > 0:
        # A dark image cannot be distinguished from one of a camera with fewer bits.
        remedy = f"give --bit-depth {fewer} or 16, or save it with 8 bits"
        if not grey:
            remedy = "give --bit-depth 16 for the second, or save it with 8 bits per colour"
        raise UnreadableImage(
            f"{path} has 16 bits and no value above {high}; white may be {2**fewer - 1} "
            f"({fewer} bits) or 65535; {remedy}"
        )
    if bit_depth is not None and high >= 2**bit_depth and grey:
        raise UnreadableImage(
            f"{path} holds values up to {high}, more than the {bit_depth} bits of the other files; "
            "remove it or give another bit depth"
        )
    if not grey:
        if bit_depth not in (None, 16):
            raise UnreadableImage(
                f"{path} has {bit_depth}-bit colours stored in 16 bits, and only the upper 8 bits "
                "can be read; save it with 8 bits per colour"
            )
        return image
    white = 2 ** (bit_depth or 16) - 1
    return Image.fromarray((np.asarray(image).astype(np.uint32) * 255 // white).astype(np.uint8))
