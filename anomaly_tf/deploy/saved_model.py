"""The detector of an exported SavedModel, in TensorFlow without Keras."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from anomaly_tf.deploy.answers import check_shapes
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.origin import TRUST, check_saved_model, refused
from anomaly_tf.deploy.trial import SAVED_MODEL, require_first_score
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import EXPORT_FIELDS, DetectorInfo
from anomaly_tf.runs.files import atomic_folder, require_new_folder, sha256, write_json
from anomaly_tf.runs.limits import images_at_a_time
from anomaly_tf.runs.outputs import SAVED_MODEL_METADATA
from anomaly_tf.runs.paths import user_path

# TensorFlow Serving ignores this folder of a SavedModel.
METADATA = SAVED_MODEL_METADATA
# Files in the folder of a SavedModel that TensorFlow reads.
READ_FOLDERS = ("assets/", "variables/")
READ_SUFFIXES = (".cpb", ".pb", ".pbtxt")


class SavedModelDetector(Detector):
    """An exported SavedModel with its threshold; see `Detector`.

    Args:
        model: The result of `tf.saved_model.load`.
        info: Its metadata.
    """

    def __init__(self, model: Any, info: DetectorInfo) -> None:
        super().__init__(info)
        self._model = model  # the signature does not keep its variables alive
        self._serve = model.signatures["serve"]

    @classmethod
    def load(cls, path: str | Path, trust: bool = False) -> SavedModelDetector:
        """Loads a SavedModel that `export.py` wrote.

        Args:
            path: Its folder or its parent folder, as TensorFlow Serving expects it.
            trust: As `Detector.load`.

        Raises:
            UserError: A `ValueError`; if it was not written by `export.py`, a file of it is
                missing, changed or added, or it is not trusted.
        """
        folder = user_path(path)
        if not (folder / "saved_model.pb").is_file():
            folder = folder / "1"
        try:
            info = DetectorInfo.read(folder / METADATA, EXPORT_FIELDS)
        except OSError as error:
            raise UserError(
                f"{path} was not written by export.py (it holds no {METADATA}); export it again"
            ) from error
        except ValueError as error:
            raise UserError(f"{folder / METADATA} is damaged ({error}); export it again") from error
        if info.files_sha256 is not None:
            _check_files(folder, info.files_sha256)
        elif not trust:
            raise UserError(f"{folder / METADATA} records no digests of the model's files; {TRUST}")
        if not trust:
            check_saved_model(folder, info.input_shape)
            require_first_score(SAVED_MODEL, folder, info)
        try:
            detector = cls(tf.saved_model.load(str(folder)), info)._loaded_from(folder, trust)
            detector._check_signature()
        except Exception as error:  # TensorFlow raises many kinds on damaged or forged files
            raise refused(folder, error) from error
        return detector

    def save(self, path: str | Path) -> None:
        """As `Detector.save`: a copy of the SavedModel's folder, whose threshold is in its graph.

        Raises:
            UserError: Also if the threshold was changed since it was loaded.
        """
        assert self._origin, "a SavedModel is loaded from a path"
        origin, folder = self._origin.path, user_path(path)
        if self.info.threshold != DetectorInfo.read(origin / METADATA, EXPORT_FIELDS).threshold:
            raise UserError(
                "the threshold of a SavedModel is part of its graph; set it on the run's detector "
                "and export that, or pass it to the signature with_threshold"
            )
        require_new_folder(folder, "path")
        with atomic_folder(folder, replace=False) as new:
            shutil.copytree(origin, new, dirs_exist_ok=True)
            write_json(new / METADATA, self.info.to_json())
        self._loaded_from(folder, self._origin.trust)

    def _check_signature(self) -> None:
        """Raises `ValueError` or `KeyError` if the metadata does not match the model."""
        # The signature takes images of any size, or tiles; the channels are fixed.
        images = self._serve.structured_input_signature[1]["images"].shape
        outputs = {
            name: tuple(spec.shape[1:]) for name, spec in self._serve.structured_outputs.items()
        }
        sides = zip(images[1:3], self.input_shape[:2], strict=True)
        shape = (*(side or own for side, own in sides), images[-1])
        check_shapes(self.info, shape, outputs, self.info.outputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of `infer`."""
        return tuple(self.info.outputs)

    def _infer(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        together = images_at_a_time(images.shape[1:])
        for start in range(0, len(images), together):
            outputs = self._serve(images=tf.constant(images[start : start + together]))
            for name in names:
                parts[name].append(outputs[name].numpy())
        return {name: np.concatenate(part) for name, part in parts.items()}


def _check_files(folder: Path, digests: dict[str, str]) -> None:
    """Raises `UserError` if a file was changed, or TensorFlow would read one without a digest."""
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file() or sha256(file) != digest:
            raise UserError(f"{file} is missing or was changed; export it again")
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        read = name.startswith(READ_FOLDERS) or file.suffix in READ_SUFFIXES
        if read and name not in digests and not file.is_dir():
            raise UserError(f"{file} is not one of the exported files; remove it")
