"""Helpers of all sources of arrays: order, image shape and number of classes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.images import fit_image

# Class numbers are int16.
MAX_CLASSES = 32_000
# Images without a brighter pixel are probably not scaled to 0 to 255.
MAX_DARK = 63


def dark_images(*sets: np.ndarray) -> tuple[str, ...]:
    """A warning about images with few grey levels, such as scikit-learn's digits with 0 to 16.

    Args:
        sets: Each uint8 `(N, H, W, C)`; at least one is not empty.
    """
    largest = min(int(images.max()) for images in sets if len(images))
    if largest > MAX_DARK:
        return ()
    return (
        f"WARNING: no grey level is above {largest} of 255, the images are nearly black; if "
        f"{largest} means white, scale the images to 0 to 255 before saving them",
    )


def in_one_order(part: ImageSet) -> ImageSet:
    """Sorts images by their bytes, and equal ones by their class, because TFDS shuffles."""
    images = part.images[:]
    flat = np.ascontiguousarray(images).reshape(len(images), int(np.prod(images.shape[1:])))
    order = np.lexsort((part.classes, flat.view(np.dtype((np.void, flat.shape[1]))).ravel()))
    return part.take(order)


def fit_array(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Resizes and converts one image, uint8 `(H, W, 1)` or `(H, W, 3)`, as `fit_image` does."""
    if image.shape == shape:
        return image
    return fit_image(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), shape)
