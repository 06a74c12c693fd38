"""The distance of an image's gradients from those of normal images."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy.stats import norm

from anomaly_tf.networks import gradients
from anomaly_tf.networks.gradients import (
    DIMENSIONS,
    RIDGE,
    gradient_features,
    images_to_learn_from,
    learn_gradients,
    least_usual,
    nearest_distance,
    smooth_strengths,
)


def pictures(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def detector(shape: tuple[int, int, int]) -> keras.Model:
    image = keras.Input(shape, dtype="uint8")
    return keras.Model(image, nearest_distance(layers.Rescaling(1 / 127.5, -1.0)(image)))


def values(images: np.ndarray, strengths: Callable) -> np.ndarray:
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, strengths(inputs))
    return model(tf.constant(images / 127.5 - 1, tf.float32)).numpy().astype(float)


def test_gradients_point_where_brightness_grows():
    image = np.full((1, 14, 14, 1), -1.0, np.float32)
    image[:, :, 7:] = 1.0  # brighter to the right
    inputs = keras.Input((14, 14, 1))
    features = keras.Model(inputs, smooth_strengths(inputs))(image).numpy()
    strengths = features.reshape(7, 7, 9)[2:-2, 2:-2].max(axis=(0, 1))
    assert strengths[0] == strengths[:8].max() > 0.16
    assert strengths[4] < 0.01  # to the left
    assert strengths[8] == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize(("shape", "step"), [((28, 28, 1), 3), ((11, 16, 3), 2)])
def test_overlapping_windows_are_gaussian(shape, step):
    images = pictures(3, *shape)
    of_pixels = values(images, gradients._strengths)
    places = [range(step // 2, side, step) for side in shape[:2]]
    found = values(images, smooth_strengths).reshape(3, *map(len, places), 9)
    for i, j in ((0, 0), (2, 1), (len(places[0]) - 1, len(places[1]) - 1)):
        centre = places[0][i], places[1][j]
        rows, columns = (
            norm.pdf(np.arange(side), middle, step / 2)
            for side, middle in zip(shape[:2], centre, strict=True)
        )
        expected = np.einsum("h,w,nhwc->nc", rows, columns, of_pixels)
        np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 12, 1), (11, 16, 3)])
def test_the_distance_is_that_of_the_nearest_normal_image(shape):
    """With few images, each is a centre; a typical distance from their mean is 1."""
    normal, images = pictures(60, *shape) // 4, pictures(7, *shape)
    model = detector(shape)
    learn_gradients(model, normal)
    known, new = (np.log(values(part, smooth_strengths) + 3e-3) for part in (normal, images))
    mean, covariance = known.mean(0), np.cov(known.T, bias=True)
    variances, axes = np.linalg.eigh(covariance)
    ridge = RIDGE * variances[-1]
    axes = axes[:, -min(DIMENSIONS, len(normal) - 1) :]
    deviations = np.sqrt(variances[-axes.shape[1] :] + ridge)
    inside = [(part - mean) @ axes / deviations for part in (known, new)]
    outside = new - mean - (new - mean) @ axes @ axes.T
    typical = np.square(inside[0]).sum(axis=1).mean()
    nearest = np.square(inside[1][:, np.newaxis] - inside[0]).sum(axis=-1).min(axis=1)
    expected = (nearest + np.square(outside).sum(axis=1) / ridge) / typical
    np.testing.assert_allclose(model(images), np.sqrt(expected), rtol=1e-3)
    np.testing.assert_allclose(model(normal), 0, atol=1e-2)


def test_many_images_have_centres_near_them(monkeypatch):
    monkeypatch.setattr(gradients, "CENTRES", 20)
    kinds = pictures(20, 12, 12, 1)
    normal = np.repeat(kinds, 10, axis=0)
    normal = normal // 2 + np.random.default_rng(1).integers(0, 3, normal.shape, np.uint8)
    model = detector((12, 12, 1))
    learn_gradients(model, normal)
    near, far = model(kinds // 2 + 1).numpy(), model(pictures(40, 12, 12, 1)[20:] // 2).numpy()
    assert np.median(near) < 0.2 < 0.8 < far.min()


def test_few_and_equal_images_are_enough():
    model = detector((12, 12, 1))
    learn_gradients(model, np.full((3, 12, 12, 1), 7, np.uint8))
    assert np.isfinite(model(pictures(4, 12, 12, 1))).all()


def test_the_least_usual_are_found_although_they_move_mean_and_covariance(monkeypatch):
    features = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    features[::8] += 4
    strange = np.arange(0, 400, 8)
    np.testing.assert_array_equal(least_usual(features, len(strange)), strange)
    monkeypatch.setattr(gradients, "STEPS", 1)
    assert len(np.intersect1d(least_usual(features, len(strange)), strange)) < len(strange)


def test_of_many_images_a_sample_serves_the_estimate(monkeypatch):
    monkeypatch.setattr(gradients, "MAX_IMAGES", 100)
    features = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float16)
    features[::10] += 5
    np.testing.assert_array_equal(least_usual(features, 100), np.arange(0, 1000, 10))


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 14, 3)])
def test_features_are_those_of_the_distance(shape):
    images = pictures(20, *shape)
    expected = np.log(values(images, smooth_strengths) + 3e-3)
    np.testing.assert_allclose(gradient_features(shape)(images), expected, rtol=1e-2, atol=1e-2)


def test_a_large_image_is_shrunk(monkeypatch):
    monkeypatch.setattr(gradients, "SIDE", 10)
    small = pictures(6, 10, 7, 3)
    large = small.repeat(3, axis=1).repeat(3, axis=2)[:, :-1]  # the last squares are cut off
    np.testing.assert_array_equal(
        gradient_features(large.shape[1:])(large), gradient_features(small.shape[1:])(small)
    )


def test_large_images_are_fewer():
    assert images_to_learn_from((28, 28, 1)) == 6000
    assert images_to_learn_from((1000, 1000, 1)) == 200
