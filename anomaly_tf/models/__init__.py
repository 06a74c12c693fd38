"""The approaches, and the contract that each keeps.

An approach is one module: pure builders of functional networks and one `keras.Model` subclass
that trains them. Nothing outside this folder looks inside; the rest of the package knows only

- `APPROACHES[name](config, image_shape, jit_compile)`: a compiled model, ready for `fit`;
- `model.metrics`: a mean of every loss, by name;
- `model.learning_rates()`: the current learning rates, by name;
- `model.detector`: what the approach leaves behind, a functional model of Keras layers alone,
  from uint8 images `(N, H, W, C)` to a dictionary of float32 `score` `(N,)` (higher is more
  anomalous, of each image independently of its batch), `error_map` `(N, H, W)` and
  `reconstruction` `(N, H, W, C)`. Its weights follow training.
"""

from collections.abc import Callable

import keras

from anomaly_tf.models import dual_gan

APPROACHES: dict[str, Callable[..., keras.Model]] = {"sota": dual_gan.build}
