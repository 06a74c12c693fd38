"""Plain GAN, approach `gan` (also `baseline`).

The generator is an autoencoder, and there is one discriminator. Every loss is a squared error. The
generator minimises the reconstruction error of normal images and the discriminator's loss on their
reconstructions (X. Mao et al., Least Squares Generative Adversarial Networks, ICCV 2017), and
maximises a bounded function of the reconstruction error of labelled anomalies. The anomaly score
is the mean squared error of the reconstruction; for large images it is the largest smoothed error
(`detectors.map_score`).
"""

from __future__ import annotations

import tensorflow as tf

from anomaly_tf.approaches.base import Approach, adam, with_hardest
from anomaly_tf.approaches.gan.options import GanConfig, GanLosses
from anomaly_tf.networks import losses
from anomaly_tf.networks.blocks import build_discriminator, build_generator
from anomaly_tf.networks.detectors import reconstruction_detector
from anomaly_tf.networks.sizes import AdversarialNetworks


class Gan(Approach):
    """The plain GAN in training.

    `fit` takes batches `(normal, anomaly)`, each float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the networks.
        loss_config: Weights of the losses.
        ema_decay: Decay of the moving average per step.
        candidates: Number of images drawn per image of the batch.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: AdversarialNetworks,
        loss_config: GanLosses,
        ema_decay: float,
        candidates: int,
    ) -> None:
        trained = {
            "generator": build_generator(image_shape, networks),
            "discriminator": build_discriminator(image_shape, networks, "discriminator"),
        }
        averaged = build_generator(image_shape, networks)
        names = ("normal", "anomaly", "adversarial", "generator", "discriminator")
        super().__init__("gan", names, trained, {"generator": averaged}, ema_decay)
        self.loss_config = loss_config
        self.candidates = candidates
        self.detector = reconstruction_detector(averaged, "squared", GanConfig.score_map)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of both networks on the same batch; returns the means of the losses."""
        normal, anomaly = with_hardest(data, self._score, self.candidates)
        weights = self.loss_config
        with tf.GradientTape(persistent=True) as tape:
            # One batch, so that BatchNorm's statistics are those of the mixture of both.
            reconstructions = self.networks["generator"](
                tf.concat([normal, anomaly], axis=0), training=True
            )
            normal_reconstruction, anomaly_reconstruction = tf.split(reconstructions, 2)
            real, fake = tf.split(
                self.networks["discriminator"](
                    tf.concat([normal, normal_reconstruction], axis=0), training=True
                ),
                2,
            )
            values = {
                "normal": tf.reduce_mean(losses.squared_error(normal, normal_reconstruction)),
                "anomaly": losses.contrastive_loss(
                    anomaly, anomaly_reconstruction, weights.anomaly_scale
                ),
                "adversarial": losses.least_squares_loss(fake, 1.0),
                "discriminator": losses.least_squares_loss(real, 1.0)
                + losses.least_squares_loss(fake, 0.0),
            }
            values["generator"] = (
                values["normal"]
                + weights.anomaly_weight * values["anomaly"]
                + weights.adversarial_weight * values["adversarial"]
            )
        self.learn(tape, {name: values[name] for name in ("generator", "discriminator")})
        return self.track(values)

    def _score(self, images: tf.Tensor) -> tf.Tensor:
        return losses.squared_error(images, self.averaged(images, training=False))


def build(
    config: GanConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> Gan:
    """A compiled model with Adam for each network."""
    training, candidates = config.training, config.sampling.candidates
    model = Gan(image_shape, config.networks, config.losses, training.ema_decay, candidates)
    model.compile(
        {
            "generator": adam(training.learning_rate, training, beta_1=0.5),
            "discriminator": adam(training.discriminator_learning_rate, training, beta_1=0.5),
        },
        jit_compile,
    )
    return model
