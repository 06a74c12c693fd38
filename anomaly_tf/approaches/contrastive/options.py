"""Options of approach `contrastive`, the contrastive autoencoder; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import (
    BalancedConfig,
    Checked,
    Protocol,
    ScoreMap,
    TrainingConfig,
    number,
    reconstruction_map,
)
from anomaly_tf.networks.sizes import ConvolutionalNetworks


@dataclass(frozen=True)
class ContrastiveLosses(Checked):
    """Terms of the contrastive autoencoder's loss.

    Attributes:
        anomaly_weight: Weight of the anomalies' term beside the normal images' squared error.
        anomaly_scale: Factor s on an anomaly's squared error in its term exp(-s e); the larger,
            the smaller the error at which an anomaly is left alone.
    """

    section: ClassVar[str] = "losses."

    # On validation images of seed 1 after four epochs: weight 1 and scale 4 gave an AUROC of .977,
    # 0.5 and 10 gave .982, 0.5 and 20 gave .985.
    anomaly_weight: float = number(0.5, 0)
    anomaly_scale: float = number(20.0, 0, above=True)


@dataclass(frozen=True)
class ContrastiveConfig(BalancedConfig):
    """Configuration of approach `contrastive`, the contrastive autoencoder.

    Attributes:
        training: How long and how fast to learn.
        networks: Sizes of the networks.
        losses: Terms of the loss.
    """

    reported: ClassVar[dict[Protocol, str]] = {"imbalance": "about .95, from hard labels"}
    score_map: ClassVar[ScoreMap] = reconstruction_map("squared error")

    approach: str = "contrastive"
    training: TrainingConfig = TrainingConfig(epochs=8)
    networks: ConvolutionalNetworks = ConvolutionalNetworks()
    losses: ContrastiveLosses = ContrastiveLosses()
