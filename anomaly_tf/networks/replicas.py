"""Replicas of a model on several GPUs, each of which trains on its share of every batch.

Under TensorFlow's `MirroredStrategy` a training step runs once for each replica. The weights stay
equal because all replicas apply the same update: the mean of their gradients. On one device each
function here does nothing.
"""

from __future__ import annotations

import keras
import tensorflow as tf


def mean_over_replicas(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """The mean of each tensor over the replicas; called within a training step.

    For gradients of a loss that is a mean over images, this is the gradient for the whole batch,
    because all shares have the same size.
    """
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return values
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, values)


def equalise(variables: list[keras.Variable]) -> None:
    """Sets variables to their mean over the replicas; called within a training step.

    For moving statistics, such as those of BatchNorm, which each replica updates by its own share.
    """
    if tf.distribute.get_replica_context().num_replicas_in_sync == 1 or not variables:
        return
    own = [tf.convert_to_tensor(variable.value) for variable in variables]
    for variable, mean in zip(variables, mean_over_replicas(own), strict=True):
        # The replica's own copy; Keras's `assign` would synchronise each variable separately.
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=mean)


def vary_random_numbers(model: keras.Model) -> None:
    """Lets each replica draw other random numbers, as the images of one batch do; before `fit`.

    The copies of a random generator are equal after building or restoring a model: dropout and
    noise of one share would repeat those of another. The seeds of the other replicas are a function
    of the first one's, which is the one that a checkpoint holds.
    """
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return
    for state in _generator_states(model):
        first, *others = strategy.experimental_local_results(state.value)
        for number, copy in enumerate(others, 1):
            copy.assign([first[0] + number, first[1]])


def _generator_states(model: keras.Model) -> list[keras.Variable]:
    """The states of all random generators of a model, each `(2,)`: seed and counter."""
    return [v for v in model.variables if v.path.endswith("seed_generator_state")]
