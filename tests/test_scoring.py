"""Error maps, and Grad-CAM compared with finite differences."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from anomaly_tf.approaches import build_model, options_of
from anomaly_tf.detection.scoring import GradCam, Scorer


def detector_with(head: keras.Model) -> keras.Model:
    """A detector whose feature maps are an 8x8 image's 2x2 means, and whose evidence is `head`."""
    image = keras.Input((8, 8, 1), dtype="uint8")
    scaled = layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32")(image)
    pooled = layers.AveragePooling2D(2)(scaled)
    features = layers.Conv2D(3, 1, name="maps", kernel_initializer="glorot_normal")(pooled)
    evidence = layers.Reshape(())(head(features))
    score = layers.Reshape(())(layers.GlobalAveragePooling2D()(pooled))
    outputs = {"score": score, "features": features, "evidence": evidence}
    model = keras.Model(image, outputs)
    model.trainable = False  # as what a training leaves behind
    return model


@pytest.fixture
def head() -> keras.Model:
    keras.utils.set_random_seed(0)
    maps = keras.Input((4, 4, 3))
    x = layers.Dense(16, activation="tanh")(layers.Flatten()(maps))
    return keras.Model(maps, layers.Dense(1)(x))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)


def test_grad_cam_is_the_maps_weighted_by_the_mean_slope_of_the_evidence(head, images):
    model = detector_with(head)
    found = GradCam(model)(images)
    maps = model(images)["features"].numpy()
    step = 1e-2
    slopes = np.zeros_like(maps)
    for place in np.ndindex(4, 4, 3):
        up, down = maps.copy(), maps.copy()
        up[(slice(None), *place)] += step
        down[(slice(None), *place)] -= step
        slopes[(slice(None), *place)] = (head(up) - head(down))[:, 0] / (2 * step)
    weights = slopes.mean(axis=(1, 2), keepdims=True)
    small = np.maximum((weights * maps).sum(axis=-1), 0)
    assert (small == 0).any()
    assert (small > 0).any()
    expected = tf.image.resize(small[..., np.newaxis], (8, 8)).numpy()[..., 0]
    # Central differences of a smooth function: wrong by about the square of the step.
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)


def test_grad_cam_does_not_depend_on_the_batch_and_is_not_rescaled(head, images):
    model = detector_with(head)
    together = GradCam(model)(images)
    alone = np.concatenate([GradCam(model, batch_size=1)(images[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    assert len({round(float(part.max()), 4) for part in together}) > 1
    assert GradCam(model)(images[:0]).shape == (0, 8, 8)


def test_grad_cam_of_the_classifier_marks_the_object():
    """Nothing is there but one bright square: evidence cannot come from the other side."""
    keras.utils.set_random_seed(0)
    model = build_model(options_of("cnn")(), (28, 28, 1), 10, jit_compile=False).detector
    explain = GradCam(model)
    square = np.zeros((1, 28, 28, 1), np.uint8)
    square[:, :8, :8] = 255
    maps = explain(np.concatenate([square, np.zeros_like(square)]))
    assert maps.shape == (2, 28, 28)
    assert maps.dtype == np.float32
    difference = np.abs(maps[0] - maps[1])
    assert difference[:12, :12].mean() > difference[16:, 16:].mean()


def test_a_scorer_returns_the_requested_outputs(head, images):
    model = detector_with(head)
    outputs = Scorer(model, ("score", "features"), batch_size=2)(images)
    assert set(outputs) == {"score", "features"}
    np.testing.assert_allclose(
        outputs["score"], images.mean(axis=(1, 2, 3)) / 127.5 - 1.0, atol=1e-5
    )
