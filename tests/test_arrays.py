"""IDX files, .npz files and TFDS: their data sets, and the errors for damaged ones."""

from __future__ import annotations

import gzip
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import IDX_NAMES, idx_bytes

from anomaly_tf import reachability
from anomaly_tf.data import tfds_sets
from anomaly_tf.data.duplicates import copies
from anomaly_tf.data.idx import load_idx_folder
from anomaly_tf.data.npz import NPZ_KEYS, load_npz
from anomaly_tf.data.tfds_sets import load_tfds
from anomaly_tf.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (20, 6, 6), np.uint8)


def test_a_host_that_never_answers_is_given_up(silent_host, monkeypatch):
    monkeypatch.setattr(reachability, "GIVE_UP_SECONDS", 0.3)
    with pytest.raises(
        reachability.Unreachable, match=r"cannot be reached: .*(no answer|timed out)"
    ):
        reachability.probe(f"http://{silent_host}/file")


def test_a_folder_of_idx_files_is_a_data_set(small_dataset, small_arrays):
    np.testing.assert_array_equal(small_dataset.train_images, small_arrays[0])
    np.testing.assert_array_equal(small_dataset.test_classes, small_arrays[3])


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (0, lambda content: content[:-7], "truncated"),
        (0, lambda content: content[:3], "not an IDX file"),
        (1, lambda content: b"\x1f\x8b" + content, "not an IDX file"),
        (1, lambda content: content[:4] + (5999).to_bytes(4, "big") + content[8:-1], "length"),
    ],
)
def test_a_damaged_idx_file_is_named(file, change, words, small_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(small_folder, folder)
    path = folder / IDX_NAMES[file]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=words):
        load_idx_folder(folder)


