"""Features of image patches from a pretrained network, and what two approaches do with them.

As in PatchCore (K. Roth et al., CVPR 2022): the feature maps of several stages are averaged over
3x3 positions, which makes them tolerant to small shifts, brought to one grid and concatenated, so
that a patch is described by details and by its surroundings.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor, layers, ops

from anomaly_tf.config import ScoreMap
from anomaly_tf.networks.backbone_names import stage_of
from anomaly_tf.networks.backbones import build_backbone
from anomaly_tf.networks.detectors import image_input, smoothed
from anomaly_tf.networks.sizes import FeatureNetworks

# Share of the mean variance that is added to every variance: directions in which normal patches
# hardly vary would dominate otherwise.
RIDGE = 0.01
# What is recorded of a pass instead of a loss.
FEATURE_LENGTH = "feature_length"


def build_features(image_shape: tuple[int, int, int], networks: FeatureNetworks) -> keras.Model:
    """A frozen model from images to the features of their patches.

    Args:
        image_shape: Height, width and channels of the images.
        networks: Backbone and stages; images with a shorter side are enlarged first.

    Returns:
        A model from float32 `(N, H, W, C)` in [-1, 1] to float32 `(N, h, w, K)`.
    """
    image = keras.Input(image_shape, name="image")
    height, width = networks.input_size(image_shape)
    x = image
    if (height, width) != image_shape[:2]:
        x = ops.image.resize(image, (height, width), interpolation="bilinear")
    around = networks.mirrored(image_shape)
    if around:
        x = ops.pad(x, ((0, 0), (around, around), (around, around), (0, 0)), mode="symmetric")
    stages = tuple(stage_of(networks.backbone, stride) for stride in networks.strides)
    maps = build_backbone(networks.backbone, x.shape[1:], stages)(x)
    height, width = (-(-side // networks.grid) for side in x.shape[1:3])
    maps = [_on_grid(m, (height, width)) for m in maps]
    joined = layers.Concatenate(dtype="float32")(maps) if len(maps) > 1 else maps[0]
    if around:
        cut = around // networks.grid
        joined = joined[:, cut : height - cut, cut : width - cut]
    return keras.Model(image, joined, name="features")


def _on_grid(features: KerasTensor, grid: tuple[int, int]) -> KerasTensor:
    """Features averaged over 3x3 positions, on a coarser grid by means or a finer one."""
    x = layers.AveragePooling2D(3, strides=1, padding="same", dtype="float32")(features)
    factor = round(max(features.shape[1] / grid[0], features.shape[2] / grid[1]))
    if factor > 1:
        x = layers.AveragePooling2D(factor, padding="same", dtype="float32")(x)
    if x.shape[1:3] != grid:
        x = ops.image.resize(x, grid, interpolation="bilinear")
    return x


def distance_detector(
    features: keras.Model,
    distances: keras.Model,
    score_map: ScoreMap,
    term: Callable[..., KerasTensor] | None = None,
) -> keras.Model:
    """The detector of an approach that compares features of patches.

    Args:
        features: The model of `build_features`.
        distances: A model from its output to the distances of the patches, `(N, h, w)`, at least 0;
            it may have further outputs.
        score_map: How the map is smoothed.
        term: Function from the features and these outputs to a term `(N,)` of the score; a
            negative sum becomes 0.

    Returns:
        A model from uint8 images `(N, H, W, C)` to a dictionary: `error_map` float32 `(N, H, W)`,
        the distances, resized bilinearly to the image and smoothed by `smoothed`; `score` float32
        `(N,)`, the maximum of the map plus the term.
    """
    image, scaled = image_input(features.input_shape[1:])
    described = features(scaled, training=False)
    grid, *others = keras.tree.flatten(distances(described))
    height, width = image.shape[1:3]
    grid = layers.Reshape((*grid.shape[1:], 1), dtype="float32")(grid)
    resized = ops.image.resize(grid, (height, width), interpolation="bilinear")
    error_map = smoothed(layers.Reshape((height, width), dtype="float32")(resized), score_map)
    score = ops.max(error_map, axis=(1, 2))
    if term is not None:
        score = ops.maximum(score + term(described, *others), 0.0)
    return keras.Model(image, {"score": score, "error_map": error_map}, name="detector")


def bank_distances(
    shape: tuple[int, int, int], bank_size: int, name: str = "distances"
) -> keras.Model:
    """A model from vectors to their distances to the nearest vector of a bank.

    The squared distance |z - b|^2 is |z|^2 + (|b|^2 - 2 z b), where the term in parentheses is a
    1x1 convolution.

    Args:
        shape: Height, width and channels of the grid of vectors.
        bank_size: Number of vectors in the bank.
        name: Name of the model.

    Returns:
        A model from float32 `(N, h, w, K)` to float32 `(N, h, w)`, at least 0; `set_bank` sets its
        weights.
    """
    vectors = keras.Input(shape, name="vectors")
    white = layers.Conv2D(shape[-1], 1, dtype="float32", name="whitening")(vectors)
    products = layers.Conv2D(bank_size, 1, dtype="float32", name="bank")(white)
    squared = ops.min(products, axis=-1) + ops.sum(ops.square(white), axis=-1)
    return keras.Model(vectors, ops.sqrt(ops.maximum(squared, 0.0)), name=name)


def set_bank(
    distances: keras.Model, vectors: np.ndarray, mean: np.ndarray, matrix: np.ndarray
) -> None:
    """Chooses the bank of a model of `bank_distances`.

    Args:
        distances: The model.
        vectors: Candidates, float32 `(n, K)`. If there are fewer than the bank holds, they are
            repeated.
        mean: float64 `(K,)`.
        matrix: float64 `(K, K)`; distances are those of `(vector - mean) @ matrix`.
    """
    size = distances.get_layer("bank").filters
    white = ((vectors - mean) @ matrix).astype(np.float32)
    bank = white[greedy_coreset(white, min(size, len(white)), first=0)]
    bank = np.resize(bank, (size, bank.shape[1]))
    distances.get_layer("whitening").set_weights([matrix[np.newaxis, np.newaxis], -mean @ matrix])
    squares = np.square(bank).sum(axis=1)
    distances.get_layer("bank").set_weights([-2 * bank.T[np.newaxis, np.newaxis], squares])


def greedy_coreset(vectors: np.ndarray, count: int, first: int) -> np.ndarray:
    """Chooses vectors so that the largest distance of any vector to the nearest chosen is small.

    Each choice is the vector that is farthest from all chosen before (O. Sener, S. Savarese, Active
    Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018).

    Args:
        vectors: float32 `(n, K)`.
        count: Number of vectors to choose, at most n.
        first: Index of the first one.

    Returns:
        Indices int64 `(count,)`.
    """
    squares = np.einsum("nk,nk->n", vectors, vectors)
    nearest = np.full(len(vectors), np.inf, np.float32)
    chosen = np.empty(count, np.int64)
    for place in range(count):
        chosen[place] = first
        distance = squares - 2 * (vectors @ vectors[first]) + squares[first]
        np.minimum(nearest, distance, out=nearest)
        nearest[first] = -1.0  # below every distance, so that it is not chosen again
        first = int(nearest.argmax())
    return chosen


class UniformSample(keras.layers.Layer):
    """A uniform sample of all vectors that were added: those with the largest random keys.

    Args:
        size: Largest number of vectors.
        channels: Length of a vector.
    """

    def __init__(self, size: int, channels: int) -> None:
        super().__init__(trainable=False, dtype="float32")
        self._values = self.add_weight(name="values", shape=(size, channels), trainable=False)
        # Above 0; 0 is the key of an empty place.
        self._keys = self.add_weight(
            name="keys", shape=(size,), initializer="zeros", trainable=False
        )
        self._random = keras.random.SeedGenerator()

    def add(self, vectors: tf.Tensor) -> None:
        """Adds vectors `(n, channels)`."""
        keys = 1.0 - keras.random.uniform([tf.shape(vectors)[0]], seed=self._random)
        keys = tf.concat([self._keys.value, keys], axis=0)
        kept = tf.math.top_k(keys, self._keys.shape[0]).indices
        self._values.assign(tf.gather(tf.concat([self._values.value, vectors], axis=0), kept))
        self._keys.assign(tf.gather(keys, kept))

    def vectors(self) -> np.ndarray:
        """The sample, float32 `(n, channels)`."""
        return np.array(self._values)[np.array(self._keys) > 0]


def mean_length(vectors: KerasTensor) -> KerasTensor:
    """Mean length of feature vectors `(..., K)`, a scalar: not finite if an image is damaged."""
    return ops.mean(ops.sqrt(ops.sum(ops.square(vectors), axis=-1)))


def whitening(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and matrix that whiten vectors: `(x - mean) @ matrix` has a covariance of about 1.

    Args:
        vectors: float32 `(n, K)`.

    Returns:
        float64 `(K,)` and `(K, K)`.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean.astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64) / len(vectors)
    values, directions = np.linalg.eigh(covariance)
    ridge = max(RIDGE * values.mean(), 1e-12)
    return mean, directions / np.sqrt(np.maximum(values, 0.0) + ridge)
