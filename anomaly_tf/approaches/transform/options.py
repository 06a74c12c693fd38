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

    Attributes:
        gradient_score_weight: Weight in the score of the squared Mahalanobis distance of the
            image's gradients, which is 1 on average for normal images; the mean negative
            log-probability of the transformations has weight 1.
    """

    section: ClassVar[str] = "losses."

    # On validation images of seed 101, AUROC of the normal classes 5, 6 and 8: transformations only
    # .929, .846, .968; weight 0.05 .946, .867, .971; 0.2 .943, .872, .975; 1 .931, .873, .983.
    gradient_score_weight: float = number(0.2, 0)


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
