"""PatchCore, approach `patchcore`: distance to a memory bank of normal patches.

K. Roth, L. Pemula, J. Zepeda, B. Schoelkopf, T. Brox, P. Gehler: Towards Total Recall in Industrial
Anomaly Detection, CVPR 2022. A pretrained network describes each patch of an image by a vector. The
memory bank holds vectors of normal patches, chosen so that all others are near one of them (greedy
k-centre, O. Sener, S. Savarese, ICLR 2018). The error of a patch is its distance to the nearest
vector of the bank; the score of an image is the largest error of its smoothed map.

Unlike in the paper, the vectors are whitened by the covariance of normal patches, and the bank is
chosen from a random sample of the patches, so that memory and time do not depend on the number of
images.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from anomaly_tf.approaches.base import Approach
from anomaly_tf.approaches.patch_core.options import (
    DEFAULT_BANK,
    PatchCoreConfig,
    PatchCoreNetworks,
)
from anomaly_tf.networks.features import (
    FEATURE_LENGTH,
    build_features,
    distance_detector,
    mean_length,
    whitening,
)


def build_distances(shape: tuple[int, int, int], bank_size: int) -> keras.Model:
    """A model from the features of patches to their distances from a bank.

    The squared distance |z - b|^2 is |z|^2 + (|b|^2 - 2 z b), where the term in parentheses is a
    1x1 convolution.

    Args:
        shape: Height, width and channels of the features.
        bank_size: Number of vectors of the bank.

    Returns:
        A model from float32 `(N, h, w, K)` to float32 `(N, h, w)`, at least 0, with the layers
        `whitening` and `bank`.
    """
    features = keras.Input(shape, name="features")
    white = layers.Conv2D(shape[-1], 1, dtype="float32", name="whitening")(features)
    products = layers.Conv2D(bank_size, 1, dtype="float32", name="bank")(white)
    squared = ops.min(products, axis=-1) + ops.sum(ops.square(white), axis=-1)
    return keras.Model(features, ops.sqrt(ops.maximum(squared, 0.0)), name="distances")


def greedy_coreset(vectors: np.ndarray, count: int, first: int) -> np.ndarray:
    """Chooses vectors so that the largest distance of any vector to the nearest chosen is small.

    Each choice is the vector that is farthest from all chosen before.

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


class PatchCore(Approach):
    """The sample of normal patches and the memory bank that is chosen from it.

    `fit` takes normal images, float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: The pretrained network and the size of the bank.
    """

    def __init__(self, image_shape: tuple[int, int, int], networks: PatchCoreNetworks) -> None:
        super().__init__("patchcore", (FEATURE_LENGTH,))
        self.features = build_features(image_shape, networks)
        grid = self.features.output_shape[1:]
        self.bank_size = networks.bank_size or min(DEFAULT_BANK, networks.candidates)
        self.distances = build_distances(grid, self.bank_size)
        self.detector = distance_detector(self.features, self.distances, PatchCoreConfig.score_map)
        # A uniform sample of all patches seen so far: those with the largest random keys.
        shape = (networks.candidates, grid[-1])
        self.sample = self.add_weight(name="sample", shape=shape, trainable=False)
        self.keys = self.add_weight(
            name="keys", shape=shape[:1], initializer="zeros", trainable=False
        )
        self.random = keras.random.SeedGenerator()

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds the patches of a batch to the sample."""
        features = self.features(data, training=False)
        patches = tf.reshape(features, [-1, features.shape[-1]])
        # Above 0, the key of an empty place.
        keys = 1.0 - keras.random.uniform([tf.shape(patches)[0]], seed=self.random)
        keys = tf.concat([self.keys.value, keys], axis=0)
        best = tf.math.top_k(keys, self.keys.shape[0]).indices
        self.sample.assign(tf.gather(tf.concat([self.sample.value, patches], axis=0), best))
        self.keys.assign(tf.gather(keys, best))
        return self.track({FEATURE_LENGTH: mean_length(patches)})

    def finish_epoch(self) -> None:
        """Chooses the bank from the sample and sets the detector's weights."""
        sample = np.array(self.sample)[np.array(self.keys) > 0]
        mean, matrix = whitening(sample)
        white = (sample @ matrix.astype(np.float32)) - (mean @ matrix).astype(np.float32)
        count = min(self.bank_size, len(white))
        bank = white[greedy_coreset(white, count, first=0)]
        bank = np.resize(bank, (self.bank_size, bank.shape[1]))  # repeated if there are fewer
        kernel = matrix[np.newaxis, np.newaxis]
        self.distances.get_layer("whitening").set_weights([kernel, -mean @ matrix])
        squares = np.square(bank).sum(axis=1)
        self.distances.get_layer("bank").set_weights([-2 * bank.T[None, None], squares])


def build(
    config: PatchCoreConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> PatchCore:
    """A compiled model without optimizers."""
    model = PatchCore(image_shape, config.networks)
    model.compile({}, jit_compile)
    return model
