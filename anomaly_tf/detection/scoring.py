"""Scores, and where they come from, of a whole data set."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


class Scorer:
    """Runs a detector on images in batches of one size, whatever their number.

    Args:
        detector: Model from uint8 images `(N, H, W, C)` to a dictionary with `score` `(N,)`.
        outputs: Names of the outputs that are wanted; what others need is not computed.
        batch_size: Images per forward pass.
    """

    def __init__(
        self, detector: keras.Model, outputs: tuple[str, ...] = ("score",), batch_size: int = 500
    ) -> None:
        self.batch_size = batch_size
        self._model = keras.Model(detector.input, {name: detector.output[name] for name in outputs})

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs, float32 `(N, ...)`, of uint8 images `(N, H, W, C)`."""
        if not len(images):  # which Keras's predict does not take
            shapes = {name: output.shape[1:] for name, output in self._model.output.items()}
            return {name: np.zeros((0, *shape), np.float32) for name, shape in shapes.items()}
        return self._model.predict(images, batch_size=self.batch_size, verbose=0)


class Explainer:
    """Makes a map for each image: its error map, or Grad-CAM where there is no reconstruction.

    Args:
        detector: Model with the output `error_map`, or with `features` and `evidence`.
        batch_size: Images per pass.
    """

    def __init__(self, detector: keras.Model, batch_size: int = 500) -> None:
        self._detector, self._batch_size = detector, batch_size
        self.has_reconstruction = "error_map" in detector.output
        self._errors = (
            Scorer(detector, ("error_map",), batch_size) if self.has_reconstruction else None
        )
        self._grad_cam = tf.function(self._grad_cam_of_batch, reduce_retracing=True)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Maps float32 `(N, H, W)`, at least 0, of uint8 images `(N, H, W, C)`."""
        if self._errors:
            return self._errors(images)["error_map"]
        maps = [
            self._grad_cam(tf.constant(images[start : start + self._batch_size])).numpy()
            for start in range(0, len(images), self._batch_size)
        ]
        return np.concatenate([np.zeros((0, *images.shape[1:3]), np.float32), *maps])

    def _grad_cam_of_batch(self, images: tf.Tensor) -> tf.Tensor:
        """Grad-CAM of the evidence for the most probable class (Selvaraju et al. 2017).

        The feature maps, each weighted by the mean gradient of the evidence towards it, summed;
        negative sums become 0; resized bilinearly to the image.
        """
        with tf.GradientTape() as tape:
            # Nothing is watched by itself in a network that does not learn any more.
            for weight in self._detector.weights:
                tape.watch(weight.value)
            outputs = self._detector(images, training=False)
        features = outputs["features"]
        gradient = tape.gradient(outputs["evidence"], features)
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1, keepdims=True))
        return tf.image.resize(maps, images.shape[1:3])[..., 0]
