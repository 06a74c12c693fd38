"""Scores and Grad-CAM maps of a data set."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property

import keras
import numpy as np
import tensorflow as tf

from anomaly_tf.data.stored import Images
from anomaly_tf.runs.limits import images_at_a_time


class Scorer:
    """Runs a detector on any number of images in batches of a fixed size.

    Args:
        detector: Model from uint8 images `(N, H, W, C)` to a dictionary with `score` `(N,)`.
        outputs: Names of the outputs to compute.
        batch_size: Images per forward pass. Default: 500, or fewer if they are large.
    """

    def __init__(
        self,
        detector: keras.Model,
        outputs: tuple[str, ...] = ("score",),
        batch_size: int | None = None,
    ) -> None:
        self.batch_size = batch_size or images_at_a_time(detector.input_shape[1:])
        model = keras.Model(detector.input, {name: detector.output[name] for name in outputs})
        # One graph for all batch sizes; Keras's `predict` traces one for each, and takes 50 ms to
        # start. It is traced here, and not in the threads that call it.
        self._run = tf.function(
            lambda images: model(images, training=False),
            input_signature=[tf.TensorSpec(model.input_shape, tf.uint8)],
        ).get_concrete_function()
        self._model = model  # the graph does not keep its variables alive

    def __call__(self, images: Images) -> dict[str, np.ndarray]:
        """Computes the outputs, float32 `(N, ...)`, of uint8 images `(N, H, W, C)`, N >= 1."""
        parts = [
            self._run(tf.constant(images[start : start + self.batch_size]))
            for start in range(0, len(images), self.batch_size)
        ]
        return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}


def score_statistics(scores: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation, minimum and maximum of scores `(N,)`."""
    return {
        "mean": float(scores.mean()),
        "standard_deviation": float(scores.std()),
        "minimum": float(scores.min()),
        "maximum": float(scores.max()),
    }


class GradCam:
    """Grad-CAM maps of images: the regions that support the predicted class.

    Args:
        detector: Model with the outputs `features` and `evidence`.
        batch_size: Images per pass. Default: 500, or fewer if they are large.
    """

    def __init__(self, detector: keras.Model, batch_size: int | None = None) -> None:
        self._detector = detector
        self._batch_size = batch_size or images_at_a_time(detector.input_shape[1:])
        self._tracing = threading.Lock()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Computes maps float32 `(N, H, W)`, at least 0, of uint8 images `(N, H, W, C)`."""
        with self._tracing:  # only the first thread traces the graph
            grad_cam = self._graph
        maps = [
            grad_cam(tf.constant(images[start : start + self._batch_size])).numpy()
            for start in range(0, len(images), self._batch_size)
        ]
        return np.concatenate([np.zeros((0, *images.shape[1:3]), np.float32), *maps])

    @cached_property
    def _graph(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """One graph for all batch sizes."""
        signature = [tf.TensorSpec(self._detector.input_shape, tf.uint8)]
        function = tf.function(self._grad_cam_of_batch, input_signature=signature)
        return function.get_concrete_function()

    def _grad_cam_of_batch(self, images: tf.Tensor) -> tf.Tensor:
        """Grad-CAM of the evidence for the most probable class (Selvaraju et al. 2017).

        The sum of the feature maps, each weighted by the mean gradient of the evidence with respect
        to it; negative values are set to 0; resized bilinearly to the image.
        """
        with tf.GradientTape() as tape:
            # The weights are not trainable, so that they are not watched automatically.
            for weight in self._detector.weights:
                tape.watch(weight.value)
            outputs = self._detector(images, training=False)
        features = outputs["features"]
        gradient = tape.gradient(outputs["evidence"], features)
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1, keepdims=True))
        return tf.image.resize(maps, images.shape[1:3])[..., 0]
