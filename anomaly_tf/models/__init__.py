"""The approaches, and the contract that each keeps.

An approach is one module: pure builders of functional networks and one `Approach` subclass
(`base.py`) that trains them. Nothing outside this folder looks inside; the rest of the package
knows only

- `APPROACHES[name](config, image_shape, class_count, jit_compile)`: a compiled model, ready for
  `fit` on the batches that its configuration's `learns_from` names;
- `model.adapts_to`: how many normal images `model.adapt(images)`, uint8 `(N, H, W, C)`, is to be
  called with before `fit`; 0 if it is not;
- `model.metrics`: a mean of every loss, by name;
- `model.learning_rates()`: the current learning rates, by name;
- `model.detector`: what the approach leaves behind, a functional model of Keras layers alone, from
  uint8 images `(N, H, W, C)` to a dictionary of float32. Always `score` `(N,)`, at least 0, higher
  is more anomalous, of each image independently of its batch. With a reconstruction: `error_map`
  `(N, H, W)`, at least 0, and `reconstruction` `(N, H, W, C)` in [-1, 1]; of images whose shorter
  side is above 48 pixels the map is smoothed, and the score is its maximum. Without one: `features`
  `(N, h, w, K)` and `evidence` `(N,)`, from which Grad-CAM is made. If it tells classes apart:
  `probabilities` `(N, class_count)`. Its weights follow training.
"""

from collections.abc import Callable

from anomaly_tf.models import (
    autoencoder,
    classifier,
    contrastive,
    dual_gan,
    gan,
    supervised,
    transform,
    vae,
)
from anomaly_tf.models.base import Approach

__all__ = ["APPROACHES", "Approach"]

APPROACHES: dict[str, Callable[..., Approach]] = {
    "autoencoder": autoencoder.build,
    "cnn": classifier.build,
    "contrastive": contrastive.build,
    "gan": gan.build,
    "supervised": supervised.build,
    "transform": transform.build,
    "vae": vae.build,
    "sota": dual_gan.build,
}
