"""The two classifiers, `cnn` and `supervised`: their losses, and scores near 0."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import noise_batch, small_config, small_model
from keras import layers

from anomaly_tf.approaches.classifier import model as classifier
from anomaly_tf.approaches.supervised import model as supervised


def test_the_step_of_cnn_reports_cross_entropy_and_accuracy():
    config = small_config("cnn")
    model, twin = small_model(config), small_model(config)
    images, classes = (part.numpy() for part in noise_batch(config))
    reported = {name: float(value) for name, value in model.train_step((images, classes)).items()}
    logits = twin.networks["classifier"](images, training=True)[0].numpy()
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = {
        "loss": -np.log(likely[np.arange(16), classes]).mean(),
        "accuracy": (logits.argmax(axis=1) == classes).mean(),
    }
    assert reported == pytest.approx(expected, rel=1e-4)


def test_the_step_of_supervised_takes_the_first_half_for_normal():
    config = small_config("supervised")
    model, twin = small_model(config), small_model(config)
    normal, anomaly = (part.numpy() for part in noise_batch(config))
    reported = {name: float(value) for name, value in model.train_step((normal, anomaly)).items()}
    together = np.concatenate([normal, anomaly])
    logits = twin.networks["classifier"](together, training=True)[0].numpy()[:, 0]
    anomalous = 1 / (1 + np.exp(-logits))
    expected = -np.concatenate([np.log(1 - anomalous[:8]), np.log(anomalous[8:])]).mean()
    assert reported == {"loss": pytest.approx(expected, rel=1e-4)}


def with_pixels_as_logits(pixels: int) -> keras.Model:
    """A network whose logits are an image's pixels, from -80 to 80."""
    image = keras.Input((1, pixels, 1))
    logits = layers.Rescaling(80.0)(layers.Flatten()(image))
    return keras.Model(image, [logits, image])


def image_with(*logits: list[float]) -> np.ndarray:
    """The uint8 images that come nearest, and below the logits that they give."""
    pixels = np.rint((np.array(logits) / 80 + 1) * 127.5).astype(np.uint8)
    return pixels[:, np.newaxis, :, np.newaxis]


def logits_of(images: np.ndarray) -> np.ndarray:
    return (images[:, 0, :, 0].astype(np.float64) / 127.5 - 1) * 80


def test_supervised_ranks_images_with_extreme_logits():
    """Added to 1, what float32 has of such probabilities would be lost, and all score 0."""
    images = image_with(*([logit] for logit in (-80, -60, -40, -20, -10, -7, -5, 0, 5, 40, 80)))
    scores = supervised.build_detector(with_pixels_as_logits(1))(images)["score"].numpy()
    expected = np.logaddexp(0.0, logits_of(images)[:, 0])
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert (np.diff(scores) > 0).all()


def test_cnn_ranks_images_with_extreme_logits():
    images = image_with(
        *([70, logit, -70] for logit in (0, 20, 40, 50, 58, 62, 63, 64, 66, 69)),
        [70, 70, -70],  # two classes alike: log 2
        [70, 70, 70],
    )
    scores = classifier.build_detector(with_pixels_as_logits(3))(images)["score"].numpy()
    ordered = np.sort(logits_of(images), axis=1)
    expected = np.log1p(np.exp(ordered[:, :2] - ordered[:, 2:]).sum(axis=1))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert (np.diff(scores) > 0).all()
