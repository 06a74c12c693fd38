"""The variational autoencoder: its two losses, and its score."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.approaches.vae import model as vae
from anomaly_tf.approaches.vae.model import Vae
from anomaly_tf.approaches.vae.options import VaeConfig, VaeLosses
from anomaly_tf.config import TrainingConfig
from anomaly_tf.networks.sizes import ConvolutionalNetworks

SHAPE = (28, 28, 1)
PIXELS = 28 * 28
SMALL = ConvolutionalNetworks(filters=(4, 8), latent=6)


def build(
    noise: float = 0.1,
    latent_score_weight: float = 24.0,
    ema_decay: float = 0.0,
    steps: int = 2500,
) -> Vae:
    keras.utils.set_random_seed(0)
    config = VaeConfig(
        networks=SMALL,
        losses=VaeLosses(noise=noise, latent_score_weight=latent_score_weight),
        training=TrainingConfig(epochs=1, steps_per_epoch=steps, ema_decay=ema_decay),
    )
    return vae.build(config, SHAPE, 10, jit_compile=False)


@pytest.fixture
def images(small_dataset) -> np.ndarray:
    return small_dataset.train_images[small_dataset.train_classes == 0][:16]


@pytest.fixture
def batch(images) -> tf.Tensor:
    return tf.constant(images / 127.5 - 1.0, tf.float32)


def test_the_step_reports_both_terms_per_pixel_and_minimises_their_sum(batch):
    model, twin = build(noise=0.2), build(noise=0.2)
    values = {name: float(value) for name, value in model.train_step(batch).items()}
    mean, log_variance = (output.numpy() for output in twin.encoder(batch, training=True))
    kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=1).mean() / PIXELS
    assert values["kl"] == pytest.approx(kl, rel=1e-3)
    # The decoder saw a random sample, so its error is only roughly that of the mean.
    error = np.square((batch - twin.decoder([mean], training=True)) / 2).mean() / (2 * 0.2**2)
    assert values["reconstruction"] == pytest.approx(error, rel=0.2)
    assert values["loss"] == pytest.approx(values["reconstruction"] + values["kl"], rel=1e-5)


def grey(network: keras.Model) -> None:
    """Sets a decoder to zeros, so that it returns grey for every input and errors are known."""
    decoder = network.get_layer("decoder")
    decoder.set_weights([np.zeros_like(weight) for weight in decoder.get_weights()])


def test_the_loss_is_of_errors_where_black_is_0_and_white_is_1(batch):
    model = build(noise=0.2)
    grey(model.networks["vae"])
    errors = batch.numpy() / 2
    found = float(model.train_step(batch)["reconstruction"])
    assert found == pytest.approx(np.square(errors).mean() / 0.08, rel=1e-4)


def test_the_statistics_are_those_of_all_errors_at_first_then_moving_averages(batch):
    model = build(ema_decay=0.5)
    errors = batch.numpy().reshape(16, PIXELS) / 2
    for half in (batch[:8], batch[8:]):
        # The average alone: the statistics are not those of the network in training.
        grey(model.averaged)
        model.train_step(half)
    statistics = model.error_statistics
    np.testing.assert_allclose(statistics.moving_mean, errors.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(statistics.moving_variance, errors.var(axis=0), atol=1e-6)

    # After many steps, a batch has a tenth of the weight.
    model.optimizer.iterations.assign(200)
    grey(model.averaged)
    model.train_step(batch[:8])
    mean, variance = errors[:8].mean(axis=0), errors[:8].var(axis=0)
    expected = 0.9 * errors.mean(axis=0) + 0.1 * mean
    np.testing.assert_allclose(statistics.moving_mean, expected, atol=1e-6)
    expected = 0.9 * errors.var(axis=0) + 0.1 * variance
    expected += 0.09 * np.square(mean - errors.mean(axis=0))
    np.testing.assert_allclose(statistics.moving_variance, expected, atol=1e-6)


def test_errors_of_the_detector_on_normal_images_have_mean_0_and_variance_1(images):
    """By its own statistics; sampled reconstructions have a multiple of its errors' variance."""
    # Aligned parts: one shirt, in which only brightness and noise vary.
    draw = np.random.default_rng(0)
    light, noise = draw.normal(1, 0.1, (256, 1, 1, 1)), draw.normal(0, 0.02, (256, *SHAPE))
    parts = tf.constant(images[0] / 255 * light + noise - 0.5, tf.float32)
    model = build(ema_decay=0.97, steps=300)
    step = tf.function(model.train_step)
    for number in range(300):
        step(tf.roll(parts, -64 * number, axis=0)[:64])
    reconstructions, _, _ = model.averaged(parts, training=False)
    errors = (parts - reconstructions).numpy().reshape(256, PIXELS) / 2
    statistics = model.averaged.get_layer("error_statistics")
    standardised = (errors - statistics.moving_mean) / np.sqrt(statistics.moving_variance)
    assert np.abs(standardised.mean(axis=0)).mean() < 0.15
    assert standardised.var(axis=0).mean() == pytest.approx(1.0, abs=0.1)


