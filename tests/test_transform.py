"""The classifier of transformations: its training and its score."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.approaches.transform import model as transform
from anomaly_tf.approaches.transform.model import CHANGES, changed, turned, turns_of
from anomaly_tf.approaches.transform.options import TransformConfig, TransformLosses
from anomaly_tf.networks.sizes import ClassifierNetworks

SMALL = ClassifierNetworks(filters=(4, 4), dense=8, dropout=0.0)


def build(shape: tuple[int, int, int], weight: float = 0.05) -> transform.Transform:
    keras.utils.set_random_seed(0)
    config = TransformConfig(networks=SMALL, losses=TransformLosses(gradient_score_weight=weight))
    return transform.build(config, shape, 10, jit_compile=False)


def pictures(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def scaled(images: np.ndarray) -> tf.Tensor:
    return tf.constant(images / 127.5 - 1.0, tf.float32)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_turns_are_those_of_numpy(quarters):
    images = pictures(3, 6, 6, 2)
    expected = np.rot90(images, quarters, axes=(1, 2))
    np.testing.assert_array_equal(turned(tf.constant(images), quarters), expected)
    assert turns_of((6, 6, 2)) == (0, 1, 2, 3)
    assert turns_of((6, 7, 2)) == (0, 2)


def test_moves_are_by_a_quarter_of_the_side_and_uncover_black():
    images = pictures(2, 12, 20, 1).astype(np.float32) / 255
    black = -1.0
    for change, moved in {
        "left": np.pad(images[:, :, 5:], ((0, 0), (0, 0), (0, 5), (0, 0)), constant_values=black),
        "right": np.pad(images[:, :, :-5], ((0, 0), (0, 0), (5, 0), (0, 0)), constant_values=black),
        "up": np.pad(images[:, 3:], ((0, 0), (0, 3), (0, 0), (0, 0)), constant_values=black),
        "down": np.pad(images[:, :-3], ((0, 0), (3, 0), (0, 0), (0, 0)), constant_values=black),
    }.items():
        np.testing.assert_array_equal(changed(tf.constant(images), change), moved, change)


def test_resizing_keeps_the_middle():
    white = tf.ones([1, 12, 18, 1])
    narrow, low = (changed(white, change).numpy()[0, ..., 0] for change in ("narrow", "low"))
    assert (narrow == 1).sum() == 12 * 12
    assert (narrow[:, 3:15] == 1).all()
    assert (low == 1).sum() == 8 * 18
    assert (low[2:10] == 1).all()
    framed = np.full((1, 12, 18, 1), -1.0, np.float32)
    framed[:, 2:10, 3:15] = 1.0
    np.testing.assert_array_equal(changed(tf.constant(framed), "near"), np.ones((1, 12, 18, 1)))


@pytest.mark.parametrize("shape", [(12, 12, 1), (11, 16, 3)])
def test_training_and_score_use_the_same_transformations(shape):
    """Every transformation is drawn, with the number that the detector has for it."""
    model = build(shape)
    image = scaled(pictures(1, *shape))
    turns = turns_of(shape)
    copies = [turned(changed(image, change), turn).numpy() for change in CHANGES for turn in turns]
    drawn, numbers = model._transformed(tf.repeat(image, 400, axis=0))
    assert set(numbers.numpy()) == set(range(len(copies)))
    for number, copy in enumerate(copies):
        for picture in drawn.numpy()[numbers == number]:
            np.testing.assert_allclose(picture, copy[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 12, 1), (11, 16, 3)])
def test_the_score_is_the_mean_surprise_and_the_distance_of_the_gradients(shape):
    model = build(shape, weight=0.3)
    normal, images = pictures(50, *shape) // 4, pictures(7, *shape)
    model.adapt(normal)
    turns = turns_of(shape)
    surprise = []
    for number, change in enumerate(CHANGES):
        for place, turn in enumerate(turns):
            copy = turned(changed(scaled(images), change), turn)
            logits, features = model.averaged(copy, training=False)
            log_probability = tf.nn.log_softmax(logits)[:, number * len(turns) + place]
            surprise.append(-log_probability.numpy())
            if not surprise[1:]:
                expected_features = features
    distance = keras.Model(model.detector.input, model.detector.get_layer("whitening").output)
    distances = np.square(distance(images).numpy()).sum(axis=1)
    outputs = {name: value.numpy() for name, value in model.detector(images).items()}
    expected = np.mean(surprise, axis=0) + 0.3 * distances
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-3)
    np.testing.assert_allclose(outputs["evidence"], surprise[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(outputs["features"], expected_features, rtol=1e-4, atol=1e-6)


def test_each_step_draws_other_transformations_and_reports_their_accuracy():
    shape = (12, 12, 1)
    model, twin = build(shape), build(shape)
    batch = scaled(pictures(64, *shape))
    reported = {name: float(value) for name, value in model.train_step(batch).items()}
    images, numbers = (part.numpy() for part in twin._transformed(batch))
    logits = twin.networks["classifier"](images, training=True)[0].numpy()
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = {
        "loss": -np.log(likely[np.arange(64), numbers]).mean(),
        "accuracy": (logits.argmax(axis=1) == numbers).mean(),
    }
    assert reported == pytest.approx(expected, rel=1e-4)
    assert (twin._transformed(batch)[1].numpy() != numbers).mean() > 0.8
