"""Pickling of detectors by their paths, for joblib and multiprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo

if TYPE_CHECKING:
    from anomaly_tf.deploy.detector import Detector

# Metadata of a detector that can be changed after loading.
CHANGEABLE = ("threshold", "heat_scale", "bit_depth", "max_pixels", "roi")


@dataclass(frozen=True)
class Origin:
    """Arguments for loading a detector again; see `Detector._loaded_from`."""

    path: Path
    trust: bool
    settings: dict[str, Any]


def load_again(
    load: Callable[..., Detector],
    origin: Origin,
    digests: tuple[object, ...],
    changed: dict[str, Any],
) -> Detector:
    """Loads a detector when it is unpickled, and restores the settings that were changed.

    Args:
        load: `Detector.load`.
        origin: Where it was loaded from.
        digests: Digests of its model, by `digests_of`.
        changed: Values of `CHANGEABLE` fields of the metadata.

    Raises:
        UserError: As `Detector.load`, or if the path now holds another model.
    """
    detector = load(origin.path, origin.trust)
    if digests_of(detector.info) != digests:
        raise UserError(
            f"{origin.path} is no longer the detector that was pickled (another digest); load it "
            "again with Detector.load"
        )
    for name, value in changed.items():
        setattr(detector.info, name, value)
    for name, value in origin.settings.items():
        setattr(detector, name, value)
    return detector


def forked() -> UserError:
    """The error for a forked process in which TensorFlow would deadlock."""
    return UserError(
        "TensorFlow does not work in a process forked from one that used it; start processes with "
        'multiprocessing.get_context("spawn")'
    )


def digests_of(info: DetectorInfo) -> tuple[object, ...]:
    """The digests by which a model is recognised."""
    return info.model_sha256, info.files_sha256
