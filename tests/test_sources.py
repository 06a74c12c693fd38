"""The source of data that is given by a name, a file or a folder."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from anomaly_tf.approaches import options_of
from anomaly_tf.data import sources
from anomaly_tf.data.images import fit_image
from anomaly_tf.data.sources import known_class_names, load_dataset, open_dataset
from anomaly_tf.errors import UserError


def test_each_kind_of_source_is_found_by_its_name(
    monkeypatch, small_folder, small_dataset, tmp_path
):
    found = load_dataset(str(small_folder), tmp_path)
    np.testing.assert_array_equal(found.test_classes, small_dataset.test_classes)
    np.savez(tmp_path / "set.npz", images=found.test_images, labels=found.test_classes)
    from_file = load_dataset(str(tmp_path / "set.npz"), tmp_path)
    np.testing.assert_array_equal(from_file.train_classes, found.test_classes)
    asked = []
    monkeypatch.setattr(sources, "load_tfds", lambda *name: asked.append(name) or small_dataset)
    load_dataset("tfds:mnist", tmp_path, (8, 9))
    assert asked == [("mnist", (8, 9), None)]


def test_images_are_resized_to_the_given_shape(small_folder, small_dataset, tmp_path):
    small = load_dataset(str(small_folder), tmp_path, (14, 7))
    assert small.train_images.shape == (6000, 14, 7, 1)
    assert small.test_images.shape == (1500, 14, 7, 1)
    picture = Image.fromarray(small_dataset.test_images[3, ..., 0])
    np.testing.assert_array_equal(small.test_images[3], fit_image(picture, (14, 7, 1)))
    np.testing.assert_array_equal(small.test_classes, small_dataset.test_classes)
    same = load_dataset(str(small_folder), tmp_path, (28, 28))
    np.testing.assert_array_equal(same.train_images, small_dataset.train_images)


def test_only_fashion_mnist_has_names_before_it_is_loaded():
    assert known_class_names("fashion_mnist")[0] == "T-shirt/top"
    assert known_class_names("tfds:fashion_mnist") is None


def test_the_error_for_an_unknown_source_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError) as caught:
        load_dataset(str(tmp_path / "none"), tmp_path)
    for word in (
        "none'",
        "fashion_mnist",
        "tfds:NAME",
        ".npz",
        "a folder of images or IDX files",
    ):
        assert word in str(caught.value)


def test_a_file_that_is_not_there_and_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.npz.*No such file"):
        load_dataset(str(tmp_path / "none.npz"), tmp_path)
    with pytest.raises(UserError, match=r"no data in .*train-images-idx3-ubyte\[\.gz\]"):
        load_dataset(str(tmp_path), tmp_path)


def test_an_empty_name_is_not_the_folder_one_is_in(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for name in ("data", "data_dir"):
        with pytest.raises(ValueError, match=f"^{name} is empty"):
            open_dataset(options_of("autoencoder")(**{name: ""}))
