"""Classifier of geometric transformations, approach `transform`.

I. Golan, R. El-Yaniv: Deep Anomaly Detection Using Geometric Transformations, NeurIPS 2018; L.
Bergman, Y. Hoshen: Classification-Based Anomaly Detection for General Data, ICLR 2020. A network
learns, from normal images only, to classify which of several transformations was applied to an
image. It learns the appearance of normal images and errs on other images. The first term of the
score is the mean over the transformations of -log p(transformation | transformed image).

This term misses anomalies that differ from normal images by their outline only, independent of the
orientation. The second term is therefore the distance of the image's gradients from those of normal
images (`gradients.py`).
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import KerasTensor, ops

from anomaly_tf.approaches.base import Approach, adam
from anomaly_tf.approaches.transform.options import TransformConfig
from anomaly_tf.networks.classifier import build_classifier
from anomaly_tf.networks.detectors import image_input
from anomaly_tf.networks.gradients import gradient_distance, images_to_learn_from
from anomaly_tf.networks.sizes import ClassifierNetworks

CHANGES = ("none", "left", "right", "up", "down", "narrow", "low", "near")
# Transformed copies of a batch that are classified in one call; all of them need too much memory.
COPIES_PER_CALL = 4


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


def build_detector(classifier: keras.Model, gradient_weight: float) -> keras.Model:
    """A model from uint8 images to the score and the inputs of Grad-CAM.

    Returns:
        A model to a dictionary of float32: `score` `(N,)`, at least 0; `features` `(N, h, w, K)`,
        the last convolution's maps of the untransformed image; `evidence` `(N,)`, -log of the
        probability that it is untransformed.
    """
    image, scaled = image_input(classifier.input_shape[1:])
    turns = turns_of(classifier.input_shape[1:])
    copies = [
        turned(moved, turn)
        for moved in (changed(scaled, change) for change in CHANGES)
        for turn in turns
    ]
    # The first copy separately, for its feature maps.
    logits, features = classifier(copies[0], training=False)
    surprises = [_surprise(logits, 0)]
    for start in range(1, len(copies), COPIES_PER_CALL):
        part = copies[start : start + COPIES_PER_CALL]
        together, _ = classifier(ops.concatenate(part), training=False)
        for number, logits in enumerate(ops.split(together, len(part)), start):
            surprises.append(_surprise(logits, number))
    surprise = ops.stack(surprises, axis=1)

    distance = gradient_weight * gradient_distance(scaled)
    outputs = {
        "score": ops.mean(surprise, axis=1) + distance,
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
        gradient_weight: Weight of the gradient distance in the score.
        ema_decay: Decay of the moving average per step.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: ClassifierNetworks,
        gradient_weight: float,
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
        self.detector = build_detector(averaged, gradient_weight)

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
    weight = config.losses.gradient_score_weight
    model = Transform(image_shape, config.networks, weight, training.ema_decay)
    model.compile({"classifier": adam(training.learning_rate, training)}, jit_compile)
    return model
