"""The interface of all detectors: scores, verdicts and maps of new images.

Needs NumPy only. The runtimes are in separate modules (`keras_run`, `saved_model`, `litert`), and
`loading` selects one.
"""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from anomaly_tf.data.images import Reading, read_image
from anomaly_tf.deploy.answers import check_answer, checked_images, one_line
from anomaly_tf.deploy.pickling import CHANGEABLE, Origin, digests_of, forked, load_again
from anomaly_tf.deploy.regions import Regional, reading_of
from anomaly_tf.detection.regional import infer_inside
from anomaly_tf.detection.threshold import (
    conformal_threshold,
    labelled_threshold,
    p_values,
    percentile_threshold,
)
from anomaly_tf.detection.tiling import infer_in_tiles
from anomaly_tf.errors import UserError
from anomaly_tf.program import command_line
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.files import OwnedFolder
from anomaly_tf.runs.limits import MAX_PIXELS
from anomaly_tf.runs.paths import user_path
from anomaly_tf.runs.sections import HeatScale, Threshold

if TYPE_CHECKING:
    from anomaly_tf.config import ThresholdConfig


# Quantization of a `.tflite` file; see `TrainedDetector.export`.
Quantization = Literal["none", "float16", "dynamic", "int8"]


class Detector(Regional, ABC):
    """A detector with its threshold.

    >>> detector = anomaly_tf.Detector.load("runs/mine")  # or a SavedModel's folder, or a .tflite
    >>> scores = detector.score(images)  # float32 (N,), higher is more anomalous
    >>> np.array_equal(detector.predict(images), scores >= detector.threshold)
    True

    Several threads may use one detector at the same time. It is pickled by its path, for joblib and
    multiprocessing: the other process loads it again, with the same `trust` and the current
    threshold.

    Args:
        info: Metadata from `detector.json` or from an exported file.
    """

    # `loading.load_detector`, set where all kinds are known; see `deploy/__init__.py`.
    load: ClassVar[Callable[..., Detector]]

    # Whether it loads in a fraction of a second, so that each process can load its own.
    loads_quickly = False
    # Whether it works in a process forked from the one that loaded it.
    survives_fork = False
    # The temporary folder of a detector that was not saved.
    _kept: OwnedFolder | None = None

    def __init__(self, info: DetectorInfo) -> None:
        self.info = info
        self._origin: Origin | None = None
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None or self._kept:
            name = type(self).__name__
            raise TypeError(f"cannot pickle this {name}: it was not saved; use its method save")
        changed = {name: getattr(self.info, name) for name in CHANGEABLE}
        return load_again, (Detector.load, self._origin, digests_of(self.info), changed)

    def single_threaded(self) -> Self:
        """A copy that uses one thread in the process that it is pickled to."""
        return self

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied.info = copy.copy(self.info)
        copied.info.threshold = copy.copy(self.info.threshold)
        return copied

    def _loaded_from(
        self, path: Path, trust: bool = False, settings: dict[str, Any] | None = None
    ) -> Self:
        """Records how to load the detector again, for pickling; returns the detector.

        Args:
            path: As for `load`.
            trust: As for `load`.
            settings: Attributes to set after loading, by name.
        """
        self._origin = Origin(path.absolute(), trust, settings or {})
        return self

    def _keep(self, folder: OwnedFolder) -> None:
        """Keeps a temporary folder from which the detector was loaded as long as the detector."""
        self._kept = folder

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of `infer`."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Saves the detector with its current threshold; `Detector.load` loads it again.

        Args:
            path: A new or empty folder for a run directory or a SavedModel, a new file for a
                `.tflite`; or the path from which the detector was loaded.

        Raises:
            UserError: A `ValueError`; if the path is in use or cannot be written.
        """

    @abstractmethod
    def _infer(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Computes the outputs of at least one checked image, or tile."""

    @property
    def threshold(self) -> float:
        """The threshold: scores of at least this value are anomalies."""
        return self.info.threshold.value

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the input images."""
        height, width, channels = self.info.image_shape
        return height, width, channels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that the model takes: of an image, or of a tile."""
        return self.info.input_shape

    @property
    def reading(self) -> Reading:
        """How image files are read for the detector."""
        return Reading(self.info.bit_depth, self.info.max_pixels or MAX_PIXELS, self.region)

    @property
    def threshold_method(self) -> str:
        """Method of the threshold, in words: `percentile 95`, `conformal 0.05`, `labelled`."""
        return str(self.info.threshold)

    def set_threshold(self, config: ThresholdConfig | Threshold) -> None:
        """Sets the threshold from the stored scores of validation images.

        Raises:
            ValueError: If there are too few scores for the false-alarm rate, or none of anomalies
                for method `labelled`.
        """
        if config.method == "conformal":
            self.set_false_alarm_rate(config.false_alarm_rate or 0.0)
        elif config.method == "percentile":
            self.set_percentile(config.percentile or 0.0)
        else:
            value = labelled_threshold(self.info.calibration)
            self.info.threshold = Threshold(value, config.method)

    def set_percentile(self, percentile: float) -> None:
        """Sets the threshold to a percentile of the stored scores, in [0, 100]."""
        value = percentile_threshold(self.calibration_scores, percentile)
        self.info.threshold = Threshold(value, "percentile", percentile=float(percentile))

    def set_false_alarm_rate(self, rate: float) -> None:
        """Sets the threshold that a new normal image reaches with a probability of at most `rate`.

        The verdict is then `p_values(scores) <= rate`; see `conformal_threshold` for the guarantee.

        Args:
            rate: In (0, 1).

        Raises:
            ValueError: If the rate is out of range, or so small that the stored scores of normal
                validation images cannot guarantee it.
        """
        value = conformal_threshold(self.calibration_scores, rate)
        self.info.threshold = Threshold(value, "conformal", false_alarm_rate=float(rate))

    def score(self, images: np.ndarray) -> np.ndarray:
        """Anomaly scores, each independent of the other images.

        If the detector was trained on tiles, the score is the largest one of the image's tiles.

        Args:
            images: uint8 `(N, H, W, C)`; the channel axis may be omitted for grayscale images.

        Returns:
            float32 `(N,)`, higher is more anomalous.

        Raises:
            ValueError: If the images have another type or shape.
        """
        return self.infer(images)["score"]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Verdicts int8 `(N,)`, 1 = anomaly, 0 = normal; see `score` for images and errors."""
        return (self.score(images) >= self.threshold).astype(np.int8)

    def read(self, path: str | Path, roi: str | Path | None = None) -> np.ndarray:
        """Reads an image file as input of the detector.

        The image is upright, in grey or colour, and resized by Pillow's bilinear filter with
        antialiasing, exactly as in training and in the command `predict`.

        Args:
            path: An image file of any size.
            roi: As for `score_files`.

        Returns:
            uint8 `(H, W, C)` of `image_shape`.

        Raises:
            UserError: A `ValueError`; if the file or its mask cannot be read.
        """
        path = user_path(path)
        return read_image(path, self.image_shape, reading_of(self, [path], roi))

    def score_files(
        self,
        files: Iterable[str | Path],
        on_error: Literal["raise", "nan"] = "raise",
        roi: str | Path | None = None,
    ) -> np.ndarray:
        """Anomaly scores of image files, which are read by `read` on all threads of the processor.

        Args:
            files: Paths of image files.
            on_error: Handling of files that cannot be read: `raise` raises an error, `nan` issues a
                `UserWarning` and returns the score NaN.
            roi: The region that counts: a mask for all files, or a folder with a mask for each;
                required if the detector was trained with such a folder. Default: `region`.

        Returns:
            float32 `(N,)`, in the order of the files, higher is more anomalous.

        Raises:
            UserError: A `ValueError`; if a file cannot be read and `on_error` is `raise`.
            TypeError: If `files` is a single path.
        """
        from anomaly_tf.deploy.file_scoring import scores_of

        return scores_of(self, files, on_error, roi)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Conformal p-values float64 `(N,)`: how rarely normal images have scores as high.

        `detection/batches.py` uses them for joint verdicts of several images.
        """
        return p_values(scores, self.calibration_scores)

    @property
    def calibration_scores(self) -> np.ndarray:
        """Scores of the normal validation images that set the threshold, float64 `(n,)`."""
        return np.array(self.info.calibration.scores)

    @property
    def reconstructs(self) -> bool:
        """True if `reconstruct` is available."""
        return "reconstruction" in self.outputs

    @property
    def classifies(self) -> bool:
        """True if the detector is a classifier, so that `probabilities` is available."""
        return "probabilities" in self.outputs

    @property
    def heat_scale(self) -> HeatScale:
        """The colour scale of heat maps of `explain`.

        Raises:
            UserError: If the detector is from an earlier version without a scale.
        """
        scale = self.info.heat_scale
        if scale is None:
            adding = command_line("evaluate", "--run-dir", "RUN")
            raise UserError(
                "this detector is from an earlier version and has no scale for heat maps; "
                f"{adding} adds it to its run, and new exports contain it"
            )
        return scale

    @property
    def explains(self) -> bool:
        """True if `explain` is available."""
        return "error_map" in self.outputs

    def explain(self, images: np.ndarray) -> np.ndarray:
        """Anomaly maps: float32 `(N, H, W)`, at least 0, not rescaled per image.

        The map is the error of the reconstruction or the distance of features of each pixel. The
        score is the mean of the map (for some approaches plus terms of the image as a whole), for
        large images its maximum. Detectors without such a map have Grad-CAM, the regions that
        support the predicted class; it is available for runs and not for exported files.

        If the detector was trained on tiles, their maps are cross-faded where they overlap.

        Takes the same images as `score`.

        Raises:
            ValueError: As `score`, or if the detector has no map.
        """
        return self.infer(images, ("error_map",))["error_map"]

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Reconstructions of images: uint8 `(N, H, W, C)`.

        Takes the same images as `score`.

        Raises:
            ValueError: As `score`, or if the detector has no reconstruction.
        """
        return self.infer(images, ("reconstruction",))["reconstruction"]

    def explain_and_reconstruct(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Maps and reconstructions in one pass; None for the latter if there are none.

        Takes the same images as `score`, and raises the errors of `explain`.
        """
        if not self.reconstructs:
            return self.explain(images), None
        outputs = self.infer(images, ("error_map", "reconstruction"))
        return outputs["error_map"], outputs["reconstruction"]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities float32 `(N, classes)`; each row sums to 1.

        Takes the same images as `score`.

        Raises:
            ValueError: As `score`, or if the detector is not a classifier.
        """
        return self.infer(images, ("probabilities",))["probabilities"]

    def infer(
        self, images: np.ndarray, names: tuple[str, ...] = ("score",)
    ) -> dict[str, np.ndarray]:
        """Computes several outputs in one pass over the images.

        Args:
            images: As for `score`.
            names: Names from `outputs`: `score` `(N,)`, `error_map` `(N, H, W)` and `probabilities`
                `(N, classes)`, float32; `reconstruction` uint8 `(N, H, W, C)`.

        Raises:
            ValueError: As `score`, or if the detector lacks one of the outputs.
        """
        for name in names:
            if name not in self.outputs:
                raise ValueError(
                    f"expected a detector with {name}; approach {self.info.approach} has "
                    f"{', '.join(self.outputs)}"
                )
        return self._answers(checked_images(images, self.image_shape), names)

    def score_blank(self) -> None:
        """Scores a blank image, or a blank tile, to try the model.

        Raises:
            UserError: If the model gives no score, or an invalid one.
        """
        self._model_answers(np.zeros((1, *self.input_shape), np.uint8), ("score",))

    def _answers(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Computes outputs of checked images, through tiles if the model takes tiles."""
        if not len(images):  # refused by some operations; a blank image gives the shapes
            blank = self._answers(np.zeros((1, *self.image_shape), np.uint8), names)
            return {name: output[:0] for name, output in blank.items()}
        inside, tiling = self.inside_of(images), self.info.tiling
        by_maximum = self.info.image_score == "maximum" and "error_map" in self.outputs
        if tiling is not None:
            return infer_in_tiles(self._model_answers, images, names, tiling, inside, by_maximum)
        if inside is not None:
            return infer_inside(self._model_answers, images, names, inside, by_maximum)
        return self._model_answers(images, names)

    def _model_answers(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Computes and checks the outputs of at least one image of the model's input."""
        if not self.survives_fork and self._process != os.getpid():
            raise forked()
        with one_line():
            outputs = self._infer(images, names)
        for name in names:
            classes = len(self.info.class_names or ())
            check_answer(name, outputs.get(name), self.input_shape, classes, len(images))
        return outputs
