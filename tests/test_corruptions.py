"""Synthetic anomalies: strength, randomness, and reproducibility by the seed."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.data.corruptions import KINDS, corrupt, corrupted, corruption_map

SEED = tf.constant([3, 4], tf.int64)


def grey(count: int) -> tf.Tensor:
    return tf.zeros([count, 28, 28, 1])  # half way from black to white


def test_noise_has_the_given_standard_deviation():
    # Of black 0 to white 1, half of the range here; 0.1 is never cut off from the middle.
    changed = corrupt(grey(200), "noise", 0.1, 45.0, SEED).numpy() / 2
    assert changed.std() == pytest.approx(0.1, rel=0.01)
    assert changed.mean() == pytest.approx(0.0, abs=0.001)
    # Each pixel of each image has its own.
    assert abs(np.corrcoef(changed[0].ravel(), changed[1].ravel())[0, 1]) < 0.15


def test_noise_is_cut_off_at_black_and_white():
    changed = corrupt(tf.fill([50, 28, 28, 1], -1.0), "noise", 0.3, 0.0, SEED).numpy()
    assert changed.min() == -1.0
    assert changed.max() <= 1.0
    assert (changed == -1.0).mean() == pytest.approx(0.5, abs=0.02)


def angles_of(images: np.ndarray) -> np.ndarray:
    """The angle in degrees of a bright line's direction, from its second moments."""
    rows, columns = np.mgrid[:29, :29] - 14.0
    weight = (images[..., 0] + 1) / 2
    xx, yy, xy = (
        (weight * part).sum(axis=(1, 2)) for part in (columns**2, rows**2, rows * columns)
    )
    return np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))


def test_rotations_are_uniform_up_to_the_largest_angle_either_way():
    line = np.full((1, 29, 29, 1), -1.0, np.float32)
    line[:, 14, 4:25] = 1.0
    changed = corrupt(tf.constant(np.repeat(line, 2000, axis=0)), "rotation", 9.0, 30.0, SEED)
    angles = angles_of(changed.numpy())
    assert np.abs(angles).max() < 31
    # A uniform distribution on (-30, 30): its deciles lie 6 degrees apart.
    np.testing.assert_allclose(
        np.percentile(angles, np.arange(10, 100, 10)), np.arange(-24, 30, 6), atol=2
    )


def test_a_rotation_keeps_the_centre_and_fills_with_black():
    white = tf.ones([20, 29, 29, 1])
    changed = corrupt(white, "rotation", 0.0, 45.0, SEED).numpy()
    assert (changed[:, 14, 14] == 1.0).all()
    assert changed.min() == -1.0


def test_both_is_rotation_and_then_noise():
    black = tf.fill([50, 28, 28, 1], -1.0)
    changed = corrupt(black, "both", 0.2, 45.0, SEED).numpy()
    # Noise is drawn after the rotation, so no corner is left without it.
    assert (changed[:, :3, :3] > -1.0).mean() == pytest.approx(0.5, abs=0.05)
    rotated = corrupt(tf.ones([50, 28, 28, 1]), "both", 0.0, 45.0, SEED).numpy()
    assert rotated.min() == -1.0


@pytest.mark.parametrize("kind", KINDS)
def test_strength_nothing_changes_nothing(kind, small_dataset):
    images = small_dataset.test_images[:30]
    np.testing.assert_array_equal(corrupted(images, kind, 0.0, 0.0, seed=0), images)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_images(kind, small_dataset):
    images = small_dataset.test_images[:600]  # more than one batch
    first, same, other, stream = (
        corrupted(images, kind, 0.2, 45.0, *key) for key in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, stream)
    # Batches differ in their random numbers as well.
    twice = np.concatenate([images[:100], images[:100], images[:100], images[:100], images[:100]])
    twice = corrupted(np.concatenate([twice, images[:100]]), kind, 0.2, 45.0, 1)
    assert not np.array_equal(twice[:100], twice[500:])


def test_as_a_map_of_a_data_set(small_dataset):
    images = small_dataset.test_images[:40]
    data = tf.data.Dataset.from_tensor_slices(images).batch(20).enumerate()
    changed = data.map(corruption_map("noise", 0.2, 0.0, seed=5, stream=0))
    batches = [batch.numpy() for batch in changed]
    assert [batch.shape for batch in batches] == [(20, 28, 28, 1)] * 2
    assert all(batch.dtype == np.uint8 for batch in batches)
    again = [batch.numpy() for batch in changed]
    np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(again))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("blur", 0.1, 10.0), "expected one of noise, rotation, both; got 'blur'"),
        (("noise", -0.1, 10.0), "at least 0; got noise -0.1"),
        (("rotation", 0.1, -10.0), "at least 0; got noise 0.1, -10.0 degrees"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        corrupt(grey(1), *arguments, SEED)
