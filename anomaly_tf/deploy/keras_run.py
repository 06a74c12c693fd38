"""The detector of a run directory, in Keras."""

from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path
from typing import get_args

import keras
import numpy as np

from anomaly_tf.config import MAX_WHOLE
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.roi import Roi
from anomaly_tf.deploy.answers import as_uint8, check_shapes, checked_images
from anomaly_tf.deploy.detector import Detector, Quantization
from anomaly_tf.deploy.origin import TRUST, check_keras_file, refused
from anomaly_tf.deploy.regions import views
from anomaly_tf.deploy.trial import KERAS, remember, require_first_score
from anomaly_tf.detection.scoring import GradCam, Scorer
from anomaly_tf.errors import UserError
from anomaly_tf.runs.checks import OUTPUTS
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.files import atomic_folder, atomic_path, require_new_folder, sha256, write_json
from anomaly_tf.runs.outputs import files_of_run, identity
from anomaly_tf.runs.paths import user_path
from anomaly_tf.runs.sections import HeatScale

# Heat maps are transparent up to the 0.9 quantile of the pixels of normal images, and full red from
# the 0.999 quantile; they are measured on HEAT_IMAGES normal images, or fewer of HEAT_BYTES, and of
# these on HEAT_PIXELS pixels in a grid. Of larger images, which have many pixels, one in twenty may
# have a pixel of full red (HEAT_PEAK), as one in twenty may be a false alarm.
HEAT_QUANTILES, HEAT_IMAGES, HEAT_BYTES, HEAT_PIXELS = (0.9, 0.999), 200, 2**29, 2**25
HEAT_PEAK = 0.95


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

    @property
    def run(self) -> RunDirectory:
        """The run directory that it was loaded from.

        Raises:
            ValueError: If it was not loaded from one.
        """
        if self._origin is None:
            raise ValueError(
                "expected a detector from anomaly_tf.train or Detector.load; got one that is in "
                "memory only"
            )
        return RunDirectory(self._origin.path)

    def save(self, path: str | Path) -> None:
        """As `Detector.save`: a run directory with all files of the training."""
        source, target = self.run, RunDirectory(user_path(path))
        if identity(target.path) == identity(source.path):
            with source.locked():
                self.save_info(source)
            return
        require_new_folder(target.path, "path")
        with atomic_folder(target.path, replace=False) as new:
            for file in files_of_run(source.path):
                (new / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.path / file, new / file)
            self.save_info(RunDirectory(new))
        self._loaded_from(target.path, self._origin.trust if self._origin else False)
        self._kept = None

    def export(
        self,
        path: str | Path,
        quantize: Quantization = "none",
        batch_size: int = 1,
    ) -> None:
        """Exports the detector with its threshold; an earlier export at this path is replaced.

        The run's validation images, from which the threshold of a `.tflite` file or a page is
        computed, are read again from their original location.

        Args:
            path: A name that ends in `.tflite` for a LiteRT file, in `.html` for a page that scores
                pictures in the browser; any other name is the folder of a SavedModel.
            quantize: Quantization of a `.tflite` file or a page. `none`: float32; `float16`:
                weights float16; `dynamic`: weights int8, not for a page; `int8`: weights and
                activations int8, the score in float32.
            batch_size: Images per call of a `.tflite` file, at least 1; a SavedModel takes any
                number.

        Raises:
            UserError: A `ValueError`; if `path` holds other files or cannot be written, or the data
                of the run is missing or changed.
            ValueError: If `quantize` or `batch_size` is out of range.
        """
        from anomaly_tf.deploy.exporters import export

        kinds = get_args(Quantization)
        if quantize not in kinds:
            raise ValueError(f"expected quantize to be one of {', '.join(kinds)}; got {quantize!r}")
        if batch_size < 1:
            raise ValueError(f"expected a batch_size of at least 1; got {batch_size}")
        export(self, Path(path), quantize, batch_size)

    def write(self, run: RunDirectory) -> None:
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

    def set_heat_scale(self, normal: ImageSet, unit: str, roi: Roi | None = None) -> None:
        """Sets the colour scale of heat maps from the maps of normal validation images.

        Args:
            normal: Normal images, at least one.
            unit: Meaning of a value of the map, in words.
            roi: The regions of the images that count; None: everything.
        """
        chosen = normal.sample(HEAT_IMAGES, HEAT_BYTES)
        step = math.ceil(math.sqrt(math.prod(chosen.images.shape[:3]) / HEAT_PIXELS))
        found, peaks = [], []
        for view, images in views(self, chosen, roi):
            maps, inside = view.explain(images), view.inside_of(images)
            counted = maps[:, ::step, ::step] if inside is None else maps[inside][:: step**2]
            found.append(counted.ravel())
            peaks.append(maps.max(axis=(1, 2)))  # 0 outside of the region
        maps = np.concatenate(found)
        low, high = map(float, np.quantile(maps, HEAT_QUANTILES))
        if min(self.image_shape[:2]) > MAX_WHOLE:
            high = max(high, float(np.quantile(np.concatenate(peaks), HEAT_PEAK)))
        if high <= low:  # maps that are 0, or the same, nearly everywhere
            high = max(float(maps.max()), low + (low or 1.0))
        share = max(HEAT_QUANTILES[1], float(np.mean(maps <= high)))
        self.info.heat_scale = HeatScale(low, high, HEAT_QUANTILES[0], share, unit)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the input images."""
        return super().image_shape if self.info.tiling else self.input_shape

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that the model takes: of an image, or of a tile."""
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
            images = checked_images(images, self.image_shape)
            return self._answers(images, ("error_map",))["error_map"]
        return super().explain(images)

    def _infer(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        if self._grad_cam and names == ("error_map",):
            return {"error_map": self._grad_cam(images)}
        with self._tracing:
            if names not in self._scorers:
                self._scorers[names] = Scorer(self.model, names)
        outputs = self._scorers[names](images)
        if "reconstruction" in names:
            outputs["reconstruction"] = as_uint8(outputs["reconstruction"])
        return outputs
