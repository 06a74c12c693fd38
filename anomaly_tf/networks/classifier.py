"""The convolutional classifier that several approaches train, each on its own classes.

Blocks of convolutions with BatchNorm, ReLU and max pooling (one convolution in the first block, two
in the others; three blocks at 28x28), a dense layer and logits.
"""

from __future__ import annotations

import keras
from keras import KerasTensor, layers

from anomaly_tf.networks.sizes import ClassifierNetworks


def build_classifier(
    image_shape: tuple[int, int, int], networks: ClassifierNetworks, classes: int
) -> keras.Model:
    """A model from images `(N, H, W, C)` in [-1, 1] to logits `(N, classes)` and feature maps."""
    image = keras.Input(image_shape, name="image")
    first, *middle, last = networks.filters_for(image_shape)
    x = _activate(_pool(_convolve(image, first)))
    for filters in middle:
        x = _activate(_convolve(x, filters))
        x = _activate(_pool(_convolve(x, filters)))
    x = _activate(_convolve(x, last))
    # The last maps are activated before they are pooled, because Grad-CAM uses them.
    features = _activate(_convolve(x, last))
    x = layers.Dropout(networks.dropout)(layers.Flatten()(_pool(features)))
    x = layers.Dense(networks.dense, activation="relu")(x)
    x = layers.Dropout(networks.dropout)(x)
    logits = layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(image, [logits, features], name="classifier")


def _convolve(x: KerasTensor, filters: int) -> KerasTensor:
    return layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)


def _pool(x: KerasTensor) -> KerasTensor:
    """Halves height and width; applied before the activation, which then costs a quarter."""
    return layers.MaxPooling2D(2, padding="same")(x)


def _activate(x: KerasTensor) -> KerasTensor:
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
