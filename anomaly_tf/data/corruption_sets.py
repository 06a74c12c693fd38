"""Corrupted copies of validation and test images, the anomalies of protocol `corruption`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_tf.config import Config, CorruptionConfig
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import StoredImages
from anomaly_tf.script import import_tensorflow

if TYPE_CHECKING:
    from anomaly_tf.data.corruptions import Kind

# Limit for images on disk, because their copies are kept in memory.
MAX_CORRUPTED = 2000
# Separate random numbers for the two sets.
_VALIDATION_STREAM, _TEST_STREAM = 1, 2


def room_for_corruptions(split: Split, config: Config) -> Split:
    """Under protocol `corruption`, limits validation and test sets on disk to `MAX_CORRUPTED`.

    Their copies are kept in memory. The training set is unchanged. Masks are left out, because the
    copies are the anomalies.
    """
    if config.protocol != "corruption":
        return split
    changes: dict[str, Any] = {"masks": {}}
    lines = []
    if split.masks:
        lines.append(f"left out: {len(split.masks)} masks, which protocol corruption does not use")
    for name in ("validation", "test"):
        part: LabelledImages = getattr(split, name)
        if isinstance(part.images, StoredImages) and len(part) > MAX_CORRUPTED:
            changes[name] = part.take(slice(MAX_CORRUPTED))
            lines.append(
                f"left out: {len(part) - MAX_CORRUPTED} of {len(part)} {name} images, whose "
                f"corrupted copies would be kept in memory (first: {part.files[MAX_CORRUPTED]})"
            )
    return dataclasses.replace(split, **changes, left_out=(*split.left_out, *lines))


def with_corruptions(split: Split, config: Config) -> Split:
    """Under protocol `corruption`, adds corrupted copies of validation and test images.

    Each image that `room_for_corruptions` keeps gets one copy of each kind.
    """
    if config.protocol != "corruption":
        return split
    split = room_for_corruptions(split, config)
    first_class = len(split.class_names)
    return Split(
        split.train,
        _with_copies(split.validation, config, first_class, _VALIDATION_STREAM),
        _with_copies(split.test, config, first_class, _TEST_STREAM),
        split.roles,
        split.class_names + corruption_names(config.corruption),
        left_out=split.left_out,
        roi=split.roi,
    )


def corruption_names(corruption: CorruptionConfig) -> tuple[str, ...]:
    """A name for each kind of corruption, with its strength: `noise 0.2`, `rotation 45`, ..."""
    strengths = {
        "noise": f"noise {corruption.noise:g}",
        "rotation": f"rotation {corruption.rotation:g}",
        "both": f"noise {corruption.noise:g} and rotation {corruption.rotation:g}",
    }
    return tuple(strengths[kind] for kind in corruption.kinds)


def corruption_sweep(test: LabelledImages, config: Config) -> Iterator[tuple[Kind, np.ndarray]]:
    """The normal test images, corrupted by each kind and strength.

    Args:
        test: The test set, with or without corrupted copies.
        config: Kinds, strengths and seed.

    Yields:
        The kind and uint8 `(N, H, W, C)`, in the order of `test.normal`: for each of
        `config.corruption.kinds`, the factors of `config.corruption.sweep` in turn.
    """
    images = test.normal[:]
    for kind in config.corruption.kinds:
        for factor in config.corruption.sweep:
            yield kind, _corrupted(images, kind, config, _TEST_STREAM, factor)


def _with_copies(
    part: LabelledImages, config: Config, first_class: int, stream: int
) -> LabelledImages:
    """Images and their corrupted copies; the kinds get class numbers from `first_class` on."""
    if not len(part):
        return part
    images = part.images[:]
    copies = [_corrupted(images, kind, config, stream) for kind in config.corruption.kinds]
    kinds = first_class + np.arange(len(copies), dtype=part.classes.dtype)
    return LabelledImages(
        np.concatenate([images, *copies]),
        np.concatenate([part.classes, np.repeat(kinds, len(part))]),
        part.files + tuple(f"{file} (synthetic)" for _ in copies for file in part.files),
        labels=np.repeat(np.array([0, 1], np.int8), [len(part), len(copies) * len(part)]),
    )


def _corrupted(
    images: np.ndarray, kind: Kind, config: Config, stream: int, factor: float = 1.0
) -> np.ndarray:
    # Imported late: it imports TensorFlow, and wrong classes are reported before.
    import_tensorflow()
    from anomaly_tf.data.corruptions import corrupted

    noise, rotation = config.corruption.noise * factor, config.corruption.rotation * factor
    return corrupted(images, kind, noise, rotation, config.seed, stream)
