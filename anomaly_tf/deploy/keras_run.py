"""The detector of a run directory, in Keras."""

from __future__ import annotations

import threading
from pathlib import Path

import keras
import numpy as np

from anomaly_tf.data.stored import Images, sample
from anomaly_tf.deploy.answers import as_uint8, check_shapes
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.origin import TRUST, check_keras_file, refused
from anomaly_tf.deploy.trial import KERAS, remember, require_first_score
from anomaly_tf.detection.scoring import GradCam, Scorer
from anomaly_tf.errors import UserError
from anomaly_tf.runs.checks import OUTPUTS
from anomaly_tf.runs.detector_info import DetectorInfo, HeatScale
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.files import atomic_path, sha256, write_json

# Heat maps are transparent up to the 0.9 quantile of the pixels of normal images, and full red from
# the 0.999 quantile; the quantiles are measured on HEAT_IMAGES normal images.
HEAT_QUANTILES, HEAT_IMAGES = (0.9, 0.999), 200


class TrainedDetector(Detector):
    """A trained Keras model with its threshold; see `Detector`.

    Args:
        model: A model from uint8 images `(N, H, W, C)` to a dictionary of float32 outputs,
            including `score` `(N,)`; `approaches/__init__.py` lists the others.
        info: Content of `detector.json`.
    """

    def __init__(self, model: keras.Model, info: DetectorInfo) -> None:
        super().__init__(info)
        self.model = model
        self._grad_cam = None if "error_map" in model.output else GradCam(model)
        # One graph for each requested set of outputs, traced by the first thread.
        self._scorers: dict[tuple[str, ...], Scorer] = {}
        self._tracing = threading.Lock()

    @classmethod
    def load(cls, path: str | Path, trust: bool = False) -> TrainedDetector:
        """Loads the detector of a run directory.

        Args:
            path: A folder written by `train.py`.
            trust: As `Detector.load`.

        Raises:
            UserError: A `ValueError`; if the folder is not a run, is incomplete, its model file is
                not the one that was saved, or is not trusted.
        """
        run, info = open_run(path)
        digest = info.model_sha256
        if digest is None and not trust:
            raise UserError(f"{run.detector} records no digest of {run.model.name}; {TRUST}")
        file = run.model_with(digest) if digest else run.model
        if file is None:
            raise UserError(f"{run.model} is not the file that training saved; train again")
        check_keras_file(file, trust)
        if not trust:
            require_first_score(KERAS, run.path, info)
        try:
            model = keras.models.load_model(file, compile=False, safe_mode=True)
            detector = cls(model, info)._loaded_from(run.path, trust)
            shapes = {name: output.shape[1:] for name, output in model.output.items()}
            check_shapes(info, model.input_shape[1:], shapes, ("score", *detector.outputs))
            return detector
        except Exception as error:  # Keras raises many kinds on damaged or forged files
            raise refused(file, error) from error

    def save(self, run: RunDirectory) -> None:
        """Writes the model and `detector.json`, together or not at all."""
        with atomic_path(run.new_model, durable=True) as temporary:
            self.model.save(temporary)
        self.info.model_sha256 = sha256(run.new_model)
        self.save_info(run)  # makes the new model the one of the run
        run.new_model.replace(run.model)
        remember(self.info)

    def save_info(self, run: RunDirectory) -> None:
        """Writes `detector.json` only, for a new threshold."""
        write_json(run.detector, self.info.to_json())

    def set_heat_scale(self, normal: Images, unit: str) -> None:
        """Sets the colour scale of heat maps from the maps of normal validation images.

        Args:
            normal: uint8 `(N, H, W, C)`, at least one.
            unit: Meaning of a value of the map, in words.
        """
        maps = self.explain(sample(normal, HEAT_IMAGES, seed=0)[:])
        low, high = map(float, np.quantile(maps, HEAT_QUANTILES))
        if high <= low:  # maps that are 0, or the same, nearly everywhere
            high = max(float(maps.max()), low + (low or 1.0))
        self.info.heat_scale = HeatScale(low, high, *HEAT_QUANTILES, unit)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that the detector takes."""
        return tuple(self.model.input_shape[1:])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of `infer`."""
        return tuple(name for name in OUTPUTS if name in self.model.output)

    @property
    def explains(self) -> bool:
        """Always True: without an error map, Grad-CAM is used."""
        return True

    def explain(self, images: np.ndarray) -> np.ndarray:
        """As `Detector.explain`, but always available: without an error map, Grad-CAM is used."""
        if self._grad_cam:
            images = self._checked(images)
            maps = self._grad_cam(images)
            self.check_answer("error_map", maps, len(images))
            return maps
        return super().explain(images)

    def _infer(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        with self._tracing:
            if names not in self._scorers:
                self._scorers[names] = Scorer(self.model, names)
        outputs = self._scorers[names](images)
        if "reconstruction" in names:
            outputs["reconstruction"] = as_uint8(outputs["reconstruction"])
        return outputs
