"""Examples of an evaluation as small pictures, `examples.json`, from which pages are made."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from anomaly_tf.deploy.explained import Explained, shrunk_size
from anomaly_tf.deploy.overlay import overlay
from anomaly_tf.reporting.plots import OUTLINE
from anomaly_tf.runs.files import write_json
from anomaly_tf.runs.outputs import EXAMPLES_FORMAT
from anomaly_tf.runs.sections import HeatScale

# Longest sides of the pictures; the largest is used with which all fit into `MAX_BYTES`.
SIDES = (320, 240, 160, 112, 64, 32)
MAX_BYTES = 1_100_000
# Pictures up to this side are stored exactly, larger ones in this quality.
EXACT_SIDE, QUALITY = 64, 80


class Example:
    """A test image with what the detector explains of it.

    Args:
        words: `name`, `class`, `score` and, for classifiers, `predicted`.
        image: uint8 `(H, W, C)`.
        heat: float32 `(H, W)` in [0, 1], the map on the scale of heat maps.
        rebuilt: The reconstruction, uint8 `(H, W, C)`, if there is one.
        mask: bool `(H, W)`, True where the defect is, if it is known; its outline is drawn.
    """

    def __init__(
        self,
        words: dict[str, Any],
        image: np.ndarray,
        heat: np.ndarray,
        rebuilt: np.ndarray | None = None,
        mask: np.ndarray | None = None,
    ) -> None:
        original = _picture(image)
        heated = overlay(original, heat)
        self.words = words
        self.pictures = {
            "original": original,
            "heat_map": heated if mask is None else outlined(heated, mask),
        }
        if rebuilt is not None:
            self.pictures["reconstruction"] = _picture(rebuilt)


def examples_of(
    words: Iterable[dict[str, Any]],
    shown: Explained,
    scale: HeatScale,
    masks: np.ndarray | None = None,
) -> list[Example]:
    """The examples of a group; `words` and `masks` as in `Example`, one for each image."""
    return [
        Example(
            one,
            shown.images[number],
            scale.strength(shown.maps[number]),
            None if shown.rebuilt is None else shown.rebuilt[number],
            None if masks is None else masks[number],
        )
        for number, one in enumerate(words)
    ]


def outlined(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """Draws the outline of a mask, bool `(H, W)`, over an image of the same size."""
    region = Image.fromarray(mask.astype(np.uint8) * 255)
    edge = ImageChops.difference(region.filter(ImageFilter.MaxFilter(3)), region)
    drawn = image.copy()
    drawn.paste(OUTLINE, mask=edge)
    return drawn


def write_examples(path: Path, groups: dict[str, tuple[str, list[Example]]]) -> None:
    """Writes `examples.json`.

    The pictures are WebP as base64, the largest that fit into `MAX_BYTES` together.

    Args:
        path: The file.
        groups: Name of each group to its title and its examples.
    """
    pictures = [
        picture
        for _, group in groups.values()
        for one in group
        for picture in one.pictures.values()
    ]
    encoded: list[bytes] = []
    longest = 0
    for side in SIDES:
        encoded = [_encoded(picture, side) for picture in pictures]
        longest = max((min(side, max(picture.size)) for picture in pictures), default=0)
        if sum(map(len, encoded)) <= MAX_BYTES:
            break
    contents = iter(encoded)
    content = {
        name: {
            "title": title,
            "images": [
                one.words
                | {kind: base64.b64encode(next(contents)).decode() for kind in one.pictures}
                for one in group
            ],
        }
        for name, (title, group) in groups.items()
    }
    write_json(path, {"format": EXAMPLES_FORMAT, "size": longest, "groups": content})


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _encoded(picture: Image.Image, side: int) -> bytes:
    width, height = picture.size
    height, width = shrunk_size((height, width), side)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    exact = max(width, height) <= EXACT_SIDE
    picture.save(buffer, "WEBP", lossless=exact, quality=QUALITY, method=2)
    return buffer.getvalue()
