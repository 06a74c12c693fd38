"""Options of `--approach auto`: those that every approach has; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import (
    HoldOutConfig,
    NormalImagesConfig,
    OnePassTrainingConfig,
    Protocol,
)

AUTO = "auto"


@dataclass(frozen=True)
class AutoConfig(NormalImagesConfig):
    """Configuration of a training whose approach is chosen by the data.

    Attributes:
        protocol: imbalance uses labelled anomalies, if there are enough, to compare approaches;
            one_class uses none; contaminated mixes unlabelled anomalies among the normal images.
        sampling: Training images.
        training: Batches of the training.
    """

    protocols: ClassVar[tuple[Protocol, ...]] = ("imbalance", "one_class", "contaminated")

    approach: str = AUTO
    protocol: Protocol = "imbalance"
    sampling: HoldOutConfig = HoldOutConfig()
    training: OnePassTrainingConfig = OnePassTrainingConfig()
