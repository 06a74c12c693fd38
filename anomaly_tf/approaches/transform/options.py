"""Options of approach `transform`, a classifier of geometric transformations; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import (
    GRAD_CAM,
    Checked,
    NormalOnlyConfig,
    SamplingConfig,
    ScoreMap,
    TrainingConfig,
    number,
)
from anomaly_tf.networks.sizes import ClassifierNetworks


@dataclass(frozen=True)
class TransformLosses(Checked):
    """Terms of the score of the classifier of transformations.

    The mean negative log-probability of the turns has weight 1.

    Attributes:
        logit_score_weight: Weight in the score of what the mean logit of the turns lacks of the
            largest of normal images.
        gradient_score_weight: Weight in the score of the distance of the image's gradients from the
            nearest centre of normal images, in typical distances from their mean.
    """

    section: ClassVar[str] = "losses."

    logit_score_weight: float = number(0.3, 0)
    gradient_score_weight: float = number(10.0, 0)


@dataclass(frozen=True)
class TransformConfig(NormalOnlyConfig):
    """Configuration of approach `transform`, the classifier of geometric transformations.

    Attributes:
        sampling: Training batches.
        training: Length of training, batch size and learning rate.
        networks: Sizes of the network.
        losses: Terms of the score.
    """

    score_map: ClassVar[ScoreMap] = GRAD_CAM

    approach: str = "transform"
    sampling: SamplingConfig = SamplingConfig(flip=0.0, shift=0)
    training: TrainingConfig = TrainingConfig(epochs=5, steps_per_epoch=300, ema_decay=0.99)
    networks: ClassifierNetworks = ClassifierNetworks()
    losses: TransformLosses = TransformLosses()
