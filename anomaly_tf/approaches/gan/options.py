"""Options of approach `gan`, the plain GAN; imports no TensorFlow."""

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
        anomaly_weight: Weight of the anomalies' term; the squared error of normal images has weight
            1.
        anomaly_scale: Factor s in the anomalies' term exp(-s e), where e is the squared error. With
            a larger s, an anomaly's loss vanishes at a smaller error.
        adversarial_weight: Weight of the loss by which the reconstruction of a normal image should
            look real to the discriminator.
    """

    section: ClassVar[str] = "losses."

    # The first two are those of the contrastive autoencoder.
    anomaly_weight: float = number(0.5, 0)
    anomaly_scale: float = number(20.0, 0, above=True)
    adversarial_weight: float = number(0.05, 0)


@dataclass(frozen=True)
class GanConfig(BalancedConfig):
    """Configuration of approach `gan`, the plain GAN.

    Attributes:
        training: Length of training, batch size and learning rate.
        networks: Sizes of the networks.
        losses: Terms of the losses.
    """

    reported: ClassVar[dict[Protocol, str]] = {"imbalance": ".870"}
    score_map: ClassVar[ScoreMap] = reconstruction_map("squared error")

    approach: str = "gan"
    training: AdversarialTrainingConfig = AdversarialTrainingConfig()
    networks: AdversarialNetworks = AdversarialNetworks()
    losses: GanLosses = GanLosses()
