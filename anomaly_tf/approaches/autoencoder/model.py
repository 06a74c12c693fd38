"""Dense autoencoder, approach `autoencoder`.

G. Hinton, R. Salakhutdinov: Reducing the Dimensionality of Data with Neural Networks, Science
2006. Dense layers encode an image into a short latent vector and decode it, trained by binary
cross-entropy on normal images only. Images unlike the training set are reconstructed badly, so the
anomaly score is the mean squared error of the reconstruction; for large images it is the largest
smoothed error (`detectors.map_score`).
"""

from __future__ import annotations

import math

import keras
import tensorflow as tf
from keras import layers

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig, DenseNetworks
from anomaly_tf.approaches.base import Approach, adam
from anomaly_tf.networks import losses
from anomaly_tf.networks.detectors import reconstruction_detector


def build_autoencoder(image_shape: tuple[int, int, int], networks: DenseNetworks) -> keras.Model:
    """A model from images float32 `(N, H, W, C)` in [-1, 1] to reconstructions of the same kind."""
    image = keras.Input(image_shape, name="image")
    # Inside, black is 0 and white is 1, as sigmoid and cross-entropy require.
    x = layers.Rescaling(0.5, offset=0.5)(layers.Flatten()(image))
    hidden = networks.hidden_for(image_shape)
    for units in hidden:
        x = layers.Dense(units, activation="relu")(x)
    x = layers.Dense(networks.latent, name="latent")(x)
    for units in hidden[::-1]:
        x = layers.Dense(units, activation="relu")(x)
    x = layers.Dense(math.prod(image_shape), activation="sigmoid", dtype="float32")(x)
    x = layers.Rescaling(2.0, offset=-1.0, dtype="float32")(layers.Reshape(image_shape)(x))
    return keras.Model(image, x, name="autoencoder")


class Autoencoder(Approach):
    """The dense autoencoder in training; `fit` takes float32 images `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the network.
        ema_decay: Decay of the moving average per step.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], networks: DenseNetworks, ema_decay: float
    ) -> None:
        network = build_autoencoder(image_shape, networks)
        averaged = build_autoencoder(image_shape, networks)
        trained = {"autoencoder": network}
        super().__init__("autoencoder", ("loss",), trained, {"autoencoder": averaged}, ema_decay)
        self.detector = reconstruction_detector(averaged, "squared", AutoencoderConfig.score_map)

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step on a batch of normal images; returns the mean of the loss."""
        with tf.GradientTape() as tape:
            reconstructions = self.networks["autoencoder"](data, training=True)
            loss = losses.cross_entropy_loss(data, reconstructions)
        self.learn(tape, {"autoencoder": loss})
        return self.track({"loss": loss})


def build(
    config: AutoencoderConfig,
    image_shape: tuple[int, int, int],
    class_count: int,
    jit_compile: bool,
) -> Autoencoder:
    """A compiled model with Adam."""
    training = config.training
    model = Autoencoder(image_shape, config.networks, training.ema_decay)
    model.compile({"autoencoder": adam(training.learning_rate, training)}, jit_compile)
    return model
