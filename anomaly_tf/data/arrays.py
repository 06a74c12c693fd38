"""Helpers of all sources of arrays: checks, order, image shape and classes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anomaly_tf.data.bit_depth import bits_of
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.images import fit_image
from anomaly_tf.errors import UserError

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


def checked_images(name: str, images: np.ndarray, verb: str) -> np.ndarray:
    """Checks images; returns them as uint8 `(N, H, W, C)`.

    Args:
        name: Name of the array, for messages.
        images: uint8 `(N, H, W)` or `(N, H, W, C)` with C 1 or 3.
        verb: Verb for the remedy in messages, `save` or `give`.

    Raises:
        UserError: If the array has another type or shape.
    """
    grey = images[..., np.newaxis] if images.ndim == 3 else images
    if (
        images.dtype != np.uint8
        or grey.ndim != 4
        or grey.shape[-1] not in (1, 3)
        or not images.size
    ):
        raise UserError(
            f"{name} must be uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3), and not empty; got "
            f"{images.dtype} {images.shape}{_as_uint8(images, verb)}"
        )
    return grey


def checked_labels(name: str, labels: np.ndarray, count: int, verb: str) -> np.ndarray:
    """Checks labels; returns them as `(N,)`.

    Args:
        name: Name of the array, for messages.
        labels: Integers, booleans or strings, `(N,)` or, as in Keras' colour sets, `(N, 1)`.
        count: Number of images.
        verb: Verb for the remedy in messages, `save` or `give`.

    Raises:
        UserError: If the array has another type or shape.
    """
    if labels.dtype.kind not in "biuU" or labels.shape not in ((count,), (count, 1)):
        raise UserError(
            f"{name} must be integers, booleans or strings ({count},), one per image; "
            f"got {labels.dtype} {labels.shape}; {_as_labels(labels, verb)}"
        )
    return labels.ravel()


def numbered(name: str, labels: list[np.ndarray]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Names of the classes, and the labels of each set as int16 class numbers.

    Raises:
        UserError: If the sets have labels of different kinds, or too many classes.
    """
    kinds = [part.dtype.kind.replace("u", "i") for part in labels]
    if len(set(kinds)) > 1:
        raise UserError(
            f"{name}: training and test labels must be of one kind; got "
            f"{' and '.join(str(part.dtype) for part in labels)}; save both as integers or strings"
        )
    found = [np.unique(part, return_inverse=True) for part in labels]
    # As Python integers: NumPy would combine signed and unsigned 64-bit integers as floats.
    values = sorted({value for unique, _ in found for value in unique.tolist()})
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"{name} has {len(values)} different labels; at most {MAX_CLASSES} classes are "
            "possible; give labels that are classes"
        )
    number = {value: index for index, value in enumerate(values)}
    classes = [
        np.array([number[value] for value in unique.tolist()], np.int16)[inverse]
        for unique, inverse in found
    ]
    return tuple(str(value) for value in values), classes


def _as_uint8(images: np.ndarray, verb: str) -> str:
    """The remedy for images of another type: how to scale them to 0 to 255."""
    advice = f"; {verb} grey or colour images from 0 to 255"
    if images.dtype == np.uint8 or images.dtype.kind not in "iuf" or not images.size:
        return advice
    low, high = images.min(), images.max()
    if not 0 <= low <= high < 2**16:  # NaN, too
        return advice
    if high > 127 and high <= 255:
        return f" with values {low:g} to {high:g}; if white is 255, {verb} numpy.uint8(images)"
    white = 1 if images.dtype.kind == "f" and high <= 1 else 2 ** bits_of(int(high)) - 1
    return (
        f" with values {low:g} to {high:g}; if white is {white}, {verb} "
        f"numpy.uint8(images * {255 / white:g})"
    )


def _as_labels(labels: np.ndarray, verb: str) -> str:
    """The remedy for labels of another type."""
    if labels.dtype.kind == "S":
        return f"{verb} labels.astype(str)"
    if labels.dtype.kind == "f":
        return f"{verb} whole numbers, as by labels.astype(int)"
    return f"{verb} one label for each image"
