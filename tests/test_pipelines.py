"""Balanced batches: their images, their order, and augmentation."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.config import BalancedSamplingConfig, CorruptionConfig, SamplingConfig
from anomaly_tf.data import pipelines
from anomaly_tf.data.augmentation import augment
from anomaly_tf.data.pipelines import (
    anomaly_clusters,
    balanced_batches,
    classified_batches,
    corrupted_batches,
    normal_batches,
    scale,
)

PLAIN = BalancedSamplingConfig(flip=0.0, shift=0)


def numbered(count: int, first: int = 0) -> np.ndarray:
    """Images of 2x2 whose every pixel is the image's number."""
    numbers = np.arange(first, first + count, dtype=np.uint8)
    return np.broadcast_to(numbers[:, None, None, None], (count, 2, 2, 1)).copy()


def numbers_of(images: tf.Tensor) -> np.ndarray:
    return np.rint((np.asarray(images)[:, 0, 0, 0] + 1) * 127.5).astype(int)


def drawn(batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(numbers_of(normal), numbers_of(anomaly)) for normal, anomaly in batches]
    return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))


def test_batches_are_half_normal_and_half_anomaly_in_minus_one_to_one(small_dataset):
    images = small_dataset.train_images
    batches = balanced_batches(
        images[:100], images[100:], np.zeros(5900, np.int32), 32, 3, BalancedSamplingConfig(), 0
    )
    shapes = [(normal.shape, anomaly.shape) for normal, anomaly in batches]
    assert shapes == [((16, 28, 28, 1), (16, 28, 28, 1))] * 3
    values = np.concatenate([part.numpy() for pair in batches for part in pair])
    assert values.dtype == np.float32
    assert values.min() == -1.0
    assert values.max() == 1.0


def test_normal_images_are_drawn_without_replacement_and_reshuffled():
    clusters = np.zeros(50, np.int32)
    batches = balanced_batches(numbered(20), numbered(50, 100), clusters, 8, 10, PLAIN, 0)
    normal, _ = drawn(batches)
    first, second = normal[:20], normal[20:]
    assert sorted(first) == sorted(second) == list(range(20))
    assert list(first) != list(second)


def test_anomalies_come_equally_from_the_clusters_however_unequal_their_sizes():
    clusters = np.repeat([0, 1, 2], [100, 20, 5]).astype(np.int32)
    batches = balanced_batches(numbered(9), numbered(125, 100), clusters, 30, 20, PLAIN, 0)
    _, anomaly = drawn(batches)
    assert list(np.bincount(clusters[anomaly - 100])) == [100, 100, 100]
    # Each of the first cluster's 100 images once, each of the last one's 5 twenty times.
    assert (np.bincount(anomaly - 100)[:100] == 1).all()
    assert (np.bincount(anomaly - 100)[120:] == 20).all()


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(small_dataset):
    images = small_dataset.train_images

    def batches(seed):
        data = balanced_batches(
            images[:100], images[100:], np.arange(5900) % 7, 16, 5, BalancedSamplingConfig(), seed
        )
        return np.concatenate([part.numpy() for pair in data for part in pair])

    np.testing.assert_array_equal(batches(1), batches(1))
    assert not np.array_equal(batches(1), batches(2))


def test_a_sequence_can_be_continued_where_it_was_left():
    arguments = (numbered(20), numbered(50, 100), np.arange(50) % 3, 8)
    whole = drawn(balanced_batches(*arguments, 6, PLAIN, 0))
    rest = drawn(balanced_batches(*arguments, 2, PLAIN, 0, first_step=4))
    np.testing.assert_array_equal(whole[0][16:], rest[0])
    np.testing.assert_array_equal(whole[1][16:], rest[1])


def test_candidates_multiply_the_batch_and_synthetic_anomalies_come_first():
    sampling = BalancedSamplingConfig(flip=0.0, shift=0, candidates=3, synthetic=0.5)
    arguments = numbered(40), numbered(60, 100), np.arange(60) % 4, 8, 5
    normal, anomaly = drawn(balanced_batches(*arguments, sampling, 0))
    assert (normal < 100).all()
    # Four are learnt from, two of them synthetic; the others are candidates.
    by_batch = anomaly.reshape(5, 12)
    assert (by_batch[:, :2] < 100).all()
    assert (by_batch[:, 2:] >= 100).all()
    assert np.bincount(by_batch[:, 2:].ravel())[100:].max() == 1  # without replacement
    assert len(normal) == 60


def test_synthetic_is_of_images_that_are_not_in_the_normal_half(small_dataset):
    images = small_dataset.train_images[:40]
    sampling = BalancedSamplingConfig(flip=0.0, shift=0, synthetic=1.0)
    batches = balanced_batches(images, images, np.zeros(40, np.int32), 20, 2, sampling, 0)
    for normal, anomaly in batches:
        assert normal.shape == anomaly.shape == (10, 28, 28, 1)
        known = {picture.tobytes() for picture in scale(tf.constant(images)).numpy()}
        assert all(picture.tobytes() in known for picture in normal.numpy())
        assert not any(picture.tobytes() in known for picture in anomaly.numpy())


def test_normal_batches_pass_over_every_image_before_one_comes_again():
    batches = list(normal_batches(numbered(20), 8, 5, PLAIN, 0))
    assert [batch.shape for batch in batches] == [(8, 2, 2, 1)] * 5
    drawn = np.concatenate([numbers_of(batch) for batch in batches])
    assert sorted(drawn[:20]) == sorted(drawn[20:]) == list(range(20))
    rest = np.concatenate([numbers_of(b) for b in normal_batches(numbered(20), 8, 2, PLAIN, 0, 3)])
    np.testing.assert_array_equal(rest, drawn[24:])


def with_black_right_column(count: int, first: int = 0) -> np.ndarray:
    """As `numbered`, but the right column is black, so that a mirror image is known by it."""
    images = numbered(count, first + 1)
    images[:, :, 1] = 0
    return images


MIRRORED = BalancedSamplingConfig(flip=1.0, shift=0, candidates=2)
NO_NOISE = CorruptionConfig(kinds=("noise",), noise=0)
SOURCES = {
    "normal": lambda images, *rest: normal_batches(images, *rest),
    "classified": lambda images, *rest: classified_batches(images, np.zeros(len(images)), *rest),
    "corrupted": lambda images, *rest: corrupted_batches(images, NO_NOISE, *rest),
    "balanced": lambda images, *rest: balanced_batches(
        images, images, np.zeros(len(images), np.int32), *rest
    ),
}


def images_in(batch: tf.Tensor | tuple[tf.Tensor, tf.Tensor]) -> np.ndarray:
    """All images of a batch of any kind."""
    parts = batch if isinstance(batch, tuple) else (batch,)
    return np.concatenate([part.numpy() for part in parts if part.shape.rank == 4])


@pytest.mark.parametrize("kind", SOURCES)
def test_every_image_of_every_kind_of_batch_is_augmented(kind):
    batches = SOURCES[kind](with_black_right_column(40), 8, 3, MIRRORED, 0)
    pictures = np.concatenate([images_in(batch) for batch in batches])
    assert len(pictures) >= 24
    assert (pictures[:, :, 0] == -1).all()
    assert (pictures[:, :, 1] > -1).all()


@pytest.mark.parametrize("kind", SOURCES)
def test_augmentation_differs_between_batches_and_seeds_and_is_continued(kind):
    """Of an image that is always the same, only augmentation makes a difference."""
    images = np.repeat(with_black_right_column(1), 64, axis=0)
    half = BalancedSamplingConfig(flip=0.5, shift=0)

    def mirrored(*rest: int) -> list[list[bool]]:
        batches = SOURCES[kind](images, 32, rest[0], half, *rest[1:])
        return [(images_in(batch)[:, 0, 0, 0] == -1).tolist() for batch in batches]

    whole = mirrored(4, 7)
    assert len({tuple(part) for part in whole}) == 4
    assert mirrored(2, 7, 2) == whole[2:]
    assert mirrored(4, 8) != whole
    # Not each second image, nor the same in both halves.
    assert all(part[:16] != part[16:] for part in whole)
    assert 0.3 < np.mean(whole) < 0.7


@pytest.mark.parametrize("kind", SOURCES)
def test_another_seed_draws_the_images_in_another_order(kind):
    def order(seed: int) -> list[int]:
        batches = SOURCES[kind](numbered(40), 8, 5, PLAIN, seed)
        return [number for batch in batches for number in numbers_of(images_in(batch))]

    assert order(1) == order(1)
    assert order(1) != order(2)


MADE = {
    "synthetic": lambda images, *rest: balanced_batches(
        images,
        images,
        np.zeros(len(images), np.int32),
        *rest[:2],
        BalancedSamplingConfig(flip=0.0, shift=0, synthetic=1.0),
        *rest[2:],
    ),
    "corrupted": lambda images, *rest: corrupted_batches(
        images, CorruptionConfig(), *rest[:2], PLAIN, *rest[2:]
    ),
}


@pytest.mark.parametrize("kind", MADE)
def test_anomalies_differ_in_each_batch_and_follow_the_seed(kind):
    """Of images that are all alike, so that no order of theirs makes a difference."""
    picture = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 1), np.uint8)
    images = np.repeat(picture, 64, axis=0)

    def anomalies(*rest: int) -> list[bytes]:
        return [anomaly.numpy().tobytes() for _, anomaly in MADE[kind](images, 24, *rest)]

    whole = anomalies(3, 7)
    assert len(set(whole)) == 3
    assert anomalies(1, 7, 2) == whole[2:]
    assert not set(anomalies(3, 8)) & set(whole)


def test_candidates_multiply_a_corrupted_batch():
    corruption = CorruptionConfig(noise=0.2, rotation=45)
    sampling = BalancedSamplingConfig(flip=0.0, shift=0, candidates=3)
    ((clean, changed),) = corrupted_batches(numbered(40), corruption, 8, 1, sampling, 0)
    assert clean.shape == changed.shape == (12, 2, 2, 1)


def test_classes_stay_with_their_images():
    classes = np.arange(20, dtype=np.uint8) % 7
    for images, numbers in classified_batches(numbered(20), classes, 8, 5, PLAIN, 0):
        assert numbers.dtype == tf.int32
        np.testing.assert_array_equal(numbers, numbers_of(images) % 7)


def test_half_of_a_corrupted_batch_is_clean_and_the_kinds_share_the_rest():
    white = np.full((30, 14, 14, 1), 255, np.uint8)
    corruption = CorruptionConfig(noise=0.2, rotation=45)
    for clean, anomaly in corrupted_batches(white, corruption, 24, 3, PLAIN, 0):
        assert clean.shape == anomaly.shape == (12, 14, 14, 1)
        np.testing.assert_array_equal(clean, np.ones_like(clean))
        pictures = anomaly.numpy()
        noisy = pictures[:, 4:10, 4:10, 0].std(axis=(1, 2)) > 0.01
        turned = pictures[:, 0, 0, 0] < -0.5
        # Noise, rotation, both: four of each. A small turn leaves no black corner.
        np.testing.assert_array_equal(noisy, np.repeat([True, False, True], 4))
        assert not turned[:4].any()
        assert turned[4:].mean() > 0.5


def test_corrupted_batches_hold_each_image_once_in_a_pass():
    corruption = CorruptionConfig(kinds=("rotation",), rotation=0)
    batches = corrupted_batches(numbered(24), corruption, 8, 3, PLAIN, 0)
    clean, changed = drawn(batches)
    assert sorted([*clean, *changed]) == list(range(24))
    again = corrupted_batches(numbered(24), corruption, 8, 1, PLAIN, 0, first_step=2)
    np.testing.assert_array_equal(drawn(again)[1], changed[8:])


def test_scaling_reaches_both_ends():
    scaled = scale(tf.constant([0, 255], tf.uint8)).numpy()
    np.testing.assert_array_equal(scaled, np.array([-1, 1], np.float32))


def test_augmentation_only_mirrors_and_shifts():
    image = np.full((7, 7, 1), -1.0, np.float32)
    image[3, 2] = 1.0  # one bright pixel, off the middle
    images = np.repeat(image[np.newaxis], 200, axis=0)
    changed = augment(tf.constant(images), SamplingConfig(flip=0.5, shift=1), tf.constant([0, 1]))
    changed = changed.numpy()[..., 0]
    assert (np.sort(changed.reshape(200, -1), axis=1)[:, -2:] == [-1.0, 1.0]).all()
    places = {tuple(np.argwhere(picture == 1.0)[0]) for picture in changed}
    columns = {2 + shift for shift in (-1, 0, 1)} | {4 + shift for shift in (-1, 0, 1)}
    assert places == {(row, column) for row in (2, 3, 4) for column in columns}


def test_augmentation_turns_about_the_centre():
    line = np.full((400, 9, 9, 1), -1.0, np.float32)
    line[:, 4] = 1.0
    turned = augment(tf.constant(line), SamplingConfig(flip=0, shift=0, rotation=45.0), [0, 1])
    turned = turned.numpy()[..., 0]
    np.testing.assert_allclose(turned[:, 4, 4], 1.0, rtol=1e-5)
    # Two columns right of the centre the line lies 2 tan(angle) pixels off the middle.
    off = np.argmax(turned[:, :, 6], axis=1) - 4
    assert set(off) == {-2, -1, 0, 1, 2}
    same = augment(tf.constant(line), SamplingConfig(flip=0, shift=0), [0, 1])
    np.testing.assert_array_equal(same, line)


def test_augmentation_erases_rectangles_of_up_to_half_the_sides():
    white = tf.ones([600, 20, 30, 2])
    erased = augment(white, SamplingConfig(flip=0, shift=0, erase=0.5), [0, 1]).numpy() == -1
    np.testing.assert_array_equal(erased[..., 0], erased[..., 1])
    rows, columns = erased[..., 0].any(axis=2), erased[..., 0].any(axis=1)
    np.testing.assert_array_equal(rows[:, :, None] & columns[:, None], erased[..., 0])
    assert np.mean(rows.any(axis=1)) == pytest.approx(0.5, abs=0.06)
    assert rows.sum(axis=1).max() == 10
    assert columns.sum(axis=1).max() == 15
    assert (rows[:, 0].any(), columns[:, -1].any()) == (True, True)


def test_a_flip_is_a_mirror_image(small_dataset):
    images = scale(tf.constant(small_dataset.train_images[:4]))
    mirrored = augment(images, SamplingConfig(flip=1.0, shift=0), tf.constant([0, 0]))
    np.testing.assert_array_equal(mirrored.numpy(), images.numpy()[:, :, ::-1])
    same = augment(images, PLAIN, tf.constant([0, 0]))
    np.testing.assert_array_equal(same.numpy(), images.numpy())


def test_pixels_uncovered_by_a_shift_are_background():
    white = tf.ones([50, 4, 4, 1])
    shifted = augment(white, SamplingConfig(flip=0.0, shift=2), tf.constant([3, 4])).numpy()
    assert set(np.unique(shifted)) == {-1.0, 1.0}


def test_clusters_group_similar_images_and_are_seeded_and_cached(tmp_path, monkeypatch):
    dark, bright = np.full((30, 4, 4, 1), 20, np.uint8), np.full((10, 4, 4, 1), 220, np.uint8)
    noise = np.random.default_rng(0).integers(0, 10, (40, 4, 4, 1), np.uint8)
    images = np.concatenate([dark, bright]) + noise
    clusters = anomaly_clusters(images, 2, 0, tmp_path)
    assert len(set(clusters[:30])) == len(set(clusters[30:])) == 1
    assert set(clusters) == {0, 1}
    # The second call reads the result: clustering again would fail.
    monkeypatch.setattr(pipelines, "MiniBatchKMeans", None)
    np.testing.assert_array_equal(anomaly_clusters(images, 2, 0, tmp_path), clusters)
    with pytest.raises(TypeError):
        anomaly_clusters(images, 2, 1, tmp_path)


def test_one_cluster_means_uniform_and_never_more_clusters_than_images(tmp_path):
    images = numbered(3)
    assert list(anomaly_clusters(images, 1, 0, tmp_path)) == [0, 0, 0]
    assert sorted(anomaly_clusters(images, 10, 0, tmp_path)) == [0, 1, 2]


def test_a_pass_holds_each_image_once_in_order_and_continues():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    batches = [*pipelines.each_once(images, 4).as_numpy_iterator()]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate(batches), images / 127.5 - 1, atol=1e-6)
    (last,) = pipelines.each_once(images, 4, first_step=2).as_numpy_iterator()
    np.testing.assert_array_equal(last, batches[2])
