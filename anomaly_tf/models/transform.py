"""Classifier of geometric transformations, approach `transform`.

I. Golan, R. El-Yaniv: Deep Anomaly Detection Using Geometric Transformations, NeurIPS 2018; L.
Bergman, Y. Hoshen: Classification-Based Anomaly Detection for General Data, ICLR 2020. A network
learns from normal images alone to tell by which of several transformations an image was changed. It
has to know what normal images look like to do so, and on others it errs. The first term of the
score is the mean over the transformations of -log p(transformation | transformed image).

What is told by its outline alone, whatever its orientation, that misses. So the second term is how
far the image's gradients lie from those of normal images: strengths in eight directions over a grid
of places, as in histograms of oriented gradients (N. Dalal, B. Triggs 2005), by the squared
Mahalanobis distance.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor, layers, ops

from anomaly_tf.config import ClassifierNetworks, TransformConfig
from anomaly_tf.models.base import Approach, adam
from anomaly_tf.models.blocks import image_input
from anomaly_tf.models.classifier import build_classifier

CHANGES = ("none", "left", "right", "up", "down", "narrow", "low", "near")
DIRECTIONS = 8
GRID = 7
# What is added to every variance, as a share of the largest; or directions in which normal images
# hardly vary, of which there are few to learn from, would count for most.
RIDGE = 0.03
# From so many normal images, that take no more memory, mean and covariance are learnt.
MOST_IMAGES, MOST_BYTES = 6000, 200 * 10**6


def turns_of(image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Quarter turns that keep an image's height and width."""
    return (0, 1, 2, 3) if image_shape[0] == image_shape[1] else (0, 2)


def changed(images: KerasTensor, change: str) -> KerasTensor:
    """Moves or resizes images float32 `(N, H, W, C)` in [-1, 1]; what is uncovered is black.

    `left`, `right`, `up` and `down` by a quarter of the side; `narrow` and `low` to two thirds of
    the width or height; `near`: the middle two thirds, enlarged.
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
    """Turns images `(N, H, W, C)` counter-clockwise by quarters."""
    if quarters % 2:
        images = ops.transpose(images, (0, 2, 1, 3))
    down, across = (slice(None, None, -1 if flip else None) for flip in TURNS[quarters])
    return images[:, down, across]


# Whether rows and columns are reversed, of an odd number of turns after they were exchanged.
TURNS = ((False, False), (True, False), (True, True), (False, True))


def gradient_features(image: KerasTensor) -> KerasTensor:
    """Square roots of mean gradients in `DIRECTIONS`, and of brightness, on a grid of places.

    Args:
        image: float32 `(N, H, W, C)` in [-1, 1].

    Returns:
        float32 `(N, F)`, at least 0: places x 9 values.
    """
    grey = ops.mean(image, axis=-1, keepdims=True) / 2 + 0.5
    strengths = layers.Conv2D(
        DIRECTIONS + 1,
        3,
        padding="same",
        use_bias=False,
        activation="relu",
        trainable=False,
        dtype="float32",
        name="directions",
    )
    x = strengths(grey)
    strengths.set_weights([_direction_kernels()])
    cell = tuple(max(1, math.ceil(side / GRID)) for side in image.shape[1:3])
    x = layers.AveragePooling2D(cell, padding="same", dtype="float32")(x)
    # The square root of 0 has no gradient.
    return layers.Flatten(dtype="float32")(ops.sqrt(x + 1e-6))


def _direction_kernels() -> np.ndarray:
    """Central differences in each direction, and the pixel itself: `(3, 3, 1, 9)`."""
    kernels = np.zeros((3, 3, 1, DIRECTIONS + 1), np.float32)
    for number in range(DIRECTIONS):
        angle = 2 * math.pi * number / DIRECTIONS
        kernels[1, 2, 0, number] = math.cos(angle)
        kernels[1, 0, 0, number] = -math.cos(angle)
        kernels[2, 1, 0, number] = math.sin(angle)
        kernels[0, 1, 0, number] = -math.sin(angle)
    kernels[1, 1, 0, DIRECTIONS] = 1.0
    return kernels


def build_detector(classifier: keras.Model, gradient_weight: float) -> keras.Model:
    """From uint8 images to score and what Grad-CAM needs.

    Returns:
        A model to a dictionary of float32: `score` `(N,)`, at least 0; `features` `(N, h, w, K)`,
        the last convolution's maps of the image as it is; `evidence` `(N,)`, -log of the
        probability that it is as it is.
    """
    image, scaled = image_input(classifier.input_shape[1:])
    turns = turns_of(classifier.input_shape[1:])
    surprises: list[KerasTensor] = []
    for change in CHANGES:
        moved = changed(scaled, change)
        for turn in turns:
            # One call each: all copies of a batch at once would fill the memory.
            logits, maps = classifier(turned(moved, turn), training=False)
            if not surprises:
                features = maps
            surprises.append(_surprise(logits, len(surprises)))
    surprise = ops.stack(surprises, axis=1)

    gradients = gradient_features(scaled)
    whitening = layers.Dense(
        gradients.shape[-1], trainable=False, dtype="float32", name="whitening"
    )
    distance = ops.sum(ops.square(whitening(gradients)), axis=-1)
    outputs = {
        "score": ops.mean(surprise, axis=1) + gradient_weight * distance,
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
        gradient_weight: Weight of the gradients' distance in the score.
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
        self.adapts_to = min(MOST_IMAGES, MOST_BYTES // math.prod(image_shape))
        classes = len(CHANGES) * len(self.turns)
        network = build_classifier(image_shape, networks, classes)
        averaged = build_classifier(image_shape, networks, classes)
        trained, names = {"classifier": network}, ("loss", "accuracy")
        super().__init__("transform", names, trained, {"classifier": averaged}, ema_decay)
        self.choice = keras.random.SeedGenerator()
        self.detector = build_detector(averaged, gradient_weight)

    def adapt(self, images: np.ndarray) -> None:
        """Learns mean and covariance of the gradients of normal images.

        Args:
            images: uint8 `(N, H, W, C)`.
        """
        model = keras.Model(
            self.detector.input, self.detector.get_layer("whitening").input, name="gradients"
        )
        features = np.concatenate(
            [model(images[start : start + 500]) for start in range(0, len(images), 500)]
        ).astype(np.float64)
        mean = features.mean(axis=0)
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(features.T, bias=True)))
        ridge = max(RIDGE * values[-1], 1e-6)
        kernel = vectors / np.sqrt(np.maximum(values, 0.0) + ridge)
        # So that a normal image has a distance of 1 on average.
        typical = np.square((features - mean) @ kernel).sum(axis=1).mean()
        kernel /= math.sqrt(max(typical, 1e-6))
        self.detector.get_layer("whitening").set_weights([kernel, -mean @ kernel])

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step on images, each changed at random; returns means of loss and accuracy."""
        images, numbers = self._transformed(data)
        with tf.GradientTape() as tape:
            logits, _ = self.networks["classifier"](images, training=True)
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(numbers, logits, from_logits=True)
            )
        self.learn(tape, {"classifier": loss})
        told = keras.metrics.sparse_categorical_accuracy(numbers, logits)
        return self.track({"loss": loss, "accuracy": tf.reduce_mean(told)})

    def _transformed(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Each image under one transformation, and its number as in `build_detector`."""
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
