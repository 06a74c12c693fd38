"""The plain GAN: the images, reconstructions and targets that its losses compare."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import noise_batch, small_config, small_model

from anomaly_tf.approaches.gan.options import GanLosses

LOSSES = GanLosses(anomaly_weight=0.7, anomaly_scale=3.0, adversarial_weight=0.4)


def test_the_step_reports_the_losses_that_the_networks_give():
    config = dataclasses.replace(small_config("gan"), losses=LOSSES)
    model, twin = small_model(config), small_model(config)
    normal, anomaly = (part.numpy() for part in noise_batch(config))
    reported = {name: float(value) for name, value in model.train_step((normal, anomaly)).items()}
    both = twin.networks["generator"](np.concatenate([normal, anomaly]), training=True).numpy()
    shown = np.concatenate([normal, both[:8]])
    scores = twin.networks["discriminator"](shown, training=True).numpy()
    # Black to white is 2, and in a squared error 1.
    error = np.square((anomaly - both[8:]) / 2).mean(axis=(1, 2, 3))
    expected = {
        "normal": np.square((normal - both[:8]) / 2).mean(),
        "anomaly": np.exp(-3.0 * error).mean(),
        "adversarial": np.square(scores[8:] - 1).mean(),
        "discriminator": np.square(scores[:8] - 1).mean() + np.square(scores[8:]).mean(),
    }
    expected["generator"] = (
        expected["normal"] + 0.7 * expected["anomaly"] + 0.4 * expected["adversarial"]
    )
    assert reported == pytest.approx(expected, rel=1e-4)
    # No loss can be mistaken for another one.
    assert len({round(value, 4) for value in reported.values()}) == len(reported)
