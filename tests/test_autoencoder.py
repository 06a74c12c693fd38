"""The dense autoencoder: what it reconstructs, and the loss that it learns from."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import noise_batch, small_config, small_model


def test_the_step_reports_the_cross_entropy_of_the_reconstruction():
    config = small_config("autoencoder")
    model, twin = small_model(config), small_model(config)
    batch = noise_batch(config).numpy()
    reported = {name: float(value) for name, value in model.train_step(batch).items()}
    # Black is 0 and white is 1.
    truth = (batch + 1) / 2
    guess = (twin.networks["autoencoder"](batch, training=True).numpy() + 1) / 2
    expected = -(truth * np.log(guess) + (1 - truth) * np.log(1 - guess)).mean()
    assert reported == {"loss": pytest.approx(expected, rel=1e-4)}
