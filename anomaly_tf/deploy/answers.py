"""What goes into a model and what it gives, checked."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo


def check_shapes(
    info: DetectorInfo,
    image_shape: tuple[int, ...],
    outputs: dict[str, tuple[int, ...]],
    wanted: Iterable[str],
) -> None:
    """Makes sure that metadata and model belong together.

    Args:
        info: Metadata with `image_shape`.
        image_shape: Height, width and channels that the model takes.
        outputs: Name to shape of what the model gives for one image.
        wanted: Names of outputs that it must give.

    Raises:
        ValueError: If they do not.
    """
    expected = tuple(info.image_shape)
    if image_shape != expected:
        raise ValueError(f"it takes images {image_shape}, not {expected}")
    shapes = {"score": (), "error_map": expected[:2], "reconstruction": expected}
    for name in wanted:
        if name not in outputs or outputs[name] != shapes.get(name, outputs[name]):
            raise ValueError(f"it gives no {name} of images {expected}")


def as_uint8(reconstruction: np.ndarray) -> np.ndarray:
    """Pictures float32 in [-1, 1], as models make them, as uint8 0 to 255, rounded."""
    if not np.isfinite(reconstruction).all():  # which has no grey level
        raise UserError(
            "the model gives a reconstruction that is no number; its weights are damaged"
        )
    return np.clip(np.rint((reconstruction + 1.0) * 127.5), 0, 255).astype(np.uint8)


def checked_images(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Images as the model takes them, uint8 `(N, H, W, C)`.

    Args:
        images: From the user; the channel axis may be left out of grayscale images.
        image_shape: Height, width and channels.

    Raises:
        ValueError: If they are something else; the message says what came.
    """
    right = isinstance(images, np.ndarray) and images.dtype == np.uint8
    if right and images.shape[1:] == image_shape:
        return images
    if right and (*images.shape[1:], 1) == image_shape:
        return images[..., np.newaxis]
    height, width, channels = image_shape
    expected = f"expected uint8 images (N, {height}, {width}, {channels}) in 0 to 255"
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{expected}; got a {type(images).__name__}, not a numpy array")
    if right:
        raise ValueError(f"{expected}; got shape {images.shape}")
    numbers = images.dtype.kind in "iufc" and images.size
    values = f" with values {images.min():g} to {images.max():g}" if numbers else ""
    raise ValueError(f"{expected}; got {images.dtype}{values}, shape {images.shape}")


def check_answer(
    name: str,
    values: np.ndarray | None,
    image_shape: tuple[int, int, int],
    classes: int,
    count: int,
) -> None:
    """Makes sure that an output of the model is what it is said to be.

    Args:
        name: One of the outputs of the detector.
        values: What came for it.
        image_shape: Height, width and channels.
        classes: How many classes the detector knows by name; 0: any number.
        count: How many images went in.

    Raises:
        UserError: If number, shape or type are others, or a value is not finite.
    """
    height, width, channels = image_shape
    if name == "probabilities":
        rest: tuple[int, ...] = (classes or (values.shape[-1] if values is not None else 0),)
    else:
        shapes = {"error_map": (height, width), "reconstruction": (height, width, channels)}
        rest = shapes.get(name, ())
    dtype = np.dtype(np.uint8 if name == "reconstruction" else np.float32)
    if values is None or values.shape != (count, *rest) or values.dtype != dtype:
        got = "nothing" if values is None else f"{values.dtype} {values.shape}"
        raise UserError(
            f"the model gives {got} as {name} of {count} images, not {dtype} "
            f"{(count, *rest)}; make it again"
        )
    if not np.isfinite(values).all():  # which would pass as normal
        raise UserError(f"the model gives a {name} that is no number; its weights are damaged")
