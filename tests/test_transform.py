"""The classifier of transformations: its training and its score."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.approaches.transform import model as transform
from anomaly_tf.approaches.transform.model import CHANGES, changed, turned, turns_of
from anomaly_tf.approaches.transform.options import TransformConfig, TransformLosses
from anomaly_tf.networks.gradients import nearest_distance
from anomaly_tf.networks.sizes import ClassifierNetworks

SMALL = ClassifierNetworks(filters=(4, 4), dense=8, dropout=0.0)


def build(
    shape: tuple[int, int, int], losses: TransformLosses | None = None
) -> transform.Transform:
    keras.utils.set_random_seed(0)
    config = TransformConfig(networks=SMALL, losses=losses or TransformLosses())
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
def test_the_score_is_surprise_missing_logit_and_distance_of_the_turns(shape):
    model = build(shape, TransformLosses(logit_score_weight=0.5, gradient_score_weight=3.0))
    normal, images = pictures(50, *shape) // 4, pictures(7, *shape)
    model.adapt(normal)
    model.finish_epoch()

    def of_turns(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        surprise, right, maps = [], [], []
        for number, turn in enumerate(turns_of(shape)):
            logits, features = model.averaged(turned(scaled(images), turn), training=False)
            surprise.append(-tf.nn.log_softmax(logits)[:, number].numpy())
            right.append(logits[:, number].numpy())
            maps.append(features.numpy())
        return np.array(surprise), np.mean(right, axis=0), maps[0]

    surprise, logit, features = of_turns(images)
    missing = np.maximum(of_turns(normal)[1].max() - logit, 0)
    gradients = keras.Input(shape)
    distance = keras.Model(gradients, nearest_distance(gradients))
    for name in ("whitening", "centres", "described", "rest"):
        distance.get_layer(name).set_weights(model.detector.get_layer(name).get_weights())
    outputs = {name: value.numpy() for name, value in model.detector(images).items()}
    expected = surprise.mean(0) + 0.5 * missing + 3.0 * distance(scaled(images)).numpy()
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-3)
    np.testing.assert_allclose(outputs["evidence"], surprise[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-4, atol=1e-6)
    assert missing.max() > 0


def test_the_most_certain_normal_image_misses_nothing():
    model = build((12, 12, 1), TransformLosses(gradient_score_weight=0.0))
    normal = pictures(50, 12, 12, 1)
    model.adapt(normal)
    model.finish_epoch()
    missing = keras.Model(model.detector.input, model.detector.get_layer("missing").output)
    assert missing(normal).numpy().min() == pytest.approx(0, abs=1e-6)


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
