"""Heat maps drawn over images; needs NumPy and Pillow only."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anomaly_tf.runs.limits import count_within

# Opacity of the strongest colour.
OPACITY = 0.8
WEAK, STRONG = (255, 220, 0), (220, 0, 0)
# Pixels that are mixed at a time, with some 200 bytes each.
PIXELS_AT_A_TIME = 2**18


def overlay(
    image: Image.Image, strength: np.ndarray, inside: np.ndarray | None = None
) -> Image.Image:
    """Draws a heat map over its image: transparent at 0, through yellow to red at 1.

    Args:
        image: The image, of any size.
        strength: float32 `(H, W)` in [0, 1], in the detector's size; resized to the image.
        inside: bool in the size of the image; nothing is drawn where it is False.

    Returns:
        An RGB image of the same size.
    """
    stretched = Image.fromarray(strength).resize(image.size, Image.Resampling.BILINEAR)
    strength = np.asarray(stretched)[..., np.newaxis]
    if inside is not None:
        strength = strength * inside[..., np.newaxis]
    pixels = np.array(image.convert("RGB"))
    rows = count_within(PIXELS_AT_A_TIME, image.width, image.height)
    for top in range(0, image.height, rows):
        part = slice(top, top + rows)
        colour = np.array(WEAK) * (1 - strength[part]) + np.array(STRONG) * strength[part]
        opacity = OPACITY * strength[part]
        pixels[part] = np.rint(pixels[part] * (1 - opacity) + colour * opacity)
    return Image.fromarray(pixels)
