"""What happens during training: validation, saving, pictures, and the end on a bad number."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import log_loss, roc_auc_score

from anomaly_tf.config import LearnsFrom
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.detection.scoring import Scorer
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.training.checkpoint import Progress, save_checkpoint

# TensorBoard gets pictures and histograms after so many epochs at most, however long a training
# is, and numbers after each.
MAX_PICTURES = 30


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the message names it, the epoch and the step."""


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends training on the first loss that is not finite, whichever it is.

    Raises:
        NonFiniteLoss: From `fit`, before validation sees the damaged weights.
    """

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Notes the epoch for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Checks every logged loss."""
        for name, value in (logs or {}).items():
            if not math.isfinite(number := float(value)):
                raise NonFiniteLoss(
                    f"loss '{name}' became {number} in epoch {self._epoch + 1}, step {batch + 1}"
                )


# What chooses the epoch that is kept. An approach that learns without labelled anomalies is chosen
# without them, too: it keeps its last epoch, at the end of its learning-rate schedule.
LAST_EPOCH = "last_epoch"
CRITERIA: dict[LearnsFrom, str] = {
    "normal and anomalous images": "val_auroc",
    "normal images": LAST_EPOCH,
    "classes": "val_accuracy",
}


class Validation(keras.callbacks.Callback):
    """Measures on the validation set after every epoch and passes improvements on.

    Adds `val_normal_score`, the learning rates and, where they exist, `val_auroc`, `val_accuracy`
    and `val_loss` to the epoch's logs, so it must stand before the callbacks that write them.

    Args:
        detector: The detector in training.
        images: The validation set.
        criterion: The measure whose highest value is an improvement, or `LAST_EPOCH`.
        log_dir: TensorBoard folder for the histograms of normal and anomaly scores.
        on_improvement: Called with epoch (from 1), measures and scores whenever the criterion is
            the best so far.
        best: The best value so far of a training that is resumed.
    """

    def __init__(
        self,
        detector: keras.Model,
        images: LabelledImages,
        criterion: str,
        log_dir: Path,
        on_improvement: Callable[[int, dict[str, float], np.ndarray], None],
        best: float = -math.inf,
    ) -> None:
        super().__init__()
        # One scorer, whose graph serves every epoch.
        wanted = (name for name in ("score", "probabilities") if name in detector.output)
        self._score = Scorer(detector, tuple(wanted))
        self._images = images  # an array, or images on disk that are read each time
        self._criterion = criterion
        self._writer = tf.summary.create_file_writer(str(log_dir))
        self._on_improvement = on_improvement
        self._best = best

    def measure(self) -> tuple[dict[str, float], np.ndarray]:
        """Measures of the current weights, by name, and scores `(N,)` of the validation set."""
        labels = self._images.labels
        outputs = self._score(self._images.images)
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
        """Measures, logs, and reports an improvement."""
        measures, scores = self.measure()
        if logs is not None:
            logs.update(measures)
            logs.update(self.model.learning_rates())
        with self._writer.as_default(step=epoch):
            shown = has_pictures(epoch, self.params["epochs"])
            for label, name in enumerate(("normal", "anomaly") if shown else ()):
                chosen = scores[self._images.labels == label]
                if len(chosen):
                    tf.summary.histogram(f"scores/{name}", chosen)
        value = epoch if self._criterion == LAST_EPOCH else measures[self._criterion]
        if value >= self._best:  # of equals the one that learnt longer
            self._best = value
            self._on_improvement(epoch + 1, measures, scores)


def has_pictures(epoch: int, epochs: int) -> bool:
    """Whether TensorBoard gets pictures after an epoch (from 0): the first and the last, too."""
    return epoch % math.ceil(epochs / MAX_PICTURES) == 0 or epoch == epochs - 1


class Checkpoints(keras.callbacks.Callback):
    """Saves the state of the training and `history.csv` after every epoch.

    Must stand behind all others, so that what an epoch leaves is whole before it counts as
    finished.

    Args:
        run: Where to write.
        progress: How far the training is, kept up to date.
        seconds: Tells the time that was spent on it.
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
    """Writes losses and measures of all epochs as CSV, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        rows.writeheader()
        rows.writerows(history)


class Pictures(keras.callbacks.Callback):
    """Writes originals, reconstructions and maps to TensorBoard, of the same images always.

    Args:
        groups: Name to uint8 images `(N, H, W, C)`.
        log_dir: TensorBoard folder.
        progress: Keeps the scale of the maps.
    """

    def __init__(self, groups: dict[str, np.ndarray], log_dir: Path, progress: Progress) -> None:
        super().__init__()
        self._groups, self._progress = groups, progress
        self._writer = tf.summary.create_file_writer(str(log_dir))

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Makes the explainer, whose graph serves every epoch."""
        self._detector = TrainedDetector(self.model.detector, DetectorInfo())

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes one picture per group, after `MAX_PICTURES` of all epochs at most."""
        if not has_pictures(epoch, self.params["epochs"]):
            return
        shown = {
            name: self._detector.explain_and_reconstruct(images)
            for name, images in self._groups.items()
        }
        # One scale for all epochs, so that they can be compared: the first one's.
        largest = max(float(maps.max()) for maps, _ in shown.values())
        scale = self._progress.picture_scale = self._progress.picture_scale or largest or 1.0
        with self._writer.as_default(step=epoch):
            for name, images in self._groups.items():
                maps, rebuilt = shown[name]
                rows = [images / 255.0]
                if rebuilt is not None:
                    rows.append(rebuilt / 255.0)
                heat = np.clip(maps / scale, 0, 1)[..., np.newaxis]
                rows.append(np.repeat(heat, images.shape[-1], axis=-1))
                grid = np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
                # A small picture is enlarged, about 84 pixels high on the screen.
                zoom = max(1, 84 // images.shape[1])
                enlarged = np.kron(grid, np.ones((zoom, zoom, 1)))
                tf.summary.image(
                    f"{'grad_cam' if rebuilt is None else 'reconstructions'}/{name}",
                    enlarged[np.newaxis].astype(np.float32),
                    description="top to bottom: original, reconstruction if there is one, map; "
                    "white in the map is the largest value of the first epoch",
                )
