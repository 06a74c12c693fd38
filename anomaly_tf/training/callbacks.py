"""Callbacks of training: validation, checkpoints, non-finite losses."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from anomaly_tf.config import LearnsFrom
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.roi import Roi
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.deploy.regions import views
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.runs.sections import LAST_EPOCH
from anomaly_tf.training.checkpoint import Progress, save_checkpoint


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the message names it, the epoch and the step."""


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends training on the first loss that is not finite.

    Raises:
        NonFiniteLoss: From `fit`, before validation sees the damaged weights.
    """

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Records the epoch for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Checks every logged loss."""
        for name, value in (logs or {}).items():
            if not math.isfinite(number := float(value)):
                raise NonFiniteLoss(
                    f"loss '{name}' became {number} in epoch {self._epoch + 1}, step {batch + 1}"
                )


class FinishEpoch(keras.callbacks.Callback):
    """Completes the detector after the last step of each epoch; see `Approach.finish_epoch`."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Completes the detector."""
        self.model.finish_epoch()


# Criterion for the selection of the epoch. An approach that learns without labelled anomalies also
# selects without them: it keeps its last epoch, at the end of its learning-rate schedule.
CRITERIA: dict[LearnsFrom, str] = {
    "normal and anomalous images": "val_auroc",
    "normal images": LAST_EPOCH,
    "classes": "val_accuracy",
}


class Validation(keras.callbacks.Callback):
    """Computes metrics on the validation set after every epoch and reports improvements.

    Adds `val_normal_score`, the learning rates and, if available, `val_auroc`, `val_accuracy` and
    `val_loss` to the epoch's logs, so that it must precede the callbacks that write them.

    Args:
        detector: The detector in training.
        images: The validation set.
        criterion: The metric to maximise, or `LAST_EPOCH`.
        on_improvement: Called with epoch (from 1), metrics and scores whenever the criterion is the
            best so far.
        best: The best value so far, if the training resumes.
        roi: The regions of the images that count; None: everything.

    Attributes:
        scores: float32 `(N,)`, scores of the validation set after the last epoch.
    """

    def __init__(
        self,
        detector: TrainedDetector,
        images: LabelledImages,
        criterion: str,
        on_improvement: Callable[[int, dict[str, float], np.ndarray], None],
        best: float = -math.inf,
        roi: Roi | None = None,
    ) -> None:
        super().__init__()
        self._detector = detector
        self._images = images  # an array, or images on disk that are read each time
        self._criterion, self._roi = criterion, roi
        self._on_improvement = on_improvement
        self._best = best
        self.scores = np.empty(0, np.float32)

    def measure(self) -> tuple[dict[str, float], np.ndarray]:
        """Metrics of the current weights, by name, and scores `(N,)` of the validation set."""
        labels = self._images.labels
        wanted = tuple(
            name for name in ("score", "probabilities") if name in self._detector.outputs
        )
        inferred = [
            view.infer(part, wanted)
            for view, part in views(self._detector, self._images, self._roi)
        ]
        outputs = {name: np.concatenate([part[name] for part in inferred]) for name in wanted}
        scores = outputs["score"]
        measures = {"val_normal_score": float(scores[labels == 0].mean())}
        if labels.any():
            measures["val_auroc"] = float(roc_auc_score(labels, scores))
        if "probabilities" in outputs:
            probabilities = outputs["probabilities"][labels == 0]
            classes = self._images.classes[labels == 0]
            known = range(probabilities.shape[1])
            measures["val_accuracy"] = float(np.mean(probabilities.argmax(axis=1) == classes))
            measures["val_loss"] = float(log_loss(classes, probabilities, labels=known))
        return measures, scores

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Computes and logs the metrics, and reports an improvement."""
        measures, scores = self.measure()
        self.scores = scores
        if logs is not None:
            logs.update(measures)
            logs.update(self.model.learning_rates())
        value = epoch if self._criterion == LAST_EPOCH else measures[self._criterion]
        if value >= self._best:  # of equal values the later epoch
            self._best = value
            self._on_improvement(epoch + 1, measures, scores)


class Checkpoints(keras.callbacks.Callback):
    """Saves the state of the training and `history.csv` after every epoch.

    Must follow all other callbacks, so that an epoch counts as finished only when its files are
    complete.

    Args:
        run: The run directory.
        progress: The progress of training, which is updated.
        seconds: Function that returns the duration of training.
    """

    def __init__(self, run: RunDirectory, progress: Progress, seconds: Callable[[], float]) -> None:
        super().__init__()
        self._run, self._progress, self._seconds = run, progress, seconds

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes both."""
        progress = self._progress
        row = {name: float(value) for name, value in sorted((logs or {}).items())}
        progress.history.append({"epoch": epoch, **row})
        progress.epochs = epoch + 1
        progress.seconds = self._seconds()
        write_history(self._run.history, progress.history)
        save_checkpoint(self._run.checkpoint, self.model, progress)


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Writes losses and metrics of all epochs as CSV, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        rows.writeheader()
        rows.writerows(history)
