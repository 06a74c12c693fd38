"""`AnomalyDetector`: a detector as scikit-learn has its outlier detectors."""

from __future__ import annotations

import copy
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from anomaly_tf.api import train
from anomaly_tf.approaches.configs import config_of
from anomaly_tf.deploy import Detector
from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import OwnedFolder
from anomaly_tf.runs.outputs import files_of_run
from anomaly_tf.training.console import Verbose

Images = np.ndarray | Sequence[str | Path]


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """A detector with scikit-learn's interface for outlier detection.

    Scores and labels are scikit-learn's: higher is more normal, 1 is normal and -1 an anomaly. It
    serves in a `Pipeline`, in `cross_val_score` and in searches over options.

    >>> import numpy as np
    >>> import anomaly_tf
    >>> images = np.random.default_rng(0).integers(90, 110, (40, 16, 16), dtype=np.uint8)
    >>> estimator = anomaly_tf.AnomalyDetector(training__epochs=1, training__steps_per_epoch=2)
    >>> estimator.fit(images).predict(images[:3]).shape
    (3,)

    Args:
        approach: Name of the approach; those that learn from labelled anomalies need `y`.
        verbose: As for `anomaly_tf.train`.
        options: Options of the approach, as for `anomaly_tf.train`.

    Attributes:
        detector_: The trained detector; see `Detector`.
    """

    def __init__(self, approach: str = "vae", *, verbose: Verbose = 0, **options: Any) -> None:
        self.approach, self.verbose = approach, verbose
        self._options = options

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name."""
        return {"approach": self.approach, "verbose": self.verbose, **self._options}

    def set_params(self, **params: Any) -> Self:
        """Sets arguments of the constructor.

        Raises:
            UserError: A `ValueError`; if there is no such option (the message names the nearest).
        """
        changed = self.get_params() | params
        approach, verbose = changed.pop("approach"), changed.pop("verbose")
        config_of(approach, changed)
        self.approach, self.verbose, self._options = approach, verbose, changed
        return self

    def fit(self, X: Images, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Learns what is normal.

        Args:
            X: uint8 images `(N, H, W)` or `(N, H, W, C)` with C 1 or 3, or a list of image files.
            y: 1 for normal images and -1 for anomalies, `(N,)`; None: all are normal. Anomalies are
                not used by approaches that learn from normal images only.

        Raises:
            UserError: A `ValueError`; as `anomaly_tf.train`, or if `y` holds other labels.
        """
        _require_images(X)
        for name in ("data", "labels", "run_dir"):
            if name in self._options:
                raise UserError(f"option {name} is set by fit; leave it out")
        labels = None if y is None else _labels(y)
        if labels is not None and config_of(self.approach, self._options).protocol == "one_class":
            X, labels = _normal_only(X, labels), None  # noqa: N806
        folder = OwnedFolder()
        options = {"approach": self.approach, "verbose": self.verbose, **self._options}
        try:
            detector = train(X, labels, run_dir=folder.path / "run", **options)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the estimator stays as it was") from None
        detector._keep(folder)
        self.detector_: Detector = detector
        return self

    @property
    def offset_(self) -> float:
        """The detector's threshold times -1, also after it was changed."""
        return -self.detector_.threshold

    def score_samples(self, X: Images) -> np.ndarray:  # noqa: N803
        """How normal images are: float64 `(N,)`, the anomaly scores times -1.

        Args:
            X: As for `fit`; arrays of the shape that was fitted, files of any size.

        Raises:
            ValueError: If the images are something else, or a file cannot be read.
            NotFittedError: Before `fit`.
        """
        check_is_fitted(self, "detector_")
        _require_images(X)
        if isinstance(X, np.ndarray) and X.dtype.kind not in "USO":
            scores = self.detector_.score(X)
        else:
            scores = self.detector_.score_files(X)
        return -scores.astype(np.float64)

    def decision_function(self, X: Images) -> np.ndarray:  # noqa: N803
        """`score_samples` less `offset_`, float64 `(N,)`: anomalies are 0 or below."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Images) -> np.ndarray:  # noqa: N803
        """1 for normal images and -1 for anomalies, int64 `(N,)`."""
        return np.where(self.decision_function(X) > 0, 1, -1)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the files of the run instead of the detector."""
        state = {name: value for name, value in self.__dict__.items() if name != "detector_"}
        if "detector_" in self.__dict__:
            folder = OwnedFolder()
            copy.copy(self.detector_).save(folder.path / "run")  # with the threshold as it is now
            state["_run"] = _packed(folder.path / "run")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state.pop("_run", None)
        self.__dict__.update(state)
        if packed:
            folder = OwnedFolder()
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                archive.extractall(folder.path / "run")
            self.detector_ = Detector.load(folder.path / "run")
            self.detector_._keep(folder)


def _require_images(images: Any) -> None:
    """Raises `TypeError` for anything but an array or a sequence, as for a single path."""
    if isinstance(images, (str, bytes, os.PathLike)) or not hasattr(images, "__len__"):
        raise TypeError(
            "expected uint8 images (N, H, W, C) or a list of image files; got "
            f"{type(images).__name__}"
        )


def _labels(y: Any) -> np.ndarray:
    """Labels 0 and 1 from scikit-learn's 1 and -1."""
    labels = np.asarray(y)
    found = set(np.unique(labels).tolist()) if labels.dtype.kind in "if" else {*labels.tolist()}
    if labels.ndim != 1 or not found <= {1, -1}:
        raise UserError(
            "y must hold 1 for normal images and -1 for anomalies, as scikit-learn's outlier "
            f"detectors have it; got {sorted(map(str, found))[:5]}; for labels 0 and 1 give "
            "numpy.where(y == 1, -1, 1)"
        )
    return (labels == -1).astype(np.int8)


def _normal_only(images: Images, labels: np.ndarray) -> Images:
    """The images with label 0.

    Raises:
        UserError: If there is none, or the labels are not one for each image.
    """
    if len(labels) != len(images):
        raise UserError(
            f"y must hold one label for each of {len(images)} images; got {len(labels)}"
        )
    if labels.all():
        raise UserError("y marks every image as an anomaly (-1); give normal images (1) too")
    if isinstance(images, np.ndarray):
        return images[labels == 0]
    return [image for image, label in zip(images, labels, strict=True) if not label]


def _packed(run: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in files_of_run(run):
            if file.parts[0] != "tensorboard":
                archive.write(run / file, str(file))
    return content.getvalue()
