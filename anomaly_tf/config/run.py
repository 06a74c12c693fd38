"""What every run is made of, and what an approach declares so that others need not guess it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml

from anomaly_tf.config.checked import Checked, number
from anomaly_tf.config.score_map import ScoreMap
from anomaly_tf.config.sections import (
    BalancedSamplingConfig,
    CorruptionConfig,
    FolderConfig,
    Protocol,
    SamplingConfig,
    ThresholdConfig,
    TrainingConfig,
    UnseenConfig,
)
from anomaly_tf.runs.files import atomic_path

# Below, the networks have nothing to fold; above, they outgrow ordinary machines.
SMALLEST_SIDE, LARGEST_SIDE = 8, 1024
ALL_CLASSES_NORMAL: tuple[Protocol, ...] = ("corruption", "classification")
LearnsFrom = Literal["normal images", "normal and anomalous images", "classes"]


@dataclass(frozen=True)
class Config(Checked):
    """What every approach's run is made of.

    Attributes:
        approach: Name of the approach.
        protocol: Which images are normal or anomaly. imbalance: one normal class, labelled images
            of all others; one_class: one normal class alone; unseen: labelled images of some
            others, tested on the rest; corruption: every class is normal, anomalies are made by
            noise and rotation; classification: tell the classes apart.
        normal_class: Names or numbers of the classes that count as normal, separated by commas;
            all stands for every class, 2024-* for those whose names begin so. By default those
            whose names say it, such as good or ok, and of labels that are numbers the first, or 1
            beside -1. classification takes all; corruption does unless names or this option say
            which.
        data: fashion_mnist; a folder of pictures; an .npz file; tfds:NAME; or a folder with the
            four IDX files of an MNIST-like data set.
        data_dir: Folder in which downloaded or decoded data is cached.
        image_size: What pictures are resized to, 64 or 128x96 (height x width); by default their
            own size, of a folder at most 128 on the longer side.
        max_broken: Share of unreadable files in a folder from which on training refuses.
        seed: Seed of the split, the weights and the batches.
        deterministic: Use only deterministic operations, for bit-identical repeats.
        sampling: How images become training batches.
        training: How long and how fast to learn.
        threshold: When a score becomes an alarm.
        corruption: Synthetic anomalies of protocol corruption.
        folder: How a folder of pictures becomes a data set.
    """

    protocols: ClassVar[tuple[Protocol, ...]]
    learns_from: ClassVar[LearnsFrom]
    score_map: ClassVar[ScoreMap]
    # What the earlier work reported, class 0 unless said, beside which benchmark.py puts ours.
    reported: ClassVar[dict[Protocol, str]] = {}

    approach: str = ""
    protocol: Protocol = "imbalance"
    normal_class: tuple[str | int, ...] | None = None
    data: str = "fashion_mnist"
    data_dir: str = "data"
    image_size: int | str | None = None
    max_broken: float = number(0.1, 0, 1)
    seed: int = number(0, 0, 2**31 - 1)
    deterministic: bool = False
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    corruption: CorruptionConfig = CorruptionConfig()
    folder: FolderConfig = FolderConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normal_class == ():
            self._refuse("normal_class", "must hold at least one class; got none")
        self.size  # noqa: B018 - refuses what is no size
        if self.protocol not in self.protocols:
            self._refuse(
                "protocol",
                f"must be one of {', '.join(self.protocols)} for approach {self.approach}, which "
                f"learns from {self.learns_from}; got {self.protocol}",
            )

    def for_protocol(self) -> Self:
        """The same with what was left to the protocol."""
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that `image_size` asks for, if it asks."""
        if self.image_size is None:
            return None
        sides = str(self.image_size).lower().split("x")
        if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
            self._refuse("image_size", f"must be like 64 or 128x96; got {self.image_size}")
        height, width = int(sides[0]), int(sides[-1])
        if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in (height, width)):
            self._refuse(
                "image_size",
                f"must be {SMALLEST_SIDE} to {LARGEST_SIDE} pixels high and wide; got "
                f"{self.image_size}",
            )
        return height, width


@dataclass(frozen=True)
class NormalOnlyConfig(Config):
    """Configuration of an approach that never sees an anomaly, not even to choose its epoch."""

    protocols: ClassVar[tuple[Protocol, ...]] = ("one_class", "corruption")
    learns_from: ClassVar[LearnsFrom] = "normal images"

    protocol: Protocol = "one_class"


@dataclass(frozen=True)
class BalancedConfig(Config):
    """Configuration of an approach that learns from normal images and labelled anomalies.

    Attributes:
        sampling: How images become training batches.
        unseen: Which anomalies protocol unseen shows in training, and which only at test.
    """

    protocols: ClassVar[tuple[Protocol, ...]] = ("imbalance", "unseen", "corruption")
    learns_from: ClassVar[LearnsFrom] = "normal and anomalous images"

    protocol: Protocol = "imbalance"
    sampling: BalancedSamplingConfig = BalancedSamplingConfig()
    unseen: UnseenConfig = UnseenConfig()

    def for_protocol(self) -> Self:
        """The same with what was left to the protocol."""
        return dataclasses.replace(self, sampling=self.sampling.for_protocol(self.protocol))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.training.batch_size or 0) % 2:
            self._refuse(
                "training.batch_size",
                f"must be even, half normal and half anomaly; got {self.training.batch_size}",
            )


def save_config(config: Config, path: Path) -> None:
    """Writes the resolved configuration as YAML, readable again by `--config`."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False), "utf-8"
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


def plain(value: Any) -> Any:
    """Tuples as lists, which YAML and JSON know."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value
