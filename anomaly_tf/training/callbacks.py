"""What happens during training: validation, saving, pictures, and the end on a bad number."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from anomaly_tf.data.protocols import LabelledImages
from anomaly_tf.detection.scoring import Scorer


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


class Validation(keras.callbacks.Callback):
    """Scores the validation set after every epoch and passes improvements on.

    Adds `val_auroc` and the learning rates to the epoch's logs, so it must stand before the
    callbacks that write them.

    Args:
        images: The validation set.
        log_dir: TensorBoard folder for the histograms of normal and anomaly scores.
        on_improvement: Called with epoch (from 1), AUROC and scores whenever the AUROC is the
            best so far.
    """

    def __init__(
        self,
        images: LabelledImages,
        log_dir: Path,
        on_improvement: Callable[[int, float, np.ndarray], None],
    ) -> None:
        super().__init__()
        self._images = images
        self._writer = tf.summary.create_file_writer(str(log_dir))
        self._on_improvement = on_improvement
        self._best = -1.0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Makes the scorer, whose graph serves every epoch."""
        self._score = Scorer(self.model.detector)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Scores, logs, and reports an improvement."""
        scores = self._score(self._images.images)
        auroc = float(roc_auc_score(self._images.labels, scores))
        if logs is not None:
            logs["val_auroc"] = auroc
            logs.update(self.model.learning_rates())
        with self._writer.as_default(step=epoch):
            tf.summary.histogram("scores/normal", scores[self._images.labels == 0])
            tf.summary.histogram("scores/anomaly", scores[self._images.labels == 1])
        if auroc > self._best:
            self._best = auroc
            self._on_improvement(epoch + 1, auroc, scores)


class Pictures(keras.callbacks.Callback):
    """Writes originals, reconstructions and error maps to TensorBoard, of the same images always.

    Args:
        groups: Name to uint8 images `(N, H, W, C)`.
        log_dir: TensorBoard folder.
        zoom: How many screen pixels one pixel becomes.
    """

    def __init__(self, groups: dict[str, np.ndarray], log_dir: Path, zoom: int = 3) -> None:
        super().__init__()
        self._groups = groups
        self._writer = tf.summary.create_file_writer(str(log_dir))
        self._zoom = zoom

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes one picture per group."""
        with self._writer.as_default(step=epoch):
            for name, images in self._groups.items():
                outputs = self.model.detector(images, training=False)
                original = images.astype(np.float32) / 255
                reconstruction = (outputs["reconstruction"].numpy() + 1) / 2
                # Errors lie in [0, 2]; halved they share the scale of the pictures.
                error = np.repeat(
                    outputs["error_map"].numpy()[..., np.newaxis] / 2, images.shape[-1], axis=-1
                )
                rows = [np.concatenate(row, axis=1) for row in (original, reconstruction, error)]
                grid = np.kron(
                    np.concatenate(rows, axis=0), np.ones((self._zoom, self._zoom, 1), np.float32)
                )
                tf.summary.image(
                    f"reconstructions/{name}",
                    grid[np.newaxis],
                    description="top to bottom: original, reconstruction, absolute error",
                )
