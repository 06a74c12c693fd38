"""The detector of an exported SavedModel, in TensorFlow without Keras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from anomaly_tf.deploy.detector import Detector
from anomaly_tf.errors import UserError
from anomaly_tf.files import sha256

# TensorFlow Serving leaves this folder of a SavedModel alone.
METADATA = Path("assets.extra", "anomaly_tf.json")
BATCH = 500


class SavedModelDetector(Detector):
    """An exported SavedModel with its threshold; see `Detector`.

    Args:
        model: What `tf.saved_model.load` gave.
        info: Its metadata; see `deploy/exporters.py`.
    """

    def __init__(self, model: Any, info: dict[str, Any]) -> None:
        super().__init__(info)
        self._model = model  # the signature alone would not keep its variables alive
        self._serve = model.signatures["serve"]

    @classmethod
    def load(cls, path: str | Path) -> SavedModelDetector:
        """Loads a SavedModel that `export.py` made.

        Args:
            path: Its folder, or the one above, as TensorFlow Serving takes it.

        Raises:
            UserError: A `ValueError`; if it was not made by `export.py`, or a file of it is missing
                or changed.
        """
        folder = Path(path)
        if not (folder / "saved_model.pb").is_file():
            folder = folder / "1"
        try:
            info = json.loads((folder / METADATA).read_text("utf-8"))
            files = info["files_sha256"].items()
            info["threshold"]["value"], info["calibration"]["scores"], info["outputs"]
        except OSError as error:
            raise UserError(
                f"{path} was not made by export.py (it holds no {METADATA}); export it again"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / METADATA} is damaged ({error}); export it again") from error
        for name, digest in files:
            file = folder / name
            if not file.is_file() or sha256(file) != digest:
                raise UserError(f"{file} is missing or was changed; export it again")
        return cls(tf.saved_model.load(str(folder)), info)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `infer` can give."""
        return tuple(self.info["outputs"])

    def _infer(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for start in range(0, len(images), BATCH):
            outputs = self._serve(images=tf.constant(images[start : start + BATCH]))
            for name in names:
                parts[name].append(outputs[name].numpy())
        return {name: np.concatenate(part) for name, part in parts.items()}
