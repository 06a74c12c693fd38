"""Dual-discriminator DCGAN, approach `sota`.

H. Kim, J. Jeong, H. Choi, H. Seo: GAN-based Anomaly Detection in Imbalance Problems, ECCV
workshops 2020. A generator learns to reconstruct normal images well and anomalies badly. One
discriminator is trained on the reconstructions of normal images, another on those of anomalies. The
anomaly score is the generator's mean absolute reconstruction error; for large images it is the
largest smoothed error (`detectors.map_score`).

Beyond the paper, the score of a small image has two further terms. The first is the output of a
classifier of normal and anomalous images, which is trained on the same batches and errs on other
images than the generator. The second, for anomalies of classes that are not in the training set, is
the distance of the image's gradients from those of normal images (`gradients.py`).
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import KerasTensor

from anomaly_tf.approaches.base import Approach, adam, with_hardest
from anomaly_tf.approaches.dual_gan.options import DualGanConfig, DualGanLosses, DualGanNetworks
from anomaly_tf.networks import losses
from anomaly_tf.networks.blocks import build_discriminator, build_generator
from anomaly_tf.networks.classifier import build_classifier
from anomaly_tf.networks.detectors import reconstruction_detector, surprise
from anomaly_tf.networks.gradients import images_to_learn_from, nearest_distance
from anomaly_tf.networks.sizes import ClassifierNetworks

GENERATOR_LOSSES = (
    "reconstruction",
    "patch",
    "latent",
    "normal_adversarial",
    "abc",
    "anomaly_adversarial",
)
LOSS_NAMES = (*GENERATOR_LOSSES, "normal_discriminator", "anomaly_discriminator", "generator")


class DualGan(Approach):
    """The dual-discriminator GAN in training.

    `fit` takes batches `(normal, anomaly)`, each float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the networks.
        loss_config: Weight of each loss.
        ema_decay: Decay of the moving average per step.
        candidates: Number of images drawn per image of the batch.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: DualGanNetworks,
        loss_config: DualGanLosses,
        ema_decay: float,
        candidates: int,
    ) -> None:
        trained = {"generator": build_generator(image_shape, networks, networks.skip_connections)}
        for name in ("normal_discriminator", "anomaly_discriminator"):
            trained[name] = build_discriminator(image_shape, networks, name)
        averages = {"generator": build_generator(image_shape, networks, networks.skip_connections)}
        names: tuple[str, ...] = LOSS_NAMES
        # Terms for the image as a whole would miss a small defect in a large image.
        whole = DualGanConfig.score_map.scores_whole(image_shape)
        if whole and loss_config.classifier_score_weight:
            names = (*LOSS_NAMES, "classifier")
            for part in (trained, averages):
                part["classifier"] = build_classifier(image_shape, ClassifierNetworks(), 1)
        if whole and loss_config.gradient_score_weight:
            self.adapts_to = images_to_learn_from(image_shape)
        super().__init__("dual_gan", names, trained, averages, ema_decay)
        self.encoder = self.networks["generator"].get_layer("encoder")
        self.decoder = self.networks["generator"].get_layer("decoder")
        self.normal_discriminator = self.networks["normal_discriminator"]
        self.anomaly_discriminator = self.networks["anomaly_discriminator"]
        self.loss_config = loss_config
        self.candidates = candidates
        self.detector = reconstruction_detector(
            self.averaged, "absolute", DualGanConfig.score_map, self._terms
        )

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of all networks on the same batch; returns the means of the losses."""
        normal, anomaly = with_hardest(data, self._score, self.candidates)
        weights = self.loss_config
        with tf.GradientTape(persistent=True) as tape:
            # One batch, so that BatchNorm's statistics are those of the mixture of both.
            both = tf.concat([normal, anomaly], axis=0)
            latents, *maps = self._encode(both, training=True)
            reconstructions = self.decoder([latents, *maps], training=True)
            normal_reconstruction, anomaly_reconstruction = tf.split(reconstructions, 2)
            # training=False: a batch of normal reconstructions only would move the BatchNorm
            # statistics away from that mixture.
            latents_again = self._encode(normal_reconstruction, training=False)[0]
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
            if "classifier" in self.networks:
                logits, _ = self.networks["classifier"](both, training=True)
                values["classifier"] = losses.classification_loss(logits)
            values["generator"] = tf.add_n([weighted[name] for name in GENERATOR_LOSSES])

        # The discriminators minimise their weighted losses.
        self.learn(tape, {name: (values | weighted)[name] for name in self.networks})
        return self.track(values)

    def _encode(self, images: tf.Tensor, training: bool) -> list[tf.Tensor]:
        # Keras returns the tensor itself instead of a list of one output.
        return keras.tree.flatten(self.encoder(images, training=training))

    def _terms(self, images: KerasTensor) -> list[KerasTensor]:
        """The terms of the classifier and of the gradients in the score."""
        terms = []
        if "classifier" in self.averages:
            logits, _ = self.averages["classifier"](images, training=False)
            terms.append(self.loss_config.classifier_score_weight * surprise(logits))
        if self.adapts_to:
            terms.append(self.loss_config.gradient_score_weight * nearest_distance(images))
        return terms

    def _score(self, images: tf.Tensor) -> tf.Tensor:
        return losses.absolute_error(images, self.averaged(images, training=False))


def build(
    config: DualGanConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> DualGan:
    """A compiled model with Adam for each network."""
    training, candidates = config.training, config.sampling.candidates
    model = DualGan(image_shape, config.networks, config.losses, training.ema_decay, candidates)
    discriminator_rate = training.discriminator_learning_rate
    optimizers = {
        "generator": adam(training.learning_rate, training, beta_1=0.5),
        "normal_discriminator": adam(discriminator_rate, training, beta_1=0.5),
        "anomaly_discriminator": adam(discriminator_rate, training, beta_1=0.5),
        "classifier": adam(training.learning_rate, training),
    }
    model.compile({name: optimizers[name] for name in model.networks}, jit_compile)
    return model
