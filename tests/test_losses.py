"""Losses compared with hand-computed numbers."""

import math

import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.networks import losses


def images(*values: float, size: int = 4) -> tf.Tensor:
    """One constant image per value."""
    return tf.constant(np.stack([np.full((size, size, 1), value, np.float32) for value in values]))


def test_reconstruction_loss_is_the_mean_absolute_error():
    # |0 - 0.5| = 0.5 and |1 - (-1)| = 2, mean 1.25.
    assert losses.reconstruction_loss(images(0, 1), images(0.5, -1)).numpy() == pytest.approx(1.25)


def test_patch_loss_averages_the_three_worst_windows():
    # A 4x4 image has nine 2x2 windows. An error of 1 in the top left corner pixel only is seen
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


def test_squared_error_is_of_black_0_and_white_1_per_image():
    black, white = tf.fill([1, 2, 2, 1], -1.0), tf.fill([1, 2, 2, 1], 1.0)
    truth = tf.concat([black, black, white], axis=0)
    guess = tf.concat([black, white, tf.zeros([1, 2, 2, 1])], axis=0)
    np.testing.assert_allclose(losses.squared_error(truth, guess), [0.0, 1.0, 0.25])


def test_cross_entropy_by_hand():
    # A pixel of 0.75 guessed as 0.5: -0.75 log 0.5 - 0.25 log 0.5 = log 2.
    truth, guess = tf.fill([1, 2, 2, 1], 0.5), tf.zeros([1, 2, 2, 1])
    assert float(losses.cross_entropy_loss(truth, guess)) == pytest.approx(np.log(2), rel=1e-5)
    # The best guess is the truth itself.
    best = float(losses.cross_entropy_loss(truth, truth))
    assert best < float(losses.cross_entropy_loss(truth, truth + 0.1))
    assert best < float(losses.cross_entropy_loss(truth, truth - 0.1))


def test_the_contrastive_loss_by_hand_and_its_bounds():
    black, white = tf.fill([1, 2, 2, 1], -1.0), tf.fill([1, 2, 2, 1], 1.0)
    truth, guess = tf.concat([black, black], axis=0), tf.concat([black, white], axis=0)
    # Errors 0 and 1: exp(0) and exp(-3).
    expected = (1 + np.exp(-3)) / 2
    assert float(losses.contrastive_loss(truth, guess, 3.0)) == pytest.approx(expected)
    assert 0 < float(losses.contrastive_loss(black, white, 80.0)) < 1e-30


def test_the_contrastive_loss_pulls_hardest_at_anomalies_that_are_reconstructed_well():
    images = tf.zeros([2, 2, 2, 1])
    guess = tf.Variable(
        np.stack([np.full((2, 2, 1), 0.2), np.full((2, 2, 1), 1.0)]), dtype="float32"
    )
    with tf.GradientTape() as tape:
        loss = losses.contrastive_loss(images, guess, 20.0)
    near, far = np.abs(tape.gradient(loss, guess)).mean(axis=(1, 2, 3))
    assert near > 10 * far > 0


def test_kl_divergence_by_hand():
    mean, log_variance = (
        tf.constant([[0.0, 0.0], [1.0, 2.0]]),
        tf.constant([[0.0, 0.0], [0.0, 1.0]]),
    )
    # The second: (1 + 1 - 1 - 0) / 2 + (e + 4 - 1 - 1) / 2.
    expected = [0.0, 0.5 + (np.e + 2) / 2]
    np.testing.assert_allclose(losses.kl_divergence(mean, log_variance), expected, rtol=1e-6)


def test_the_classification_loss_takes_normal_images_first():
    logits = np.float32([[0.0], [-2.0], [3.0], [0.5]])
    expected = np.mean([np.log(2), np.log1p(np.exp(-2)), np.log1p(np.exp(-3)), 0.474077])
    assert float(losses.classification_loss(tf.constant(logits))) == pytest.approx(expected, 1e-5)
