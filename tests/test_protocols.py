"""The normal images and anomalies of each protocol, and the three disjoint sets."""

import dataclasses

import numpy as np
import pytest

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.approaches.classifier.options import ClassifierConfig
from anomaly_tf.approaches.dual_gan.options import DualGanConfig
from anomaly_tf.approaches.padim.options import PadimConfig
from anomaly_tf.approaches.patch_core.options import PatchCoreConfig
from anomaly_tf.config import (
    BalancedSamplingConfig,
    Config,
    CorruptionConfig,
    FolderConfig,
    UnseenConfig,
)
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.fashion_mnist import FASHION_MNIST_CLASSES
from anomaly_tf.data.image_set import ImageSet, LabelledImages
from anomaly_tf.data.protocols import MIN_LEARNT, make_split
from anomaly_tf.data.roles import Roles, class_roles, describe_guess
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
    # Fashion-MNIST's training files hold no image twice, so that their content identifies them.
    split = make_split(config, fashion)
    train, validation = contents(split.train), contents(split.validation)
    assert len(train) == len(split.train)
    assert not train & validation
    # Validation is cut from the training files, never from the test set.
    assert train | validation <= {image.tobytes() for image in fashion.train_images}


def test_the_test_set_is_whole(split, fashion):
    np.testing.assert_array_equal(split.test.images, fashion.test_images)
    assert (len(split.train), len(split.validation)) == (54000, 6000)


def test_the_validation_set_has_the_given_share(small_dataset):
    config = DualGanConfig(sampling=BalancedSamplingConfig(validation_fraction=0.25))
    split = make_split(config, small_dataset)
    assert (len(split.train), len(split.validation)) == (4500, 1500)


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


def test_one_class_trains_on_the_normal_class_only(fashion):
    split = make_split(AutoencoderConfig(normal_class=(3,)), fashion)
    assert set(split.train.classes) == {3}
    assert len(split.train) == 5400
    assert not split.train.labels.any()
    np.testing.assert_array_equal(split.test.images, fashion.test_images)


def test_unseen_classes_are_in_the_test_set_only(fashion):
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
    config = DualGanConfig(protocol="unseen", normal_class=(0,), unseen=UnseenConfig(**chosen))
    with pytest.raises(UserError, match=words):
        class_roles(config, NAMES)


@pytest.mark.parametrize("protocol", ["imbalance", "unseen"])
def test_a_single_class_has_no_anomalies(protocol):
    with pytest.raises(UserError, match=r"holds normal images only.*--protocol corruption"):
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


def test_corrupted_copies_follow_the_seed(small_dataset):
    few = dataclasses.replace(small_dataset, test=small_dataset.test.take(slice(100)))

    def copies(seed: int) -> np.ndarray:
        kinds = CorruptionConfig(kinds=("both",))
        config = AutoencoderConfig(protocol="corruption", corruption=kinds, seed=seed)
        return make_split(config, few).test.anomalies

    np.testing.assert_array_equal(copies(1), copies(1))
    assert not np.array_equal(copies(1), copies(2))


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
        (DualGanConfig(), "train", True, "no anomaly image in its training set"),
        (DualGanConfig(), "test", False, "no normal image in its test set"),
        (AutoencoderConfig(), "train", False, "no normal image in its training set"),
        (AutoencoderConfig(), "test", True, "no anomaly image in its test set"),
    ],
)
def test_a_set_that_lacks_one_kind(config: Config, part, only_normal, words, small_dataset):
    images = getattr(small_dataset, part)
    chosen = (images.classes == 0) == only_normal
    lacking = dataclasses.replace(small_dataset, **{part: images.take(chosen)})
    with pytest.raises(UserError, match=words):
        make_split(config, lacking)


