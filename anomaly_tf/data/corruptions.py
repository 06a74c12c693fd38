"""Synthetic anomalies: Gaussian noise, random rotation, and both.

Every random number is a function of the seed and the batch number (stateless operations), so that a
seed gives the same anomalies on a CPU and, up to rounding, on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import tensorflow as tf

from anomaly_tf.data.iteration import untuned
from anomaly_tf.data.warping import warp

Kind = Literal["noise", "rotation", "both"]
KINDS: tuple[Kind, ...] = ("noise", "rotation", "both")
BATCH = 500


def corrupt(
    images: tf.Tensor, kind: Kind, noise: float, rotation: float, seed: tf.Tensor
) -> tf.Tensor:
    """Corrupts images: rotation first, then noise, as a camera would.

    Args:
        images: float32 `(N, H, W, C)` in [-1, 1], H and W known.
        kind: noise, rotation or both.
        noise: Standard deviation of Gaussian noise where black is 0 and white is 1, at least 0;
            values outside of that range are clipped.
        rotation: Largest angle in degrees, at least 0; each image is rotated about its centre by an
            angle drawn uniformly from `-rotation` to `rotation` (bilinear, filled with black).
        seed: Two integers.

    Returns:
        float32, the shape of `images`, in [-1, 1].

    Raises:
        ValueError: If the kind is unknown or a strength is negative.
    """
    if kind not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)}; got {kind!r}")
    if noise < 0 or rotation < 0:
        raise ValueError(f"expected strengths of at least 0; got noise {noise}, {rotation} degrees")
    rotation_seed, noise_seed = tf.unstack(tf.random.split(seed))
    if kind != "noise":
        images = rotate(images, rotation, rotation_seed)
    if kind != "rotation":
        # The range from black (-1) to white (1) is 2.
        noisy = images + 2 * noise * tf.random.stateless_normal(tf.shape(images), noise_seed)
        images = tf.clip_by_value(noisy, -1.0, 1.0)
    return images


def corruption_map(
    kind: Kind, noise: float, rotation: float, seed: int, stream: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns a function for `dataset.enumerate().map(...)` over batches of uint8 images.

    Args:
        kind: noise, rotation or both.
        noise: As in `corrupt`.
        rotation: As in `corrupt`.
        seed: The run's seed.
        stream: Different values give different random numbers for the same seed.

    Returns:
        From a batch's number and uint8 `(N, H, W, C)` to uint8 of the same shape.
    """

    def corrupt_batch(number: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        key = tf.random.fold_in(tf.constant([seed, stream], tf.int64), tf.cast(number, tf.int64))
        scaled = tf.cast(images, tf.float32) / 127.5 - 1.0
        changed = corrupt(scaled, kind, noise, rotation, key)
        return tf.cast(tf.round((changed + 1.0) * 127.5), tf.uint8)

    return corrupt_batch


def corrupted(
    images: np.ndarray, kind: Kind, noise: float, rotation: float, seed: int, stream: int = 0
) -> np.ndarray:
    """Corrupted copies of images.

    Args:
        images: uint8 `(N, H, W, C)`.
        kind: noise, rotation or both.
        noise: As in `corrupt`.
        rotation: As in `corrupt`.
        seed: Seed; the same one gives the same copies.
        stream: Different values give different random numbers for the same seed.

    Returns:
        uint8 `(N, H, W, C)`.
    """
    batches = tf.data.Dataset.range(0, len(images), BATCH).map(
        lambda start: tf.constant(images)[start : start + BATCH]
    )
    change = corruption_map(kind, noise, rotation, seed, stream)
    changed = batches.enumerate().map(change, num_parallel_calls=tf.data.AUTOTUNE)
    return np.concatenate(list(untuned(changed).as_numpy_iterator()))


def rotate(images: tf.Tensor, degrees: float, seed: tf.Tensor) -> tf.Tensor:
    """Rotates each image about its centre by a random angle of up to `degrees` in either direction.

    Args:
        images: float32 `(N, H, W, C)` in [-1, 1], H and W known.
        degrees: Largest angle.
        seed: Two integers.

    Returns:
        float32, the shape of `images`: bilinear, filled with black (-1).
    """
    height, width = images.shape[1:3]
    largest = math.radians(degrees)
    angle = tf.random.stateless_uniform([tf.shape(images)[0]], seed, -largest, largest)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    # A rotation about the centre (x, y).
    rows = [cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y]
    return warp(images, rows, "BILINEAR")
