"""Options of `--approach auto`: those that every approach has; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import Config, HoldOutConfig, LearnsFrom, OnePassTrainingConfig, Protocol

AUTO = "auto"


@dataclass(frozen=True)
class AutoConfig(Config):
    """Configuration of a training whose approach is chosen by the data.

    Attributes:
        protocol: imbalance uses labelled anomalies, if there are enough, to compare approaches;
            one_class uses none.
        sampling: Training images.
        training: Batches of the training.
    """

    protocols: ClassVar[tuple[Protocol, ...]] = ("imbalance", "one_class")
    learns_from: ClassVar[LearnsFrom] = "normal images"

    approach: str = AUTO
    protocol: Protocol = "imbalance"
    sampling: HoldOutConfig = HoldOutConfig()
    training: OnePassTrainingConfig = OnePassTrainingConfig()
