"""Distance of an image's gradients from those of normal images.

The features are gradient strengths in eight directions on a grid of cells, as in histograms of
oriented gradients (N. Dalal, B. Triggs 2005); the distance is the squared Mahalanobis distance. Its
mean and covariance are estimated from normal images, without gradient descent and without
anomalies.
"""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import KerasTensor, layers, ops

DIRECTIONS = 8
GRID = 7
# Added to every variance, as a share of the largest one; otherwise, with few images, directions in
# which normal images hardly vary would dominate.
RIDGE = 0.03
# Largest number of normal images, and of their bytes, for the estimate of mean and covariance.
MAX_IMAGES, MAX_BYTES = 6000, 200 * 10**6


def gradient_distance(image: KerasTensor) -> KerasTensor:
    """The gradient distance of images, as part of a detector.

    Args:
        image: float32 `(N, H, W, C)` in [-1, 1].

    Returns:
        float32 `(N,)`, at least 0. Once `learn_gradients` has set the layer `whitening`, its mean
        over normal images is 1.
    """
    features = gradient_features(image)
    whitening = layers.Dense(features.shape[-1], trainable=False, dtype="float32", name="whitening")
    return ops.sum(ops.square(whitening(features)), axis=-1)


def images_to_learn_from(image_shape: tuple[int, int, int]) -> int:
    """Number of normal images `(H, W, C)` that `learn_gradients` uses."""
    return min(MAX_IMAGES, MAX_BYTES // math.prod(image_shape))


def learn_gradients(detector: keras.Model, images: np.ndarray) -> None:
    """Sets the mean and covariance of a detector that contains a `gradient_distance`.

    Args:
        detector: A detector of uint8 images.
        images: Normal images, uint8 `(N, H, W, C)`.
    """
    whitening = detector.get_layer("whitening")
    model = keras.Model(detector.input, whitening.input, name="gradients")
    features = np.concatenate(
        [model(images[start : start + 500]) for start in range(0, len(images), 500)]
    ).astype(np.float64)
    mean = features.mean(axis=0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(features.T, bias=True)))
    ridge = max(RIDGE * values[-1], 1e-6)
    kernel = vectors / np.sqrt(np.maximum(values, 0.0) + ridge)
    # Scaled so that the mean distance of normal images is 1.
    typical = np.square((features - mean) @ kernel).sum(axis=1).mean()
    kernel /= math.sqrt(max(typical, 1e-6))
    whitening.set_weights([kernel, -mean @ kernel])


def gradient_features(image: KerasTensor) -> KerasTensor:
    """Square roots of mean gradients in `DIRECTIONS`, and of brightness, on a grid of cells.

    Args:
        image: float32 `(N, H, W, C)` in [-1, 1].

    Returns:
        float32 `(N, F)`, at least 0: cells x 9 values.
    """
    grey = ops.mean(image, axis=-1, keepdims=True) / 2 + 0.5
    strengths = layers.Conv2D(
        DIRECTIONS + 1,
        3,
        padding="same",
        use_bias=False,
        activation="relu",
        trainable=False,
        dtype="float32",
        name="directions",
    )
    x = strengths(grey)
    strengths.set_weights([_direction_kernels()])
    cell = tuple(max(1, math.ceil(side / GRID)) for side in image.shape[1:3])
    x = layers.AveragePooling2D(cell, padding="same", dtype="float32")(x)
    # The gradient of the square root is infinite at 0.
    return layers.Flatten(dtype="float32")(ops.sqrt(x + 1e-6))


def _direction_kernels() -> np.ndarray:
    """Central differences in each direction, and the pixel itself: `(3, 3, 1, 9)`."""
    kernels = np.zeros((3, 3, 1, DIRECTIONS + 1), np.float32)
    for number in range(DIRECTIONS):
        angle = 2 * math.pi * number / DIRECTIONS
        kernels[1, 2, 0, number] = math.cos(angle)
        kernels[1, 0, 0, number] = -math.cos(angle)
        kernels[2, 1, 0, number] = math.sin(angle)
        kernels[0, 1, 0, number] = -math.sin(angle)
    kernels[1, 1, 0, DIRECTIONS] = 1.0
    return kernels
