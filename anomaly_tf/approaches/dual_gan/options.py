"""Options of approach `sota`, the dual-discriminator GAN; no TensorFlow."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from anomaly_tf.config import (
    AdversarialTrainingConfig,
    BalancedConfig,
    BalancedSamplingConfig,
    Checked,
    Protocol,
    ScoreMap,
    number,
    reconstruction_map,
)
from anomaly_tf.networks.sizes import AdversarialNetworks


@dataclass(frozen=True)
class DualGanNetworks(AdversarialNetworks):
    """Sizes of the dual-discriminator GAN's networks, and how they are joined.

    Attributes:
        skip_connections: Hand the encoder's feature maps to the decoder's layers of the same size
            (U-Net), beside the latent.
    """

    skip_connections: bool = True


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
        classifier_score_weight: Weight in the score, beside the mean error, of -log p(normal) by
            a classifier that learns with the GAN; 0: no classifier, as in the paper. Only for
            small images, which are judged as a whole.
        gradient_score_weight: Weight in the score of the squared Mahalanobis distance of the
            image's gradients, 1 on average for normal images; likewise. By default 0.2 under
            protocol unseen, 0 under the others.
        abc_scale: Factor s on the error inside the ABC loss; the larger, the smaller the error
            at which an anomaly is left alone.
        label_smoothing: How far below 1 the discriminators' target for real images lies.
    """

    section: ClassVar[str] = "losses."

    # The first four as in the paper; abc_weight, abc_scale and anomaly_adversarial_weight were
    # chosen on validation images of seed 1 (paper: 0.5, 1 and 1): a stronger answer to images that
    # may be anomalies separates shirts from T-shirts better. classifier_score_weight: best
    # validation AUROC of 12 epochs, seed 101, normal classes 0 and 6, .9921 and .9779 without,
    # .9942 and .9833 with it.
    reconstruction_weight: float = number(1.5, 0)
    patch_weight: float = number(1.5, 0)
    latent_weight: float = number(0.5, 0)
    normal_adversarial_weight: float = number(0.5, 0)
    abc_weight: float = number(6.0, 0)
    anomaly_adversarial_weight: float = number(0.2, 0)
    normal_discriminator_weight: float = number(1.0, 0)
    anomaly_discriminator_weight: float = number(1.0, 0)
    classifier_score_weight: float = number(0.3, 0)
    gradient_score_weight: float | None = number(None, 0)
    abc_scale: float = number(4.0, 0, above=True)
    label_smoothing: float = number(0.1, 0, 0.5)

    def for_protocol(self, protocol: Protocol) -> DualGanLosses:
        """The same with what was left to the protocol."""
        if self.gradient_score_weight is not None:
            return self
        return dataclasses.replace(self, gradient_score_weight=0.2 if protocol == "unseen" else 0.0)


@dataclass(frozen=True)
class DualGanConfig(BalancedConfig):
    """Configuration of approach `sota`, the dual-discriminator GAN.

    Attributes:
        sampling: How images become training batches.
        training: How long and how fast to learn.
        networks: Sizes of the networks.
        losses: Weights of the losses.
    """

    reported: ClassVar[dict[Protocol, str]] = {
        "imbalance": ".899 and about .95, from hard labels; the paper's mean of ten classes .986"
    }
    score_map: ClassVar[ScoreMap] = reconstruction_map("absolute error")

    approach: str = "sota"
    sampling: BalancedSamplingConfig = BalancedSamplingConfig(candidates=3, synthetic=None)
    training: AdversarialTrainingConfig = AdversarialTrainingConfig()
    networks: DualGanNetworks = DualGanNetworks()
    losses: DualGanLosses = DualGanLosses()

    def for_protocol(self) -> Self:
        """The same with what was left to the protocol."""
        losses = self.losses.for_protocol(self.protocol)
        return dataclasses.replace(super().for_protocol(), losses=losses)
