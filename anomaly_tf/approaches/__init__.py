"""The approaches: a folder and a line in the registry for each, and their interface.

A folder holds `options.py`, a frozen dataclass that imports no TensorFlow, and `model.py`, one
`Approach` subclass (`base.py`) that trains networks. Both are imported when they are needed. Their
classes are named after the folder: `dual_gan` holds `DualGanConfig` and `DualGan`.

An approach declares in its options (`Config` has the full list):

- `protocols` and `learns_from`: its protocols, and the kind of batches it is trained on;
- `score_map`: how its score is computed from its map, the unit of the map, and the size up to which
  an image is scored as a whole.

The rest of the package uses these parts of a model:

- `build(config, image_shape, class_count, jit_compile)`: a compiled model, ready for `fit` on the
  batches that `learns_from` names;
- `model.adapts_to`: number of normal images with which `model.adapt(images)`, uint8
  `(N, H, W, C)`, must be called before `fit`; 0 if it need not be called;
- `model.learn_anomalies(images)`: called after it with as many labelled anomalies, if there are
  any and the options say `learns_anomalies`;
- `model.finish_epoch()`: called after the last step of each epoch, before validation;
- `model.metrics`: a mean of every loss, by name;
- `model.learning_rates()`: the current learning rates, by name;
- `model.detector`: the result of training, a functional model of Keras layers only, from uint8
  images `(N, H, W, C)` to a dictionary of float32. It always has `score` `(N,)`, at least 0, higher
  for more anomalous images, independent of the other images in the batch. It has either
  `error_map` `(N, H, W)`, at least 0, or `features` `(N, h, w, K)` and `evidence` `(N,)`, from
  which Grad-CAM is computed. Approaches with a reconstruction have `reconstruction`
  `(N, H, W, C)` in [-1, 1], and classifiers `probabilities` `(N, class_count)`. Its weights change
  during training.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from anomaly_tf.config import Config

if TYPE_CHECKING:
    from anomaly_tf.approaches.base import Approach

# Name of each approach, and its folder.
APPROACHES = {
    "autoencoder": "autoencoder",
    "cnn": "classifier",
    "contrastive": "contrastive",
    "gan": "gan",
    "ganomaly": "ganomaly",
    "nsa": "nsa",
    "padim": "padim",
    "patchcore": "patch_core",
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
    """Builds and compiles the model of a configuration's approach.

    Args:
        config: Options of the approach.
        image_shape: Height, width, channels.
        class_count: Number of classes of the data set, for classifiers.
        jit_compile: If True, XLA compiles the training step.
    """
    model = import_module(f"{__name__}.{APPROACHES[config.approach]}.model")
    return model.build(config, image_shape, class_count, jit_compile)


def _class_name(folder: str) -> str:
    return folder.replace("_", " ").title().replace(" ", "")
