"""What every detector can do, wherever it runs: scores, verdicts and maps of new images.

Needs numpy only. What runs it stands in a module of its own (`keras_run`, `saved_model`, `litert`);
`loading` chooses among them.
"""

from __future__ import annotations

import copy
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from anomaly_tf.data.images import read_image
from anomaly_tf.deploy.answers import check_answer, checked_images
from anomaly_tf.detection.threshold import conformal_threshold, p_values, percentile_threshold
from anomaly_tf.errors import UserError
from anomaly_tf.program import command_line
from anomaly_tf.runs.detector_info import DetectorInfo, HeatScale, Threshold
from anomaly_tf.runs.paths import user_path
from anomaly_tf.script import printable

if TYPE_CHECKING:
    from anomaly_tf.config import ThresholdConfig


# Arithmetic of a `.tflite` file; see `TrainedDetector.export`.
Quantization = Literal["none", "float16", "dynamic", "int8"]
# What of a detector's metadata may be set after it was loaded.
CHANGEABLE = ("threshold", "heat_scale", "bit_depth")


class Detector(ABC):
    """A detector with its threshold.

    >>> detector = Detector.load("runs/sota/first")  # or a SavedModel's folder, or a .tflite file
    >>> detector.score(images)     # float32 (N,), higher is more anomalous
    >>> detector.predict(images)   # int8 (N,), 1 = anomaly: score >= detector.threshold

    Several threads may use one detector at the same time. It is pickled, as joblib and
    multiprocessing do, by its path: the other process loads it again, with the trust that was given
    and the threshold as it is now.

    Args:
        info: What `detector.json` holds, or an exported file.
    """

    # `loading.load_detector`, set where all kinds are known; see `deploy/__init__.py`.
    load: ClassVar[Callable[..., Detector]]

    # Whether a process may load one for itself in a fraction of a second.
    loads_quickly = False
    # Whether it works in a process that was forked from the one that loaded it.
    survives_fork = False

    def __init__(self, info: DetectorInfo) -> None:
        self.info = info
        self._origin: _Origin | None = None
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None:
            name = type(self).__name__
            raise TypeError(f"cannot pickle this {name}: it was not loaded by Detector.load")
        changed = {name: getattr(self.info, name) for name in CHANGEABLE}
        return _load_again, (self._origin, _digests(self.info), changed)

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
        """Notes what loads the detector again, for pickling; returns the detector.

        Args:
            path: As `load` takes it.
            trust: As `load` takes it.
            settings: Attributes that the loaded one shall have, by name.
        """
        self._origin = _Origin(path.absolute(), trust, settings or {})
        return self

    def keep(self, folder: tempfile.TemporaryDirectory) -> None:
        """Keeps the temporary folder that the detector was loaded from as long as the detector."""
        self._kept = folder

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of what `infer` can give."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Writes the detector with its threshold as it is now, for `Detector.load`.

        Args:
            path: A new or empty folder for a run directory or a SavedModel, a new file for a
                `.tflite`; or the place that the detector was loaded from.

        Raises:
            UserError: A `ValueError`; if something else is there, or it cannot be written.
        """

    @abstractmethod
    def _infer(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The outputs of images that were checked, at least one."""

    @property
    def threshold(self) -> float:
        """Scores from here on are anomalies."""
        return self.info.threshold.value

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that the detector takes."""
        height, width, channels = self.info.image_shape
        return height, width, channels

    @property
    def threshold_method(self) -> str:
        """How the threshold was set, for a reader: `percentile 95`, `conformal 0.05`."""
        return f"{self.info.threshold.method} {self.info.threshold.setting:g}"

    def set_threshold(self, config: ThresholdConfig) -> None:
        """Sets the threshold anew from the stored scores of normal validation images.

        Raises:
            ValueError: If they are too few for the false-alarm rate.
        """
        if config.method == "conformal":
            self.set_false_alarm_rate(config.false_alarm_rate)
        else:
            self.set_percentile(config.percentile)

    def set_percentile(self, percentile: float) -> None:
        """Sets the threshold to a percentile of the stored scores, in [0, 100]."""
        value = percentile_threshold(self.calibration_scores, percentile)
        self.info.threshold = Threshold(value, "percentile", percentile=percentile)

    def set_false_alarm_rate(self, rate: float) -> None:
        """Sets the threshold that a new normal image reaches with a probability of at most `rate`.

        The verdict then is `p_values(scores) <= rate`; see `conformal_threshold` for the promise.

        Args:
            rate: In (0, 1).

        Raises:
            ValueError: If the rate is out of range, or so small that the stored scores of normal
                validation images cannot promise it.
        """
        value = conformal_threshold(self.calibration_scores, rate)
        self.info.threshold = Threshold(value, "conformal", false_alarm_rate=rate)

    def score(self, images: np.ndarray) -> np.ndarray:
        """Anomaly scores, each independent of the other images.

        Args:
            images: uint8 `(N, H, W, C)`; the channel axis may be left out of grayscale images.

        Returns:
            float32 `(N,)`, higher is more anomalous.

        Raises:
            ValueError: If dtype, shape or range are not those; the message says what came.
        """
        return self.infer(images)["score"]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Verdicts int8 `(N,)`, 1 = anomaly, 0 = normal; takes and raises what `score` does."""
        return (self.score(images) >= self.threshold).astype(np.int8)

    def read(self, path: str | Path) -> np.ndarray:
        """Reads an image file as the detector wants it.

        Upright, in grey or colour, resized by Pillow's bilinear filter with averaging: exactly as
        in training and in the command `predict`.

        Args:
            path: An image file of any size.

        Returns:
            uint8 `(H, W, C)` of `image_shape`.

        Raises:
            UserError: A `ValueError`; if the file cannot be read.
        """
        return read_image(user_path(path), self.image_shape, self.info.bit_depth)

    def score_files(
        self, files: Iterable[str | Path], on_error: Literal["raise", "nan"] = "raise"
    ) -> np.ndarray:
        """Anomaly scores of image files, read as `read` does, on all threads of the processor.

        Args:
            files: Paths of image files.
            on_error: What becomes of a file that cannot be read: `raise` raises its error, `nan`
                gives it the score NaN and a `UserWarning`.

        Returns:
            float32 `(N,)`, in the order of the files, higher is more anomalous.

        Raises:
            UserError: A `ValueError`; if a file cannot be read and `on_error` is `raise`.
            TypeError: If `files` is a single path.
        """
        from anomaly_tf.deploy.file_scoring import scores_of

        return scores_of(self, files, on_error)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """How rarely normal images score as high: the conformal p-values, float64 `(N,)`.

        For verdicts of several images together `detection/batches.py` takes them:

        >>> anomalies = select_anomalies(detector.p_values(scores), 0.1)  # bool (N,)
        """
        return p_values(scores, self.calibration_scores)

    @property
    def calibration_scores(self) -> np.ndarray:
        """Scores of the normal validation images that set the threshold, float64 `(n,)`."""
        return np.array(self.info.calibration.scores)

    @property
    def reconstructs(self) -> bool:
        """Whether the detector rebuilds images: `reconstruct` works, `explain` gives errors."""
        return "reconstruction" in self.outputs

    @property
    def classifies(self) -> bool:
        """Whether the detector tells classes apart: `probabilities` works."""
        return "probabilities" in self.outputs

    @property
    def heat_scale(self) -> HeatScale:
        """What is transparent and what full red in a heat map of `explain`.

        Raises:
            UserError: If the detector was made before heat maps had a scale.
        """
        scale = self.info.heat_scale
        if scale is None:
            adding = command_line("evaluate", "--run-dir", "RUN")
            raise UserError(
                "this detector was made by an earlier version and holds no scale for heat maps; "
                f"{adding} adds it to its run, and exports keep it"
            )
        return scale

    @property
    def explains(self) -> bool:
        """Whether `explain` works."""
        return "error_map" in self.outputs

    def explain(self, images: np.ndarray) -> np.ndarray:
        """Where a score comes from: float32 `(N, H, W)`, at least 0, not rescaled per image.

        If the detector reconstructs images, the error of each pixel; the score is the mean of the
        map (of `vae` and `sota`, plus terms of the image as a whole), of large images its maximum.
        Else Grad-CAM: what in the image speaks for the class that it was taken for; a run has it,
        an exported file has not.

        Takes what `score` does.

        Raises:
            ValueError: What `score` raises, or if the detector has no map.
        """
        return self.infer(images, ("error_map",))["error_map"]

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """What the detector would expect to see: uint8 `(N, H, W, C)`.

        Takes what `score` does.

        Raises:
            ValueError: What `score` raises, or if the detector has no reconstruction.
        """
        return self.infer(images, ("reconstruction",))["reconstruction"]

    def explain_and_reconstruct(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Both in one pass; None for the second if there is no reconstruction.

        Takes and raises what `explain` does.
        """
        if not self.reconstructs:
            return self.explain(images), None
        outputs = self.infer(images, ("error_map", "reconstruction"))
        return outputs["error_map"], outputs["reconstruction"]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities float32 `(N, classes)`, each row summing to 1.

        Takes what `score` does.

        Raises:
            ValueError: What `score` raises, or if the detector knows no classes.
        """
        return self.infer(images, ("probabilities",))["probabilities"]

    def infer(
        self, images: np.ndarray, names: tuple[str, ...] = ("score",)
    ) -> dict[str, np.ndarray]:
        """Several outputs of one pass over the images.

        Args:
            images: As `score` takes them.
            names: Which of `outputs`: `score` `(N,)`, `error_map` `(N, H, W)` and `probabilities`
                `(N, classes)`, float32; `reconstruction` uint8 `(N, H, W, C)`.

        Raises:
            ValueError: What `score` raises, or if the detector lacks one of the outputs.
        """
        images = checked_images(images, self.image_shape)
        for name in names:
            if name not in self.outputs:
                raise ValueError(
                    f"expected a detector with {name}; approach {self.info.approach} has "
                    f"{', '.join(self.outputs)}"
                )
        if not len(images):  # which some operations refuse: the shapes come from a blank image
            blank = self._answers(np.zeros((1, *self.image_shape), np.uint8), names)
            return {name: output[:0] for name, output in blank.items()}
        return self._answers(images, names)

    def _answers(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """What the model gives for images, at least one, checked."""
        if not self.survives_fork and self._process != os.getpid():
            raise forked()
        try:
            outputs = self._infer(images, names)
        except UserError:
            raise
        except Exception as error:  # of which each runtime has its own kinds
            reason = printable(" ".join(str(error).split()))[:200] or type(error).__name__
            raise UserError(
                f"the model cannot score these images ({reason}); make it again"
            ) from error
        for name in names:
            self._check_answer(name, outputs.get(name), len(images))
        return outputs

    def _check_answer(self, name: str, values: np.ndarray | None, count: int) -> None:
        check_answer(name, values, self.image_shape, len(self.info.class_names or ()), count)


@dataclass(frozen=True)
class _Origin:
    """What loads a detector again; see `Detector._loaded_from`."""

    path: Path
    trust: bool
    settings: dict[str, Any]


def _load_again(origin: _Origin, digests: tuple[object, ...], changed: dict[str, Any]) -> Detector:
    """What unpickling calls: the detector at a path, with what was set since it was loaded.

    Raises:
        UserError: As `Detector.load`, or if another model lies there now.
    """
    detector = Detector.load(origin.path, origin.trust)
    if _digests(detector.info) != digests:
        raise UserError(
            f"{origin.path} is no longer the detector that was pickled (another digest); load it "
            "again by Detector.load"
        )
    for name, value in changed.items():
        setattr(detector.info, name, value)
    for name, value in origin.settings.items():
        setattr(detector, name, value)
    return detector


def forked() -> UserError:
    """The error for a process in which TensorFlow would wait for ever."""
    return UserError(
        "TensorFlow does not work in a process forked from one that used it; start processes by "
        'multiprocessing.get_context("spawn")'
    )


def _digests(info: DetectorInfo) -> tuple[object, ...]:
    return info.model_sha256, info.files_sha256
