"""Atomic writing of files and folders."""

import errno
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_tf.data import fashion_mnist
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.pipelines import anomaly_clusters
from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import (
    atomic_folder,
    atomic_path,
    require_writable,
    sha256,
    uninterrupted,
    write_json,
)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    write_json(tmp_path / "atomic.json", {})
    assert (tmp_path / "atomic.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_without_a_standard_form_is_refused_and_nothing_written(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"auroc": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"auroc": float("nan")})
    assert json.loads(path.read_text()) == {"auroc": 0.5}


def test_a_folder_that_can_be_written_is_left_as_it_is(tmp_path):
    require_writable(tmp_path, "--output")
    require_writable(tmp_path / "new" / "below", "--output")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_written(name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot write to .*{name}: .*; choose another --output"):
        require_writable(tmp_path / name, "--output")


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == expected


@pytest.fixture
def handler():
    """Sets what Ctrl-C does; a shell's background jobs start with it ignored."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda chosen: signal.signal(signal.SIGINT, chosen)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_for_the_end_of_the_block(handler):
    handler(signal.default_int_handler)
    steps = []

    def save():
        with uninterrupted():
            steps.append("first file")
            signal.raise_signal(signal.SIGINT)
            steps.append("second file")

    with pytest.raises(KeyboardInterrupt):
        save()
    assert steps == ["first file", "second file"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_stays_ignored_where_it_is(handler):
    handler(signal.SIG_IGN)
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_block_runs_in_any_thread():
    steps = []

    def work():
        with uninterrupted():
            steps.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert steps == ["done"]


@pytest.mark.parametrize("replace", [True, False])
def test_of_two_that_make_one_folder_at_once_neither_fails(replace, tmp_path):
    path = tmp_path / "new" / "folder"
    with atomic_folder(path, replace) as slow:
        (slow / "file").write_text("slow")
        with atomic_folder(path, replace) as fast:
            (fast / "file").write_text("fast")
        assert (path / "file").read_text() == "fast"
    assert (path / "file").read_text() == ("slow" if replace else "fast")
    assert list(path.parent.iterdir()) == [path]


def old_and_new(path: Path) -> None:
    """Replaces a folder of old content."""
    path.mkdir()
    (path / "file").write_text("old")
    with atomic_folder(path) as new:
        (new / "file").write_text("new")


def test_a_folder_that_another_process_moves_away_meanwhile(tmp_path, monkeypatch):
    path, rename = tmp_path / "folder", Path.rename

    def overtaken(moved: Path, target: Path) -> Path:
        if moved == path:
            shutil.rmtree(path)
        return rename(moved, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    old_and_new(path)
    assert (path / "file").read_text() == "new"


def test_ctrl_c_between_two_folders_leaves_a_whole_one(tmp_path, monkeypatch, handler):
    path, rename = tmp_path / "folder", Path.rename

    def interrupted(moved: Path, target: Path) -> Path:
        done = rename(moved, target)
        if moved == path:
            signal.raise_signal(signal.SIGINT)
        return done

    handler(signal.default_int_handler)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        old_and_new(path)
    assert (path / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def half_a_file(file: Any, *arrays: Any, **named: Any) -> None:
    """In place of `np.save` and `np.savez`: a disk that becomes full."""
    with open(file, "wb") as opened:
        opened.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_cache_that_is_half_written_is_none(tmp_path, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1), np.uint8)
    few = ImageSet(pictures, np.zeros(30, np.uint8))
    cache = tmp_path / "fashion_mnist.npz"
    with monkeypatch.context() as patched:
        patched.setattr(np, "save", half_a_file)
        patched.setattr(np, "savez", half_a_file)
        with pytest.raises(OSError, match="No space left"):
            anomaly_clusters(pictures, 3, 0, tmp_path)
        with pytest.raises(UserError, match=r"cannot write the data cache .*: No space left"):
            fashion_mnist._write_cache(cache, few, few)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(
        anomaly_clusters(pictures, 3, 0, tmp_path), anomaly_clusters(pictures, 3, 0, tmp_path)
    )
    fashion_mnist._write_cache(cache, few, few)
    with np.load(cache) as file:
        np.testing.assert_array_equal(file["test_images"], pictures)


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "file").write_text("old")

    def fail():
        with atomic_folder(path) as new:
            (new / "file").write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_take_its_place_is_an_error(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "a file"
