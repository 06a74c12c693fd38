"""Distance of an image's gradients from those of normal images.

The features are gradient strengths in eight directions in overlapping windows, as in histograms of
oriented gradients (N. Dalal, B. Triggs 2005). They are whitened by the covariance of normal images;
the distance is that from the nearest of many centres of normal images, found by k-means. All is
estimated from normal images, without gradient descent and without anomalies.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import KerasTensor, layers, ops
from PIL import Image
from sklearn.cluster import KMeans

from anomaly_tf.networks.detectors import image_input

DIRECTIONS = 8
# Largest number of windows along each side.
GRID = 10
# Added to every variance, as a share of the largest one; otherwise, with few images, directions in
# which normal images hardly vary would dominate.
RIDGE = 0.03
# Largest number of normal images, and of their bytes, for the estimate of mean and covariance.
MAX_IMAGES, MAX_BYTES = 6000, 200 * 10**6
# Number of centres, and of the directions of largest variance in which they differ; with fewer
# images, each of them is a centre. On validation images of seed 101, AUROC of `transform`, mean of
# seven normal classes: 2000 and 128 .9616, 96 .9615, 64 .9611; 1000 centres .960.
CENTRES, DIMENSIONS = 2000, 96
# Images, at most, whose gradients are computed at a time, and their pixels.
BATCH, BATCH_PIXELS = 500, 2**22
# Number of times, at most, that the least usual images are chosen, among images of this side; a
# larger one is shrunk, because the windows are a tenth of it and its layers could take gigabytes.
STEPS, SIDE = 8, 128


def nearest_distance(image: KerasTensor) -> KerasTensor:
    """The distance of images from the nearest centre of normal images, as part of a detector.

    The squared distance |z - c|^2 is |z|^2 + (|c|^2 - 2 z c), where the term in parentheses is a
    dense layer. What the directions of z do not describe, is the same distance from all centres.

    Args:
        image: float32 `(N, H, W, C)` in [-1, 1].

    Returns:
        float32 `(N,)`, at least 0. Once `learn_gradients` has set the layers `whitening`,
        `centres`, `described` and `rest`, 1 is the root of the mean squared distance of normal
        images from their mean, in the directions of z.
    """
    features = _features(image)
    whitening, centres, described = (
        layers.Dense(units, trainable=False, dtype="float32", name=name)
        for name, units in (
            ("whitening", min(DIMENSIONS, features.shape[-1])),
            ("centres", CENTRES),
            ("described", features.shape[-1]),
        )
    )
    white = whitening(features)
    rest = layers.Dense(
        1, trainable=False, dtype="float32", name="rest", kernel_initializer="ones"
    )  # not negative, even before it is set
    squared = ops.min(centres(white), axis=-1) + ops.sum(ops.square(white), axis=-1)
    missed = ops.sum(ops.square(features - described(white)), axis=-1, keepdims=True)
    return ops.sqrt(ops.maximum(squared, 0.0) + rest(missed)[:, 0])


def images_to_learn_from(image_shape: tuple[int, int, int]) -> int:
    """Number of normal images `(H, W, C)` that `learn_gradients` uses."""
    return min(MAX_IMAGES, MAX_BYTES // math.prod(image_shape))


def learn_gradients(detector: keras.Model, images: np.ndarray) -> None:
    """Sets mean, covariance and centres of a detector with a `nearest_distance`.

    Args:
        detector: A detector of uint8 images.
        images: Normal images, uint8 `(N, H, W, C)`.
    """
    whitening = detector.get_layer("whitening")
    model = keras.Model(detector.input, whitening.input, name="gradients")
    features = _in_batches(model, images).astype(np.float64)
    mean, values, vectors, ridge = _spread(features)
    # The directions of the largest variances.
    values, vectors = values[-whitening.units :], vectors[:, -whitening.units :]
    # Of those in which these images do not vary, any few would be arbitrary.
    vectors = vectors * (values > 1e-6 * values[-1])
    deviations = np.sqrt(np.maximum(values, 0.0) + ridge)
    white = (features - mean) @ vectors / deviations
    # Scaled so that the mean squared length of normal images is 1.
    scale = 1 / math.sqrt(max(np.square(white).sum(axis=1).mean(), 1e-6))
    kernel = vectors / deviations * scale
    whitening.set_weights([kernel, -mean @ kernel])
    centres = np.resize(_centres(white * scale), (CENTRES, white.shape[1]))
    squares = np.square(centres).sum(axis=1)
    detector.get_layer("centres").set_weights([-2 * centres.T, squares])
    detector.get_layer("described").set_weights([(vectors * deviations).T / scale, mean])
    # In these directions the variance is the ridge.
    detector.get_layer("rest").set_weights([np.full((1, 1), scale**2 / ridge), np.zeros(1)])


def gradient_features(image_shape: tuple[int, int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images of a shape to the features by which `least_usual` compares them.

    Args:
        image_shape: Height, width, channels; images above `SIDE` are shrunk by a whole factor.

    Returns:
        A function from uint8 `(N, H, W, C)` to float16 `(N, F)`.
    """
    height, width, channels = image_shape
    factor = math.ceil(max(height, width) / SIDE)
    image, scaled = image_input((math.ceil(height / factor), math.ceil(width / factor), channels))
    model = keras.Model(image, _features(scaled), name="gradients")

    def compute(images: np.ndarray) -> np.ndarray:
        if factor > 1:
            images = np.stack([_shrunk(each, factor) for each in images])
        return _in_batches(model, images).astype(np.float16)

    return compute


