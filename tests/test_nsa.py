"""Natural synthetic anomalies: the defects, the loss, the score, and what it finds on a cloth."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import noise_batch, small_config, small_model
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from anomaly_tf.approaches.nsa import defects, model
from anomaly_tf.approaches.nsa.defects import Draw, defect_labels, synthetic_defects
from anomaly_tf.approaches.nsa.options import NsaConfig, SegmentationNetworks, SyntheticDefects
from anomaly_tf.config import TrainingConfig
from anomaly_tf.data.pipelines import normal_batches, scale
from anomaly_tf.detection.localisation import pixel_auroc
from measurements.surfaces import Surfaces, make_surfaces

SEED = tf.constant([3, 4])


@pytest.fixture(scope="module")
def cloth() -> Surfaces:
    return make_surfaces(1, train=80, test=20, size=64)


@pytest.fixture
def images(cloth) -> tf.Tensor:
    return scale(cloth.train_images[:24])


def test_defects_change_a_part_of_each_image_and_leave_the_rest(images):
    changed, difference = (part.numpy() for part in synthetic_defects(images, 3, SEED))
    assert changed.shape == images.shape
    assert np.abs(changed).max() <= 1
    defective = difference > 0
    np.testing.assert_allclose(changed[~defective], images.numpy()[~defective], atol=1e-6)
    assert 0.02 < defective.mean() < 0.4
    assert defective.any(axis=(1, 2)).mean() > 0.9
    assert 0.1 < (difference[defective] > 0.02).mean() < 0.9  # from faint to strong


def test_the_difference_is_the_mean_over_channels_and_neighbours(images):
    changed, difference = synthetic_defects(images, 2, SEED)
    absolute = np.abs(changed - images).mean(axis=-1) / 2
    within = ndimage.uniform_filter(np.ones((64, 64)), 5, mode="constant")
    expected = ndimage.uniform_filter(absolute, (0, 5, 5), mode="constant") / within
    defective = difference.numpy() > 0
    np.testing.assert_allclose(difference[defective], expected[defective], atol=1e-5)


def test_defects_are_a_function_of_the_seed_and_of_the_number_of_layers(images):
    first, again = (synthetic_defects(images, 3, SEED)[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = synthetic_defects(images, 3, SEED + 1)[0].numpy()
    assert (np.abs(first - other).max(axis=(1, 2, 3)) > 0).all()
    few, many = (synthetic_defects(images, n, SEED)[1].numpy() > 0 for n in (1, 8))
    # One layer is left out in a quarter of the images.
    assert 0.5 < few.any(axis=(1, 2)).mean() < 0.95
    assert many.mean() > 3 * few.mean()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_of_any_shape_have_defects(count):
    images = tf.random.stateless_uniform([count, 9, 40, 1], SEED, -1.0, 1.0)
    changed, difference = synthetic_defects(images, 10, SEED)
    assert changed.shape == images.shape
    assert difference.shape == (count, 9, 40)
    assert np.isfinite(changed).all()
    assert (difference.numpy().max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("shape", defects.SHAPES)
def test_a_shape_covers_a_small_part_and_has_soft_edges(shape):
    masks = shape(Draw(SEED), 100, 64, 64).numpy()
    assert masks.shape == (100, 64, 64, 1)
    assert masks.min() >= 0
    assert masks.max() <= 1
    # Some are outside of the image.
    assert (masks.max(axis=(1, 2, 3)) > 0.9).mean() > 0.7
    assert masks.mean(axis=(1, 2, 3)).max() < 0.7
    assert np.median(masks.mean(axis=(1, 2, 3))) < 0.1
    assert ((masks > 0.1) & (masks < 0.9)).any()


@pytest.mark.parametrize("content", sorted(set(defects.CONTENTS), key=lambda kind: kind.__name__))
def test_a_content_differs_from_faint_to_strong(content, images):
    ones = (images + 1) / 2
    found = content(Draw(SEED), ones, tf.roll(ones, 1, axis=0))
    assert found.shape == images.shape
    sizes = np.abs(found - ones).mean(axis=(1, 2, 3))
    assert sizes.min() > 0.001
    assert sizes.max() > 1.5 * sizes.min()


def test_pixels_are_taken_from_their_places_and_reflected_at_the_borders():
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1)
    rows, columns = (tf.constant(place, tf.float32) for place in np.indices((2, 3, 4, 1))[1:3])
    shifted = defects._pixels(tf.constant(images), rows + 1, columns - 1)
    expected = np.pad(images, [(0, 0), (0, 1), (1, 0), (0, 0)], "reflect")[:, 1:, :4]
    np.testing.assert_array_equal(shifted, expected)


def test_a_seamless_patch_has_the_brightness_of_the_image_below(images):
    below, patch = tf.fill([60, 64, 64, 1], 0.8), tf.fill([60, 64, 64, 1], 0.3)
    patch += 0.1 * tf.random.stateless_normal([60, 64, 64, 1], SEED)
    blended = defects._blended(Draw(SEED), below, patch).numpy()
    opacity = blended.std(axis=(1, 2, 3)) / 0.1
    assert 0.25 < opacity.min() < 0.4 < 0.9 < opacity.max() < 1.05
    means = blended.mean(axis=(1, 2, 3))
    seamless = means > 0.75
    assert 0.25 < seamless.mean() < 0.75
    np.testing.assert_allclose(means[seamless], 0.8, atol=0.01)
    np.testing.assert_allclose(means[~seamless], 0.8 - 0.5 * opacity[~seamless], atol=0.01)


def test_a_label_is_a_half_where_the_difference_is_the_faintness():
    labels = defect_labels(np.array([0.0, 0.02, 0.06, 0.5], np.float32), 0.02)
    np.testing.assert_allclose(labels, [0, 0.5, 0.875, 1], atol=1e-6)


def test_the_loss_is_the_cross_entropy_of_the_labels():
    config = small_config("nsa")
    trained, twin = small_model(config), small_model(config)
    batch = noise_batch(config)
    loss = float(trained.train_step(batch)["loss"])
    seed = tf.random.split(tf.cast(twin.seeds.next(), tf.int32))[1]
    images, difference = synthetic_defects(batch, config.defects.layers, seed)
    labels = 1 - 0.5 ** (difference.numpy() / config.defects.faintness)
    logits = twin.networks["segmentation"](images, training=True).numpy()
    defective = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(defective) + (1 - labels) * np.log(1 - defective))
    assert loss == pytest.approx(expected.mean(), rel=1e-4)
    # Other defects in each step.
    assert float(trained.train_step(batch)["loss"]) != pytest.approx(loss, rel=1e-6)


def test_large_images_are_cropped_in_training_and_scored_whole():
    keras.utils.set_random_seed(0)
    networks = SegmentationNetworks(filters=(4, 8), crop=16)
    built = model.Nsa((40, 24, 1), networks, SyntheticDefects(), ema_decay=0.9)
    assert built.networks["segmentation"].input_shape[1:] == (16, 16, 1)
    assert built.detector.input_shape[1:] == (40, 24, 1)
    images = tf.reshape(tf.range(2.0 * 40 * 24), [2, 40, 24, 1])
    corners = set()
    for number in range(300):
        crop = built._cropped(images, tf.constant([0, number])).numpy()
        row, column = divmod(int(crop[0, 0, 0, 0]), 24)
        np.testing.assert_array_equal(crop, images[:, row : row + 16, column : column + 16])
        corners.add((row, column))
    rows, columns = zip(*corners, strict=True)
    assert (min(rows), max(rows), min(columns), max(columns)) == (0, 24, 0, 8)
    # No more levels than fit the crop.
    assert len(SegmentationNetworks().filters_for((1024, 1024, 3))) == 4


@pytest.mark.parametrize(("shape", "window"), [((28, 28, 1), 0), ((80, 96, 3), 3)])
def test_the_score_is_the_mean_or_the_maximum_of_the_smoothed_logarithm(shape, window):
    keras.utils.set_random_seed(0)
    networks = SegmentationNetworks(filters=(4, 8))
    built = model.Nsa(shape, networks, SyntheticDefects(), ema_decay=0.9)
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    outputs = {name: value.numpy() for name, value in built.detector(images).items()}
    logits = built.averaged(images / 127.5 - 1, training=False).numpy()
    expected = -np.log(1 - 1 / (1 + np.exp(-logits)))
    if window:
        expected = np.pad(expected, [(0, 0), (window, window), (window, window)])
        for _ in range(2):
            expected = ndimage.uniform_filter(expected, (0, window, window))
        expected = expected[:, window:-window, window:-window]
    np.testing.assert_allclose(outputs["error_map"], expected, rtol=1e-3)
    reduce = np.max if window else np.mean
    np.testing.assert_allclose(outputs["score"], reduce(expected, axis=(1, 2)), rtol=1e-3)
    assert set(outputs) == {"score", "error_map"}


def test_it_finds_and_locates_defects_that_it_has_not_seen(cloth):
    """After some seconds of training AUROCs of about 0.95."""
    keras.utils.set_random_seed(0)
    steps = 150
    training = TrainingConfig(epochs=1, steps_per_epoch=steps, ema_decay=0.95)
    config = NsaConfig(training=training)
    built = model.build(config, (64, 64, 3), 1, jit_compile=False)
    batches = normal_batches(cloth.train_images, 16, steps, config.sampling, seed=0)
    built.fit(batches, steps_per_epoch=steps, verbose=0)
    outputs = built.detector.predict(cloth.test_images, verbose=0)
    assert roc_auc_score(cloth.test_classes > 0, outputs["score"]) > 0.88
    assert pixel_auroc(cloth.test_masks, outputs["error_map"]) > 0.9
