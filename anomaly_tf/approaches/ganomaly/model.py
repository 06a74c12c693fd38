"""GANomaly, approach `ganomaly`.

S. Akcay, A. Atapour-Abarghouei, T. Breckon: GANomaly: Semi-Supervised Anomaly Detection via
Adversarial Training, ACCV 2018. An encoder and a decoder reconstruct normal images. A second
encoder learns to map the reconstruction to the latent vector of the image. A discriminator compares
the features of image and reconstruction. An anomaly is not reconstructed, so that the two latent
vectors differ. The anomaly score is their distance; the reconstruction error is used for the error
map only.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers, ops

from anomaly_tf.approaches.base import Approach, adam
from anomaly_tf.approaches.ganomaly.options import GanomalyConfig, GanomalyLosses
from anomaly_tf.networks import losses
from anomaly_tf.networks.blocks import build_decoder, build_encoder, downsample, image_to_features
from anomaly_tf.networks.detectors import image_input, smoothed
from anomaly_tf.networks.sizes import AdversarialNetworks


def build_generator(
    image_shape: tuple[int, int, int], networks: AdversarialNetworks
) -> keras.Model:
    """A model from images float32 `(N, H, W, C)` in [-1, 1] to reconstructions and both latents.

    Returns:
        A model to a list: reconstruction `(N, H, W, C)` in [-1, 1], latent vector of the image and
        latent vector of the reconstruction, each float32 `(N, latent)`.
    """
    image = keras.Input(image_shape, name="image")
    first, second = (build_encoder(image_shape, networks) for _ in range(2))
    second = keras.Model(second.input, second.output, name="second_encoder")
    (latent,) = first(image)
    reconstruction = build_decoder(image_shape, networks)([latent])
    (latent_again,) = second(reconstruction)
    return keras.Model(image, [reconstruction, latent, latent_again], name="generator")


def build_discriminator(
    image_shape: tuple[int, int, int], networks: AdversarialNetworks
) -> keras.Model:
    """A model from images to logits of being real, float32 `(N, 1)`, and the last features."""
    image = keras.Input(image_shape, name="image")
    first, *others = networks.discriminator_filters_for(image_shape)
    x = image_to_features(image, first)
    for filters in others:
        x = downsample(x, filters)
    features = layers.Flatten(dtype="float32")(x)
    logits = layers.Dense(1, dtype="float32", name="logits")(features)
    return keras.Model(image, [logits, features], name="discriminator")


def squared_distance(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Mean (a - b)^2 over `(N, F)` features, at least 0: L_enc and L_adv of the paper."""
    return tf.reduce_mean(tf.square(one - other))


class Ganomaly(Approach):
    """GANomaly in training; `fit` takes normal images, float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the networks.
        loss_config: Weights of the losses.
        ema_decay: Decay of the moving average per step.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: AdversarialNetworks,
        loss_config: GanomalyLosses,
        ema_decay: float,
    ) -> None:
        trained = {
            "generator": build_generator(image_shape, networks),
            "discriminator": build_discriminator(image_shape, networks),
        }
        averaged = build_generator(image_shape, networks)
        names = ("contextual", "latent", "adversarial", "generator", "discriminator")
        super().__init__("ganomaly", names, trained, {"generator": averaged}, ema_decay)
        self.loss_config = loss_config
        self.detector = build_detector(averaged)

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step of both networks on a batch of normal images; returns means of the losses."""
        weights = self.loss_config
        with tf.GradientTape(persistent=True) as tape:
            reconstructions, latents, latents_again = self.networks["generator"](
                data, training=True
            )
            logits, features = self.networks["discriminator"](
                tf.concat([data, reconstructions], axis=0), training=True
            )
            real_features, fake_features = tf.split(features, 2)
            values = {
                "contextual": losses.reconstruction_loss(data, reconstructions),
                "latent": squared_distance(latents, latents_again),
                "adversarial": squared_distance(real_features, fake_features),
                # Real images have label 0, reconstructions label 1.
                "discriminator": losses.classification_loss(logits),
            }
            values["generator"] = (
                weights.contextual_weight * values["contextual"]
                + weights.latent_weight * values["latent"]
                + weights.adversarial_weight * values["adversarial"]
            )
        self.learn(tape, {name: values[name] for name in ("generator", "discriminator")})
        return self.track(values)


def build_detector(generator: keras.Model) -> keras.Model:
    """A model from uint8 images to score, error map and reconstruction.

    The score is the mean absolute difference of the two latent vectors. The error map is
    |x - G(x)|, averaged over channels and smoothed by `smoothed`.
    """
    image, scaled = image_input(generator.input_shape[1:])
    reconstruction, latent, latent_again = generator(scaled, training=False)
    errors = ops.mean(ops.abs(scaled - reconstruction), axis=-1)
    outputs = {
        "score": ops.mean(ops.abs(latent - latent_again), axis=-1),
        "error_map": smoothed(errors, GanomalyConfig.score_map),
        "reconstruction": reconstruction,
    }
    return keras.Model(image, outputs, name="detector")


def build(
    config: GanomalyConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> Ganomaly:
    """A compiled model with Adam for each network."""
    training = config.training
    model = Ganomaly(image_shape, config.networks, config.losses, training.ema_decay)
    model.compile(
        {
            "generator": adam(training.learning_rate, training, beta_1=0.5),
            "discriminator": adam(training.discriminator_learning_rate, training, beta_1=0.5),
        },
        jit_compile,
    )
    return model
