"""One training step of every approach: gradients, learning rates and averages."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import WITH_GRADIENTS, noise_batch, small_config, small_model

from anomaly_tf.approaches import options_of
from anomaly_tf.approaches.base import Approach, with_hardest
from anomaly_tf.config import AdversarialTrainingConfig, Config

# How far a network is moved to measure the slope of its loss.
WAY = 5e-4


def plays_against_a_discriminator(config: Config) -> bool:
    return isinstance(config.training, AdversarialTrainingConfig)


def minimised(model: Approach, part: str) -> str:
    """The loss that a network minimises: called as the network is, or just `loss`."""
    return part if part in model.trackers else "loss"


def values(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [np.array(variable) for variable in variables]


@pytest.mark.parametrize("approach", WITH_GRADIENTS)
def test_every_average_follows_its_network_with_the_given_decay(approach):
    config = small_config(approach, ema_decay=0.1)
    model = small_model(config)
    assert not model.jit_compile
    before = {part: values(average.weights) for part, average in model.averages.items()}
    for part, weights in before.items():
        for one, other in zip(weights, model.networks[part].weights, strict=True):
            np.testing.assert_array_equal(one, other)
    model.train_step(noise_batch(config))
    for part, weights in before.items():
        current = values(model.networks[part].weights)
        for average, old, new in zip(model.averages[part].weights, weights, current, strict=True):
            expected = 0.1 * old + 0.9 * new
            np.testing.assert_allclose(average, expected, atol=1e-5, err_msg=average.path)
        assert any(not np.array_equal(*pair) for pair in zip(weights, current, strict=True))
    # The detector consists of the averages, and of nothing that is trained.
    held = {id(weight) for weight in model.detector.weights}
    for average in model.averages.values():
        assert {id(weight) for weight in average.weights} <= held
    for network in model.networks.values():
        assert not {id(weight) for weight in network.weights} & held


@pytest.mark.parametrize("approach", WITH_GRADIENTS)
def test_each_optimizer_has_its_learning_rate_over_the_whole_training_and_its_momentum(approach):
    rates = {"learning_rate": 0.03}
    adversarial = plays_against_a_discriminator(options_of(approach)())
    if adversarial:
        rates["discriminator_learning_rate"] = 0.004
    model = small_model(
        small_config(approach, epochs=3, steps_per_epoch=8, **rates), jit_compile=True
    )
    assert model.jit_compile
    assert model.optimizers.keys() == model.networks.keys()
    for part, optimizer in model.optimizers.items():
        rate = 0.004 if "discriminator" in part else 0.03
        # Radford et al. 2016 for networks that play against each other; else Adam's own.
        momentum = 0.5 if adversarial and part != "classifier" else 0.9
        assert (part, optimizer.beta_1) == (part, momentum)
        for step, share in ((0, 1.0), (12, 0.5), (24, 0.0)):
            optimizer.iterations.assign(step)
            found = model.learning_rates()[f"{part}_learning_rate"]
            assert found == pytest.approx(share * rate, abs=1e-8), (part, step)


@pytest.mark.parametrize("approach", WITH_GRADIENTS)
def test_each_network_steps_down_the_slope_of_the_loss_it_is_to_minimise(approach):
    """Plain gradient descent against finite differences of the very loss that is reported.

    Were a part of the gradient lost on its way, the loss would fall at another rate than the
    length of the step says.
    """
    config = small_config(approach)
    factors = {}
    if approach == "sota":
        factors = {"normal_discriminator": 2.0, "anomaly_discriminator": 3.0}
        weights = {f"{name}_weight": factor for name, factor in factors.items()}
        losses = dataclasses.replace(
            config.losses, latent_weight=5.0, patch_weight=0.5, abc_weight=0.1, **weights
        )
        config = dataclasses.replace(config, losses=losses)
    model, batch = small_model(config), noise_batch(config)
    model.compile({part: keras.optimizers.SGD(1.0) for part in model.networks})
    for network in model.networks.values():
        still_statistics(network)
    start = values(model.variables)

    def losses_of_a_step() -> dict[str, float]:
        for metric in model.metrics:
            metric.reset_state()
        return {name: float(value) for name, value in model.train_step(batch).items()}

    def restore() -> None:
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)

    # Encoder and decoder apart: what is lost of the one would be little beside the other.
    learning = [
        (part, group.trainable_variables)
        for part, network in model.networks.items()
        for group in [x for x in network.layers if isinstance(x, keras.Model)] or [network]
    ]
    before = [values(variables) for _, variables in learning]
    losses_of_a_step()
    after = [values(variables) for _, variables in learning]
    for (part, variables), old, new in zip(learning, before, after, strict=True):
        steps = [one - another for one, another in zip(new, old, strict=True)]
        length = np.sqrt(sum(np.square(step).sum(dtype=float) for step in steps))
        assert length > 1e-4, part
        found = []
        for distance in (-WAY, WAY):
            restore()
            for variable, value, step in zip(variables, old, steps, strict=True):
                variable.assign(value + distance * step / length)
            found.append(losses_of_a_step()[minimised(model, part)])
        slope = factors.get(part, 1.0) * (found[0] - found[1]) / (2 * WAY)
        assert slope == pytest.approx(length, rel=0.03), part


def still_statistics(network: keras.Model) -> None:
    """Keeps running means and variances, which are no part of any gradient, where they are."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            still_statistics(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 1.0
        elif isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0


def test_losses_are_the_mean_of_the_epoch_so_far():
    config = small_config("contrastive")
    model, twin = small_model(config), small_model(config)
    normal, anomaly = noise_batch(config)
    found = []
    for batch in ((normal, anomaly), (0.1 * normal, anomaly)):
        reported = float(model.train_step(batch)["normal"])
        found.append(float(twin.train_step(batch)["normal"]))
        assert reported == pytest.approx(np.mean(found), rel=1e-5)
        for metric in twin.metrics:  # as Keras does at the beginning of an epoch
            metric.reset_state()
    assert found[1] < 0.8 * found[0]


def test_of_candidates_half_are_kept_as_drawn_and_the_rest_are_the_hardest():
    def pictures(*scores: float) -> tf.Tensor:
        return tf.reshape(tf.constant(scores), [-1, 1, 1, 1])

    def score(images: tf.Tensor) -> tf.Tensor:
        return images[:, 0, 0, 0]

    batch = pictures(0, 1, 5, 9, 2, 7), pictures(8, 3, 6, 1, 4, 2)
    # Of six two are learnt from by threes: the first, and the worst of the other five.
    normal, anomaly = with_hardest(batch, score, 3)
    assert score(normal).numpy().tolist() == [0, 9]
    assert score(anomaly).numpy().tolist() == [8, 1]
    # Of six three by twos: two as drawn, so that never less than half is.
    normal, anomaly = with_hardest(batch, score, 2)
    assert score(normal).numpy().tolist() == [0, 1, 9]
    assert score(anomaly).numpy().tolist() == [8, 3, 1]
    for given, kept in zip(batch, with_hardest(batch, score, 1), strict=True):
        np.testing.assert_array_equal(given, kept)