def test_a_truncated_gzip_file_is_named(small_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(small_folder, folder)
    path = folder / IDX_NAMES[0]
    compressed = gzip.compress(path.read_bytes(), compresslevel=1)
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(compressed[:-100])
    with pytest.raises(UserError, match="unreadable"):
        load_idx_folder(folder)


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
LABELS = np.array([7, 3, 7, 10, 3, 3])


@pytest.fixture
def npz(tmp_path) -> Callable[..., Path]:
    """Writes arrays as a `.npz` file."""

    def write(**arrays) -> Path:
        np.savez_compressed(tmp_path / "digits.npz", **arrays)
        return tmp_path / "digits.npz"

    return write


def test_images_and_labels_of_an_npz_file(npz):
    dataset = load_npz(npz(images=IMAGES, labels=LABELS))
    np.testing.assert_array_equal(dataset.train_images, IMAGES[..., np.newaxis])
    assert dataset.class_names == ("3", "7", "10")  # by number, not by letter
    assert dataset.train_classes.tolist() == [1, 0, 1, 2, 0, 0]
    assert dataset.train_classes.dtype == dataset.test_classes.dtype == np.int16
    assert dataset.test_images.shape == (0, 5, 4, 1)
    assert dataset.test_classes.shape == (0,)


@pytest.mark.parametrize("keys", NPZ_KEYS[:2])
def test_training_and_test_arrays_of_an_npz_file(keys, npz):
    colour = np.stack([IMAGES] * 3, axis=-1)
    # One class is only in the test set; Keras' colour sets have labels (N, 1).
    content = (colour, np.array(["cat", "ant"] * 3), colour[:2], np.array([["cow"], ["ant"]]))
    dataset = load_npz(npz(**dict(zip(keys, content, strict=True))))
    assert dataset.train_images.shape == (6, 5, 4, 3)
    assert dataset.test_images.shape == (2, 5, 4, 3)
    assert dataset.class_names == ("ant", "cat", "cow")
    assert dataset.train_classes.tolist() == [1, 0] * 3
    assert dataset.test_classes.tolist() == [2, 0]


def test_labels_of_unlike_integers_keep_their_value(npz):
    large = np.array([2**63 + 1, 2**63 + 2] * 3, np.uint64)
    dataset = load_npz(
        npz(x_train=IMAGES, y_train=large, x_test=IMAGES[:1], y_test=np.array([-1], np.int64))
    )
    assert dataset.class_names == ("-1", str(2**63 + 1), str(2**63 + 2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": IMAGES / 255, "labels": LABELS}, ("images must be uint8", "float64 (6, 5, 4)")),
        ({"images": IMAGES[..., None] // [1, 1], "labels": LABELS}, ("int64 (6, 5, 4, 2)",)),
        ({"images": np.zeros((6, 5, 4, 2), np.uint8), "labels": LABELS}, ("uint8 (6, 5, 4, 2)",)),
        ({"images": IMAGES[0], "labels": LABELS}, ("uint8 (5, 4)",)),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, ("uint8 (0, 5, 4)",)),
        ({"images": IMAGES, "labels": LABELS[:-1]}, ("labels must be", "(6,)", "int64 (5,)")),
        ({"images": IMAGES, "labels": LABELS / 2}, ("labels must be", "float64 (6,)")),
        ({"images": IMAGES, "labels": np.array([None] * 6)}, ("labels should be", "Object arrays")),
        ({"images": np.array([IMAGES, 1], object), "labels": LABELS}, ("images should be",)),
        ({"images": IMAGES, "classes": LABELS}, ("x_train", "got 'images', 'classes'")),
        ({}, ("got nothing",)),
        (
            {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, 1:], "y_test": LABELS},
            ("x_train and x_test", "(5, 4, 1)", "(4, 4, 1)"),
        ),
        (
            {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": ["a"] * 6},
            ("of one kind", "int64 and <U1"),
        ),
        (
            {"images": np.zeros((32001, 1, 1), np.uint8), "labels": np.arange(32001)},
            ("32001 different labels", "at most 32000"),
        ),
    ],
)
def test_an_npz_file_with_other_content_is_refused_in_one_line(content, words, npz):
    path = npz(**content)
    with pytest.raises(UserError) as caught:
        load_npz(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def test_arrays_that_are_not_read_are_named(npz):
    path = npz(images=IMAGES, labels=LABELS, val_images=IMAGES, val_labels=LABELS)
    dataset = load_npz(path)
    assert dataset.left_out == ("left out: arrays that are not read (val_images, val_labels)",)
    assert dataset.report == dataset.left_out
    assert load_npz(npz(images=IMAGES, labels=LABELS)).left_out == ()


def test_pictures_beside_idx_files_are_counted(small_folder, tmp_path):
    for file in small_folder.glob("*ubyte"):
        (tmp_path / file.name).symlink_to(file)
    assert load_idx_folder(tmp_path).left_out == ()
    (tmp_path / "new.png").write_bytes(b"content")
    (line,) = load_idx_folder(tmp_path).left_out
    assert line.startswith("left out: 1 image files beside the IDX files")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            IMAGES.astype(np.uint16) * 16,
            r"uint16 .*; if white is 4095, save .*images \* 0.0622",
        ),
        (IMAGES / 255, r"values 0.* to .*; if white is 1, save numpy.uint8\(images \* 255\)"),
        (IMAGES.astype(np.int64), r"if white is 255, save numpy.uint8\(images\)"),
        (IMAGES / 127.5 - 1, "save grey or colour images from 0 to 255"),
    ],
)
def test_images_of_another_type_are_refused_with_the_remedy(images, words, npz):
    with pytest.raises(UserError, match=words):
        load_npz(npz(images=images, labels=LABELS))


def test_images_of_few_grey_levels_are_doubted(npz):
    digits = IMAGES // 16
    (line,) = load_npz(npz(images=digits, labels=LABELS)).report
    assert line.startswith("WARNING: no grey level is above 15 of 255")
    assert load_npz(npz(images=IMAGES, labels=LABELS)).report == ()


def test_a_test_set_of_few_grey_levels_is_doubted_as_well(npz):
    images, labels = NOISE[:8], [0, 1] * 4
    path = npz(x_train=images, y_train=labels, x_test=images // 255, y_test=labels)
    assert any("no grey level is above 1 of 255" in line for line in load_npz(path).report)


def test_images_of_equal_content_in_arrays_are_counted(npz):
    images, labels = NOISE[:8], np.array([0, 1] * 4)
    both = npz(x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3])
    (line,) = copies(load_npz(both))
    assert line.startswith("WARNING: 3 test images are also among the training images")
    twice = npz(images=np.concatenate([images, images[:2]]), labels=[*labels, 0, 0])
    of_one_class, contradicting = copies(load_npz(twice))
    assert of_one_class.startswith("WARNING: 1 training images are copies of others")
    assert contradicting == "WARNING: 2 training images are in two classes"
    assert copies(load_npz(npz(images=images, labels=labels))) == []


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [(np.array([b"good", b"bad"] * 4), "astype(str)"), (np.array([0.0, 1.0] * 4), "astype(int)")],
)
def test_labels_of_another_type_are_refused_with_the_remedy(labels, remedy, npz):
    with pytest.raises(UserError, match=re.escape(remedy)):
        load_npz(npz(images=NOISE[:8], labels=labels))