def test_a_set_without_a_test_set_is_cut_by_the_shares_and_the_seed(small_dataset):
    whole = dataclasses.replace(small_dataset, test=small_dataset.test.take(slice(0)))

    def split(seed: int) -> Split:
        config = DualGanConfig(
            sampling=BalancedSamplingConfig(validation_fraction=0.25),
            folder=FolderConfig(test_fraction=0.5),
            seed=seed,
        )
        return make_split(config, whole)

    first, same, other = (split(seed) for seed in (1, 1, 2))
    # Half of each class, and a quarter of what is left of it: six thousand images.
    sizes = [len(part) for part in (first.train, first.validation, first.test)]
    assert sizes == pytest.approx([2250, 750, 3000], abs=10)
    parts = [contents(part) for part in (first.train, first.validation, first.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    for name in ("validation", "test"):
        images = [getattr(one, name).images for one in (first, same, other)]
        np.testing.assert_array_equal(images[0], images[1])
        assert not np.array_equal(images[0], images[2])


def numbered(train: dict[str, int], test: dict[str, int] | None = None, files: bool = True):
    """A data set with a number of images of each class; the first class is normal by its name.

    Each image holds its own number, and its file is called by it.
    """
    names = tuple(train)
    counts = [*train.values(), *(test or {}).values()]
    classes = np.repeat(
        [names.index(name) for part in (train, test or {}) for name in part], counts
    )
    numbers = np.arange(len(classes))
    images = np.stack([numbers // 256, numbers % 256], axis=-1).astype(np.uint8)
    paths = tuple(f"{number}.png" for number in numbers) if files else ()
    cut = sum(train.values())
    images = images.reshape(-1, 1, 2, 1)
    return ImageDataset(
        "numbered",
        ImageSet(images[:cut], classes[:cut], paths[:cut]),
        ImageSet(images[cut:], classes[cut:], paths[cut:] if test else ()),
        names,
    )


def numbers_in(part: LabelledImages) -> np.ndarray:
    return part.images[:, 0, :, 0] @ np.array([256, 1])


COUNTS = {"good": 100, "dent": 40, "stain": 20, "crack": 2, "hole": 1}
TESTED = {"good": 10, "dent": 6, "crack": 3}


SOURCES = {
    "undivided folder": numbered(COUNTS),
    "divided folder": numbered(COUNTS, TESTED),
    "published": numbered(dict.fromkeys(COUNTS, 20), dict.fromkeys(COUNTS, 3), files=False),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "config",
    [
        DualGanConfig(normal_class=("good",)),
        DualGanConfig(normal_class=("good",), protocol="unseen", unseen=UnseenConfig(("dent",))),
        AutoencoderConfig(normal_class=("good",)),
        ClassifierConfig(),
    ],
    ids=lambda config: config.protocol,
)
def test_every_image_keeps_its_class_its_label_and_its_file(config, source):
    dataset = SOURCES[source]
    every = np.concatenate([dataset.train_classes, dataset.test_classes])
    split = make_split(config, dataset)
    normal = range(5) if config.protocol == "classification" else (0,)
    found = []
    for part in (split.train, split.validation, split.test):
        numbers = numbers_in(part)
        found += numbers.tolist()
        np.testing.assert_array_equal(part.classes, every[numbers])
        np.testing.assert_array_equal(part.labels, ~np.isin(every[numbers], normal))
        files = tuple(f"{number}.png" for number in numbers)
        assert part.files == (files if dataset.is_folder else ())
    assert len(found) == len(set(found))
    if source != "undivided folder":
        assert set(numbers_in(split.test)) <= set(range(len(dataset.train_classes), len(every)))
        assert set(numbers_in(split.validation)) <= set(range(len(dataset.train_classes)))


def test_each_fraction_is_that_of_its_option():
    options = {
        "folder": FolderConfig(test_fraction=0.3),
        "sampling": dataclasses.replace(DualGanConfig().sampling, validation_fraction=0.5),
    }
    split = make_split(DualGanConfig(**options), numbered({"good": 100, "dent": 200}))
    counts = [np.bincount(part.classes).tolist() for part in (split.train, split.validation)]
    assert np.bincount(split.test.classes).tolist() == [30, 60]
    assert counts == [[35, 70], [35, 70]]
    # Test files of the user's own, and published ones, are not divided further.
    for files in (True, False):
        dataset = numbered({"good": 100, "dent": 200}, {"good": 7, "dent": 5}, files)
        split = make_split(DualGanConfig(**options), dataset)
        assert np.bincount(split.validation.classes).tolist() == [50, 100]
        assert np.bincount(split.test.classes).tolist() == [7, 5]


def test_single_anomalies_are_divided_together_and_apart_from_few_normal_images():
    dataset = numbered({"good": 4, **{f"rare {number}": 1 for number in range(6)}})
    for seed in range(10):
        options = {"folder": FolderConfig(test_fraction=0.5), "seed": seed}
        split = make_split(DualGanConfig(normal_class=("good",), **options), dataset)
        # Half of the 6 anomalies and of the 4 normal ones; then a third of the 3, half of the 2.
        assert split.test.labels.tolist().count(1) == 3
        assert split.test.labels.tolist().count(0) == 2
        assert split.validation.labels.tolist().count(1) == 1
        assert split.validation.labels.tolist().count(0) == 1


@pytest.mark.parametrize(
    ("config", "dents", "learnt"),
    [
        (PadimConfig(protocol="imbalance"), MIN_LEARNT, True),
        (PadimConfig(protocol="unseen", unseen=UnseenConfig(("dent",))), MIN_LEARNT, True),
        (PadimConfig(protocol="imbalance"), MIN_LEARNT - 1, False),
        (PadimConfig(protocol="imbalance", tile=64), MIN_LEARNT, False),
        (PatchCoreConfig(protocol="imbalance"), MIN_LEARNT, False),
        (PadimConfig(), MIN_LEARNT, False),
    ],
)
def test_labelled_anomalies_that_no_training_uses_are_for_validation(config, dents, learnt):
    dataset = numbered({"good": 20, "dent": dents, "hole": 0}, {"good": 2, "dent": 2, "hole": 1})
    split = make_split(dataclasses.replace(config, normal_class=("good",)), dataset)
    n_learnt = int(split.train.labels.sum())
    assert (n_learnt > 0) == learnt
    if config.protocol != "one_class":  # which may leave some out
        assert n_learnt + split.validation.labels.sum() == dents


def test_a_class_is_meant_by_its_name_before_its_number():
    names = ("2", "0", "1")
    for given, number in (("2", 0), ("1", 2), (1, 2)):
        config = AutoencoderConfig(normal_class=(given,))
        assert class_roles(config, names, is_folder=True).normal == (number,)
    several = AutoencoderConfig(normal_class=("1", "2"))
    assert class_roles(several, names, is_folder=True) == Roles((0, 2), unseen=(1,))


@pytest.mark.parametrize("is_folder", [True, False])
def test_which_classes_count_when_all_could_be_normal(is_folder):
    synthetic = AutoencoderConfig(protocol="corruption")
    named = ("dent", "good", "hole")
    # Defects are not trained on as if they were normal; classes that do not say are.
    assert class_roles(synthetic, named, is_folder) == Roles((1,))
    assert class_roles(synthetic, NAMES, is_folder) == Roles(tuple(range(10)))
    assert class_roles(ClassifierConfig(), named, is_folder) == Roles((0, 1, 2))
    chosen = AutoencoderConfig(protocol="corruption", normal_class=(3, "b"))
    assert class_roles(chosen, NAMES, is_folder) == Roles((1, 3))


@pytest.mark.parametrize(
    ("names", "arrays", "folder"),
    [
        (("defect", "good"), "good", "good"),
        (("Fail", "PASS"), "PASS", "PASS"),
        (("bolts", "defective"), "bolts", "bolts"),
        (("widget",), "widget", "widget"),
        (("inlier", "outlier"), "inlier", "inlier"),
        (("-1", "1"), "1", None),
        (("0", "1"), "0", None),
        (("1", "2", "3"), "1", None),
        (("10", "9"), "9", None),
        (("False", "True"), "False", None),
        (FASHION_MNIST_CLASSES, "T-shirt/top", None),
        # Names that are not known are asked for.
        (("cat", "dog"), None, None),
        (("-1",), None, None),
        (("bad", "defect"), None, None),
        (("-1", "0", "1"), None, None),
        (("-1", "0"), None, None),
    ],
)
def test_names_that_say_which_class_is_normal(names, arrays, folder):
    for is_folder, expected in ((False, arrays), (True, folder)):
        for order in (names, names[::-1]):
            if order == FASHION_MNIST_CLASSES[::-1] or (expected or "").isdecimal():
                order = names  # where the first one counts
            if expected is None:
                with pytest.raises(
                    UserError, match=r"has a known name .*--normal-class one or several"
                ):
                    class_roles(AutoencoderConfig(), order, is_folder)
            else:
                (normal,) = class_roles(AutoencoderConfig(), order, is_folder).normal
                assert order[normal] == expected


def test_a_guess_is_reported_with_a_warning_if_the_normal_class_is_smaller():
    for counts, doubtful in (({"0": 60, "1": 15}, False), ({"0": 15, "1": 60}, True)):
        dataset = numbered(counts, files=False)
        roles = class_roles(AutoencoderConfig(), dataset.class_names)
        lines = describe_guess(AutoencoderConfig(), dataset, roles)
        assert lines[0] == "normal class: 0, because it comes first; --normal-class selects others"
        assert len(lines) == 1 + doubtful
        if doubtful:
            assert "WARNING: 0 counts as normal and has 15 images, 1 counts" in lines[1]
            assert "--normal-class 1" in lines[1]
        named = AutoencoderConfig(normal_class=("0",))
        assert describe_guess(named, dataset, class_roles(named, dataset.class_names)) == []
    # Ten classes of equal size are no reason to doubt.
    dataset = numbered({str(digit): 10 for digit in range(10)}, files=False)
    roles = class_roles(AutoencoderConfig(), dataset.class_names)
    assert len(describe_guess(AutoencoderConfig(), dataset, roles)) == 1


def test_with_unseen_classes_the_seen_ones_are_not_judged():
    test = numbered({"good": 2, "dent": 1, "stain": 2})
    part = LabelledImages.of(test.train, (0,))
    judged = {
        roles: Split(part, part, part, roles, NAMES).judged.tolist()
        for roles in (Roles((0,), (1,), (2,)), Roles((0,), (1, 2)), Roles((0,), (), (1, 2)))
    }
    assert list(judged.values()) == [[True, True, False, True, True], [True] * 5, [True] * 5]


def grey_split(**options) -> Split:
    """Under protocol corruption, of images that are all alike; noise of 0.05."""
    corruption = CorruptionConfig(kinds=("noise", "rotation"), noise=0.05, rotation=20)
    config = AutoencoderConfig(protocol="corruption", corruption=corruption, **options)
    dataset = numbered({"good": 60})
    grey = np.full((60, 8, 8, 1), 128, np.uint8)
    return make_split(
        config, dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, images=grey))
    )


def test_corruptions_have_the_given_strength_and_follow_the_seed():
    first, again, other = grey_split(seed=1), grey_split(seed=1), grey_split(seed=2)
    noisy = first.test.images[first.test.classes == 1].astype(int)
    # Noise of 5 % of the range: 12.75 grey levels.
    assert noisy.std() == pytest.approx(12.75, rel=0.1)
    np.testing.assert_array_equal(first.test.images, again.test.images)
    assert not np.array_equal(first.test.images, other.test.images)
    # All images are alike, so that equal noise in both sets would be seen.
    size = min(len(first.test), len(first.validation)) // 3
    validation = first.validation.images[first.validation.classes == 1]
    assert not np.array_equal(validation[:size], noisy[:size])
    # Turned by up to 20 degrees, the corners go black and the middle stays.
    turned = first.test.images[first.test.classes == 2]
    assert turned.min() < 64
    assert (turned[:, 3:5, 3:5] == 128).all()


def test_names_with_commas_and_composed_letters():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    names = ("bad", f"{composed}, nr 1", decomposed)
    chosen = AutoencoderConfig(normal_class=(composed, "nr 1"))
    assert class_roles(chosen, names).normal == (1,)
    chosen = AutoencoderConfig(normal_class=(composed,))
    assert class_roles(chosen, names).normal == (2,)
    both = ("bad", composed, decomposed)
    assert class_roles(chosen, both).normal == (1,)
