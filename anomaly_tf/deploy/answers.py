"""Checks and conversion of the inputs and outputs of models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.limits import require_memory
from anomaly_tf.script import printable

# Memory of an image in tiles for each pixel: it, its map and its reconstruction.
BYTES_A_PIXEL = 12


@contextmanager
def one_line() -> Iterator[None]:
    """Converts the exceptions that a runtime raises on a model to a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each runtime raises its own kinds
        reason = printable(" ".join(str(error).split()))[:200] or type(error).__name__
        raise UserError(
            f"the model cannot score these images ({reason}); create it again"
        ) from error


def check_shapes(
    info: DetectorInfo,
    image_shape: tuple[int, ...],
    outputs: dict[str, tuple[int, ...]],
    wanted: Iterable[str],
) -> None:
    """Checks that the metadata matches the model.

    Args:
        info: Metadata with `image_shape`, and `tiling` if the model takes tiles.
        image_shape: Height, width and channels of the model's input.
        outputs: Name of each output of the model to its shape for one image.
        wanted: Names of required outputs.

    Raises:
        ValueError: If they do not match, or an image would take too much memory.
    """
    expected = info.input_shape
    if image_shape != expected:
        raise ValueError(f"it takes images {image_shape}, not {expected}")
    shapes = {"score": (), "error_map": expected[:2], "reconstruction": expected}
    if info.tiling is not None:  # otherwise the model's own memory is checked
        pixels = math.prod(info.image_shape[:2])
        require_memory(BYTES_A_PIXEL * pixels, f"an image of {info.image_shape}")
    for name in wanted:
        if name not in outputs or outputs[name] != shapes.get(name, outputs[name]):
            raise ValueError(f"it has no output {name} for images {expected}")


def as_uint8(reconstruction: np.ndarray) -> np.ndarray:
    """Converts reconstructions, float32 in [-1, 1], to uint8 from 0 to 255, rounded."""
    if not np.isfinite(reconstruction).all():  # NaN has no grey level
        raise UserError(
            "the model gives a reconstruction that is not finite; its weights are damaged"
        )
    return np.clip(np.rint((reconstruction + 1.0) * 127.5), 0, 255).astype(np.uint8)


def checked_images(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Checks images of the user; returns uint8 `(N, H, W, C)`.

    Args:
        images: uint8 `(N, H, W, C)`; the channel axis may be omitted for grayscale images.
        image_shape: Height, width and channels.

    Raises:
        ValueError: If the images have another type or shape.
    """
    is_uint8 = isinstance(images, np.ndarray) and images.dtype == np.uint8
    if is_uint8 and images.shape[1:] == image_shape:
        return images
    if is_uint8 and (*images.shape[1:], 1) == image_shape:
        return images[..., np.newaxis]
    height, width, channels = image_shape
    expected = f"expected uint8 images (N, {height}, {width}, {channels}) in 0 to 255"
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{expected}; got a {type(images).__name__}, not a numpy array")
    if is_uint8:
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
    """Checks the shape, type and values of an output of the model.

    Args:
        name: Name of the output.
        values: Its values.
        image_shape: Height, width and channels.
        classes: Number of the detector's class names; 0 allows any number of classes.
        count: Number of images.

    Raises:
        UserError: If shape or type are wrong, or a value is not finite.
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
            f"{(count, *rest)}; create it again"
        )
    if not np.isfinite(values).all():  # NaN would count as normal
        raise UserError(f"the model gives a {name} that is not finite; its weights are damaged")
