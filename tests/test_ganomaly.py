"""GANomaly: its losses and its score."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import noise_batch, small_config, small_model

from anomaly_tf.approaches.ganomaly import model as ganomaly
from anomaly_tf.approaches.ganomaly.options import GanomalyConfig, GanomalyLosses
from anomaly_tf.networks.sizes import AdversarialNetworks


def test_the_step_reports_the_losses_of_the_paper():
    config = small_config("ganomaly")
    model, twin = small_model(config), small_model(config)
    images = noise_batch(config).numpy()
    reported = {name: float(value) for name, value in model.train_step(images).items()}
    outputs = twin.networks["generator"](images, training=True)
    rebuilt, latent, latent_again = (output.numpy() for output in outputs)
    both = np.concatenate([images, rebuilt])
    logits, features = (
        output.numpy() for output in twin.networks["discriminator"](both, training=True)
    )
    contextual = np.abs(images - rebuilt).mean()
    distance = np.square(latent - latent_again).mean()
    matching = np.square(features[:16] - features[16:]).mean()
    # Real is 0, made is 1.
    signs = np.repeat([1.0, -1.0], 16)
    expected = {
        "contextual": contextual,
        "latent": distance,
        "adversarial": matching,
        "generator": 50 * contextual + distance + matching,
        "discriminator": np.log1p(np.exp(signs * logits[:, 0])).mean(),
    }
    assert reported == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 80, 3)])
def test_the_score_is_the_distance_of_the_latents_for_every_size(shape):
    keras.utils.set_random_seed(0)
    networks = AdversarialNetworks(filters=(4, 8), latent=6, discriminator_filters=(4, 8))
    model = ganomaly.Ganomaly(shape, networks, GanomalyLosses(), ema_decay=0.9)
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    outputs = {name: value.numpy() for name, value in model.detector(images).items()}
    first, decoder, second = (
        model.averaged.get_layer(name) for name in ("encoder", "decoder", "second_encoder")
    )
    latent = np.squeeze(first(images / 127.5 - 1.0, training=False))
    rebuilt = decoder([latent], training=False).numpy()
    again = np.squeeze(second(rebuilt, training=False))
    np.testing.assert_allclose(outputs["score"], np.abs(latent - again).mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(outputs["reconstruction"], rebuilt, atol=1e-5)
    assert GanomalyConfig.score_map.rule(shape) == "none"


def test_it_separates_anomalies_from_normal_images(evaluated):
    """Shortly trained it reaches about 0.86, untrained 0.6."""
    assert evaluated("ganomaly", "one_class").metrics["auroc"] > 0.8


def test_with_its_latent_loss_turned_round_it_fails_the_floor(evaluated, monkeypatch):
    right = ganomaly.squared_distance
    monkeypatch.setattr(ganomaly, "squared_distance", lambda *latents: -right(*latents))
    assert evaluated("ganomaly", "one_class", "--seed", "1").metrics["auroc"] < 0.7
