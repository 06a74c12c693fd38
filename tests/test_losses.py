"""Losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.models import losses


def images(*values: float, size: int = 4) -> tf.Tensor:
    """One constant image per value."""
    return tf.constant(np.stack([np.full((size, size, 1), value, np.float32) for value in values]))


def test_reconstruction_loss_is_the_mean_absolute_error():
    # |0 - 0.5| = 0.5 and |1 - (-1)| = 2, mean 1.25.
    assert losses.reconstruction_loss(images(0, 1), images(0.5, -1)).numpy() == pytest.approx(1.25)


def test_patch_loss_averages_the_three_worst_windows():
    # A 4x4 image has nine 2x2 windows. An error of 1 in the top left corner pixel alone is seen
    # by one window (mean 1/4), one of 1 in the pixel (2, 2) by four windows.
    error = np.zeros((2, 4, 4, 1), np.float32)
    error[0, 0, 0] = 1.0
    error[1, 2, 2] = 1.0
    value = losses.patch_loss(tf.zeros_like(error), tf.constant(error))
    first, second = (0.25 + 0 + 0) / 3, (0.25 + 0.25 + 0.25) / 3
    assert value.numpy() == pytest.approx((first + second) / 2)


def test_patch_windows_of_28_pixels_are_14_wide_and_7_apart():
    # An error in column 0 is seen by the left windows only: three of the nine, mean 1/14 each.
    error = np.zeros((1, 28, 28, 1), np.float32)
    error[0, :, 0] = 1.0
    value = losses.patch_loss(tf.zeros_like(error), tf.constant(error))
    assert value.numpy() == pytest.approx(1 / 14)


def test_patch_loss_of_an_image_with_fewer_than_three_windows():
    value = losses.patch_loss(images(0.0, size=1), images(0.5, size=1))
    assert value.numpy() == pytest.approx(0.5)


def test_latent_loss():
    value = losses.latent_loss(tf.constant([[1.0, 2.0]]), tf.constant([[0.0, 4.0]]))
    assert value.numpy() == pytest.approx(1.5)


def test_least_squares_loss():
    # (0.9 - 0.9)^2 = 0 and (0.4 - 0.9)^2 = 0.25.
    value = losses.least_squares_loss(tf.constant([[0.9, 0.4]]), 0.9)
    assert value.numpy() == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("error", "scale", "expected"),
    [
        (math.log(2), 1.0, math.log(2)),  # -log(1 - 1/2)
        (math.log(2) / 6, 6.0, math.log(2)),  # the scale multiplies the error
        (2.0, 6.0, -math.log(1 - math.exp(-12))),
    ],
)
def test_abc_loss(error, scale, expected):
    value = losses.abc_loss(images(0.0), images(error), scale)
    assert value.numpy() == pytest.approx(expected, rel=1e-3)


def test_abc_loss_takes_the_error_per_image_before_the_logarithm():
    # Errors of 0.1 and 1.9 have the mean 1, but the loss is not that of an error of 1.
    one, other = (-math.log(1 - math.exp(-error)) for error in (0.1, 1.9))
    value = losses.abc_loss(images(0, 0), images(0.1, 1.9))
    assert value.numpy() == pytest.approx((one + other) / 2, rel=1e-5)


def test_abc_loss_of_a_perfect_reconstruction_is_finite():
    assert np.isfinite(losses.abc_loss(images(0.3), images(0.3)).numpy())


@pytest.mark.parametrize(
    ("loss", "worse"),
    [(losses.reconstruction_loss, True), (losses.patch_loss, True), (losses.abc_loss, False)],
)
def test_gradient_flows_and_points_the_right_way(loss, worse):
    # Known from public re-implementations: a patch loss through which no gradient flows.
    original, reconstruction = images(0.0), tf.Variable(images(0.5))
    with tf.GradientTape() as tape:
        value = loss(original, reconstruction)
    gradient = tape.gradient(value, reconstruction).numpy()
    # A larger error raises the first two and lowers the loss on anomalies.
    assert (gradient.sum() > 0) == worse
    assert np.abs(gradient).max() > 1e-3
