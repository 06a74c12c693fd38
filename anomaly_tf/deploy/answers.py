"""Checks and conversion of the outputs of models."""

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
    """Checks that the metadata matches the model.

    Args:
        info: Metadata with `image_shape`.
        image_shape: Height, width and channels of the model's input.
        outputs: Name of each output of the model to its shape for one image.
        wanted: Names of required outputs.

    Raises:
        ValueError: If they do not match.
    """
    expected = tuple(info.image_shape)
    if image_shape != expected:
        raise ValueError(f"it takes images {image_shape}, not {expected}")
    shapes = {"score": (), "error_map": expected[:2], "reconstruction": expected}
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
