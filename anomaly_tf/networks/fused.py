"""Layers and updates of networks in training, computed in fewer operations than in Keras.

Keras uses a dozen operations for a BatchNorm in training, and as many to update one variable with
Adam. TensorFlow has a single kernel for each, on CPUs and GPUs.
"""

from __future__ import annotations

import random
from typing import Any

import keras
import tensorflow as tf
from keras import layers


class FusedBatchNormalization(layers.BatchNormalization):
    """BatchNorm of images `(N, H, W, C)` that is one operation in training.

    Variables and results are those of `keras.layers.BatchNormalization` up to rounding (S. Ioffe,
    C. Szegedy 2015).
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        """Normalises by the statistics of the batch in training, else by their moving averages."""
        if not (training and self.trainable and self.scale and self.center and inputs.ndim == 4):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.cast(inputs, tf.float32),
            self.gamma.value,
            self.beta.value,
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel returns the unbiased variance, n / (n - 1) times the variance of the batch;
        # Keras uses the latter.
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
        variance *= tf.maximum(count - 1.0, 1.0) / count
        for running, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            follow(running, value, 1.0 - self.momentum)
        return tf.cast(outputs, self.compute_dtype)


class FusedCropping2D(layers.Cropping2D):
    """Cropping whose gradient is a padding; the gradient of Keras's indexing is 10 times slower."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Crops images `(N, H, W, C)`."""
        (top, bottom), (left, right) = self.cropping
        height, width = inputs.shape[1] - top - bottom, inputs.shape[2] - left - right
        return tf.slice(inputs, [0, top, left, 0], [-1, height, width, -1])


FUSED: dict[Any, Any] = {
    layers.BatchNormalization: FusedBatchNormalization,
    layers.Cropping2D: FusedCropping2D,
}


def fused(network: keras.Model) -> keras.Model:
    """A copy of a functional model that uses the layers of `FUSED`; same weights and names.

    No random numbers are drawn, so that initial weights and dropout of a seed do not change.
    """

    def copy(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return fused(layer)
        kind: Any = FUSED.get(type(layer), type(layer))
        return kind.from_config(layer.get_config())

    drawn = random.getstate()
    changed = keras.models.clone_model(network, clone_function=copy)
    random.setstate(drawn)
    for new, old in zip(changed.variables, network.variables, strict=True):
        new.assign(old)
    return changed


class FusedAdam(keras.optimizers.Adam):
    """Adam that updates each variable in one operation (D. Kingma, J. Ba, ICLR 2015).

    Variables and results are those of `keras.optimizers.Adam` up to rounding. It supports a
    learning rate (or schedule), `beta_1`, `beta_2` and `epsilon`, and no other options of Keras.
    """

    def apply(self, grads: list[tf.Tensor], trainable_variables: list[keras.Variable]) -> None:
        """Applies one step with the gradients of the variables that the optimizer was built for."""
        step = tf.cast(self.iterations + 1, tf.float32)
        betas = {"beta1": self.beta_1, "beta2": self.beta_2}
        powers = {f"{name}_power": tf.pow(beta, step) for name, beta in betas.items()}
        rate = tf.cast(self.learning_rate, tf.float32)
        moments = zip(self._momentums, self._velocities, strict=True)
        for gradient, variable, (mean, square) in zip(
            grads, trainable_variables, moments, strict=True
        ):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=mean.value.handle,
                v=square.value.handle,
                lr=rate,
                epsilon=self.epsilon,
                grad=gradient,
                **betas,
                **powers,
            )
        self.iterations.assign_add(1)


def follow(average: keras.Variable, value: tf.Tensor, share: float | tf.Tensor) -> None:
    """Updates a moving average by a share of its difference to a value, in two operations."""
    # One step of gradient descent on half the squared difference.
    tf.raw_ops.ResourceApplyGradientDescent(
        var=average.value.handle, alpha=share, delta=average.value - value
    )
