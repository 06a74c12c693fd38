"""Sources of Fashion-MNIST, and the detection of damaged or missing ones."""

from __future__ import annotations

import gzip
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from conftest import IDX_NAMES, ROOT

from anomaly_tf.data import fashion_mnist
from anomaly_tf.data.arrays import in_one_order
from anomaly_tf.data.dataset import SourceUnavailable
from anomaly_tf.data.fashion_mnist import digest, load_fashion_mnist
from anomaly_tf.errors import UserError


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No source but the cache: a folder and a host that are not there, no apt-get."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "not-installed")
    monkeypatch.setattr(fashion_mnist, "TFDS_PROBE", "http://127.0.0.1:9/file")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no-tfds"))
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def cache(fashion, tmp_path) -> Path:
    """A good cache folder."""
    folder = tmp_path / "cache"
    folder.mkdir()
    shutil.copy(ROOT / "data" / "fashion_mnist.npz", folder)
    return folder


def test_fashion_mnist_is_the_published_data(fashion):
    assert fashion.train_images.shape == (60000, 28, 28, 1)
    assert fashion.test_images.shape == (10000, 28, 28, 1)
    assert fashion.train_images.dtype == fashion.test_classes.dtype == np.uint8
    assert (np.bincount(fashion.train_classes) == 6000).all()
    assert (np.bincount(fashion.test_classes) == 1000).all()
    assert fashion.class_names[0] == "T-shirt/top"


def test_the_cache_is_sufficient(cache, offline, fashion):
    again = load_fashion_mnist(cache)
    np.testing.assert_array_equal(again.test_images, fashion.test_images)


@pytest.mark.parametrize(
    "damage", ["truncated", "one byte", "not a file of arrays", "wrong arrays"]
)
def test_a_damaged_cache_is_noticed(damage, cache, offline):
    file = cache / "fashion_mnist.npz"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "one byte":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "not a file of arrays":
        file.write_bytes(b"no arrays")
    else:
        with np.load(file) as arrays:
            changed = dict(arrays)
        changed["train_classes"] = changed["train_classes"][::-1]
        np.savez(file, **changed)
    with pytest.raises(UserError, match=r"Fashion-MNIST not found; tried: cache .*fashion_mnist"):
        load_fashion_mnist(cache)


def test_a_damaged_cache_is_fetched_again(cache, offline, monkeypatch, fashion, tmp_path, capsys):
    cache = cache.rename(tmp_path / "cache\n\x1b")
    (cache / "fashion_mnist.npz").write_bytes(b"half a fi")
    installed = tmp_path / "installed"
    installed.mkdir()
    arrays = (
        fashion.train_images,
        fashion.train_classes,
        fashion.test_images,
        fashion.test_classes,
    )
    # Another order than that of the cache: arrays of every source have the same order.
    for name, array in zip(IDX_NAMES, arrays, strict=True):
        header = bytes((0, 0, 8, 3 if array.ndim == 4 else 1))
        sizes = np.array(array.shape[:3], ">u4").tobytes()
        (installed / f"{name}.gz").write_bytes(
            gzip.compress(header + sizes + array[::-1].tobytes(), compresslevel=1)
        )
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", installed)
    fetched = load_fashion_mnist(cache)
    said = capsys.readouterr().err
    assert said.endswith("cache\\n\\x1b/fashion_mnist.npz\n")
    assert said.removesuffix("\n").isprintable()
    np.testing.assert_array_equal(fetched.train_images, fashion.train_images)
    shutil.rmtree(installed)
    np.testing.assert_array_equal(load_fashion_mnist(cache).train_classes, fashion.train_classes)


def test_without_any_source_one_line_lists_the_sources_and_the_remedy(offline, tmp_path):
    with pytest.raises(UserError) as caught:
        load_fashion_mnist(tmp_path / "empty")
    message = str(caught.value)
    assert "\n" not in message
    for word in ("cache", "Debian's installed", "TFDS", "127.0.0.1", "apt-get", "--data"):
        assert word in message
    assert not (tmp_path / "empty").exists()


@pytest.fixture
def silent_host():
    """A host on this machine that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs Debian's apt-get")
def test_an_apt_mirror_that_never_answers_is_given_up(silent_host, monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "GIVE_UP_SECONDS", 1.0)
    settings = tmp_path / "apt.conf"
    settings.write_text(
        f'Acquire::http::Proxy "http://{silent_host}";\n'
        f'Acquire::https::Proxy "http://{silent_host}";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(settings))
    with pytest.raises(SourceUnavailable, match=r"no answer within 1 s|Unable to|Failed|timed out"):
        fashion_mnist._download_debian_package()


def test_a_stalled_command_is_ended(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_mnist, "GIVE_UP_SECONDS", 0.2)
        with pytest.raises(SourceUnavailable, match="no answer"):
            fashion_mnist._run_until_stalled(["tail", "-f", "/dev/null"], tmp_path)


def test_a_failing_command_gives_its_reason(tmp_path):
    command = ["sh", "-c", "echo 'E: no such package'; exit 3"]
    with pytest.raises(SourceUnavailable, match="E: no such package"):
        fashion_mnist._run_until_stalled(command, tmp_path)


def test_tfds_gives_the_same_arrays(fashion, offline, monkeypatch, tmp_path):
    """A data set prepared by TFDS itself, in TFDS's shuffled order, is read without a network."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def examples(images, classes):
        order = np.random.default_rng(1).permutation(len(images))
        content = {"image": images[order], "label": classes[order].astype(np.int64)}
        return tf.data.Dataset.from_tensor_slices(content)

    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    small = slice(0, 300)
    tfds.dataset_builders.store_as_tfds_dataset(
        name="fashion_mnist",
        version="3.0.1",
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            "train": examples(fashion.train_images[small], fashion.train_classes[small]),
            "test": examples(fashion.test_images[small], fashion.test_classes[small]),
        },
        data_dir=str(tmp_path / "no-tfds"),
    )
    ordered = map(in_one_order, fashion_mnist._read_tfds())
    assert digest(*ordered) == digest(fashion.train.take(small), fashion.test.take(small))


def test_a_cache_folder_that_cannot_be_written_is_named(offline, monkeypatch, fashion, tmp_path):
    sets = fashion.train, fashion.test
    monkeypatch.setattr(fashion_mnist, "read_idx_folder", lambda folder: sets)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write the data cache .*--data-dir"):
        load_fashion_mnist(tmp_path / "file")