def _shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """The means of squares of a side, those at the border cut off: uint8 `(h, w, C)`."""
    channels = [Image.fromarray(image[..., number]) for number in range(image.shape[-1])]
    return np.stack([np.asarray(channel.reduce(factor)) for channel in channels], axis=-1)


def least_usual(features: np.ndarray, count: int) -> np.ndarray:
    """Finds the images whose gradients are farthest from the mean of the others (Mahalanobis).

    Mean and covariance are estimated without the images that were found, until these stay the same:
    the concentration steps of P. Rousseeuw, K. Van Driessen, A Fast Algorithm for the Minimum
    Covariance Determinant Estimator, Technometrics 1999. Of many images, `MAX_IMAGES` of the others
    serve the estimate.

    Args:
        features: Features of all images, `(N, F)`.
        count: Number of images to find, less than N.

    Returns:
        Their numbers, int `(count,)`, ascending.
    """
    found = np.zeros(0, int)
    for _ in range(STEPS):
        others = np.setdiff1d(np.arange(len(features)), found)
        others = others[:: math.ceil(len(others) / MAX_IMAGES)]
        mean, values, vectors, ridge = _spread(features[others].astype(np.float32))
        kernel = vectors / np.sqrt(np.maximum(values, 0.0) + ridge)
        parts = np.array_split(features, math.ceil(len(features) / MAX_IMAGES))
        distances = np.concatenate(
            [np.square((part - mean) @ kernel).sum(axis=1) for part in parts]
        )
        before, found = found, np.sort(np.argsort(-distances, kind="stable")[:count])
        if np.array_equal(before, found):
            break
    return found


def _spread(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean, variances along the axes (ascending), these as columns, and the ridge."""
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(features.T, bias=True)))
    return features.mean(axis=0), values, vectors, max(RIDGE * values[-1], 1e-6)


def _in_batches(model: keras.Model, images: np.ndarray) -> np.ndarray:
    size = max(1, min(BATCH, BATCH_PIXELS // math.prod(images.shape[1:3])))
    starts = range(0, len(images), size)
    return np.concatenate([model(images[start : start + size]) for start in starts])


def _centres(vectors: np.ndarray) -> np.ndarray:
    """At most `CENTRES` vectors that have all others near them."""
    if len(vectors) <= CENTRES:
        return vectors
    # k-means++ would take 20 s to choose the first centres; images at random serve as well.
    found = KMeans(CENTRES, init="random", n_init=1, max_iter=10, random_state=0)
    return found.fit(vectors.astype(np.float32)).cluster_centers_


def _features(image: KerasTensor) -> KerasTensor:
    return ops.log(smooth_strengths(image) + 3e-3)


def smooth_strengths(image: KerasTensor) -> KerasTensor:
    """Gradient strengths in `DIRECTIONS`, and brightness, in overlapping Gaussian windows.

    Args:
        image: float32 `(N, H, W, C)` in [-1, 1].

    Returns:
        float32 `(N, F)`, at least 0: at most `GRID` x `GRID` places x 9 values.
    """
    x = _strengths(image)
    height, width, kinds = x.shape[1:]
    rows, columns = _windows(height), _windows(width)
    for name, equation, windows, shape in (
        ("rows", "nhwc,hi->niwc", rows, (rows.shape[1], width, kinds)),
        ("columns", "niwc,wj->nijc", columns, (rows.shape[1], columns.shape[1], kinds)),
    ):
        smoothing = layers.EinsumDense(
            equation, shape, trainable=False, dtype="float32", name=f"smoothed_{name}"
        )
        x = smoothing(x)
        smoothing.set_weights([windows])
    return layers.Flatten(dtype="float32")(x)


def _windows(side: int) -> np.ndarray:
    """Weights of the pixels along a side in Gaussian windows: `(side, places)`, sums at most 1.

    The windows are a distance apart that is twice their standard deviation; what they have beyond
    the border is lost, as if the image were surrounded by nothing.
    """
    distance = math.ceil(side / GRID)
    centres = np.arange(distance // 2, side, distance)
    offsets = np.arange(side)[:, np.newaxis] - centres
    weights = np.exp(-0.5 * np.square(offsets / (distance / 2)))
    return weights / (math.sqrt(2 * math.pi) * distance / 2)


def _strengths(image: KerasTensor) -> KerasTensor:
    """Gradient strengths in `DIRECTIONS`, and brightness, of each pixel: `(N, H, W, 9)`."""
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
    return x


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
