"""Dual-discriminator DCGAN, approach `sota`.

H. Kim, J. Jeong, H. Choi, H. Seo: GAN-based Anomaly Detection in Imbalance Problems, ECCV
workshops 2020. A generator learns to reconstruct normal images and to fail on anomalies; two
discriminators judge its reconstructions, one those of normal images, one those of anomalies.
The anomaly score is the generator's mean absolute reconstruction error.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers

from anomaly_tf.config import DualGanLosses, DualGanNetworks, SotaConfig
from anomaly_tf.models import losses
from anomaly_tf.models.blocks import (
    downsample,
    features_to_image,
    halved_sizes,
    image_to_features,
    reconstruction_detector,
    upsample,
)

GENERATOR_LOSSES = (
    "reconstruction",
    "patch",
    "latent",
    "normal_adversarial",
    "abc",
    "anomaly_adversarial",
)
LOSS_NAMES = (*GENERATOR_LOSSES, "normal_discriminator", "anomaly_discriminator", "generator")


def build_encoder(image_shape: tuple[int, int, int], networks: DualGanNetworks) -> keras.Model:
    """Images float32 `(N, H, W, C)` in [-1, 1] to latents float32 `(N, latent)`."""
    image = keras.Input(image_shape, name="image")
    x = image_to_features(image, networks.filters[0])
    for filters in networks.filters[1:]:
        x = downsample(x, filters)
    latent = layers.Dense(networks.latent, dtype="float32", name="latent")(layers.Flatten()(x))
    return keras.Model(image, latent, name="encoder")


def build_decoder(image_shape: tuple[int, int, int], networks: DualGanNetworks) -> keras.Model:
    """Latents float32 `(N, latent)` to images float32 `(N, H, W, C)` in [-1, 1]."""
    sizes = halved_sizes(image_shape[:2], len(networks.filters))
    latent = keras.Input((networks.latent,), name="latent")
    height, width = sizes[-1]
    x = layers.Dense(height * width * networks.filters[-1], use_bias=False)(latent)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Reshape((height, width, networks.filters[-1]))(x)
    for filters, size in zip(networks.filters[-2::-1], sizes[-2:0:-1], strict=True):
        x = upsample(x, filters, size)
    image = features_to_image(x, image_shape[-1], sizes[0])
    return keras.Model(latent, image, name="decoder")


def build_generator(image_shape: tuple[int, int, int], networks: DualGanNetworks) -> keras.Model:
    """Encoder and decoder in one: images to their reconstructions, both in [-1, 1]."""
    image = keras.Input(image_shape, name="image")
    encoder = build_encoder(image_shape, networks)
    decoder = build_decoder(image_shape, networks)
    return keras.Model(image, decoder(encoder(image)), name="generator")


def build_discriminator(
    image_shape: tuple[int, int, int], networks: DualGanNetworks, name: str
) -> keras.Model:
    """PatchGAN discriminator: images to a grid of scores float32 `(N, h, w, 1)`, real near 1."""
    image = keras.Input(image_shape, name="image")
    x = image_to_features(image, networks.discriminator_filters[0])
    for filters in networks.discriminator_filters[1:]:
        x = downsample(x, filters)
    scores = layers.Conv2D(1, 4, padding="same", dtype="float32", name="scores")(x)
    return keras.Model(image, scores, name=name)


class DualGan(keras.Model):
    """The dual-discriminator GAN in training.

    `fit` takes batches `(normal, anomaly)`, each float32 `(N, H, W, C)` in [-1, 1]. Scores come
    from a generator whose weights and BatchNorm statistics are the exponential moving average of
    the trained one's.

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the networks.
        loss_config: Weight of each loss.
        ema_decay: Decay of the moving average per step.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: DualGanNetworks,
        loss_config: DualGanLosses,
        ema_decay: float,
    ) -> None:
        super().__init__(name="dual_gan")
        self.loss_config = loss_config
        self.ema_decay = ema_decay
        self.generator = build_generator(image_shape, networks)
        self.encoder = self.generator.get_layer("encoder")
        self.decoder = self.generator.get_layer("decoder")
        self.normal_discriminator = build_discriminator(
            image_shape, networks, "normal_discriminator"
        )
        self.anomaly_discriminator = build_discriminator(
            image_shape, networks, "anomaly_discriminator"
        )
        averaged = build_generator(image_shape, networks)
        averaged.set_weights(self.generator.get_weights())
        averaged.trainable = False
        self.detector = reconstruction_detector(averaged)
        self.averaged_generator = averaged
        self.trackers = {name: keras.metrics.Mean(name) for name in LOSS_NAMES}
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """One mean per loss, and `generator`, the weighted sum of the generator's six."""
        return list(self.trackers.values())

    def compile(
        self,
        generator_optimizer: keras.Optimizer,
        normal_discriminator_optimizer: keras.Optimizer,
        anomaly_discriminator_optimizer: keras.Optimizer,
        jit_compile: bool = False,
    ) -> None:
        """Takes one optimizer per network; the losses are the model's own."""
        super().compile(optimizer=generator_optimizer, jit_compile=jit_compile)
        self.normal_discriminator_optimizer = normal_discriminator_optimizer
        self.anomaly_discriminator_optimizer = anomaly_discriminator_optimizer
        self.optimizer.build(self.generator.trainable_variables)
        self.normal_discriminator_optimizer.build(self.normal_discriminator.trainable_variables)
        self.anomaly_discriminator_optimizer.build(self.anomaly_discriminator.trainable_variables)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of all three networks on the same batch; returns the means of the losses."""
        normal, anomaly = data
        weights = self.loss_config
        with tf.GradientTape(persistent=True) as tape:
            # Both kinds go through the generator together, so that BatchNorm sees at training
            # the mixture that it will stand for at test.
            latents = self.encoder(tf.concat([normal, anomaly], axis=0), training=True)
            reconstructions = self.decoder(latents, training=True)
            normal_reconstruction, anomaly_reconstruction = tf.split(reconstructions, 2)
            # training=False: a batch of normal reconstructions alone would pull the BatchNorm
            # statistics away from that mixture.
            latents_again = self.encoder(normal_reconstruction, training=False)
            real_normal, fake_normal = tf.split(
                self.normal_discriminator(
                    tf.concat([normal, normal_reconstruction], axis=0), training=True
                ),
                2,
            )
            real_anomaly, fake_anomaly = tf.split(
                self.anomaly_discriminator(
                    tf.concat([anomaly, anomaly_reconstruction], axis=0), training=True
                ),
                2,
            )
            real = 1.0 - weights.label_smoothing
            values = {
                "reconstruction": losses.reconstruction_loss(normal, normal_reconstruction),
                "patch": losses.patch_loss(normal, normal_reconstruction),
                "latent": losses.latent_loss(tf.split(latents, 2)[0], latents_again),
                "normal_adversarial": losses.least_squares_loss(fake_normal, 1.0),
                "abc": losses.abc_loss(anomaly, anomaly_reconstruction, weights.abc_scale),
                "anomaly_adversarial": losses.least_squares_loss(fake_anomaly, 0.0),
                "normal_discriminator": losses.least_squares_loss(real_normal, real)
                + losses.least_squares_loss(fake_normal, 0.0),
                "anomaly_discriminator": losses.least_squares_loss(real_anomaly, real)
                + losses.least_squares_loss(fake_anomaly, 0.0),
            }
            weighted = {
                name: getattr(weights, f"{name}_weight") * value for name, value in values.items()
            }
            values["generator"] = tf.add_n([weighted[name] for name in GENERATOR_LOSSES])

        for network, optimizer, loss in (
            (self.generator, self.optimizer, values["generator"]),
            (
                self.normal_discriminator,
                self.normal_discriminator_optimizer,
                weighted["normal_discriminator"],
            ),
            (
                self.anomaly_discriminator,
                self.anomaly_discriminator_optimizer,
                weighted["anomaly_discriminator"],
            ),
        ):
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply(gradients, network.trainable_variables)
        self.update_average()
        for name, value in values.items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items()}

    def update_average(self) -> None:
        """Moves the averaged generator a step towards the trained one, BatchNorm included."""
        step = tf.cast(self.optimizer.iterations, tf.float32)
        # A short memory at first: the random initial weights should not weigh for long.
        decay = tf.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        for average, current in zip(
            self.averaged_generator.weights, self.generator.weights, strict=True
        ):
            average.assign(average + (1.0 - decay) * (current - average))

    def learning_rates(self) -> dict[str, float]:
        """The current learning rate of each network's optimizer."""
        return {
            "generator_learning_rate": float(self.optimizer.learning_rate),
            "normal_discriminator_learning_rate": float(
                self.normal_discriminator_optimizer.learning_rate
            ),
            "anomaly_discriminator_learning_rate": float(
                self.anomaly_discriminator_optimizer.learning_rate
            ),
        }


def build(config: SotaConfig, image_shape: tuple[int, int, int], jit_compile: bool) -> DualGan:
    """A compiled model: Adam for each network, learning rates falling to zero on a cosine."""
    training = config.training
    steps = training.epochs * training.steps_per_epoch

    def adam(learning_rate: float) -> keras.Optimizer:
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        return keras.optimizers.Adam(schedule, beta_1=0.5)

    model = DualGan(image_shape, config.networks, config.losses, training.ema_decay)
    model.compile(
        generator_optimizer=adam(training.learning_rate),
        normal_discriminator_optimizer=adam(training.discriminator_learning_rate),
        anomaly_discriminator_optimizer=adam(training.discriminator_learning_rate),
        jit_compile=jit_compile,
    )
    return model
