"""Files that claim much are refused before they are read; what is read is of its type and range."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest

import evaluate
import export
import predict
import train
from anomaly_tf.config.yaml_files import read_yaml
from anomaly_tf.data import images
from anomaly_tf.data.decoding import PixelBudget
from anomaly_tf.data.idx import load_idx_folder
from anomaly_tf.data.npz import load_npz
from anomaly_tf.data.pipelines import anomaly_clusters
from anomaly_tf.data.split_checks import read_scan, read_split
from anomaly_tf.data.tfds_sets import load_tfds
from anomaly_tf.errors import UserError
from anomaly_tf.reporting.comparison import _code, _inert
from anomaly_tf.runs.arrays import Announced, announced_arrays, read_arrays
from anomaly_tf.runs.caches import may_write, only_read
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import require_unlinked
from anomaly_tf.runs.limits import MAX_GB, require_memory
from anomaly_tf.script import csv_cell


def test_more_memory_than_the_limit_or_than_there_is(monkeypatch):
    require_memory(2 * 10**9, "it")
    with pytest.raises(UserError, match=f"it would take 2.1 GB, more than 2 GB.*{MAX_GB}=3"):
        require_memory(21 * 10**8, "it")
    require_memory(21 * 10**8, "it", allowed=21 * 10**8)
    monkeypatch.setenv(MAX_GB, "999999")
    with pytest.raises(UserError, match="of memory are free"):
        require_memory(10**14, "it")


def test_packed_arrays_are_measured_before_they_are_read(tmp_path, monkeypatch):
    file = tmp_path / "packed.npz"
    hostile.npz_of_zeros(file, 3 * 10**7)
    hostile.idx_of_zeros(tmp_path, 3 * 10**7)
    monkeypatch.setenv(MAX_GB, "0.05")
    for read, place in ((load_npz, file), (load_idx_folder, tmp_path)):
        with pytest.raises(UserError, match=f"would take 0.1 GB, more than 0.05 GB.*{MAX_GB}=1"):
            read(place)


def test_what_lies_unpacked_on_the_disk_may_be_as_large_as_it_is(tmp_path, monkeypatch):
    file = tmp_path / "plain.npz"
    np.savez(file, images=np.zeros((6, 400, 400), np.uint8), labels=np.arange(6) % 2)
    monkeypatch.setenv(MAX_GB, "0.001")
    assert load_npz(file).train_images.shape == (6, 400, 400, 1)


ARRAY = np.arange(4, dtype=np.float32)
RIGHT = {"x": Announced(np.dtype(np.float32), (4,))}


def stored(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (hostile.claiming(ARRAY, (10**15,)), "announces"),
        (hostile.claiming(ARRAY, (10**9, 10**9)), "announces"),
        (stored(ARRAY)[:-1], "announces"),
        (stored(ARRAY)[:20], ""),
        (b"", "got nothing"),
        (stored(ARRAY.astype(np.complex64)), "got complex64"),
        (stored(ARRAY.astype(np.float64)), "got float64"),
        (stored(ARRAY.astype(str)), "got <U"),
        (stored(ARRAY[:3]), "got float32 \\(3,\\)"),
        (stored(np.array([0, 1, np.nan, 2], np.float32)), "NaN or infinite"),
        (stored(np.array([0, 1, np.inf, 2], np.float32)), "NaN or infinite"),
        (hostile.claiming(ARRAY, (-1,)), ""),
    ],
)
def test_arrays_are_of_the_type_and_shape_that_is_expected(member, words, tmp_path):
    file = tmp_path / "x.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(ValueError, match=words):
        read_arrays(file, RIGHT)


def test_encrypted_and_damaged_members(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, x=ARRAY)
    np.testing.assert_array_equal(read_arrays(file, RIGHT)["x"], ARRAY)
    content = file.read_bytes()
    place = content.index(b"PK\x01\x02")
    flagged = bytearray(content)
    flagged[place + 8] |= 1
    file.write_bytes(flagged)
    with pytest.raises(ValueError, match="encrypted"):
        announced_arrays(file)
    for cut in range(0, len(content), 7):
        file.write_bytes(content[:cut] + bytes([content[cut] ^ 255]) + content[cut + 1 :])
        try:
            read_arrays(file, RIGHT)
        except ValueError:
            continue


SPLIT: dict[str, Any] = {
    "image_shape": [8, 8, 1],
    "class_names": ["good", "bad"],
    "roles": {"normal": [0], "seen": [], "unseen": [1]},
    "masks": {},
    **{name: {"files": ["a.png"], "classes": [0]} for name in ("train", "validation", "test")},
}
SCAN: dict[str, Any] = {
    "image_shape": [8, 8, 1],
    "sizes": [[8, 8, 1]],
    "n_grayscale": 1,
    "broken": {},
    "digests": ["00"],
}


@pytest.mark.parametrize(
    ("read", "right", "wrong"),
    [
        *(
            (read_split, SPLIT, {"train": {"files": ["a.png"], "classes": value}})
            for value in ([1.5], [2], [-1], ["0"], [True], [0, 0], None, [[0]])
        ),
        *(
            (read_split, SPLIT, {"train": {"files": value, "classes": [0]}})
            for value in (["/etc/passwd"], ["../a.png"], [""], ["."], [1], "a", ["a\0.png"])
        ),
        (read_split, SPLIT, {"image_shape": [10**9, 8, 1]}),
        (read_split, SPLIT, {"roles": {"normal": [7]}}),
        (read_split, SPLIT, {"roles": {"normal": []}}),
        (read_split, SPLIT, {"masks": {"a.png": "/etc/passwd"}}),
        (read_split, SPLIT, {"class_names": [1]}),
        (read_scan, SCAN, {"image_shape": [8, 8]}),
        (read_scan, SCAN, {"sizes": [[8, 8]]}),
        (read_scan, SCAN, {"n_grayscale": -1}),
        (read_scan, SCAN, {"digests": [1]}),
        (read_scan, SCAN, {"broken": []}),
    ],
)
def test_side_files_are_typed(read, right, wrong, tmp_path):
    file = tmp_path / "side.json"
    file.write_text(json.dumps(right))
    assert read(file) == right
    file.write_text(json.dumps(right | wrong))
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        read(file)
    for content in ("[" * 10**5, "[]", '{"a": NaN}', "{", "\xff"):
        file.write_text(content, "latin-1")
        with pytest.raises(ValueError):  # noqa: PT011
            read(file)


def test_a_damaged_cache_of_clusters_is_named(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1), np.uint8)
    right = anomaly_clusters(pictures, 3, 0, tmp_path)
    (cache,) = tmp_path.glob("clusters-*.npy")
    np.testing.assert_array_equal(anomaly_clusters(pictures, 3, 0, tmp_path), right)
    for wrong in (right[:3], right + 7, right.astype(float), right.astype(str)):
        np.save(cache, wrong)
        with pytest.raises(UserError, match=r"clusters-.* is damaged .*; remove it"):
            anomaly_clusters(pictures, 3, 0, tmp_path)
    cache.unlink()
    with only_read(tmp_path):
        np.testing.assert_array_equal(anomaly_clusters(pictures, 3, 0, tmp_path), right)
    assert not cache.exists()


def test_a_large_yaml_file_is_not_parsed(tmp_path):
    file = tmp_path / "large.yaml"
    file.write_text("a: 1\n" * 2 * 10**6)
    begin = time.process_time()
    with pytest.raises(UserError, match="more than 1 MB"):
        read_yaml(file)
    assert time.process_time() - begin < 5


def test_a_jpeg_of_very_many_scans_is_not_decoded(tmp_path):
    file = tmp_path / "scans.jpg"
    hostile.scanned_often(file, 64, 20)
    assert images.open_image(file).size == (64, 64)
    hostile.scanned_often(file, 64, 200)
    with pytest.raises(images.UnreadableImage, match="scans of 4096 pixels"):
        images.open_image(file)


def test_threads_share_the_pixels_that_are_decoded_at_a_time():
    budget, entered = PixelBudget(100), threading.Event()

    def take(pixels: int) -> None:
        with budget.taken(pixels):
            entered.set()

    thread = threading.Thread(target=take, args=(1000,))  # more than there are: all of them
    with budget.taken(60):
        take(40)
        assert entered.is_set()
        entered.clear()
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert not entered.is_set()
    thread.join(10)
    assert entered.is_set()


# Side files are data, not orders.


COMMANDS = {
    "evaluate": (evaluate.main, ("--run-dir",)),
    "export": (export.main, ("--format", "tflite", "--run-dir")),
    "train": (train.main, ("--resume",)),
}


def interrupt(run: Path) -> None:
    """Makes a run one whose training has not come to its end."""
    facts = json.loads((run / "detector.json").read_text())
    facts["training"]["status"] = "interrupted"
    (run / "detector.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_names_no_folder_to_write_to(command, run_copy, tmp_path):
    interrupt(run_copy)
    main, options = COMMANDS[command]
    victim = tmp_path / "victim"
    victim.mkdir()
    file = run_copy / "config.yaml"
    text = file.read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("data:", "data_dir:"))]
    lines += ["data: fashion_mnist", f"data_dir: {victim}"]
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match="only the run's own configuration names that folder"):
        main([*options, str(run_copy)])
    assert not list(victim.iterdir())
    assert may_write(victim)


@pytest.mark.parametrize("name", ["huggingface:mnist", "mnist/data_dir=/x", "a b", "../x", "/x"])
def test_tfds_loads_its_own_sets_only(name):
    with pytest.raises(UserError, match="is not a name of TFDS's own data sets"):
        load_tfds(name)


def test_planted_links_are_refused(run_copy, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run_copy / "linked").symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link, and what is written to a run"):
        RunDirectory(run_copy).require_unlinked()
    own = tmp_path / "own"
    own.symlink_to(elsewhere)  # which the user names
    require_unlinked(own, [own / "a.png", own / "b" / "c.png"])
    (elsewhere / "b").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link, and what is written to"):
        require_unlinked(own, [own / "b" / "c.png"])


@pytest.mark.parametrize(
    ("command", "name"), [("evaluate", "plots"), ("export", "export"), ("train", "tensorboard")]
)
def test_nothing_is_written_through_a_link_in_a_run(command, name, run_copy, tmp_path):
    interrupt(run_copy)
    main, options = COMMANDS[command]
    victim = tmp_path / "victim"
    victim.mkdir()
    shutil.rmtree(run_copy / name, ignore_errors=True)
    (run_copy / name).symlink_to(victim)
    with pytest.raises(UserError, match="is a link, and what is written to a run"):
        main([*options, str(run_copy)])
    assert not list(victim.iterdir())


def test_an_evaluation_goes_through_no_link_and_over_no_other_file(run_copy, tmp_path):
    output, victim = tmp_path / "out", tmp_path / "victim"
    output.mkdir()
    victim.mkdir()
    shutil.copy(run_copy / "metrics.json", output)
    (output / "plots").symlink_to(victim)
    options = ["--run-dir", str(run_copy)]
    with pytest.raises(UserError, match="is a link to another place"):
        evaluate.main([*options, "--output", str(output)])
    assert not list(victim.iterdir())
    (run_copy / "scores.csv").write_text("mine")
    with pytest.raises(UserError, match=r"scores.csv is there and was not written by"):
        evaluate.main(options)
    assert (run_copy / "scores.csv").read_text() == "mine"


# Output is inert.


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", " =", "\uff1d"])
def test_no_cell_begins_a_formula(first, capsys):
    assert str(csv_cell(f"{first}1+1")).startswith("'")
    predict.write_csv()(f"{first}cmd.png", -1.5, True, 0.1)
    cell = capsys.readouterr().out.splitlines()[-1]
    assert cell.startswith("'")
    assert ",-1.5,anomaly," in cell


def test_no_format_holds_an_escape(capsys):
    name = "a\x1b]0;x\x07\x9b\x7f\u202e.png"
    for make in predict.WRITERS.values():
        make()(name, 1.0, True, 0.1)
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable()
    assert json.loads(said.splitlines()[2])["file"] == name  # after head and line of the table


def test_markdown_holds_no_html():
    assert _inert("<script>x</script> [a](b) ![c](d) `e` | f") == (
        r"&lt;script&gt;x&lt;/script&gt; \[a\](b) \!\[c\](d) \`e\` \| f"
    )
    assert _inert("`sota`, on classes seen in training") == "`sota`, on classes seen in training"
    assert _code("a `b` <i>\n") == "`` a `b` <i>\\n ``"
    assert _code("python benchmark.py") == "`python benchmark.py`"


def test_the_path_of_a_picture_is_no_order(tmp_path: Path):
    assert csv_cell("photos/a.png") == "photos/a.png"
    assert csv_cell(-1.5) == -1.5