def test_classes_in_the_test_files_only_have_names(small_folder, tmp_path):
    folder = shutil.copytree(small_folder, tmp_path / "idx")
    for name in folder.glob("t10k-labels*"):
        name.unlink()
    count = len(load_idx_folder(small_folder).test)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(count, 12, np.uint8)))
    assert load_idx_folder(folder).class_names == tuple(map(str, range(13)))


def test_truth_values_are_labels(npz):
    dataset = load_npz(npz(images=IMAGES, labels=LABELS == 7))
    assert dataset.class_names == ("False", "True")
    assert dataset.train_classes.tolist() == [1, 0, 1, 0, 0, 0]


def test_as_many_classes_as_class_numbers_can_represent(npz):
    path = npz(images=np.zeros((32000, 1, 1), np.uint8), labels=np.arange(32000))
    assert load_npz(path).train_classes[-1] == 31999


def zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images", "text")
        file.writestr("labels", "text")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b""), "EOFError"),
        (lambda path: path.write_bytes(b"no arrays"), "ValueError"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "BadZipFile"),
        (lambda path: np.save(path.open("wb"), IMAGES), "a single array"),
        (zip_of_text, "images should be .*no array"),
    ],
)
def test_a_file_that_is_not_npz_is_refused_in_one_line(damage, words, npz):
    path = npz(images=IMAGES, labels=LABELS)
    damage(path)
    with pytest.raises(UserError, match=f"cannot read .*digits.npz.*{words}.*; ") as caught:
        load_npz(path)
    assert "\n" not in str(caught.value)


def test_any_damaged_byte_gives_a_user_error(npz):
    path = npz(images=IMAGES, labels=LABELS)
    content = path.read_bytes()
    messages = []
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            load_npz(path)
        except UserError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    # The rest are dates and similar fields.
    assert len(messages) > 0.6 * len(content)


