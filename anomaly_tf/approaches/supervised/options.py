"""Options of approach `supervised`, a classifier of normal and anomalous; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import GRAD_CAM, BalancedConfig, Protocol, ScoreMap, TrainingConfig
from anomaly_tf.networks.sizes import ClassifierNetworks


@dataclass(frozen=True)
class SupervisedConfig(BalancedConfig):
    """Configuration of approach `supervised`, a classifier of normal and anomalous images.

    Attributes:
        training: Length of training, batch size and learning rate.
        networks: Sizes of the network.
    """

    reported: ClassVar[dict[Protocol, str]] = {"imbalance": ".993, mean of ten classes .9918"}
    score_map: ClassVar[ScoreMap] = GRAD_CAM

    approach: str = "supervised"
    training: TrainingConfig = TrainingConfig(ema_decay=0.998)
    networks: ClassifierNetworks = ClassifierNetworks()
