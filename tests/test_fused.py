"""Layers and updates in fewer operations give the results of Keras's own."""

from __future__ import annotations

import random
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from anomaly_tf.approaches import APPROACHES, build_model, options_of
from anomaly_tf.networks.blocks import build_generator
from anomaly_tf.networks.fused import (
    FusedAdam,
    FusedBatchNormalization,
    FusedCropping2D,
    follow,
    fused,
)
from anomaly_tf.networks.sizes import ConvolutionalNetworks


def learnt(layer: keras.Layer, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs, gradients and variables of a layer after calls in training."""
    found = []
    for batch in batches:
        inputs = tf.constant(batch)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(outputs * tf.cos(tf.range(tf.size(outputs), dtype=tf.float32)[0]))
            loss += tf.reduce_sum(tf.sin(3 * outputs))
        found += [outputs, *tape.gradient(loss, [inputs, *layer.trainable_variables])]
    found += [layer(tf.constant(batches[0]), training=False), *layer.variables]
    return [np.array(value) for value in found]


@pytest.mark.parametrize("shape", [(8, 5, 6, 3), (2, 1, 1, 3), (16, 3)], ids=str)
@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_a_fused_batch_norm_is_keras_batch_norm(shape, momentum):
    draw = np.random.default_rng(0)
    weights = [draw.uniform(0.5, 2, 3) for _ in range(4)]
    batches = [draw.normal(2, 3, shape).astype(np.float32) for _ in range(3)]
    results = []
    for kind in (layers.BatchNormalization, FusedBatchNormalization):
        layer = kind(momentum=momentum)
        layer.build((None, *shape[1:]))
        layer.set_weights(weights)
        results.append(learnt(layer, batches))
    for ours, keras_own in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=2e-4, atol=2e-4)


def test_a_batch_norm_that_does_not_learn_is_left_as_it_is():
    layer = FusedBatchNormalization()
    layer.build((None, 4, 4, 2))
    layer.trainable = False
    images = np.random.default_rng(0).normal(5, 1, (3, 4, 4, 2)).astype(np.float32)
    before = [np.array(value) for value in layer.variables]
    # By its statistics, mean 0 and variance 1, in training as well.
    np.testing.assert_allclose(layer(images, training=True), images / np.sqrt(1.001), rtol=1e-5)
    for old, new in zip(before, layer.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_fused_batch_norm_computes_in_float32_in_mixed_precision():
    layer = FusedBatchNormalization(dtype="mixed_bfloat16")
    images = np.random.default_rng(0).normal(100, 1, (64, 4, 4, 2)).astype(np.float32)
    outputs = layer(tf.cast(images, tf.bfloat16), training=True)
    assert outputs.dtype == tf.bfloat16
    assert layer.moving_mean.dtype == "float32"
    assert np.std(tf.cast(outputs, tf.float32)) == pytest.approx(1.0, abs=0.02)


def test_a_fused_cropping_is_keras_cropping():
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype(np.float32))
    gradients = []
    for kind in (layers.Cropping2D, FusedCropping2D):
        layer = kind(((0, 1), (2, 1)))
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(tf.square(layer(images)))
        gradients.append(tape.gradient(loss, images))
        assert layer(images).shape == layer.compute_output_shape(images.shape)
        np.testing.assert_array_equal(layer(images), images[:, :5, 2:6])
    np.testing.assert_array_equal(*gradients)


def layers_of(model: keras.Model) -> list[keras.Layer]:
    """All layers that compute, those of models inside as well."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += layers_of(layer)
        elif not isinstance(layer, layers.InputLayer):
            found.append(layer)
    return found


def test_a_fused_network_is_the_same_function_of_the_same_weights():
    plain = build_generator((18, 10, 1), ConvolutionalNetworks(filters=(4, 8, 8), latent=5), True)
    changed = fused(plain)
    images = np.random.default_rng(0).normal(size=(6, 18, 10, 1)).astype(np.float32)
    for training in (False, True):
        outputs = [model(images, training=training) for model in (plain, changed)]
        np.testing.assert_allclose(*outputs, atol=1e-5)
    for ours, keras_own in zip(changed.weights, plain.weights, strict=True):
        assert ours.path.split("/")[-1] == keras_own.path.split("/")[-1]
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-6)
    kinds = {type(layer) for layer in layers_of(changed)}
    assert kinds >= {FusedBatchNormalization, FusedCropping2D}
    assert not kinds & {layers.BatchNormalization, layers.Cropping2D}
    assert [layer.name for layer in layers_of(changed)] == [x.name for x in layers_of(plain)]


def test_a_fused_network_draws_the_same_random_numbers():
    keras.utils.set_random_seed(0)
    image = keras.Input((64,))
    plain = keras.Model(image, layers.Dropout(0.5)(layers.Dense(64)(image)))
    state = random.getstate()
    changed = fused(plain)
    assert random.getstate() == state  # so that what is built next is the same as well
    ones = np.ones((4, 64), np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(changed(ones, training=True), plain(ones, training=True))


def test_fused_adam_is_keras_adam():
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 8)
    gradients = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)
    ended = []
    for kind in (keras.optimizers.Adam, FusedAdam):
        variables = [keras.Variable(np.linspace(-1, 1, 5, dtype="float32")) for _ in range(2)]
        optimizer = kind(schedule, beta_1=0.5)
        optimizer.build(variables)
        for pair in gradients:
            optimizer.apply([tf.constant(part) for part in pair], variables)
        assert int(optimizer.iterations) == len(gradients)
        ended.append([np.array(value) for value in (*variables, *optimizer.variables)])
    for ours, keras_own in zip(ended[1], ended[0], strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-5, atol=1e-6)


def test_fused_adam_wants_the_gradient_of_every_variable():
    variable = keras.Variable([1.0])
    optimizer = FusedAdam(0.1)
    optimizer.build([variable])
    with pytest.raises(ValueError, match="zip"):
        optimizer.apply([], [variable])


def test_a_moving_average_follows_by_its_share():
    average = keras.Variable([1.0, 2.0])
    follow(average, tf.constant([3.0, 0.0]), 0.25)
    np.testing.assert_allclose(average, [1.5, 1.5])


@pytest.mark.parametrize("approach", APPROACHES)
def test_a_step_updates_each_variable_by_one_operation(approach):
    """Hundreds of small operations would take more time than they compute."""
    config = options_of(approach)()
    model = build_model(config, (28, 28, 1), 10, jit_compile=False)
    images = tf.TensorSpec((12, 28, 28, 1), tf.float32)
    batch = {
        "normal images": images,
        "normal and anomalous images": (images, images),
        "classes": (images, tf.TensorSpec((12,), tf.int32)),
    }[config.learns_from]
    graph = tf.function(model.train_step).get_concrete_function(batch).graph
    count = Counter(operation.type for operation in graph.get_operations())
    trainable = sum(len(network.trainable_variables) for network in model.networks.values())
    assert count["ResourceApplyAdam"] == trainable
    statistics = sum("moving_" in w.path for n in model.networks.values() for w in n.weights)
    averaged = sum(len(network.weights) for network in model.averages.values())
    assert averaged <= count["ResourceApplyGradientDescent"] <= averaged + statistics
