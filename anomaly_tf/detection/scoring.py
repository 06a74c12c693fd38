"""Scores of a whole data set."""

from __future__ import annotations

import keras
import numpy as np


class Scorer:
    """Scores images with a detector in batches of one size, whatever their number.

    Args:
        detector: Model from uint8 images `(N, H, W, C)` to a dictionary with `score` `(N,)`.
        batch_size: Images per forward pass.
    """

    def __init__(self, detector: keras.Model, batch_size: int = 500) -> None:
        self.batch_size = batch_size
        # Only the score is asked for, so the other outputs are not copied out of the graph.
        self._model = keras.Model(detector.input, detector.output["score"])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """float32 `(N,)` anomaly scores of uint8 `(N, H, W, C)`; higher is more anomalous."""
        if not len(images):  # which Keras's predict does not take
            return np.zeros(0, np.float32)
        return self._model.predict(images, batch_size=self.batch_size, verbose=0)
