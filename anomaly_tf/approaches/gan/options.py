"""Options of approach `gan`, the plain GAN; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import (
    AdversarialTrainingConfig,
    BalancedConfig,
    Checked,
    Protocol,
    ScoreMap,
    number,
    reconstruction_map,
)
from anomaly_tf.networks.sizes import AdversarialNetworks


@dataclass(frozen=True)
class GanLosses(Checked):
    """Terms of the plain GAN's losses.

    Attributes:
        anomaly_weight: Weight of the anomalies' term beside the normal images' squared error.
        anomaly_scale: Factor s on an anomaly's squared error in its term exp(-s e); the larger,
            the smaller the error at which an anomaly is left alone.
        adversarial_weight: The normal reconstruction should look real to the discriminator.
    """

    section: ClassVar[str] = "losses."

    # The first two as for the contrastive autoencoder.
    anomaly_weight: float = number(0.5, 0)
    anomaly_scale: float = number(20.0, 0, above=True)
    adversarial_weight: float = number(0.05, 0)


@dataclass(frozen=True)
class GanConfig(BalancedConfig):
    """Configuration of approach `gan`, the plain GAN.

    Attributes:
        training: How long and how fast to learn.
        networks: Sizes of the networks.
        losses: Terms of the losses.
    """

    reported: ClassVar[dict[Protocol, str]] = {"imbalance": ".870"}
    score_map: ClassVar[ScoreMap] = reconstruction_map("squared error")

    approach: str = "gan"
    training: AdversarialTrainingConfig = AdversarialTrainingConfig()
    networks: AdversarialNetworks = AdversarialNetworks()
    losses: GanLosses = GanLosses()
