"""Training steps that all approaches share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from anomaly_tf.config import TrainingConfig
from anomaly_tf.networks.fused import FusedAdam, follow, fused
from anomaly_tf.networks.gradients import learn_gradients
from anomaly_tf.networks.replicas import equalise, mean_over_replicas


class Approach(keras.Model):
    """A model in training: means of its losses, an optimizer per network, a moving average.

    A subclass defines `train_step`, which ends with `learn` and `track`, and sets `detector`, which
    is built from the averaged networks. `train_step` must use TensorFlow's operations for control
    flow that depends on tensors: AutoGraph is off, because it adds a second to each start.

    An approach without gradient steps has no networks; its `train_step` collects statistics, and
    `finish_epoch` computes the detector's weights from them.

    Args:
        name: Name of the model.
        losses: Names of the tracked losses.
        networks: The trained networks by name; replaced by the output of `fused`.
        averages: For each network that the detector uses, by the same name, a network of the same
            architecture. It holds the exponential moving average of the trained network's weights
            and BatchNorm statistics, and is not trained itself. The first one is `averaged`.
        ema_decay: Decay of the moving average per step.
    """

    # Number of normal images for `adapt`; 0 if it is not called.
    adapts_to = 0

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.train_step = tf.autograph.experimental.do_not_convert(cls.train_step)

    def __init__(
        self,
        name: str,
        losses: tuple[str, ...] = (),
        networks: dict[str, keras.Model] | None = None,
        averages: dict[str, keras.Model] | None = None,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(name=name)
        self.networks = {part: fused(network) for part, network in (networks or {}).items()}
        self.averages = averages or {}
        self.ema_decay = ema_decay
        for part, averaged in self.averages.items():
            averaged.set_weights(self.networks[part].get_weights())
            averaged.trainable = False
        self.trackers = {loss: keras.metrics.Mean(loss) for loss in losses}
        self.built = True

    @property
    def averaged(self) -> keras.Model:
        """The first of the averages."""
        return next(iter(self.averages.values()))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """One mean per loss."""
        return list(self.trackers.values())

    @property
    def minimised(self) -> tuple[str, ...]:
        """Names of the tracked losses that networks minimise: `loss`, or those of the networks."""
        return tuple(name for name in ("loss", *self.networks) if name in self.trackers)

    def compile(self, optimizers: dict[str, keras.Optimizer], jit_compile: bool = False) -> None:
        """Sets one optimizer per network; the losses are defined by the model."""
        first = next(iter(self.averages), None)
        super().compile(optimizer=first and optimizers[first], jit_compile=jit_compile)
        self.optimizers = optimizers
        for name, optimizer in optimizers.items():
            optimizer.build(self.networks[name].trainable_variables)

    def adapt(self, images: np.ndarray) -> None:
        """Sets mean, covariance and centres of the gradients of normal images, before training.

        Args:
            images: At most `adapts_to` normal training images, uint8 `(N, H, W, C)`.
        """
        learn_gradients(self.detector, images)

    def learn_anomalies(self, images: np.ndarray) -> None:
        """Learns from labelled anomalies, before training; for options with `learns_anomalies`.

        Args:
            images: At most `adapts_to` labelled anomalies, uint8 `(N, H, W, C)`.
        """
        raise NotImplementedError(f"{self.name} learns from normal images only")

    def finish_epoch(self) -> None:
        """Completes the detector after the last step of an epoch, before it is validated."""

    def learn(self, tape: tf.GradientTape, losses: dict[str, tf.Tensor]) -> None:
        """Updates each network by one step on its loss, and the moving average.

        On several devices the step is that of the whole batch: gradients and the statistics that
        the step has updated are averaged over the replicas.

        Args:
            tape: The tape that recorded the losses; persistent if there are several networks.
            losses: Name of each network to the scalar loss that it minimises.
        """
        for name, loss in losses.items():
            variables = self.networks[name].trainable_variables
            gradients = mean_over_replicas(tape.gradient(loss, variables))
            self.optimizers[name].apply(gradients, variables)
        for network in self.networks.values():
            equalise(network.non_trainable_weights)
        self._update_average()

    def track(self, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds the losses of a batch; returns the means of the epoch so far."""
        for name, value in values.items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items()}

    def learning_rates(self) -> dict[str, float]:
        """The current learning rate of each network's optimizer."""
        return {
            f"{name}_learning_rate": float(np.array(optimizer.learning_rate))
            for name, optimizer in self.optimizers.items()
        }

    def _update_average(self) -> None:
        step = tf.cast(self.optimizer.iterations, tf.float32)
        # The decay is smaller at first, so that the random initial weights are soon forgotten.
        decay = tf.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        for name, averaged in self.averages.items():
            current = self.networks[name].weights
            for average, variable in zip(averaged.weights, current, strict=True):
                follow(average, variable.value, 1.0 - decay)


def with_hardest(
    batch: tuple[tf.Tensor, tf.Tensor],
    score: Callable[[tf.Tensor], tf.Tensor],
    candidates: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Selects the images of a training batch: half as drawn, half the hardest candidates.

    Online hard-example mining (A. Shrivastava et al. 2016) of normal images and anomalies. With
    the hardest images only, a network that cannot yet separate the two would learn the reverse.

    Args:
        batch: Normal images and anomalies, each `(candidates * N, H, W, C)`.
        score: Function from images `(M, H, W, C)` to the current anomaly scores `(M,)`.
        candidates: Number of images drawn for each image that is kept.

    Returns:
        Normal images and anomalies, each `(N, H, W, C)`: the first half of N as drawn, then of the
        remaining ones the normal images with the highest and the anomalies with the lowest score.
    """
    if candidates == 1:
        return batch
    count = tf.shape(batch[0])[0] // candidates
    drawn = (count + 1) // 2
    rest = [images[drawn:] for images in batch]
    normal, anomaly = tf.split(score(tf.concat(rest, axis=0)), 2)
    hardest = [tf.math.top_k(scores, count - drawn).indices for scores in (normal, -anomaly)]
    return tuple(
        tf.concat([images[:drawn], tf.gather(others, chosen)], axis=0)
        for images, others, chosen in zip(batch, rest, hardest, strict=True)
    )


def adam(learning_rate: float, training: TrainingConfig, beta_1: float = 0.9) -> keras.Optimizer:
    """Adam with a constant learning rate, or with a cosine decay to zero over the training."""
    if training.schedule == "constant":
        return FusedAdam(learning_rate, beta_1=beta_1)
    steps = training.epochs * training.steps_per_epoch
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return FusedAdam(schedule, beta_1=beta_1)
