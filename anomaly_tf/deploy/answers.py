"""What models give, as detectors hand it on."""

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
