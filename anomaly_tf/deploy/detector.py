"""What a trained run becomes: scores, verdicts and error maps of new images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from anomaly_tf.config import ThresholdConfig
from anomaly_tf.detection.scoring import Scorer
from anomaly_tf.detection.threshold import fit_threshold
from anomaly_tf.errors import UserError
from anomaly_tf.files import atomic_path, sha256, write_json
from anomaly_tf.run_directory import RunDirectory, open_run


class Detector:
    """A trained detector with its threshold.

    >>> detector = Detector.load("runs/sota/first")
    >>> detector.score(images)     # float32 (N,), higher is more anomalous
    >>> detector.predict(images)   # int8 (N,), 1 = anomaly: score >= detector.threshold

    Args:
        model: From uint8 images `(N, H, W, C)` to a dictionary of `score` `(N,)`, `error_map`
            `(N, H, W)` and `reconstruction` `(N, H, W, C)`, all float32.
        info: What `detector.json` holds; see `training/fit.py` for the keys.
    """

    def __init__(self, model: keras.Model, info: dict[str, Any]) -> None:
        self.model = model
        self.info = info
        self._score = Scorer(model)

    @classmethod
    def load(cls, run_dir: str | Path) -> Detector:
        """Loads the detector of a run directory.

        Args:
            run_dir: A folder written by `train.py`.

        Raises:
            UserError: A `ValueError`; if the folder is not a run, is incomplete, or its model
                file is not the one that was saved.
        """
        run, info = open_run(run_dir)
        if sha256(run.model) != info["model_sha256"]:
            raise UserError(f"{run.model} is not the file that training saved; train again")
        return cls(keras.models.load_model(run.model, compile=False, safe_mode=True), info)

    def save(self, run: RunDirectory) -> None:
        """Writes the model and `detector.json`, each whole or not at all."""
        with atomic_path(run.model) as temporary:
            self.model.save(temporary)
        self.info["model_sha256"] = sha256(run.model)
        self.save_info(run)

    def save_info(self, run: RunDirectory) -> None:
        """Writes `detector.json` alone, for a new threshold."""
        write_json(run.detector, self.info)

    @property
    def threshold(self) -> float:
        """Scores from here on are anomalies."""
        return self.info["threshold"]["value"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that the detector takes."""
        return tuple(self.model.input_shape[1:])

    def set_threshold(self, config: ThresholdConfig) -> None:
        """Sets the threshold anew from the stored scores of normal validation images."""
        scores = np.array(self.info["calibration"]["scores"])
        self.info["threshold"] = {
            "value": fit_threshold(scores, config),
            "method": config.method,
            "percentile": config.percentile,
        }

    def score(self, images: np.ndarray) -> np.ndarray:
        """Anomaly scores, each independent of the other images.

        Args:
            images: uint8 `(N, H, W, C)`; the channel axis may be left out of grayscale images.

        Returns:
            float32 `(N,)`, higher is more anomalous.

        Raises:
            ValueError: If dtype, shape or range are not those; the message says what came.
        """
        return self._score(self._checked(images))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Verdicts int8 `(N,)`, 1 = anomaly, 0 = normal; takes and raises what `score` does."""
        return (self.score(images) >= self.threshold).astype(np.int8)

    def explain(self, images: np.ndarray) -> np.ndarray:
        """Where images are abnormal: float32 `(N, H, W)`, not rescaled per image.

        The score of an image is the mean of its map. Takes and raises what `score` does.
        """
        return self._outputs(images)["error_map"]

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Reconstructions uint8 `(N, H, W, C)`; takes and raises what `score` does."""
        scaled = (self._outputs(images)["reconstruction"] + 1.0) * 127.5
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)

    def _outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        images = self._checked(images)
        if not len(images):  # which Keras's predict does not take
            outputs = self.model.output.items()
            return {name: np.zeros((0, *output.shape[1:]), np.float32) for name, output in outputs}
        return self.model.predict(images, batch_size=self._score.batch_size, verbose=0)

    def _checked(self, images: np.ndarray) -> np.ndarray:
        height, width, channels = self.image_shape
        expected = f"expected uint8 images (N, {height}, {width}, {channels}) in 0 to 255"
        if not isinstance(images, np.ndarray):
            raise ValueError(f"{expected}; got a {type(images).__name__}, not a numpy array")
        shape = f"shape {images.shape}"
        if images.dtype != np.uint8:
            numbers = np.issubdtype(images.dtype, np.number) and images.size
            values = f" with values {images.min():g} to {images.max():g}" if numbers else ""
            raise ValueError(f"{expected}; got {images.dtype}{values}, {shape}")
        if channels == 1 and images.ndim == 3:
            images = images[..., np.newaxis]
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"{expected}; got {shape}")
        return images
