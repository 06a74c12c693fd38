"""The approaches: one folder each, one line each in the registry, and the contract they keep.

A folder holds `options.py`, a frozen dataclass that imports no TensorFlow, and `model.py`, one
`Approach` subclass (`base.py`) that trains networks. Both are loaded when they are asked for.
Their classes are called as the folder is: `dual_gan` holds `DualGanConfig` and `DualGan`.

What an approach declares in its options (`Config` has the full list):

- `protocols` and `learns_from`: what it may be trained on, and what batches it wants;
- `score_map`: how its score follows from its map, in which unit the map is, and up to which size an
  image is judged as a whole.

What the rest of the package knows of a model:

- `build(config, image_shape, class_count, jit_compile)`: a compiled model, ready for `fit` on the
  batches that `learns_from` names;
- `model.adapts_to`: how many normal images `model.adapt(images)`, uint8 `(N, H, W, C)`, is to be
  called with before `fit`; 0 if it is not;
- `model.metrics`: a mean of every loss, by name;
- `model.learning_rates()`: the current learning rates, by name;
- `model.detector`: what the approach leaves behind, a functional model of Keras layers only, from
  uint8 images `(N, H, W, C)` to a dictionary of float32. Always `score` `(N,)`, at least 0, higher
  is more anomalous, of each image independently of its batch. With a reconstruction: `error_map`
  `(N, H, W)`, at least 0, and `reconstruction` `(N, H, W, C)` in [-1, 1]. Without one: `features`
  `(N, h, w, K)` and `evidence` `(N,)`, from which Grad-CAM is made. If it classifies:
  `probabilities` `(N, class_count)`. Its weights follow training.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from anomaly_tf.config import Config

if TYPE_CHECKING:
    from anomaly_tf.approaches.base import Approach

# What the user types, and the folder.
APPROACHES = {
    "autoencoder": "autoencoder",
    "cnn": "classifier",
    "contrastive": "contrastive",
    "gan": "gan",
    "ganomaly": "ganomaly",
    "supervised": "supervised",
    "transform": "transform",
    "vae": "vae",
    "sota": "dual_gan",
}
ALIASES = {"baseline": "gan"}


def options_of(approach: str) -> type[Config]:
    """The dataclass of an approach's options; imports no TensorFlow.

    Raises:
        KeyError: If there is no such approach.
    """
    folder = APPROACHES[approach]
    return getattr(import_module(f"{__name__}.{folder}.options"), f"{_class_name(folder)}Config")


def build_model(
    config: Config, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> Approach:
    """A compiled model of the approach that a configuration is of.

    Args:
        config: Its options.
        image_shape: Height, width, channels.
        class_count: Classes of the data set, for approaches that tell them apart.
        jit_compile: Whether XLA compiles its step.
    """
    model = import_module(f"{__name__}.{APPROACHES[config.approach]}.model")
    return model.build(config, image_shape, class_count, jit_compile)


def _class_name(folder: str) -> str:
    return folder.replace("_", " ").title().replace(" ", "")
