"""Affine transformations of images: shifts, rotations and resizing in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import tensorflow as tf


def warp(
    images: tf.Tensor, rows: Sequence[tf.Tensor], interpolation: Literal["BILINEAR", "NEAREST"]
) -> tf.Tensor:
    """Takes each pixel (x, y) from (a x + b y + c, d x + e y + f).

    Args:
        images: float32 `(N, H, W, C)` in [-1, 1], H and W known.
        rows: a, b, c, d, e and f, each float32 `(N,)`, in pixels.
        interpolation: Interpolation between the pixels of `images`.

    Returns:
        float32, the shape of `images`; pixels from outside of `images` are black (-1).
    """
    zero = tf.zeros_like(rows[0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([*rows, zero, zero], axis=1),
        output_shape=images.shape[1:3],
        fill_value=-1.0,
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )
