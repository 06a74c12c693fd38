"""Synthetic anomalies: the effect of each kind on images of all sizes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.data.synthetic import KINDS, synthetic_anomalies

COUNT = 60


def made(images: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """The synthetic anomalies of images, by kind."""
    anomalies = synthetic_anomalies(tf.constant(images, tf.float32), tf.constant([seed, 1]))
    assert anomalies.shape == images.shape
    return dict(zip(KINDS, np.split(anomalies.numpy(), len(KINDS)), strict=True))


def pictures(height: int, width: int) -> np.ndarray:
    """A bright bar on black, off the middle, with a grey mark at one end."""
    images = np.full((COUNT * len(KINDS), height, width, 1), -1.0, np.float32)
    images[:, height // 4 : height // 2, width // 4 : width - width // 4] = 1.0
    images[:, height // 4 : height // 2, width // 4] = 0.0
    return images


def test_turned_by_one_two_or_three_quarters():
    image = pictures(16, 16)[0, ..., 0]
    quarters = np.stack([np.rot90(image, turns) for turns in (1, 2, 3)])
    found = made(pictures(16, 16))["turned"][..., 0]
    difference = np.abs(found[:, None] - quarters).max(axis=(2, 3))
    assert difference.min(axis=1).max() < 1e-4
    assert set(difference.argmin(axis=1)) == {0, 1, 2}


def test_moved_along_one_axis_by_0_2_to_0_6_of_the_side():
    found = made(np.ones((COUNT * len(KINDS), 20, 40, 3), np.float32))["moved"]
    uncovered = found[..., 0] < 0
    rows, columns = uncovered.all(axis=2).sum(axis=1), uncovered.all(axis=1).sum(axis=1)
    assert ((rows == 0) ^ (columns == 0)).all()
    assert (rows.max(), columns.max()) <= (12, 24)
    assert (rows[rows > 0].min(), columns[columns > 0].min()) >= (4, 8)
    top, left = uncovered[:, 0].all(axis=1), uncovered[:, :, 0].all(axis=1)
    for one_side in (top[rows > 0], left[columns > 0]):
        assert 0 < one_side.mean() < 1


def test_resized_along_one_axis():
    found = made(pictures(64, 64))["resized"][..., 0] > 0.5
    high, wide = found.any(axis=2).sum(axis=1) / 16, found.any(axis=1).sum(axis=1) / 31
    unchanged = np.isclose(high, 1, atol=0.07), np.isclose(wide, 1, atol=0.07)
    assert (unchanged[0] ^ unchanged[1]).all()
    for factors in (high[~unchanged[0]], wide[~unchanged[1]]):
        smaller, larger = factors[factors < 1], factors[factors > 1]
        assert len(smaller) > 5
        assert len(larger) > 5
        assert 0.3 < smaller.min() < smaller.max() < 0.85
        assert 1.25 < larger.min() < larger.max() < 2.1


def test_mixed_shows_parts_of_two_images():
    images = np.zeros((COUNT * len(KINDS), 32, 32, 1), np.float32)
    mixed = slice(KINDS.index("mixed"), None, len(KINDS))
    images[mixed] = np.linspace(-1, 1, COUNT)[:, None, None, None]
    found = made(images)["mixed"]
    for picture in found:
        values, counts = np.unique(picture.round(3), return_counts=True)
        assert len(values) == 2
        assert counts.min() > 32  # neither a trace


@pytest.mark.parametrize("shape", [(9, 14, 3), (64, 48, 1)])
def test_sides_need_not_be_equal_and_values_stay_in_range(shape):
    images = np.random.default_rng(0).uniform(-1, 1, (40, *shape)).astype(np.float32)
    for kind, found in made(images).items():
        assert np.abs(found).max() <= 1, kind
        assert not np.allclose(found.mean(), -1), kind


def test_the_seed_decides():
    images = pictures(16, 16)
    for kind in KINDS:
        np.testing.assert_array_equal(made(images)[kind], made(images)[kind])
        assert not np.array_equal(made(images)[kind], made(images, 1)[kind])
