"""The contrastive autoencoder: normal images are reconstructed well, anomalies badly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import noise_batch, small_config, small_model

from anomaly_tf.approaches.contrastive.options import ContrastiveLosses


def test_the_step_reports_the_losses_of_each_kind_of_image():
    losses = ContrastiveLosses(anomaly_weight=0.7, anomaly_scale=3.0)
    config = dataclasses.replace(small_config("contrastive"), losses=losses)
    model, twin = small_model(config), small_model(config)
    normal, anomaly = (part.numpy() for part in noise_batch(config))
    normal *= 0.5  # so that the two kinds have different errors
    reported = {name: float(value) for name, value in model.train_step((normal, anomaly)).items()}
    both = twin.networks["autoencoder"](np.concatenate([normal, anomaly]), training=True).numpy()
    error = np.square((anomaly - both[8:]) / 2).mean(axis=(1, 2, 3))
    expected = {
        "normal": np.square((normal - both[:8]) / 2).mean(),
        "anomaly": np.exp(-3.0 * error).mean(),
    }
    expected["loss"] = expected["normal"] + 0.7 * expected["anomaly"]
    assert reported == pytest.approx(expected, rel=1e-4)
