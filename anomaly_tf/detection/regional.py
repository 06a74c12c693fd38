"""Scores and maps of images of which only a region counts; needs NumPy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anomaly_tf.runs.region import blanked

# Computes named outputs of images; see `Detector.infer`.
Infer = Callable[[np.ndarray, tuple[str, ...]], dict[str, np.ndarray]]
# Images whose maps are in memory at the same time if only their scores are wanted.
PART = 200


def infer_inside(
    infer: Infer,
    images: np.ndarray,
    names: tuple[str, ...],
    inside: np.ndarray,
    by_maximum: bool,
) -> dict[str, np.ndarray]:
    """Computes outputs of images whose pixels outside are blanked.

    The map is 0 outside. A score that contains the maximum of the map contains its maximum inside
    instead.

    Args:
        infer: Computes the outputs.
        images: uint8 `(N, H, W, C)`, N >= 1.
        names: Names of the outputs.
        inside: bool `(H, W)`, or `(N, H, W)` for a region of each image.
        by_maximum: Whether the score contains the maximum of the map, which is an output.
    """
    images = blanked(images, inside)
    inside = np.broadcast_to(inside, images.shape[:-1])
    if not by_maximum or "score" not in names:
        return _cleared(infer(images, names), inside)
    parts = []
    for start in range(0, len(images), PART):
        chosen = slice(start, start + PART)
        outputs = infer(images[chosen], tuple(dict.fromkeys((*names, "error_map"))))
        whole = outputs["error_map"].max(axis=(1, 2))
        outputs = _cleared(outputs, inside[chosen])
        change = outputs["error_map"].max(axis=(1, 2)) - whole
        outputs["score"] = outputs["score"] + change
        parts.append({name: outputs[name] for name in names})
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _cleared(outputs: dict[str, np.ndarray], inside: np.ndarray) -> dict[str, np.ndarray]:
    if "error_map" not in outputs:
        return outputs
    return {**outputs, "error_map": outputs["error_map"] * inside}
