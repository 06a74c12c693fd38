"""Supervised classifier of normal and anomalous images, approach `supervised`: a control.

The network of `networks/classifier.py` with two classes, trained by cross-entropy on normal images
and labelled anomalies; the score is -log of the probability that the image is normal. It shows the
quality that the labels give without a model of normal images: it is hard to beat on anomalies like
those in the training set, but it does not detect that an image is unlike all training images.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from anomaly_tf.approaches.base import Approach, adam, with_hardest
from anomaly_tf.approaches.supervised.options import SupervisedConfig
from anomaly_tf.networks import losses
from anomaly_tf.networks.classifier import build_classifier
from anomaly_tf.networks.detectors import image_input, surprise
from anomaly_tf.networks.sizes import ClassifierNetworks


def build_detector(classifier: keras.Model) -> keras.Model:
    """A model from uint8 images to the score and the inputs of Grad-CAM.

    Returns:
        A model to a dictionary of float32: `score` `(N,)`, -log of the probability of normal, at
        least 0; `features` `(N, h, w, K)`, the last convolution's maps; `evidence` `(N,)`, the
        log-odds of being an anomaly.
    """
    image, scaled = image_input(classifier.input_shape[1:])
    logit, features = classifier(scaled, training=False)
    outputs = {
        "score": surprise(logit),
        "features": ops.cast(features, "float32"),
        "evidence": logit[:, 0],
    }
    return keras.Model(image, outputs, name="detector")


class Supervised(Approach):
    """The classifier in training.

    `fit` takes batches `(normal, anomaly)`, each float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the network.
        ema_decay: Decay of the moving average per step.
        candidates: Number of images drawn per image of the batch.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: ClassifierNetworks,
        ema_decay: float,
        candidates: int,
    ) -> None:
        network = build_classifier(image_shape, networks, 1)
        averaged = build_classifier(image_shape, networks, 1)
        trained, averages = {"classifier": network}, {"classifier": averaged}
        super().__init__("supervised", ("loss",), trained, averages, ema_decay)
        self.candidates = candidates
        self.detector = build_detector(averaged)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on a batch of normal images and anomalies; returns the mean of the loss."""
        normal, anomaly = with_hardest(data, self._score, self.candidates)
        with tf.GradientTape() as tape:
            # One batch, so that BatchNorm's statistics are those of the mixture of both.
            logits, _ = self.networks["classifier"](
                tf.concat([normal, anomaly], axis=0), training=True
            )
            loss = losses.classification_loss(logits)
        self.learn(tape, {"classifier": loss})
        return self.track({"loss": loss})

    def _score(self, images: tf.Tensor) -> tf.Tensor:
        logits, _ = self.averaged(images, training=False)
        return logits[:, 0]


def build(
    config: SupervisedConfig,
    image_shape: tuple[int, int, int],
    class_count: int,
    jit_compile: bool,
) -> Supervised:
    """A compiled model with Adam."""
    training, candidates = config.training, config.sampling.candidates
    model = Supervised(image_shape, config.networks, training.ema_decay, candidates)
    model.compile({"classifier": adam(training.learning_rate, training)}, jit_compile)
    return model
