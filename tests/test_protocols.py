"""Which images are normal or anomaly, and that the three sets share none."""

import dataclasses

import numpy as np
import pytest

from anomaly_tf.data.protocols import imbalance
from anomaly_tf.errors import UserError


@pytest.fixture(scope="module")
def split(fashion):
    return imbalance(fashion, normal_class=3, validation_fraction=0.1, seed=0)


def test_the_three_sets_share_no_image(split):
    # Fashion-MNIST's training files hold no image twice, so contents tell images apart.
    train, validation = (
        {image.tobytes() for image in part.images} for part in (split.train, split.validation)
    )
    assert len(train) == 54000
    assert len(validation) == 6000
    assert not train & validation


def test_validation_is_cut_from_the_training_files_and_the_test_set_is_whole(split, fashion):
    published = {image.tobytes() for image in fashion.train_images}
    assert {image.tobytes() for image in split.validation.images} <= published
    np.testing.assert_array_equal(split.test.images, fashion.test_images)


def test_every_set_is_stratified(split):
    assert (np.bincount(split.train.classes) == 5400).all()
    assert (np.bincount(split.validation.classes) == 600).all()


def test_labels_say_anomaly_for_every_other_class(split):
    for part in (split.train, split.validation, split.test):
        np.testing.assert_array_equal(part.labels, part.classes != 3)
        assert len(part.normal) + len(part.anomalies) == len(part)
    np.testing.assert_array_equal(split.test.normal, split.test.images[split.test.classes == 3])


def test_the_seed_decides_the_cut(fashion):
    first, same, other = (imbalance(fashion, 0, 0.1, seed).validation for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.images, same.images)
    assert not np.array_equal(first.images, other.images)


def test_a_class_that_does_not_exist(fashion, small_dataset):
    with pytest.raises(UserError, match="normal class 10 does not exist; choose one of: 0 T-shirt"):
        imbalance(fashion, 10, 0.1, 0)


def test_a_data_set_too_small_to_cut(small_dataset):
    tiny = dataclasses.replace(
        small_dataset,
        train_images=small_dataset.train_images[:12],
        train_classes=np.arange(12, dtype=np.uint8) % 10,
    )
    with pytest.raises(UserError, match="too small"):
        imbalance(tiny, 0, 0.1, 0)


@pytest.mark.parametrize(
    ("part", "only_normal", "words"),
    [
        ("train", True, "no anomaly image in its training files"),
        ("test", False, "no normal image in its test files"),
    ],
)
def test_a_set_that_lacks_one_kind(part, only_normal, words, small_dataset):
    classes = getattr(small_dataset, f"{part}_classes")
    chosen = (classes == 0) == only_normal
    lacking = dataclasses.replace(
        small_dataset,
        **{
            f"{part}_images": getattr(small_dataset, f"{part}_images")[chosen],
            f"{part}_classes": classes[chosen],
        },
    )
    with pytest.raises(UserError, match=words):
        imbalance(lacking, 0, 0.1, 0)
