"""Where it is wrong, drawn over the picture; needs numpy and Pillow alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

# How much of the picture the strongest colour hides.
OPACITY = 0.8
WEAK, STRONG = (255, 220, 0), (220, 0, 0)


def overlay(image: Image.Image, heat: np.ndarray, full: float) -> Image.Image:
    """Lays a map over the picture it was made of, transparent at 0, yellow, red at `full`.

    Args:
        image: The picture, of any size.
        heat: float `(H, W)`, at least 0, of the detector's size; stretched over the picture.
        full: The value shown in the strongest colour, above 0.

    Returns:
        RGB, of the picture's size.
    """
    small = Image.fromarray(np.clip(heat / full, 0, 1).astype(np.float32))
    strength = np.asarray(small.resize(image.size, Image.Resampling.BILINEAR))[..., np.newaxis]
    colour = np.array(WEAK) * (1 - strength) + np.array(STRONG) * strength
    opacity = OPACITY * strength
    mixed = np.asarray(image.convert("RGB")) * (1 - opacity) + colour * opacity
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
