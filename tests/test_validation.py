"""Validation metrics after each epoch, and the selection of the best epoch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import small_config, small_model
from keras import layers
from sklearn.metrics import log_loss, roc_auc_score

from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.training.callbacks import LAST_EPOCH, Validation

# The first of three pixels separates the two anomalies from the three normal images, the second
# half of the six pairs, and the third none.
PIXELS = [[10, 90, 200], [20, 10, 220], [30, 70, 240], [40, 80, 20], [50, 60, 10]]
IMAGES = LabelledImages(
    images=np.array(PIXELS, np.uint8)[:, np.newaxis, :, np.newaxis],
    labels=np.array([0, 0, 0, 1, 1], np.int8),
    classes=np.array([2, 1, 2, 0, 0]),
)
AUROC = (1.0, 0.5, 0.0)


class Watched:
    """Validation of a detector that answers one pixel, and what it reports."""

    def __init__(self, criterion: str, **keywords: float) -> None:
        image = keras.Input((1, 3, 1), dtype="uint8")
        values = layers.Flatten()(layers.Rescaling(1.0, dtype="float32")(image))
        self.choice = layers.Dense(1, use_bias=False)
        outputs = {"score": layers.Reshape(())(self.choice(values))}
        outputs["probabilities"] = layers.Softmax()(layers.Rescaling(0.02)(values))
        self.improvements: list[tuple[int, dict[str, float], np.ndarray]] = []
        self.validation = Validation(
            TrainedDetector(keras.Model(image, outputs), DetectorInfo()),
            IMAGES,
            criterion,
            lambda *reported: self.improvements.append(reported),
            **keywords,
        )
        self.validation.set_model(small_model(small_config("supervised", learning_rate=0.03)))
        self.validation.set_params({"epochs": 9})

    def epoch(self, number: int, pixel: int) -> dict[str, float]:
        """Ends an epoch (from 0) after which the score is a pixel; returns its logs."""
        self.choice.set_weights([np.eye(3)[:, [pixel]]])
        logs: dict[str, float] = {"loss": 1.0}
        self.validation.on_epoch_end(number, logs)
        return logs

    @property
    def epochs(self) -> list[int]:
        """The epochs (from 1) that were reported as the best so far."""
        return [epoch for epoch, _, _ in self.improvements]


def test_of_labelled_anomalies_the_epoch_with_the_highest_auroc_is_the_best():
    watched = Watched("val_auroc")
    for epoch, pixel in enumerate((1, 2, 0, 1, 0, 2)):
        logs = watched.epoch(epoch, pixel)
        assert logs["val_auroc"] == AUROC[pixel]
    # Of equals the one that learnt longer; none that is worse, the last one included.
    assert watched.epochs == [1, 3, 5]
    for (_, measures, scores), pixel in zip(watched.improvements, (1, 0, 0), strict=True):
        np.testing.assert_allclose(scores, np.array(PIXELS)[:, pixel])
        assert measures["val_auroc"] == AUROC[pixel]
        assert measures["val_normal_score"] == pytest.approx(np.mean(PIXELS[:3], axis=0)[pixel])


def test_a_resumed_training_must_beat_its_best_epoch():
    watched = Watched("val_auroc", best=0.7)
    for epoch, pixel in enumerate((1, 2, 0), start=4):
        watched.epoch(epoch, pixel)
    assert watched.epochs == [7]


def test_without_labelled_anomalies_the_last_epoch_is_kept():
    watched = Watched(LAST_EPOCH)
    for epoch, pixel in enumerate((0, 1, 2)):
        watched.epoch(epoch, pixel)
    assert watched.epochs == [1, 2, 3]


def test_the_logs_hold_measures_and_learning_rates_beside_the_losses():
    logs = Watched("val_accuracy").epoch(0, 1)
    # Classes are predicted for normal images only: 2, 2 and 2 of them have the brightest pixel.
    likely = np.exp(0.02 * np.array(PIXELS[:3]))
    likely /= likely.sum(axis=1, keepdims=True)
    assert logs == {
        "loss": 1.0,
        "val_auroc": pytest.approx(roc_auc_score(IMAGES.labels, np.array(PIXELS)[:, 1])),
        "val_normal_score": pytest.approx((90 + 10 + 70) / 3),
        "val_accuracy": pytest.approx(2 / 3),
        "val_loss": pytest.approx(log_loss([2, 1, 2], likely, labels=[0, 1, 2]), rel=1e-4),
        "classifier_learning_rate": pytest.approx(0.03),
    }
