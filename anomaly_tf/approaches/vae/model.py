"""Convolutional variational autoencoder, approach `vae`.

D. Kingma, M. Welling: Auto-Encoding Variational Bayes, ICLR 2014; as an anomaly detector: J. An,
S. Cho, SNU 2015. It is trained on normal images only, to maximise the evidence lower bound. With a
Gaussian decoder of standard deviation s the bound, up to constants, is

    -(sum (x - G(x))^2 / (2 s^2) + KL(q(z|x) || N(0, 1)))

The anomaly score is the sum of the same two terms per pixel, each modified to separate better. The
error of each pixel is standardised by its mean and variance v on normal images,
(error - mean)^2 / (2 (v + s^2)), so that a bright pixel where normal images are always black counts
more than one at a blurred edge. These are statistics of the detector's own reconstructions, from
the averaged weights and the mean latent: the errors of sampled reconstructions in training are
several times as large. The KL term is reduced to |mean of q(z|x)|^2 / 2, the divergence
from the prior of a Gaussian with that mean and variance 1, times a weight: including the encoder's
variance separates normal images from anomalies worse than leaving it out. Nothing is sampled, so
the score is deterministic. For large images, which are scored by region, the score is the largest
smoothed error only.
"""

from __future__ import annotations

import math

import keras
import tensorflow as tf
from keras import layers, ops

from anomaly_tf.approaches.base import Approach, adam
from anomaly_tf.approaches.vae.options import VaeConfig, VaeLosses
from anomaly_tf.networks import losses
from anomaly_tf.networks.blocks import build_decoder, encoder_maps
from anomaly_tf.networks.detectors import image_input, map_score, smoothed
from anomaly_tf.networks.fused import follow
from anomaly_tf.networks.sizes import ConvolutionalNetworks


def build_encoder(
    image_shape: tuple[int, int, int], networks: ConvolutionalNetworks
) -> keras.Model:
    """A model from images `(N, H, W, C)` in [-1, 1] to mean and log variance, `(N, latent)`."""
    image = keras.Input(image_shape, name="image")
    x = layers.Flatten()(encoder_maps(image, networks)[-1])
    mean = layers.Dense(networks.latent, dtype="float32", name="mean")(x)
    log_variance = layers.Dense(networks.latent, dtype="float32", name="log_variance")(x)
    # Beyond these bounds exp leaves float32's useful range before the loss can correct it.
    return keras.Model(image, [mean, ops.clip(log_variance, -12.0, 6.0)], name="encoder")


def build_network(
    image_shape: tuple[int, int, int], networks: ConvolutionalNetworks, noise: float
) -> keras.Model:
    """A model from images to all outputs that the detector uses.

    Returns:
        A model from images to the reconstruction from the mean of the latent vector, the
        standardised error (in the shape of the images) and that mean `(N, latent)`.
    """
    image = keras.Input(image_shape, name="image")
    mean, _ = build_encoder(image_shape, networks)(image)
    reconstruction = build_decoder(image_shape, networks)([mean])
    # On a scale from black 0 to white 1. BatchNorm with the pixels as channels holds the means and
    # variances of their errors; it has no trainable weights.
    error = layers.Flatten(dtype="float32")(ops.cast(image - reconstruction, "float32") / 2)
    standardised = layers.BatchNormalization(
        epsilon=noise**2,
        center=False,
        scale=False,
        dtype="float32",
        name="error_statistics",
    )(error)
    standardised = layers.Reshape(image_shape, dtype="float32")(standardised)
    return keras.Model(image, [reconstruction, standardised, mean], name="vae")


class Vae(Approach):
    """The variational autoencoder in training.

    `fit` takes normal images, float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the networks.
        loss_config: Terms of loss and score.
        ema_decay: Decay of the moving average per step.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: ConvolutionalNetworks,
        loss_config: VaeLosses,
        ema_decay: float,
    ) -> None:
        network = build_network(image_shape, networks, loss_config.noise)
        averaged = build_network(image_shape, networks, loss_config.noise)
        names = ("reconstruction", "kl", "loss")
        super().__init__("vae", names, {"vae": network}, {"vae": averaged}, ema_decay)
        self.encoder = self.networks["vae"].get_layer("encoder")
        self.decoder = self.networks["vae"].get_layer("decoder")
        self.error_statistics = self.networks["vae"].get_layer("error_statistics")
        self.noise = keras.random.SeedGenerator()
        self.loss_config = loss_config
        self.detector = build_detector(averaged, loss_config)

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step on a batch of normal images; returns the means of the losses per pixel."""
        pixels = math.prod(data.shape[1:])
        with tf.GradientTape() as tape:
            mean, log_variance = self.encoder(data, training=True)
            deviation = tf.exp(0.5 * log_variance)
            sample = mean + deviation * keras.random.normal(tf.shape(mean), seed=self.noise)
            reconstructions = self.decoder([sample], training=True)
            squared = tf.reduce_mean(losses.squared_error(data, reconstructions))
            values = {
                "reconstruction": squared / (2 * self.loss_config.noise**2),
                "kl": tf.reduce_mean(losses.kl_divergence(mean, log_variance)) / pixels,
            }
            values["loss"] = values["reconstruction"] + values["kl"]
        self._observe_errors(data)
        self.learn(tape, {"vae": values["loss"]})
        return self.track(values)

    def _observe_errors(self, images: tf.Tensor) -> None:
        """Updates the statistics of each pixel's error by those of the detector on normal images.

        They are the mean and variance of all batches at first, then moving averages of about ten
        batches; the moving average of the network extends them to more.
        """
        reconstructions, _, _ = self.averaged(images, training=False)
        errors = tf.reshape((images - reconstructions) / 2, [-1, math.prod(images.shape[1:])])
        mean, variance = tf.nn.moments(errors, axes=[0])
        share = tf.maximum(0.1, 1.0 / (1.0 + tf.cast(self.optimizer.iterations, tf.float32)))
        running = self.error_statistics
        # The variance within batches lacks that of their means, which matters for small batches.
        variance += (1.0 - share) * tf.square(mean - running.moving_mean.value)
        follow(running.moving_mean, mean, share)
        follow(running.moving_variance, variance, share)


def build_detector(network: keras.Model, loss_config: VaeLosses) -> keras.Model:
    """A model from uint8 images to score, error map and reconstruction.

    The error map is half the square of the standardised error, averaged over channels and smoothed
    by `smoothed`. The score is `map_score` of the map. For small images the weighted latent term,
    divided by the number of pixel values, is added; it describes the image as a whole and not a
    region.
    """
    image, scaled = image_input(network.input_shape[1:])
    reconstruction, standardised, mean = network(scaled, training=False)
    score_map = VaeConfig.score_map
    error_map = smoothed(ops.mean(ops.square(standardised) / 2, axis=-1), score_map)
    score = map_score(error_map, score_map)
    if score_map.scores_whole(image.shape[1:3]):
        latent_term = ops.sum(ops.square(mean) / 2, axis=-1) / math.prod(network.input_shape[1:])
        score = score + loss_config.latent_score_weight * latent_term
    outputs = {"score": score, "error_map": error_map, "reconstruction": reconstruction}
    return keras.Model(image, outputs, name="detector")


def build(
    config: VaeConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> Vae:
    """A compiled model with Adam."""
    training = config.training
    model = Vae(image_shape, config.networks, config.losses, training.ema_decay)
    model.compile({"vae": adam(training.learning_rate, training)}, jit_compile)
    return model
