"""The distance of an image's gradients from those of normal images."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from anomaly_tf.networks.gradients import (
    RIDGE,
    gradient_distance,
    gradient_features,
    images_to_learn_from,
    learn_gradients,
)


def pictures(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def detector(shape: tuple[int, int, int]) -> keras.Model:
    image = keras.Input(shape, dtype="uint8")
    return keras.Model(image, gradient_distance(layers.Rescaling(1 / 127.5, -1.0)(image)))


@pytest.mark.parametrize("shape", [(12, 12, 1), (11, 16, 3)])
def test_the_distance_is_that_of_mahalanobis_and_one_for_normal_images(shape):
    normal, images = pictures(50, *shape) // 4, pictures(7, *shape)
    inputs = keras.Input(shape)
    gradients = keras.Model(inputs, gradient_features(inputs))
    known, new = (
        gradients(tf.constant(part / 127.5 - 1, tf.float32)).numpy().astype(float)
        for part in (normal, images)
    )
    covariance = np.cov(known.T, bias=True)
    largest = np.linalg.eigvalsh(covariance)[-1]
    inverse = np.linalg.inv(covariance + RIDGE * largest * np.eye(len(covariance)))
    distances = [
        np.einsum("ni,ij,nj->n", part - known.mean(0), inverse, part - known.mean(0))
        for part in (known, new)
    ]
    model = detector(shape)
    learn_gradients(model, normal)
    np.testing.assert_allclose(model(images), distances[1] / distances[0].mean(), rtol=1e-3)
    assert model(normal).numpy().mean() == pytest.approx(1.0, rel=1e-4)


def test_gradients_point_where_brightness_grows():
    image = np.full((1, 14, 14, 1), -1.0, np.float32)
    image[:, :, 7:] = 1.0  # brighter to the right
    inputs = keras.Input((14, 14, 1))
    features = keras.Model(inputs, gradient_features(inputs))(image).numpy()
    strengths = features.reshape(7, 7, 9)[1:-1, 1:-1].max(axis=(0, 1))
    assert strengths[0] == strengths[:8].max() > 0.4
    assert strengths[4] < 0.01  # to the left
    assert strengths[8] == pytest.approx(1.0, abs=1e-3)


def test_few_and_equal_images_are_enough():
    model = detector((12, 12, 1))
    learn_gradients(model, np.full((3, 12, 12, 1), 7, np.uint8))
    assert np.isfinite(model(pictures(4, 12, 12, 1))).all()


def test_large_images_are_fewer():
    assert images_to_learn_from((28, 28, 1)) == 6000
    assert images_to_learn_from((1000, 1000, 1)) == 200
