"""What a trained run becomes: scores, verdicts and error maps of new images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from anomaly_tf.config import ThresholdConfig
from anomaly_tf.detection.scoring import Explainer, Scorer
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
        model: From uint8 images `(N, H, W, C)` to a dictionary of float32 outputs, `score` `(N,)`
            among them; `models/__init__.py` lists the others.
        info: What `detector.json` holds; see `training/fit.py` for the keys.
    """

    def __init__(self, model: keras.Model, info: dict[str, Any]) -> None:
        self.model = model
        self.info = info
        self._explain = Explainer(model)
        self._scorers: dict[str, Scorer] = {}  # one graph for each output that was asked for

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
        return self._output("score", images)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Verdicts int8 `(N,)`, 1 = anomaly, 0 = normal; takes and raises what `score` does."""
        return (self.score(images) >= self.threshold).astype(np.int8)

    @property
    def reconstructs(self) -> bool:
        """Whether the detector rebuilds images: `reconstruct` works, `explain` gives errors."""
        return self._explain.has_reconstruction

    @property
    def classifies(self) -> bool:
        """Whether the detector tells classes apart: `probabilities` works."""
        return "probabilities" in self.model.output

    def explain(self, images: np.ndarray) -> np.ndarray:
        """Where a score comes from: float32 `(N, H, W)`, at least 0, not rescaled per image.

        If the detector reconstructs images, the error of each pixel; the score is the mean of the
        map (of a variational autoencoder, plus its latent term). Else Grad-CAM: what in the image
        speaks for the class that it was taken for. Takes and raises what `score` does.
        """
        return self._explain(self._checked(images))

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """What the detector would expect to see: uint8 `(N, H, W, C)`.

        Takes what `score` does.

        Raises:
            ValueError: What `score` raises, or if the detector has no reconstruction.
        """
        scaled = (self._output("reconstruction", images) + 1.0) * 127.5
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities float32 `(N, classes)`, each row summing to 1.

        Takes what `score` does.

        Raises:
            ValueError: What `score` raises, or if the detector knows no classes.
        """
        return self._output("probabilities", images)

    def _output(self, name: str, images: np.ndarray) -> np.ndarray:
        images = self._checked(images)
        if name not in self.model.output:
            raise ValueError(
                f"expected a detector with {name}; approach {self.info.get('approach')} has none"
            )
        if name not in self._scorers:
            self._scorers[name] = Scorer(self.model, (name,))
        return self._scorers[name](images)[name]

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
