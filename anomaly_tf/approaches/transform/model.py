"""Classifier of geometric transformations, approach `transform`.

I. Golan, R. El-Yaniv: Deep Anomaly Detection Using Geometric Transformations, NeurIPS 2018; L.
Bergman, Y. Hoshen: Classification-Based Anomaly Detection for General Data, ICLR 2020. A network
learns, from normal images only, to classify which of several transformations was applied to an
image. It learns the appearance of normal images and errs on other images.

The score uses the quarter turns of the image itself; shifted and resized copies only matter for
training. Its first term is the mean of -log p(turn | turned image), and the second one what their
mean logit lacks of the largest of normal images: a network that recognises nothing has small
logits, although the largest may still be the right one (D. Hendrycks et al., Scaling
Out-of-Distribution Detection for Real-World Settings, ICML 2022). Both miss anomalies whose outline
differs but can be turned upright. The third term is therefore the distance of the image's gradients
from those of normal images (`gradients.py`).
"""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor, layers, ops

from anomaly_tf.approaches.base import Approach, adam
from anomaly_tf.approaches.transform.options import TransformConfig, TransformLosses
from anomaly_tf.networks.classifier import build_classifier
from anomaly_tf.networks.detectors import image_input
from anomaly_tf.networks.gradients import images_to_learn_from, nearest_distance
from anomaly_tf.networks.sizes import ClassifierNetworks

CHANGES = ("none", "left", "right", "up", "down", "narrow", "low", "near")
# Normal images, at most, whose largest logit is found after each epoch.
SAMPLE = 1000


