"""Losses as pure functions: formula, shapes, range and source of each.

Images are `(N, H, W, C)` in [-1, 1], so an absolute error lies in [0, 2]. Functions called a loss
return a float32 scalar, the mean over the batch.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops


def reconstruction_loss(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    """Mean absolute error, mean |x - G(x)|, in [0, 2] (Kim et al. 2020, L_recon)."""
    return tf.reduce_mean(absolute_error(images, reconstructions))


def absolute_error(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    """Mean absolute error of each image, `(N,)`, in [0, 2]."""
    return tf.reduce_mean(tf.abs(images - reconstructions), axis=[1, 2, 3])


def squared_error(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    """Mean squared error of each image, `(N,)`, where black is 0 and white is 1; in [0, 1]."""
    return tf.reduce_mean(tf.square((images - reconstructions) / 2), axis=[1, 2, 3])


def cross_entropy_loss(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy per pixel, -x log y - (1 - x) log(1 - y), at least 0.

    x and y are image and reconstruction where black is 0 and white is 1. The minimum is at y = x;
    it is 0 only if every pixel is black or white.
    """
    truth, guess = (images + 1) / 2, (reconstructions + 1) / 2
    return tf.reduce_mean(keras.losses.binary_crossentropy(truth, guess))


def classification_loss(logits: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy of `(2 N, 1)` logits of N normal images and N anomalies, at least 0."""
    labels = tf.repeat([[0.0], [1.0]], tf.shape(logits)[0] // 2, axis=0)
    return tf.reduce_mean(keras.losses.binary_crossentropy(labels, logits, from_logits=True))


def contrastive_loss(anomalies: tf.Tensor, reconstructions: tf.Tensor, scale: float) -> tf.Tensor:
    """exp(-s e), e = `squared_error` of an anomaly, in (0, 1]: minimal where the error is large.

    Its gradient, -s exp(-s e), is largest for anomalies that are still reconstructed well and
    vanishes for the others, so that it cannot diverge as -e does. If it has weight w and the
    squared error of normal images weight 1, an image with odds o of being an anomaly gets the
    error log(o w s) / s, if o w s > 1.
    """
    return tf.reduce_mean(tf.exp(-scale * squared_error(anomalies, reconstructions)))


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """KL divergence of each N(mean, variance) from N(0, 1), summed over latents, `(N,)`, >= 0.

    (variance + mean^2 - 1 - log variance) / 2 (Kingma and Welling 2014, appendix B).
    """
    return 0.5 * ops.sum(ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance, axis=-1)


def patch_loss(images: tf.Tensor, reconstructions: tf.Tensor, worst: int = 3) -> tf.Tensor:
    """Mean absolute error of the worst windows, in [0, 2] (Kim et al. 2020, L_patch).

    A window half the image high and wide slides over |x - G(x)| by a quarter of the image; of
    the means per window the `worst` largest are averaged, per image.
    """
    height, width = images.shape[1:3]
    error = tf.reduce_mean(tf.abs(images - reconstructions), axis=-1, keepdims=True)
    windows = tf.nn.avg_pool2d(
        error,
        ksize=(max(height // 2, 1), max(width // 2, 1)),
        strides=(max(height // 4, 1), max(width // 4, 1)),
        padding="VALID",
    )
    count = windows.shape[1] * windows.shape[2]
    windows = tf.reshape(windows, [-1, count])
    return tf.reduce_mean(tf.math.top_k(windows, min(worst, count), sorted=False).values)


def latent_loss(latents: tf.Tensor, reconstruction_latents: tf.Tensor) -> tf.Tensor:
    """Mean |E(x) - E(G(x))| over `(N, L)` latents, at least 0 (Kim et al. 2020, L_lat)."""
    return tf.reduce_mean(tf.abs(latents - reconstruction_latents))


def least_squares_loss(scores: tf.Tensor, target: float) -> tf.Tensor:
    """Mean (D(x) - target)^2 over a grid of discriminator scores (Mao et al. 2017, LSGAN)."""
    return tf.reduce_mean(tf.square(tf.cast(scores, tf.float32) - target))


def abc_loss(images: tf.Tensor, reconstructions: tf.Tensor, scale: float = 1.0) -> tf.Tensor:
    """Autoencoding binary classifier on anomalies, at least 0 (Yamanaka et al. 2019, L_ABC).

    -log(1 - exp(-s e)), e = mean |x - G(x)| per image: it grows without bound as the error goes to
    0, and is near 0 if the error is large. If it has weight w and the error of normal images weight
    w_n, an image with odds o of being an anomaly gets the error log(1 + s o w / w_n) / s: w sets
    the error of doubtful images, and s how soon the error saturates.
    """
    error = absolute_error(images, reconstructions)
    # Below 1e-6 the logarithm and its gradient would leave float32's range.
    return -tf.reduce_mean(tf.math.log(-tf.math.expm1(-tf.maximum(scale * error, 1e-6))))
