"""Options of approach `vae`, the convolutional variational autoencoder; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import (
    Checked,
    NormalOnlyConfig,
    SamplingConfig,
    ScoreMap,
    TrainingConfig,
    number,
    reconstruction_map,
)
from anomaly_tf.networks.sizes import ConvolutionalNetworks


@dataclass(frozen=True)
class VaeLosses(Checked):
    """Terms of the variational autoencoder's loss and score.

    Attributes:
        noise: Standard deviation of the Gaussian decoder, where black is 0 and white is 1. With a
            smaller value, the reconstruction weighs more than the KL term. In the score, its square
            is added to the variance of each pixel's error on normal images.
        latent_score_weight: Weight in the score of half the squared length of the latent vector;
            the standardised error has weight 1. Used for small images only, which are scored as a
            whole.
    """

    section: ClassVar[str] = "losses."

    noise: float = number(0.1, 0, 10, above=True)
    # On validation images of seed 1, mean AUROC of the normal classes 0, 2, 5, 6 and 8: the plain
    # squared error .855, plus 12 times the KL term .878; errors standardised per pixel .867, plus
    # 12 times the KL term .888, plus 24 times the latent's half squared length .900.
    latent_score_weight: float = number(24.0, 0)


@dataclass(frozen=True)
class VaeConfig(NormalOnlyConfig):
    """Configuration of approach `vae`, the convolutional variational autoencoder.

    Attributes:
        sampling: Training batches.
        training: Length of training, batch size and learning rate.
        networks: Sizes of the networks.
        losses: Terms of the loss and the score.
    """

    score_map: ClassVar[ScoreMap] = reconstruction_map("half the squared standardised error")

    approach: str = "vae"
    sampling: SamplingConfig = SamplingConfig(flip=0.0, shift=0)
    training: TrainingConfig = TrainingConfig(
        epochs=20, steps_per_epoch=80, learning_rate=3e-3, ema_decay=0.99
    )
    networks: ConvolutionalNetworks = ConvolutionalNetworks(latent=32)
    losses: VaeLosses = VaeLosses()
