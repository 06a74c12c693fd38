"""Convolutional classifier, approach `cnn`.

The network of `networks/classifier.py` with a softmax over the classes, trained by cross-entropy.
The anomaly score is the classifier's uncertainty, -log of the largest softmax probability. It ranks
images as the maximum-softmax baseline of D. Hendrycks, K. Gimpel (ICLR 2017) does; the logarithm is
used because float32 rounds most of the probabilities to 1. The classifier is not trained on
anomalies, and can have a high confidence for an image unlike all training images.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from anomaly_tf.approaches.base import Approach, adam
from anomaly_tf.approaches.classifier.options import ClassifierConfig
from anomaly_tf.networks.classifier import build_classifier
from anomaly_tf.networks.detectors import image_input
from anomaly_tf.networks.sizes import ClassifierNetworks


def build_detector(classifier: keras.Model) -> keras.Model:
    """A model from uint8 images to the score, class probabilities and the inputs of Grad-CAM.

    Returns:
        A model to a dictionary of float32: `score` `(N,)`, -log of the largest probability, at
        least 0; `probabilities` `(N, classes)`; `features` `(N, h, w, K)`, the last convolution's
        maps; `evidence` `(N,)`, the logit of the most probable class.
    """
    image, scaled = image_input(classifier.input_shape[1:])
    logits, features = classifier(scaled, training=False)
    evidence = ops.max(logits, axis=-1)
    # -log(p_max) = log(1 + rest), where rest is the sum of exp(logit - largest) over the other
    # classes; it is computed without the largest, because 1 + rest would lose precision. LiteRT
    # must support all operations, which excludes argmax and log1p.
    smaller = ops.cast(logits < evidence[:, None], "float32")
    equal = ops.sum(1.0 - smaller, axis=-1) - 1.0
    rest = ops.sum(smaller * ops.exp(logits - evidence[:, None]), axis=-1) + equal
    outputs = {
        "score": ops.where(rest < 1e-3, rest - rest * rest / 2.0, ops.log(1.0 + rest)),
        "probabilities": ops.softmax(logits, axis=-1),
        "features": ops.cast(features, "float32"),
        "evidence": evidence,
    }
    return keras.Model(image, outputs, name="detector")


class Classifier(Approach):
    """The classifier in training.

    `fit` takes pairs: float32 `(N, H, W, C)` in [-1, 1], and class numbers int32 `(N,)`.

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the network.
        classes: Number of classes.
        ema_decay: Decay of the moving average per step.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: ClassifierNetworks,
        classes: int,
        ema_decay: float,
    ) -> None:
        network = build_classifier(image_shape, networks, classes)
        averaged = build_classifier(image_shape, networks, classes)
        trained, names = {"classifier": network}, ("loss", "accuracy")
        super().__init__("classifier", names, trained, {"classifier": averaged}, ema_decay)
        self.detector = build_detector(averaged)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on images with their classes; returns the means of loss and accuracy."""
        images, classes = data
        with tf.GradientTape() as tape:
            logits, _ = self.networks["classifier"](images, training=True)
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(classes, logits, from_logits=True)
            )
        self.learn(tape, {"classifier": loss})
        correct = keras.metrics.sparse_categorical_accuracy(classes, logits)
        return self.track({"loss": loss, "accuracy": tf.reduce_mean(correct)})


def build(
    config: ClassifierConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> Classifier:
    """A compiled model with Adam."""
    training = config.training
    model = Classifier(image_shape, config.networks, class_count, training.ema_decay)
    model.compile({"classifier": adam(training.learning_rate, training)}, jit_compile)
    return model