def test_the_latent_is_drawn_from_the_gaussian_that_the_encoder_gives():
    model = build()
    # For every image, mean 2 and variance exp(-1.4).
    for name, bias in (("mean", 2.0), ("log_variance", -1.4)):
        layer = model.encoder.get_layer(name)
        layer.set_weights([np.zeros(layer.kernel.shape), np.full(layer.bias.shape, bias)])
    decoder, drawn = model.decoder, []

    def recorded(latents, training):
        drawn.append(latents[0].numpy())
        return decoder(latents, training=training)

    model.decoder = recorded
    model.train_step(tf.zeros([500, *SHAPE]))
    (sample,) = drawn
    assert sample.shape == (500, 6)
    assert sample.mean() == pytest.approx(2.0, abs=0.05)
    assert sample.std() == pytest.approx(np.exp(-0.7), rel=0.05)
    assert abs(np.corrcoef(sample.T) - np.eye(6)).max() < 0.2


def test_the_latent_is_sampled_anew_in_each_step_but_not_in_the_score(batch, images):
    model = build()
    first, second = (model.train_step(batch)["reconstruction"] for _ in range(2))
    assert float(first) != float(second)
    np.testing.assert_array_equal(model.detector(images)["score"], model.detector(images)["score"])


def test_errors_are_standardised_by_the_statistics_of_each_pixel_on_normal_images(batch):
    model = build(noise=0.2)
    statistics = model.averaged.get_layer("error_statistics")
    means, variances = np.linspace(-0.2, 0.2, PIXELS), np.linspace(0.0, 0.5, PIXELS)
    statistics.moving_mean.assign(means)
    statistics.moving_variance.assign(variances)
    reconstruction, standardised, _ = model.averaged(batch, training=False)
    error = (batch - reconstruction).numpy().reshape(16, -1) / 2
    expected = (error - means) / np.sqrt(variances + 0.2**2)
    np.testing.assert_allclose(standardised.numpy().reshape(16, -1), expected, rtol=1e-3, atol=1e-5)


def test_the_score_is_half_the_squared_standardised_error_plus_the_weighted_latent_term(
    images, batch
):
    model = build(latent_score_weight=3.0)
    outputs = {name: value.numpy() for name, value in model.detector(images).items()}
    _, standardised, latent = model.averaged(batch, training=False)
    expected = np.square(standardised).mean(axis=-1) / 2
    np.testing.assert_allclose(outputs["error_map"], expected, rtol=1e-3, atol=1e-5)
    score = expected.mean(axis=(1, 2)) + 3.0 * np.square(latent).sum(axis=1) / 2 / PIXELS
    np.testing.assert_allclose(outputs["score"], score, rtol=1e-3)


def test_a_pixel_that_is_always_black_weighs_more_than_one_that_varies(images):
    """The point of standardising: the same error, once where errors are usual, once where not."""
    model = build(latent_score_weight=0.0)
    statistics = model.averaged.get_layer("error_statistics")
    variances = np.zeros((28, 28))
    variances[14:] = 0.09
    statistics.moving_variance.assign(variances.ravel())
    maps = model.detector(images)["error_map"].numpy()
    errors = np.square((images / 127.5 - 1 - model.detector(images)["reconstruction"]) / 2)[..., 0]
    ratio = maps / (errors + 1e-9)
    assert np.median(ratio[:, :14]) == pytest.approx(10 * np.median(ratio[:, 14:]), rel=0.01)
