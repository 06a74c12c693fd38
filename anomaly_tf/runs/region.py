"""The region of pictures that counts: blanking of what lies outside, and its stored form.

Needs NumPy and Pillow only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from anomaly_tf.errors import UserError
from anomaly_tf.runs.limits import MAX_PIXELS_ON_REQUEST

# Level of blanked pixels. Mid grey is 0 for the networks, whose convolutions pad pictures with 0,
# so that the edge of a region looks to them like the edge of a picture; black or white would add
# the strongest possible edge.
BLANK = 128
# A smaller region would be a slip of the pen.
MIN_PIXELS = 8
# Largest PNG of a stored mask.
MAX_PNG_BYTES = 4 * 2**20


class RegionError(UserError):
    """A region that does not fit its picture or leaves nothing; the message names it."""


@dataclass(frozen=True, eq=False)
class Region:
    """The pixels of a picture that count.

    Attributes:
        inside: bool `(H, W)`, True where pixels count, in the original size of the picture.
        name: Name of its file, for messages.
    """

    inside: np.ndarray
    name: str = "the mask"
    _sizes: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def of(self, path: Path) -> Region:
        """The region of a picture: this one, whatever the picture."""
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in the order of Pillow."""
        return self.inside.shape[1], self.inside.shape[0]

    @property
    def share(self) -> float:
        """Share of the picture, from 0 to 1."""
        return float(self.inside.mean())

    def digest_of(self, files: Iterable[str]) -> str:
        """SHA-256 of the size and the pixels, hexadecimal, whatever the pictures."""
        state = hashlib.sha256(repr(self.inside.shape).encode())
        state.update(np.packbits(self.inside).data)
        return state.hexdigest()

    def at(self, height: int, width: int) -> np.ndarray:
        """The region at another size: bool `(H, W)`, True where at least half of the area is.

        Raises:
            RegionError: If fewer than `MIN_PIXELS` are left.
        """
        if self.inside.shape == (height, width):
            return self.inside
        if (height, width) not in self._sizes:
            inside = area_share(self.inside, height, width) >= 128
            if inside.sum() < MIN_PIXELS:
                raise RegionError(
                    f"{self.name} leaves {inside.sum()} pixels of a picture of {width}x{height}, "
                    f"and at least {MIN_PIXELS} are needed; mark more, or use larger pictures"
                )
            self._sizes[height, width] = inside
        return self._sizes[height, width]

    def require_size(self, width: int, height: int, picture: object) -> None:
        """Refuses a picture of another size.

        Args:
            width: Width of the picture.
            height: Height of the picture.
            picture: Its name, for the message.

        Raises:
            RegionError: If the sizes differ.
        """
        if (width, height) != self.size:
            own = "x".join(map(str, self.size))
            raise RegionError(
                f"{self.name} is {own}, and {picture} is {width}x{height}; a mask must have the "
                "size of its picture"
            )

    def blank(self, image: Image.Image) -> Image.Image:
        """Sets the pixels outside to `BLANK`, in place.

        Args:
            image: In mode `L` or `RGB`, of the region's size.
        """
        colour: Any = BLANK if image.mode == "L" else (BLANK,) * 3
        image.paste(colour, (0, 0, *image.size), Image.fromarray(~self.inside))
        return image

    def to_png(self) -> str:
        """A PNG with one bit per pixel, white inside, as base64."""
        content = io.BytesIO()
        Image.fromarray(self.inside).save(content, "PNG", optimize=True)
        return base64.b64encode(content.getvalue()).decode("ascii")

    @classmethod
    def from_png(cls, text: str, name: str = "the mask") -> Self:
        """The region that `to_png` wrote; the text may be damaged or forged.

        Raises:
            ValueError: If it is not such a PNG, is too large, or leaves fewer than `MIN_PIXELS`.
        """
        if len(text) > MAX_PNG_BYTES * 4 // 3 + 4:
            raise ValueError(f"a mask of more than {MAX_PNG_BYTES // 2**20} MB")
        try:
            content = base64.b64decode(text, validate=True)
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                if image.mode != "1" or image.width * image.height > MAX_PIXELS_ON_REQUEST:
                    raise ValueError(f"a mask of {image.width}x{image.height} in {image.mode}")
                inside = np.array(image, bool)
        except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError("a mask that is not a PNG") from error
        if inside.sum() < MIN_PIXELS:
            raise ValueError(f"a mask that leaves {inside.sum()} pixels")
        return cls(inside, name)


def area_share(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The marked share of each pixel's area at another size: uint8 `(H, W)`, 255 is all of it."""
    white = Image.fromarray(np.uint8(255) * mask)
    return np.asarray(white.resize((width, height), Image.Resampling.BOX))


def blanked(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """A copy of images with the pixels outside set to `BLANK`.

    Args:
        images: uint8 `(..., H, W, C)`.
        inside: bool `(H, W)` or, one for each image, `(N, H, W)`.
    """
    return np.where(inside[..., np.newaxis], images, np.uint8(BLANK))
