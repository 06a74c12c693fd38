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
    """Terms of the variational autoencoder's loss, and of its score.

    Attributes:
        noise: Standard deviation of the Gaussian that the decoder stands for, where black is 0
            and white is 1; the smaller, the more the reconstruction weighs against the KL term.
            In the score it is added to the spread of each pixel's error on normal images.
        latent_score_weight: Weight of the latent's half squared length in the score, beside the
            standardised error; only for small images, which are judged as a whole.
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
        sampling: How images become training batches.
        training: How long and how fast to learn.
        networks: Sizes of the networks.
        losses: Terms of loss and score.
    """

    score_map: ClassVar[ScoreMap] = reconstruction_map("half the squared standardised error")

    approach: str = "vae"
    sampling: SamplingConfig = SamplingConfig(flip=0.0, shift=0)
    training: TrainingConfig = TrainingConfig(
        epochs=20, steps_per_epoch=80, learning_rate=3e-3, ema_decay=0.99
    )
    networks: ConvolutionalNetworks = ConvolutionalNetworks(latent=32)
    losses: VaeLosses = VaeLosses()
