"""Which kind of detector a path leads to; each imports what it runs on when it is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from anomaly_tf.deploy.detector import Detector, forked
from anomaly_tf.errors import UserError
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.paths import user_path
from anomaly_tf.script import import_tensorflow, without_notes


def load_detector(path: str | Path, trust: bool = False) -> Detector:
    """Loads a detector.

    Args:
        path: A run directory written by `train.py` (or its `model.keras`), or what `export.py`
            made of it: the folder of a SavedModel or a .tflite file. The last needs no
            TensorFlow.
        trust: Load a model of unknown origin, too: one without a recorded digest, or of other
            parts than this package's own; see `deploy/origin.py`. What has another digest
            than was recorded is refused all the same.

    Raises:
        UserError: A `ValueError`; if there is no detector, it is incomplete, its files are not
            those that were saved, or it is not to be trusted.
    """
    path = run_of(user_path(path))
    if path.suffix == ".keras":
        raise UserError(f"{path} alone is no detector (no threshold); give the run's folder")
    if path.is_file():
        from anomaly_tf.deploy.litert import LiteRTDetector

        with without_notes():
            return LiteRTDetector.load(path)
    if is_saved_model(path):
        _start_tensorflow()
        from anomaly_tf.deploy.saved_model import SavedModelDetector

        return SavedModelDetector.load(path, trust)
    if path.suffix == ".tflite":
        raise UserError(f"{path} does not exist; give a file that export.py made")
    open_run(path)  # which needs no TensorFlow to say what is missing
    _start_tensorflow()
    from anomaly_tf.deploy.keras_run import TrainedDetector

    return TrainedDetector.load(path, trust)


# The process whose detectors started TensorFlow.
_STARTED_IN: list[int] = []


def _start_tensorflow() -> None:
    """Imports TensorFlow; refuses a fork of a process that has a detector running on it.

    Raises:
        UserError: If this is one.
    """
    if _STARTED_IN and _STARTED_IN[0] != os.getpid():
        raise forked()
    import_tensorflow()
    _STARTED_IN[:] = [os.getpid()]


def run_of(path: Path) -> Path:
    """The run that a path to its `model.keras` lies in; any other path as it is."""
    run = RunDirectory(path.parent)
    return run.path if path == run.model and path.is_file() and run.detector.is_file() else path


def is_saved_model(folder: Path) -> bool:
    """Whether a folder is a SavedModel, or the one above it, as TensorFlow Serving takes it."""
    return any((place / "saved_model.pb").is_file() for place in (folder, folder / "1"))
