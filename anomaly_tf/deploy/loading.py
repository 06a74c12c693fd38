"""Loads a detector of any kind; its runtime is imported only when it is needed."""

from __future__ import annotations

import os
from pathlib import Path

from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.pickling import forked
from anomaly_tf.errors import UserError
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.paths import user_path
from anomaly_tf.script import import_tensorflow, without_notes


def load_detector(path: str | Path, trust: bool = False) -> Detector:
    """Loads a detector.

    Args:
        path: A run directory written by `train.py` (or its `model.keras`), or an export of
            `export.py`: the folder of a SavedModel or a .tflite file. A .tflite file needs no
            TensorFlow.
        trust: Also load a model of unknown origin: one without a recorded digest, or with other
            layers than those of this package; see `deploy/origin.py`. A model with a wrong digest
            is always refused.

    Raises:
        UserError: A `ValueError`; if there is no detector, it is incomplete, its files are not
            those that were saved, or it is not trusted.
    """
    path = run_of(user_path(path))
    if path.suffix == ".keras":
        raise UserError(f"{path} has no threshold and is not a detector; give the run's folder")
    if path.is_file():
        from anomaly_tf.deploy.litert import LiteRTDetector

        with without_notes():
            return LiteRTDetector.load(path)
    if is_saved_model(path):
        _start_tensorflow()
        from anomaly_tf.deploy.saved_model import SavedModelDetector

        return SavedModelDetector.load(path, trust)
    if path.suffix == ".tflite":
        raise UserError(f"{path} does not exist; give a file that export.py wrote")
    open_run(path)  # reports missing files without importing TensorFlow
    _start_tensorflow()
    from anomaly_tf.deploy.keras_run import TrainedDetector

    return TrainedDetector.load(path, trust)


# The process in which a detector started TensorFlow.
_STARTED_IN: list[int] = []


def _start_tensorflow() -> None:
    """Imports TensorFlow; refuses a process forked from one whose detectors use TensorFlow.

    Raises:
        UserError: If this is such a process.
    """
    if _STARTED_IN and _STARTED_IN[0] != os.getpid():
        raise forked()
    import_tensorflow()
    _STARTED_IN[:] = [os.getpid()]


def run_of(path: Path) -> Path:
    """The run of a path to its `model.keras`; other paths are returned unchanged."""
    run = RunDirectory(path.parent)
    return run.path if path == run.model and path.is_file() and run.detector.is_file() else path


def is_saved_model(folder: Path) -> bool:
    """True if a folder is a SavedModel or its parent folder, as TensorFlow Serving expects it."""
    return any((place / "saved_model.pb").is_file() for place in (folder, folder / "1"))
