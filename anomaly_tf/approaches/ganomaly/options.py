"""Options of approach `ganomaly` (encoder, decoder, encoder); imports no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import (
    AdversarialTrainingConfig,
    Checked,
    NormalOnlyConfig,
    SamplingConfig,
    ScoreMap,
    number,
)
from anomaly_tf.networks.sizes import AdversarialNetworks


@dataclass(frozen=True)
class GanomalyLosses(Checked):
    """Weights of GANomaly's losses (Akcay et al. 2018).

    Attributes:
        contextual_weight: Weight of the mean absolute error of the reconstruction.
        latent_weight: Weight of the squared distance between the two latent vectors.
        adversarial_weight: Weight of the squared distance between the discriminator's features of
            an image and of its reconstruction (feature matching).
    """

    section: ClassVar[str] = "losses."

    # As in the paper. AUROC on validation images of seed 101, normal class 0: .933; with
    # contextual_weight 10 .929 and 1 .920, latent_weight 10 .931, adversarial_weight 10 .923,
    # latents of 16, 32 and 64 .932, .925 and .931, twice the epochs .930.
    contextual_weight: float = number(50.0, 0)
    latent_weight: float = number(1.0, 0)
    adversarial_weight: float = number(1.0, 0)


@dataclass(frozen=True)
class GanomalyConfig(NormalOnlyConfig):
    """Configuration of approach `ganomaly` (encoder, decoder, encoder).

    Attributes:
        sampling: Training batches.
        training: Length of training, batch size and learning rate.
        networks: Sizes of the networks.
        losses: Weights of the losses.
    """

    # The score is a distance between latent vectors, for images of every size.
    score_map: ClassVar[ScoreMap] = ScoreMap("absolute error", "none", "none", whole_up_to=48)

    approach: str = "ganomaly"
    sampling: SamplingConfig = SamplingConfig(flip=0.0, shift=0)
    training: AdversarialTrainingConfig = AdversarialTrainingConfig(
        epochs=20, steps_per_epoch=80, ema_decay=0.99
    )
    networks: AdversarialNetworks = AdversarialNetworks()
    losses: GanomalyLosses = GanomalyLosses()
