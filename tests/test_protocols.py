"""Which images are normal or anomaly, and that the three sets share none."""

import dataclasses

import numpy as np
import pytest

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.approaches.classifier.options import ClassifierConfig
from anomaly_tf.approaches.dual_gan.options import DualGanConfig
from anomaly_tf.config import Config, CorruptionConfig, UnseenConfig
from anomaly_tf.data.image_set import ImageSet, LabelledImages
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roles import Roles, class_roles
from anomaly_tf.data.split import Split
from anomaly_tf.errors import UserError

NAMES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def split(fashion) -> Split:
    return make_split(DualGanConfig(normal_class=(3,)), fashion)


def contents(part: LabelledImages) -> set[bytes]:
    return {image.tobytes() for image in part.images}


@pytest.mark.parametrize(
    "config",
    [
        DualGanConfig(normal_class=(3,)),
        DualGanConfig(normal_class=(3,), protocol="unseen"),
        AutoencoderConfig(normal_class=(3,)),
        ClassifierConfig(),
    ],
    ids=lambda config: config.protocol,
)
def test_the_three_sets_share_no_image(config, fashion):
    # Fashion-MNIST's training files hold no image twice, so contents tell images apart.
    split = make_split(config, fashion)
    train, validation = contents(split.train), contents(split.validation)
    assert len(train) == len(split.train)
    assert not train & validation
    # Validation is cut from the training files, never from the test set.
    assert train | validation <= {image.tobytes() for image in fashion.train_images}


def test_the_test_set_is_whole(split, fashion):
    np.testing.assert_array_equal(split.test.images, fashion.test_images)
    assert (len(split.train), len(split.validation)) == (54000, 6000)


def test_every_set_is_stratified(split):
    assert (np.bincount(split.train.classes) == 5400).all()
    assert (np.bincount(split.validation.classes) == 600).all()


def test_labels_say_anomaly_for_every_other_class(split):
    for part in (split.train, split.validation, split.test):
        np.testing.assert_array_equal(part.labels, part.classes != 3)
        assert len(part.normal) + len(part.anomalies) == len(part)
    np.testing.assert_array_equal(split.test.normal, split.test.images[split.test.classes == 3])


def test_the_seed_decides_the_cut(fashion):
    first, same, other = (make_split(DualGanConfig(seed=s), fashion).validation for s in (1, 1, 2))
    np.testing.assert_array_equal(first.images, same.images)
    assert not np.array_equal(first.images, other.images)


def test_all_protocols_choose_on_the_same_images(split, fashion):
    one_class = make_split(AutoencoderConfig(normal_class=(3,)), fashion)
    np.testing.assert_array_equal(split.validation.normal, one_class.validation.normal)


def test_one_class_trains_on_the_normal_class_alone(fashion):
    split = make_split(AutoencoderConfig(normal_class=(3,)), fashion)
    assert set(split.train.classes) == {3}
    assert len(split.train) == 5400
    assert not split.train.labels.any()
    np.testing.assert_array_equal(split.test.images, fashion.test_images)


def test_unseen_classes_are_met_only_at_test(fashion):
    chosen = UnseenConfig(seen_classes=(0, 1), unseen_classes=(6, 7))
    config = DualGanConfig(normal_class=(3,), protocol="unseen", unseen=chosen)
    split = make_split(config, fashion)
    assert split.roles == Roles((3,), (0, 1), (6, 7))
    for part in (split.train, split.validation):
        assert set(part.classes) == {0, 1, 3}
    assert set(split.test.classes) == {0, 1, 3, 6, 7}
    np.testing.assert_array_equal(split.test.labels, split.test.classes != 3)