def turns_of(image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Quarter turns that keep an image's height and width."""
    return (0, 1, 2, 3) if image_shape[0] == image_shape[1] else (0, 2)


def changed(images: KerasTensor, change: str) -> KerasTensor:
    """Shifts or resizes images float32 `(N, H, W, C)` in [-1, 1]; uncovered pixels are black.

    `left`, `right`, `up` and `down` shift by a quarter of the side; `narrow` and `low` shrink to
    two thirds of the width or height; `near` enlarges the middle two thirds.
    """
    height, width = images.shape[1:3]
    down, across = height // 4, width // 4
    top, side = height // 6, width // 6
    if change == "none":
        return images
    if change in ("narrow", "low"):
        size = (height - 2 * top, width) if change == "low" else (height, width - 2 * side)
        margins = (top, 0) if change == "low" else (0, side)
        return _padded(ops.image.resize(images, size), *((part, part) for part in margins))
    if change == "near":
        middle = images[:, top : height - top, side : width - side]
        return ops.image.resize(middle, (height, width))
    rows = {"up": (0, down), "down": (down, 0)}.get(change, (0, 0))
    columns = {"left": (0, across), "right": (across, 0)}.get(change, (0, 0))
    bordered = _padded(images, rows, columns)
    first_row, first_column = rows[1], columns[1]
    return bordered[:, first_row : first_row + height, first_column : first_column + width]


def _padded(images: KerasTensor, rows: tuple[int, int], columns: tuple[int, int]) -> KerasTensor:
    return ops.pad(images, ((0, 0), rows, columns, (0, 0)), constant_values=-1.0)


def turned(images: KerasTensor, quarters: int) -> KerasTensor:
    """Rotates images `(N, H, W, C)` counter-clockwise by quarter turns."""
    if quarters % 2:
        images = ops.transpose(images, (0, 2, 1, 3))
    down, across = (slice(None, None, -1 if flip else None) for flip in TURNS[quarters])
    return images[:, down, across]


# Reversal of (rows, columns) for each number of quarter turns; odd ones are transposed before.
TURNS = ((False, False), (True, False), (True, True), (False, True))


def build_detector(classifier: keras.Model, losses: TransformLosses) -> keras.Model:
    """A model from uint8 images to the score and the inputs of Grad-CAM.

    Returns:
        A model to a dictionary of float32: `score` `(N,)`, at least 0; `features` `(N, h, w, K)`,
        the last convolution's maps of the image as it is; `evidence` `(N,)`, -log of the
        probability that it is untransformed. The layer `missing` computes the second term of the
        score from the mean logit.
    """
    image, scaled = image_input(classifier.input_shape[1:])
    turns = turns_of(classifier.input_shape[1:])
    # The first copy separately, for its feature maps.
    upright, features = classifier(scaled, training=False)
    others = ops.concatenate([turned(scaled, turn) for turn in turns[1:]])
    logits = [upright, *ops.split(classifier(others, training=False)[0], len(turns) - 1)]
    surprises = [_surprise(each, number) for number, each in enumerate(logits)]
    right = ops.stack([each[:, number] for number, each in enumerate(logits)], axis=1)
    missing = layers.Dense(1, "relu", trainable=False, dtype="float32", name="missing")

    outputs = {
        "score": ops.mean(ops.stack(surprises, axis=1), axis=1)
        + missing(ops.mean(right, axis=1, keepdims=True))[:, 0]
        + losses.gradient_score_weight * nearest_distance(scaled),
        "features": ops.cast(features, "float32"),
        "evidence": surprises[0],
    }
    return keras.Model(image, outputs, name="detector")


def _surprise(logits: KerasTensor, number: int) -> KerasTensor:
    """-log of a class's probability, at least 0: `(N,)` of logits `(N, classes)`."""
    largest = ops.max(logits, axis=-1, keepdims=True)
    total = ops.log(ops.sum(ops.exp(logits - largest), axis=-1)) + largest[:, 0]
    return ops.maximum(total - logits[:, number], 0.0)


class Transform(Approach):
    """The classifier of transformations in training.

    `fit` takes normal images, float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: Sizes of the network.
        losses: Weights of the terms of the score.
        ema_decay: Decay of the moving average per step.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: ClassifierNetworks,
        losses: TransformLosses,
        ema_decay: float,
    ) -> None:
        self.turns = turns_of(image_shape)
        self.adapts_to = images_to_learn_from(image_shape)
        classes = len(CHANGES) * len(self.turns)
        network = build_classifier(image_shape, networks, classes)
        averaged = build_classifier(image_shape, networks, classes)
        trained, names = {"classifier": network}, ("loss", "accuracy")
        super().__init__("transform", names, trained, {"classifier": averaged}, ema_decay)
        self.choice = keras.random.SeedGenerator()
        self.logit_weight = losses.logit_score_weight
        self.detector = build_detector(averaged, losses)
        missing = self.detector.get_layer("missing")
        self.mean_logits = tf.function(keras.Model(self.detector.input, missing.input))

    def adapt(self, images: np.ndarray) -> None:
        """As `Approach.adapt`; also keeps some images for `finish_epoch`."""
        super().adapt(images)
        self.sample = images[:: math.ceil(len(images) / SAMPLE)]

    def finish_epoch(self) -> None:
        """Sets the largest mean logit of normal images."""
        parts = [self.sample[start : start + 200] for start in range(0, len(self.sample), 200)]
        largest = max(float(ops.max(self.mean_logits(part))) for part in parts)
        weights = [np.full((1, 1), -self.logit_weight), np.full(1, self.logit_weight * largest)]
        self.detector.get_layer("missing").set_weights(weights)

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step on randomly transformed images; returns the means of loss and accuracy."""
        images, numbers = self._transformed(data)
        with tf.GradientTape() as tape:
            logits, _ = self.networks["classifier"](images, training=True)
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(numbers, logits, from_logits=True)
            )
        self.learn(tape, {"classifier": loss})
        correct = keras.metrics.sparse_categorical_accuracy(numbers, logits)
        return self.track({"loss": loss, "accuracy": tf.reduce_mean(correct)})

    def _transformed(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Applies a random transformation to each image; returns the images and its numbers.

        The numbers are those of `build_detector`.
        """
        count = tf.shape(images)[0]
        change = keras.random.randint([count], 0, len(CHANGES), seed=self.choice)
        turn = keras.random.randint([count], 0, len(self.turns), seed=self.choice)
        every = tf.stack([changed(images, name) for name in CHANGES], axis=1)
        images = tf.gather(every, change, axis=1, batch_dims=1)
        every = tf.stack([turned(images, quarters) for quarters in self.turns], axis=1)
        images = tf.gather(every, turn, axis=1, batch_dims=1)
        return images, change * len(self.turns) + turn


def build(
    config: TransformConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> Transform:
    """A compiled model with Adam."""
    training = config.training
    model = Transform(image_shape, config.networks, config.losses, training.ema_decay)
    model.compile({"classifier": adam(training.learning_rate, training)}, jit_compile)
    return model
