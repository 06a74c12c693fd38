"""Random changes of training images, each a function of two integers only."""

from __future__ import annotations

import tensorflow as tf

from anomaly_tf.config import SamplingConfig
from anomaly_tf.data.corruptions import rotate
from anomaly_tf.data.warping import warp


def augment(images: tf.Tensor, sampling: SamplingConfig, seed: tf.Tensor) -> tf.Tensor:
    """Augments each image at random: flips, shifts, rotates, erases a rectangle, in this order.

    Args:
        images: float32 `(N, H, W, C)` in [-1, 1], H and W known.
        sampling: Probabilities and largest changes; shifts are by whole pixels.
        seed: Two integers.

    Returns:
        float32, the shape of `images`; uncovered or erased pixels are background (-1).
    """
    flip_seed, shift_seed = tf.unstack(tf.random.split(seed))
    if sampling.flip or sampling.shift:
        images = _flip_and_shift(images, sampling, flip_seed, shift_seed)
    if sampling.rotation:
        images = rotate(images, sampling.rotation, tf.random.fold_in(seed, 1))
    if sampling.erase:
        images = _erase(images, sampling.erase, tf.random.fold_in(seed, 2))
    return images


def _flip_and_shift(
    images: tf.Tensor, sampling: SamplingConfig, flip_seed: tf.Tensor, shift_seed: tf.Tensor
) -> tf.Tensor:
    count = tf.shape(images)[0]
    flipped = tf.random.stateless_uniform([count], flip_seed) < sampling.flip
    sign = tf.where(flipped, -1.0, 1.0)
    origin = tf.where(flipped, float(images.shape[2] - 1), 0.0)
    shift = tf.cast(
        tf.random.stateless_uniform(
            [2, count], shift_seed, -sampling.shift, sampling.shift + 1, tf.int32
        ),
        tf.float32,
    )
    zero, one = tf.zeros([count]), tf.ones([count])
    rows = [sign, zero, origin + shift[0], zero, one, shift[1]]
    return warp(images, rows, "NEAREST")


def _erase(images: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Sets a rectangle of up to half an image's height and width to black (Zhong et al. 2020)."""
    count = tf.shape(images)[0]
    size, middle, chosen = (tf.random.fold_in(seed, number) for number in range(3))
    half = tf.random.stateless_uniform([2, count, 1], size, 0.05, 0.25)
    centre = tf.random.stateless_uniform([2, count, 1], middle)
    inside = [
        tf.abs((tf.range(side, dtype=tf.float32) + 0.5) / side - centre[axis]) < half[axis]
        for axis, side in enumerate(images.shape[1:3])
    ]
    erased = inside[0][:, :, tf.newaxis] & inside[1][:, tf.newaxis, :]
    erased &= tf.random.stateless_uniform([count, 1, 1], chosen) < probability
    return tf.where(erased[..., tf.newaxis], -1.0, images)
