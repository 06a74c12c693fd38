"""What a run is made of: typed, frozen and checked before anything is written.

Values come from three places, later ones win: the defaults below, a YAML file
(`configs/<approach>.yaml` or `--config FILE`), the command line. The resolved configuration is
saved with the run, so a run can always say how it came to be. Nothing here imports TensorFlow:
`--help` and every wrong option answer at once (see `command_line.py`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from anomaly_tf.files import atomic_path


def number(default: Any, low: float, high: float = float("inf"), *, above: bool = False) -> Any:
    """A dataclass field whose value, or each of its values, lies in `[low, high]`.

    Args:
        default: Default value, a number or a tuple of numbers.
        low: Smallest allowed value.
        high: Largest allowed value.
        above: Whether `low` itself is excluded.
    """
    return field(default=default, metadata={"low": low, "high": high, "above": above})


@dataclass(frozen=True)
class Checked:
    """Base of the configuration dataclasses: checks the ranges declared by `number`."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if "low" not in item.metadata:
                continue
            low, high, above = (item.metadata[key] for key in ("low", "high", "above"))
            value = getattr(self, item.name)
            for part in value if isinstance(value, tuple) else (value,):
                if not low <= part <= high or (above and part == low) or math.isinf(part):
                    bound = f"above {low:g}" if above else f"at least {low:g}"
                    limit = " and finite" if math.isinf(part) else ""
                    limit = limit if math.isinf(high) else f" and at most {high:.10g}"
                    self._refuse(item.name, f"must be {bound}{limit}; got {part}")
            if value == ():
                self._refuse(item.name, "must hold at least one value; got none")

    def _refuse(self, name: str, reason: str) -> None:
        raise ValueError(f"{self.section}{name} {reason}")


@dataclass(frozen=True)
class SamplingConfig(Checked):
    """How images become training batches.

    Attributes:
        validation_fraction: Share of the training files kept for validation, cut per class.
        anomaly_clusters: K-means clusters from which anomalies are drawn equally; 1 draws
            uniformly.
        flip: Probability of mirroring a training image left to right.
        shift: Largest random shift of a training image, in pixels along each axis.
    """

    section: ClassVar[str] = "sampling."

    validation_fraction: float = number(0.1, 0.01, 0.5)
    anomaly_clusters: int = number(16, 1, 1000)
    flip: float = number(0.5, 0, 1)
    shift: int = number(1, 0)


@dataclass(frozen=True)
class TrainingConfig(Checked):
    """How long and how fast to learn.

    Attributes:
        epochs: Number of epochs; the learning rate decays to zero over them (cosine).
        steps_per_epoch: Batches in one epoch.
        batch_size: Images in one batch, half normal and half anomaly.
        learning_rate: Adam's first learning rate for the generator.
        discriminator_learning_rate: Adam's first learning rate for both discriminators.
        ema_decay: Decay of the moving average of the generator's weights, per step.
        precision: Arithmetic of the layers; mixed_bfloat16 is meant for GPUs that have it.
        jit_compile: Compile the step by XLA; auto means on a GPU only.
    """

    section: ClassVar[str] = "training."

    epochs: int = number(12, 1)
    steps_per_epoch: int = number(313, 1)
    batch_size: int = number(128, 2)
    learning_rate: float = number(2e-3, 0, above=True)
    discriminator_learning_rate: float = number(5e-4, 0, above=True)
    ema_decay: float = number(0.995, 0, 0.99999)
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    jit_compile: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % 2:
            self._refuse(
                "batch_size", f"must be even, half normal and half anomaly; got {self.batch_size}"
            )


@dataclass(frozen=True)
class ThresholdConfig(Checked):
    """When a score becomes an alarm.

    Attributes:
        method: How the threshold is set; percentile takes it from the scores of normal
            validation images.
        percentile: The percentile of those scores.
    """

    section: ClassVar[str] = "threshold."

    method: Literal["percentile"] = "percentile"
    percentile: float = number(95.0, 0, 100)


@dataclass(frozen=True)
class DualGanNetworks(Checked):
    """Sizes of the dual-discriminator GAN's networks.

    Attributes:
        filters: Channels of the generator's convolutions, each halving height and width,
            outermost first.
        latent: Length of the latent vector.
        discriminator_filters: Channels of each discriminator's halving convolutions.
    """

    section: ClassVar[str] = "networks."

    filters: tuple[int, ...] = number((16, 32, 64), 1)
    latent: int = number(128, 1)
    discriminator_filters: tuple[int, ...] = number((16, 32), 1)


@dataclass(frozen=True)
class DualGanLosses(Checked):
    """Weights of the dual-discriminator GAN's losses (Kim et al. 2020).

    Attributes:
        reconstruction_weight: Mean absolute error of normal images.
        patch_weight: The three worst windows of that error.
        latent_weight: Distance of the latents of a normal image and of its reconstruction.
        normal_adversarial_weight: The normal reconstruction should look real to D_N.
        abc_weight: Autoencoding binary classifier: anomalies must reconstruct badly.
        anomaly_adversarial_weight: The anomaly's reconstruction should look fake to D_A.
        normal_discriminator_weight: D_N's own loss.
        anomaly_discriminator_weight: D_A's own loss.
        abc_scale: Factor s on the error inside the ABC loss; the larger, the smaller the error
            at which an anomaly is left alone.
        label_smoothing: How far below 1 the discriminators' target for real images lies.
    """

    section: ClassVar[str] = "losses."

    reconstruction_weight: float = number(1.5, 0)
    patch_weight: float = number(1.5, 0)
    latent_weight: float = number(0.5, 0)
    normal_adversarial_weight: float = number(0.5, 0)
    abc_weight: float = number(6.0, 0)
    anomaly_adversarial_weight: float = number(0.2, 0)
    normal_discriminator_weight: float = number(1.0, 0)
    anomaly_discriminator_weight: float = number(1.0, 0)
    abc_scale: float = number(4.0, 0, above=True)
    label_smoothing: float = number(0.1, 0, 0.5)


@dataclass(frozen=True)
class Config(Checked):
    """What every approach's run is made of.

    Attributes:
        approach: Name of the approach.
        protocol: Which images are normal or anomaly; imbalance is one normal class and labelled
            images of all others.
        normal_class: Number of the class that counts as normal.
        data: fashion_mnist, or a folder with the four IDX files of an MNIST-like data set.
        data_dir: Folder in which downloaded data is cached.
        seed: Seed of the split, the weights and the batches.
        deterministic: Use only deterministic operations, for bit-identical repeats.
        sampling: How images become training batches.
        training: How long and how fast to learn.
        threshold: When a score becomes an alarm.
    """

    approach: str = "sota"
    protocol: Literal["imbalance"] = "imbalance"
    normal_class: int = number(0, 0, 255)
    data: str = "fashion_mnist"
    data_dir: str = "data"
    seed: int = number(0, 0, 2**31 - 1)
    deterministic: bool = False
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
    threshold: ThresholdConfig = ThresholdConfig()


@dataclass(frozen=True)
class SotaConfig(Config):
    """Configuration of approach `sota`, the dual-discriminator GAN.

    Attributes:
        networks: Sizes of the networks.
        losses: Weights of the losses.
    """

    networks: DualGanNetworks = DualGanNetworks()
    losses: DualGanLosses = DualGanLosses()


CONFIGS: dict[str, type[Config]] = {"sota": SotaConfig}


def save_config(config: Config, path: Path) -> None:
    """Writes the resolved configuration as YAML, readable again by `--config`."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False), "utf-8"
        )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted option names and values, `{"losses.abc_weight": 2.0, ...}`, in order."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML knows."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value
