"""Contrastive autoencoder, approach `contrastive`.

A convolutional autoencoder learns to reconstruct normal images well and labelled anomalies badly.
The anomaly score is the mean squared error of the reconstruction. Training minimises this error on
normal images, and maximises a bounded function of it on anomalies. For large images the score is
the largest smoothed error (`detectors.map_score`).
"""

from __future__ import annotations

import tensorflow as tf

from anomaly_tf.approaches.base import Approach, adam, with_hardest
from anomaly_tf.approaches.contrastive.options import ContrastiveConfig, ContrastiveLosses
from anomaly_tf.networks import losses
from anomaly_tf.networks.blocks import build_generator
from anomaly_tf.networks.detectors import reconstruction_detector
from anomaly_tf.networks.sizes import ConvolutionalNetworks


class Contrastive(Approach):
    """The contrastive autoencoder in training.

    `fit` takes batches `(normal, anomaly)`, each float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the networks.
        loss_config: Weight and scale of the anomalies' term.
        ema_decay: Decay of the moving average per step.
        candidates: Number of images drawn per image of the batch.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: ConvolutionalNetworks,
        loss_config: ContrastiveLosses,
        ema_decay: float,
        candidates: int,
    ) -> None:
        trained = {"autoencoder": build_generator(image_shape, networks)}
        averaged = build_generator(image_shape, networks)
        names = ("normal", "anomaly", "loss")
        super().__init__("contrastive", names, trained, {"autoencoder": averaged}, ema_decay)
        self.loss_config = loss_config
        self.candidates = candidates
        self.detector = reconstruction_detector(averaged, "squared", ContrastiveConfig.score_map)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on a batch of normal images and anomalies; returns the means of the losses."""
        normal, anomaly = with_hardest(data, self._score, self.candidates)
        with tf.GradientTape() as tape:
            # One batch, so that BatchNorm's statistics are those of the mixture of both.
            reconstructions = self.networks["autoencoder"](
                tf.concat([normal, anomaly], axis=0), training=True
            )
            normal_reconstruction, anomaly_reconstruction = tf.split(reconstructions, 2)
            values = {
                "normal": tf.reduce_mean(losses.squared_error(normal, normal_reconstruction)),
                "anomaly": losses.contrastive_loss(
                    anomaly, anomaly_reconstruction, self.loss_config.anomaly_scale
                ),
            }
            values["loss"] = values["normal"] + self.loss_config.anomaly_weight * values["anomaly"]
        self.learn(tape, {"autoencoder": values["loss"]})
        return self.track(values)

    def _score(self, images: tf.Tensor) -> tf.Tensor:
        return losses.squared_error(images, self.averaged(images, training=False))


def build(
    config: ContrastiveConfig,
    image_shape: tuple[int, int, int],
    class_count: int,
    jit_compile: bool,
) -> Contrastive:
    """A compiled model with Adam."""
    training, candidates = config.training, config.sampling.candidates
    model = Contrastive(image_shape, config.networks, config.losses, training.ema_decay, candidates)
    model.compile({"autoencoder": adam(training.learning_rate, training)}, jit_compile)
    return model
