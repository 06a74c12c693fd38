"""Where it is wrong, drawn over the picture; needs numpy and Pillow alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

# How much of the picture the strongest colour hides.
OPACITY = 0.8
WEAK, STRONG = (255, 220, 0), (220, 0, 0)


def overlay(image: Image.Image, strength: np.ndarray) -> Image.Image:
    """Lays a heat map over its picture: transparent at 0, over yellow to red at 1.

    Args:
        image: The picture, of any size.
        strength: float32 `(H, W)` in [0, 1], of the detector's size; stretched over the picture.

    Returns:
        RGB, of the picture's size.
    """
    stretched = Image.fromarray(strength).resize(image.size, Image.Resampling.BILINEAR)
    strength = np.asarray(stretched)[..., np.newaxis]
    colour = np.array(WEAK) * (1 - strength) + np.array(STRONG) * strength
    opacity = OPACITY * strength
    mixed = np.asarray(image.convert("RGB")) * (1 - opacity) + colour * opacity
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
