"""Options of approach `cnn`, the convolutional classifier; imports no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import (
    GRAD_CAM,
    Config,
    LearnsFrom,
    Protocol,
    SamplingConfig,
    ScoreMap,
    TrainingConfig,
)
from anomaly_tf.networks.sizes import ClassifierNetworks


@dataclass(frozen=True)
class ClassifierConfig(Config):
    """Configuration of approach `cnn`, the convolutional classifier.

    Attributes:
        sampling: Training batches.
        training: Length of training, batch size and learning rate.
        networks: Sizes of the network.
    """

    protocols: ClassVar[tuple[Protocol, ...]] = ("classification", "corruption")
    learns_from: ClassVar[LearnsFrom] = "classes"

    reported: ClassVar[dict[Protocol, str]] = {"classification": "accuracy .903 to .926"}
    score_map: ClassVar[ScoreMap] = GRAD_CAM

    approach: str = "cnn"
    protocol: Protocol = "classification"
    sampling: SamplingConfig = SamplingConfig(shift=0)
    training: TrainingConfig = TrainingConfig(
        epochs=22, steps_per_epoch=422, learning_rate=3e-3, ema_decay=0.998
    )
    networks: ClassifierNetworks = ClassifierNetworks()
