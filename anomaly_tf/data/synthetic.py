"""Synthetic anomalies that are generated from normal images and are close to them.

Labelled anomalies show only some of the ways in which an image can differ from normal ones. Normal
images that are rotated, shifted, resized or mixed show many more and need no labels (as in
CutPaste, C.-L. Li et al. 2021, and DRAEM, V. Zavrtanik et al. 2021, for surface defects).
"""

from __future__ import annotations

import math

import tensorflow as tf

from anomaly_tf.data.warping import warp

KINDS = ("turned", "moved", "resized", "mixed")


def synthetic_anomalies(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Generates one anomaly from each normal image; the kinds alternate.

    `turned` by one, two or three quarter turns; `moved` along one axis by 0.2 to 0.6 of the side;
    `resized` along one axis to 0.4 to 0.75 or 1.35 to 2 times its size; `mixed` with another image,
    rotated by quarter turns, along the borders of smooth noise.

    Args:
        images: float32 `(N, H, W, C)` in [-1, 1], H and W known.
        seed: Two integers.

    Returns:
        float32, the shape of `images`; uncovered pixels are background (-1).
    """
    turned, moved, resized, mixed = (images[number :: len(KINDS)] for number in range(len(KINDS)))
    seeds = [tf.random.fold_in(seed, number) for number in range(len(KINDS))]
    anomalies = (
        _warp(turned, quarters=_integers(turned, seeds[0], 1, 4)),
        _warp(moved, shift=_one_axis(moved, seeds[1], 0.2, 0.6, either_sign=True)),
        _warp(resized, size=_sizes(resized, seeds[2])),
        _mix(mixed, _warp(tf.roll(mixed, 1, axis=0), _integers(mixed, seeds[3], 1, 4)), seeds[3]),
    )
    return tf.concat(anomalies, axis=0)


def _count(images: tf.Tensor) -> tf.Tensor:
    return tf.shape(images)[0]


def _integers(images: tf.Tensor, seed: tf.Tensor, low: int, high: int) -> tf.Tensor:
    return tf.random.stateless_uniform([_count(images)], seed, low, high, tf.int32)


def _one_axis(
    images: tf.Tensor, seed: tf.Tensor, low: float, high: float, either_sign: bool = False
) -> tf.Tensor:
    """`(2, N)`: a random value for one of the two axes of each image, 0 for the other."""
    count = _count(images)
    value = tf.random.stateless_uniform([count], tf.random.fold_in(seed, 0), low, high)
    if either_sign:
        value *= tf.cast(2 * _integers(images, tf.random.fold_in(seed, 1), 0, 2) - 1, tf.float32)
    axis = _integers(images, tf.random.fold_in(seed, 2), 0, 2)
    return tf.transpose(tf.one_hot(axis, 2)) * value


def _sizes(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """`(2, N)`: factors on width and height, one of which is 1."""
    smaller = _one_axis(images, seed, math.log(0.4), math.log(0.75))
    larger = _one_axis(images, seed, math.log(1.35), math.log(2.0))
    chosen = _integers(images, tf.random.fold_in(seed, 3), 0, 2) == 0
    return tf.exp(tf.where(chosen, smaller, larger))


def _warp(
    images: tf.Tensor,
    quarters: tf.Tensor | None = None,
    shift: tf.Tensor | None = None,
    size: tf.Tensor | None = None,
) -> tf.Tensor:
    """Rotates, shifts and resizes about the centre, with bilinear interpolation.

    Args:
        images: float32 `(N, H, W, C)`.
        quarters: `(N,)`, quarter turns; an image that is not square is stretched to fit.
        shift: `(2, N)`, in widths and heights.
        size: `(2, N)`, factors on width and height.
    """
    height, width = images.shape[1:3]
    zero = tf.zeros([_count(images)])
    quarters = zero if quarters is None else tf.cast(quarters, tf.float32)
    cosine, sine = tf.cos(quarters * math.pi / 2), tf.sin(quarters * math.pi / 2)
    across, down = tf.unstack(tf.zeros([2, 1]) if shift is None else shift)
    wide, high = tf.unstack(tf.ones([2, 1]) if size is None else size)
    x, y = (width - 1) / 2, (height - 1) / 2
    # About the centre (x, y).
    a, b = cosine / wide, -sine / high * (width / height)
    c, d = sine / wide * (height / width), cosine / high
    rows = [
        a,
        b,
        x - a * x - b * y - across * width,
        c,
        d,
        y - c * x - d * y - down * height,
    ]
    return warp(images, [row + zero for row in rows], "BILINEAR")


def _mix(images: tf.Tensor, others: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Replaces the images by others where smooth noise, from a 5 x 5 grid, is above 0."""
    noise = tf.random.stateless_normal([_count(images), 5, 5, 1], tf.random.fold_in(seed, 4))
    return tf.where(tf.image.resize(noise, images.shape[1:3]) > 0, others, images)