@pytest.mark.parametrize(
    ("normal", "chosen", "seen", "unseen"),
    [
        (0, {}, (1, 2, 3, 4), (5, 6, 7, 8, 9)),
        (8, {}, (0, 1, 2, 9), (3, 4, 5, 6, 7)),
        (0, {"seen_classes": (9, 2)}, (2, 9), (1, 3, 4, 5, 6, 7, 8)),
        (0, {"unseen_classes": (9, 2)}, (1, 3, 4, 5, 6, 7, 8), (2, 9)),
    ],
)
def test_classes_that_are_not_named_get_their_role(normal, chosen, seen, unseen):
    config = DualGanConfig(normal_class=(normal,), protocol="unseen", unseen=UnseenConfig(**chosen))
    assert class_roles(config, NAMES) == Roles((normal,), seen, unseen)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"seen_classes": (0, 1)}, r"class 0 \(a\) is the normal one .*--unseen.seen-classes"),
        ({"unseen_classes": (5, 0)}, r"class 0 \(a\) is the normal one .*unseen.unseen-classes"),
        ({"seen_classes": (10,)}, "seen class 10 does not exist; choose one of: 0 a"),
        ({"unseen_classes": (-1,)}, "unseen class -1 does not exist"),
        ({"seen_classes": tuple(range(1, 10))}, "no class is left to be unseen"),
        ({"unseen_classes": tuple(range(1, 10))}, "no class is left to be seen"),
    ],
)
def test_roles_that_cannot_be(chosen, words):
    config = DualGanConfig(protocol="unseen", unseen=UnseenConfig(**chosen))
    with pytest.raises(UserError, match=words):
        class_roles(config, NAMES)


@pytest.mark.parametrize("protocol", ["imbalance", "unseen"])
def test_one_class_alone_has_no_anomalies(protocol):
    with pytest.raises(UserError, match=r"holds normal images alone.*--protocol corruption"):
        class_roles(DualGanConfig(protocol=protocol), ("only",))


def test_corruption_trains_on_every_class_clean_and_tests_on_corrupted_copies(small_dataset):
    kinds = CorruptionConfig(kinds=("rotation", "noise"), noise=0.1, rotation=20)
    split = make_split(AutoencoderConfig(protocol="corruption", corruption=kinds), small_dataset)
    assert set(split.train.classes) == set(range(10))
    assert not split.train.labels.any()
    assert split.class_names[10:] == ("rotation 20", "noise 0.1")
    test, count = split.test, len(small_dataset.test_images)
    np.testing.assert_array_equal(test.normal, small_dataset.test_images)
    np.testing.assert_array_equal(np.unique(test.classes[test.labels == 1]), [10, 11])
    assert len(test) == 3 * count
    # The copies stand in the order of their originals: noise of 0.1 leaves them recognisable.
    noisy = test.images[test.classes == 11].astype(float).reshape(count, -1)
    clean = test.normal.astype(float).reshape(count, -1)
    likeness = [np.corrcoef(noisy[i], clean[i])[0, 1] for i in range(50)]
    assert min(likeness) > 0.7
    # Validation and test have their own random numbers.
    validation = split.validation.images[split.validation.classes == 11]
    assert not np.array_equal(
        validation[0].astype(int) - split.validation.normal[0], test.images[-1] - test.normal[-1]
    )


def test_classification_has_no_anomalies(small_dataset):
    split = make_split(ClassifierConfig(), small_dataset)
    assert not any(part.labels.any() for part in (split.train, split.validation, split.test))
    assert set(split.train.classes) == set(range(10))


def test_a_class_that_does_not_exist(fashion):
    with pytest.raises(UserError, match="normal class 10 does not exist; choose one of: 0 T-shirt"):
        make_split(DualGanConfig(normal_class=(10,)), fashion)


def test_a_data_set_too_small_to_cut(small_dataset):
    tiny = dataclasses.replace(
        small_dataset,
        train=ImageSet(small_dataset.train_images[:12], np.arange(12, dtype=np.uint8) % 10),
    )
    with pytest.raises(UserError, match="too small"):
        make_split(DualGanConfig(), tiny)


@pytest.mark.parametrize(
    ("config", "part", "only_normal", "words"),
    [
        (DualGanConfig(), "train", True, "no anomaly image in its training files"),
        (DualGanConfig(), "test", False, "no normal image in its test files"),
        (AutoencoderConfig(), "train", False, "no normal image in its training files"),
        (AutoencoderConfig(), "test", True, "no anomaly image in its test files"),
    ],
)
def test_a_set_that_lacks_one_kind(config: Config, part, only_normal, words, small_dataset):
    images = getattr(small_dataset, part)
    chosen = (images.classes == 0) == only_normal
    lacking = dataclasses.replace(small_dataset, **{part: images.take(chosen)})
    with pytest.raises(UserError, match=words):
        make_split(config, lacking)
