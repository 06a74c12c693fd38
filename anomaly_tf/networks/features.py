"""Features of image patches from a pretrained network, and what two approaches do with them.

As in PatchCore (K. Roth et al., CVPR 2022): the feature maps of several stages are averaged over
3x3 positions, which makes them tolerant to small shifts, brought to one grid and concatenated, so
that a patch is described by details and by its surroundings.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from anomaly_tf.config import ScoreMap
from anomaly_tf.networks.backbone_names import stage_of
from anomaly_tf.networks.backbones import build_backbone
from anomaly_tf.networks.detectors import image_input, map_score, smoothed
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
    stages = tuple(stage_of(networks.backbone, stride) for stride in networks.strides)
    maps = build_backbone(networks.backbone, (height, width, image_shape[-1]), stages)(x)
    grid = networks.grid_size(image_shape)
    maps = [_on_grid(m, grid) for m in maps]
    joined = layers.Concatenate(dtype="float32")(maps) if len(maps) > 1 else maps[0]
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
    features: keras.Model, distances: keras.Model, score_map: ScoreMap
) -> keras.Model:
    """The detector of an approach that compares features of patches.

    Args:
        features: The model of `build_features`.
        distances: A model from its output to the distances of the patches, `(N, h, w)`, at least 0.
        score_map: How the score is computed from the map.

    Returns:
        A model from uint8 images `(N, H, W, C)` to a dictionary: `error_map` float32 `(N, H, W)`,
        the distances, resized bilinearly to the image and smoothed by `smoothed`; `score` float32
        `(N,)`, `map_score` of the map.
    """
    image, scaled = image_input(features.input_shape[1:])
    grid = distances(features(scaled, training=False))
    height, width = image.shape[1:3]
    grid = layers.Reshape((*grid.shape[1:], 1), dtype="float32")(grid)
    resized = ops.image.resize(grid, (height, width), interpolation="bilinear")
    error_map = smoothed(layers.Reshape((height, width), dtype="float32")(resized), score_map)
    score = map_score(error_map, score_map)
    return keras.Model(image, {"score": score, "error_map": error_map}, name="detector")


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
