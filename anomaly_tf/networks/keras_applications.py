"""Backbones of `keras.applications`, whose weights trained on ImageNet are downloaded."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import KerasTensor, layers

from anomaly_tf.errors import UserError
from anomaly_tf.networks.backbone_names import DEFAULT_BACKBONE
from anomaly_tf.reachability import Unreachable, probe

SERVER = "https://storage.googleapis.com/tensorflow/keras-applications/"
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Application:
    """A network of `keras.applications`.

    Attributes:
        network: Its function, such as `keras.applications.ResNet50`.
        outputs: Names of the layers at the end of its stages.
        url: Address of its weights.
        md5: Their MD5 digest; None where Keras publishes none.
        mean: What the network expects to be subtracted from red, green and blue in [0, 255].
        deviation: What it expects them to be divided by after that.
        first: The first convolution if the network expects blue, green, red; its kernel is turned.
    """

    network: Callable[..., keras.Model]
    outputs: tuple[str, ...]
    url: str
    md5: str | None
    mean: Colour = (127.5, 127.5, 127.5)
    deviation: Colour = (127.5, 127.5, 127.5)
    first: str | None = None

    def rescaling(self) -> tuple[list[float], list[float]]:
        """Factors and addends, by channel, for images in [-1, 1]."""
        pairs = list(zip(self.mean, self.deviation, strict=True))
        return [127.5 / d for _, d in pairs], [(127.5 - m) / d for m, d in pairs]


APPLICATIONS = {
    "mobilenet_v2": Application(
        keras.applications.MobileNetV2,
        (
            *("expanded_conv_project_BN", "block_2_add", "block_5_add", "block_9_add"),
            *("block_12_add", "block_15_add", "block_16_project_BN"),
        ),
        f"{SERVER}mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        None,
    ),
    "resnet50": Application(
        keras.applications.ResNet50,
        ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
        f"{SERVER}resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "4d473c1dd8becc155b73f8504c6f6626",
        mean=(123.68, 116.779, 103.939),
        deviation=(1.0, 1.0, 1.0),
        first="conv1_conv",
    ),
}


def application(name: str, x: KerasTensor) -> dict[int, KerasTensor]:
    """Outputs of all stages, by number, from images `(N, H, W, 3)` in [-1, 1].

    Args:
        name: Name in `APPLICATIONS`.
        x: The images.

    Raises:
        UserError: If the weights are neither in Keras's folder nor can be downloaded.
    """
    chosen = APPLICATIONS[name]
    path = _weights_file(name, chosen)
    image = keras.Input(x.shape[1:])
    network = chosen.network(include_top=False, weights=None, input_tensor=image)
    try:
        network.load_weights(path)
    except Exception as error:  # Keras and h5py raise many kinds on a damaged file
        raise UserError(
            f"{path} does not hold the weights of the backbone {name} (damaged, or another file); "
            "delete it, and it is downloaded again"
        ) from error
    if chosen.first:
        layer = network.get_layer(chosen.first)
        kernel, *rest = layer.get_weights()
        layer.set_weights([kernel[:, :, ::-1], *rest])
    x = layers.Rescaling(*chosen.rescaling(), name="rescaling")(x)
    ends = [network.get_layer(end).output for end in chosen.outputs]
    return dict(enumerate(keras.Model(network.input, ends)(x), 1))


def _weights_file(name: str, chosen: Application) -> Path:
    """The file in Keras's folder, downloaded if it is not there or damaged."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    path = home / "models" / chosen.url.rpartition("/")[2]
    try:
        if path.is_file() and chosen.md5 in (None, _md5(path)):
            return path
        # Keras waits for an unreachable host for minutes, and writes elsewhere without a folder.
        probe(chosen.url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with redirect_stdout(sys.stderr):
            keras.utils.get_file(
                path.name, chosen.url, file_hash=chosen.md5, cache_dir=home, cache_subdir="models"
            )
        if path.is_file():
            return path
        reason = f"{home} cannot be written"
    except Unreachable as error:
        reason = str(error)
    except Exception as error:  # Keras and urllib raise many kinds
        reason = f"it cannot be downloaded: {error}".splitlines()[0]
    raise UserError(
        f"the backbone {name} needs {path}, and {reason}; choose the backbone {DEFAULT_BACKBONE}, "
        f"which needs no download, or put the file there from {chosen.url}"
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