@pytest.fixture
def prepare(monkeypatch, tmp_path) -> Callable[..., None]:
    """Prepares a data set by TFDS itself, where no host but this machine is asked."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds_sets, "TFDS_PROBE", "http://127.0.0.1:9/file")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))

    def store(name: str, features: dict, version: str = "3.0.1", **splits: list[dict]) -> None:
        features = tfds.features.FeaturesDict(features)
        signature = features.get_tensor_spec()

        def generate(examples):
            return tf.data.Dataset.from_generator(lambda: examples, output_signature=signature)

        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            features=features,
            split_datasets={split: generate(examples) for split, examples in splits.items()},
            data_dir=str(tmp_path / "tfds"),
        )

    return store


def image_features(shape: tuple, names: tuple[str, ...] = ("ant", "bee", "cow")) -> dict:
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=names),
    }


def examples(images, labels) -> list[dict]:
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


GREY = IMAGES[..., np.newaxis]


def test_a_prepared_tfds_set_needs_no_network(prepare):
    labels = [2, 0, 1, 1, 0, 2]
    prepare(
        "insects",
        image_features((5, 4, 1)),
        train=examples(GREY, labels),
        test=examples(GREY, labels),
    )
    dataset = load_tfds("insects")
    assert dataset.name == "tfds:insects"
    assert dataset.class_names == ("ant", "bee", "cow")
    order = sorted(range(6), key=lambda number: GREY[number].tobytes())
    np.testing.assert_array_equal(dataset.train_images, GREY[order])
    np.testing.assert_array_equal(dataset.test_classes, np.array(labels)[order])
    assert dataset.train_classes.dtype == np.int16


def test_a_set_that_tfds_knows_is_read_where_it_is_prepared(prepare):
    digits = tuple(str(digit) for digit in range(10))
    prepare(
        "mnist",
        image_features((28, 28, 1), digits),
        train=examples(np.zeros((2, 28, 28, 1), np.uint8), [9, 4]),
    )
    dataset = load_tfds("mnist")
    # Equal images are put in order by their class.
    assert dataset.train_classes.tolist() == [4, 9]
    assert dataset.test_images.shape == (0, 28, 28, 1)
    assert dataset.test_classes.shape == (0,)


def test_images_of_tfds_that_vary_in_size_are_brought_to_one(prepare):
    flat = [np.full((5, 4, 3), 200, np.uint8), np.full((9, 7, 3), 10, np.uint8)]
    prepare("photos", image_features((None, None, 3)), train=examples(flat, [0, 2]))
    with pytest.raises(UserError, match=r"tfds:photos vary in size.*--image-size"):
        load_tfds("photos")
    dataset = load_tfds("photos", (6, 8))
    assert dataset.train_images.shape == (2, 6, 8, 3)
    assert dataset.train_images[:, 0, 0, 0].tolist() == [10, 200]
    assert dataset.train_classes.tolist() == [2, 0]


def test_images_of_tfds_without_a_class_are_left_out(prepare):
    labels = [0, -1, 1, 1, -1, 2]
    prepare(
        "hidden",
        image_features((5, 4, 1)),
        train=examples(GREY, labels),
        test=examples(GREY, [-1] * 6),
        unlabelled=examples(GREY, [-1] * 6),
    )
    dataset = load_tfds("hidden")
    assert dataset.left_out == (
        "left out: 8 images without a class",
        "left out: splits that are not read (unlabelled)",
    )
    assert sorted(dataset.train_classes.tolist()) == [0, 1, 1, 2]
    assert dataset.test_images.shape == (0, 5, 4, 1)


def test_an_unprepared_set_of_tfds_is_given_up_soon(prepare, silent_host, monkeypatch):
    monkeypatch.setattr(reachability, "GIVE_UP_SECONDS", 0.3)
    monkeypatch.setattr(tfds_sets, "TFDS_PROBE", f"http://{silent_host}/file")
    with pytest.raises(UserError, match=r"tfds:mnist is not prepared in .*127.*TFDS_DATA_DIR"):
        load_tfds("mnist")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar01", r"'cifar01'.*did you mean tfds:cifar10\?"),
        ("qqqqqqqq", r"'qqqqqqqq'.*catalog"),
        ("", "is not a name of"),
        ("../insects", "is not a name of"),
        ("mnist:9.9.9", r"3\.0\.1"),
        ("coco/2017", r"'image' and 'label'.*got image, image/filename, image/id, objects"),
    ],
)
def test_an_unknown_tfds_set_is_refused_in_one_line(name, words, prepare):
    with pytest.raises(UserError, match=words) as caught:
        load_tfds(name)
    assert "\n" not in str(caught.value)


def test_images_of_tfds_that_are_not_8_bit_grey_or_colour_are_refused(prepare):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=["ant"])
    deep = {"image": tfds.features.Image(shape=(5, 4, 1), dtype=np.uint16), "label": label}
    prepare("deep", deep, train=examples(GREY.astype(np.uint16), [0] * 6))
    with pytest.raises(UserError, match=r"tfds:deep must have 8-bit .* got .*uint16"):
        load_tfds("deep")
    transparent = {"image": tfds.features.Image(shape=(5, 4, 4)), "label": label}
    prepare("clear", transparent, train=examples(np.stack([IMAGES] * 4, axis=-1), [0] * 6))
    with pytest.raises(UserError, match=r"1 or 3 channels; got .*\(5, 4, 4\)"):
        load_tfds("clear")
    number = {
        "image": tfds.features.Image(shape=(5, 4, 1)),
        "label": tfds.features.Scalar(np.int64),
    }
    prepare("numbers", number, train=examples(GREY, [0] * 6))
    with pytest.raises(UserError, match=r"'label' \(a class\)"):
        load_tfds("numbers")


def test_a_tfds_set_without_training_images_is_refused(prepare):
    prepare("exam", image_features((5, 4, 1)), test=examples(GREY, [0] * 6))
    with pytest.raises(UserError, match=r"split 'train'.*got splits test"):
        load_tfds("exam")


def test_a_damaged_tfds_set_is_refused_in_one_line(prepare, tmp_path):
    prepare("insects", image_features((5, 4, 1)), train=examples(GREY, [0] * 6))
    (file,) = (tmp_path / "tfds").rglob("*.tfrecord*")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="tfds:insects cannot be read: ") as caught:
        load_tfds("insects")
    assert "\n" not in str(caught.value)
