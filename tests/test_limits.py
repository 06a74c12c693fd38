"""Files that claim large sizes are refused before they are read; types and ranges are checked."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from PIL import Image

from anomaly_tf.cli import evaluate, export, predict, train
from anomaly_tf.config.yaml_files import read_yaml
from anomaly_tf.data import images
from anomaly_tf.data.decoding import (
    CHUNK,
    MAX_SCANS,
    START_OF_SCAN,
    PixelBudget,
    require_few_scans,
)
from anomaly_tf.data.idx import load_idx_folder
from anomaly_tf.data.npz import load_npz
from anomaly_tf.data.pipelines import anomaly_clusters
from anomaly_tf.data.split_checks import read_scan, read_split
from anomaly_tf.data.tfds_sets import load_tfds
from anomaly_tf.deploy.litert import METADATA_NAME, read_file
from anomaly_tf.deploy.origin import check_saved_model
from anomaly_tf.errors import UserError
from anomaly_tf.reporting.kept import MAX_HISTORY, read_history
from anomaly_tf.reporting.markdown import code, inert
from anomaly_tf.runs import arrays
from anomaly_tf.runs.arrays import Announced, announced_arrays, read_arrays
from anomaly_tf.runs.caches import may_write, only_read
from anomaly_tf.runs.checks import parse_json
from anomaly_tf.runs.detector_info import MAX_BYTES
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


def test_uncompressed_files_may_have_any_size(tmp_path, monkeypatch):
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
        (hostile.claiming(ARRAY, (10**15,)), "claims to be"),
        (hostile.claiming(ARRAY, (10**9, 10**9)), "claims to be"),
        (stored(ARRAY)[:-1], "claims to be"),
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


def test_an_archive_of_very_many_members(tmp_path, monkeypatch):
    file = tmp_path / "x.npz"
    np.savez(file, x=ARRAY, y=ARRAY)
    assert set(announced_arrays(file)) == {"x", "y"}
    monkeypatch.setattr(arrays, "MAX_MEMBERS", 1)
    with pytest.raises(ValueError, match="2 members"):
        announced_arrays(file)


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_packed_as_numpy_packs_them(packing, tmp_path):
    file = tmp_path / "x.npz"
    with zipfile.ZipFile(file, "w", packing) as archive:
        archive.writestr("x.npy", stored(ARRAY))
    with pytest.raises(
        ValueError, match=r"x\.npy has a compression that numpy\.savez does not use"
    ):
        read_arrays(file, RIGHT)


def test_a_compressed_idx_file_is_unpacked_up_to_its_claimed_size(tmp_path):
    hostile.idx_of_zeros(tmp_path, 10)
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "ab") as file:
        file.write(bytes(5 * 10**7))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"\(10, 1, 1\) expected, 11 bytes of images"):
            load_idx_folder(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 5 * 10**6
    finally:
        tracemalloc.stop()


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
        (read_split, SPLIT, {"class_names": [1, 2]}),
        (read_split, SPLIT, {"roles": {"normal": ["0"]}}),
        (read_split, SPLIT, {"train": 5}),
        *((read_split, SPLIT, {"bit_depth": value}) for value in (7, 17, 12.5, "12")),
        *(
            (read_split, SPLIT, {"mask_digests": value})
            for value in ([], {"/etc/passwd": "00"}, {"a.png": 1})
        ),
        *(
            (read_split, SPLIT, {"train": {"files": ["a.png"], "classes": [0], "digests": value}})
            for value in ([1], "0", ["00", "00"], [])
        ),
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
    with pytest.raises(ValueError, match=r"must be|hold|files and"):
        read(file)
    for content in ("[" * 10**5, "[]", '{"a": NaN}', "{", "\xff"):
        file.write_text(content, "latin-1")
        with pytest.raises(ValueError):  # noqa: PT011
            read(file)


def test_an_endless_side_file_is_not_read(tmp_path):
    file = tmp_path / "split.json"
    file.touch()
    os.truncate(file, 2**40)  # a terabyte of zeros that takes no room on the disk
    for read in (read_split, read_scan):
        with pytest.raises(ValueError, match="more than 256 MB"):
            read(file)


def test_brackets_count_as_values():
    for content in (b'{"a": [' + b"[]" * 50 + b"]}", b'{"a": ' + b'{"a": ' * 50 + b"1" + b"}" * 51):
        with pytest.raises(ValueError, match="more than 50 values"):
            parse_json(content, 1000, 50)
    assert parse_json(b'{"a": [[], {}, 1]}', 1000, 7) == {"a": [[], {}, 1]}


def test_a_damaged_cache_of_clusters_is_named(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1), np.uint8)
    right = anomaly_clusters(pictures, 3, 0, tmp_path)
    (cache,) = tmp_path.glob("clusters-*.npy")
    np.testing.assert_array_equal(anomaly_clusters(pictures, 3, 0, tmp_path), right)
    for wrong in (right[:3], right + 7, right - 7, right.astype(float), right.astype(str)):
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


def test_scans_are_counted_in_jpegs_of_several_pictures(tmp_path):
    file = tmp_path / "several.jpg"
    picture = Image.new("L", (16, 16))
    picture.save(file, "MPO", save_all=True, append_images=[picture])
    assert Image.open(file).format == "MPO"
    assert images.open_image(file).size == (16, 16)
    file.write_bytes(file.read_bytes() + START_OF_SCAN * 200)
    with pytest.raises(images.UnreadableImage, match="scans of 256 pixels"):
        images.open_image(file)


def test_a_large_jpeg_may_have_fewer_scans(tmp_path):
    file = tmp_path / "scans"
    file.write_bytes(START_OF_SCAN * 60)
    require_few_scans(file, 16_000_000)
    with pytest.raises(ValueError, match="60 scans of 25000000 pixels"):
        require_few_scans(file, 25_000_000)


def test_a_scan_that_begins_between_two_parts_of_the_file_counts(tmp_path):
    file = tmp_path / "scans"
    file.write_bytes(bytes(CHUNK - 1) + START_OF_SCAN * MAX_SCANS)
    require_few_scans(file, 1)
    file.write_bytes(START_OF_SCAN.rjust(CHUNK + 1, b"\0") + START_OF_SCAN * MAX_SCANS)
    with pytest.raises(ValueError, match="101 scans"):
        require_few_scans(file, 1)


def tiff_of(times: int) -> bytes:
    """A grey picture of 8 x 8 pixels, whose two strips of four rows are listed so often."""
    strips, start = 2 * times, 8 + 2 + 8 * 12 + 4
    entries = (
        *((256, 4, 1, 8), (257, 4, 1, 8), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1)),
        *((273, 4, strips, start), (278, 4, 1, 4), (279, 4, strips, start + 4 * strips)),
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    head += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    pixels = start + 8 * strips
    places = struct.pack("<2I", pixels, pixels + 32) * times
    return head + places + struct.pack("<I", 32) * strips + bytes(range(64))


def test_a_tiff_whose_strips_are_read_again_and_again(tmp_path):
    file = tmp_path / "strips.tif"
    for times in (1, images.MAX_TIMES_DECODED):
        file.write_bytes(tiff_of(times))
        np.testing.assert_array_equal(np.asarray(images.open_image(file)).ravel(), np.arange(64))
    file.write_bytes(tiff_of(images.MAX_TIMES_DECODED + 1))
    with pytest.raises(images.UnreadableImage, match="more strips than rows"):
        images.open_image(file)


def test_a_large_bmp_of_packed_rows(tmp_path):
    file = tmp_path / "packed.bmp"
    rows = bytes((8, 5, 0, 0)) * 8 + bytes((0, 1))
    head = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + len(head) + 4 * 256
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    file.write_bytes(struct.pack("<2sIII", b"BM", start + len(rows), 0, start))
    with file.open("ab") as opened:
        opened.write(head + palette + rows)
    assert images.open_image(file).convert("L").getpixel((3, 3)) == 5
    os.truncate(file, images.MAX_RLE_BYTES)
    assert images.open_image(file).size == (8, 8)
    os.truncate(file, images.MAX_RLE_BYTES + 1)
    with pytest.raises(images.UnreadableImage, match="a large run-length-encoded BMP"):
        images.open_image(file)


def test_a_picture_waits_until_others_are_decoded(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    thread = threading.Thread(target=images.open_image, args=(tmp_path / "a.png",))
    with images.PIXELS.taken(images.MAX_PIXELS):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()


def test_a_long_history_is_not_read(tmp_path):
    file = tmp_path / "history.csv"
    file.write_text("epoch,loss\n0,1.5\n")
    assert read_history(file)["loss"].tolist() == [1.5]
    os.truncate(file, MAX_HISTORY + 1)
    with pytest.raises(ValueError, match=r"history\.csv has more than 16 MB"):
        read_history(file)


@pytest.fixture
def plain_tflite(deployed, tmp_path) -> tuple[Path, bytes]:
    """The model of a .tflite file, and its metadata, which is not in it."""
    text = deployed["tflite"].with_suffix(".json").read_bytes()
    content = deployed["tflite"].read_bytes()[: json.loads(text)["model_bytes"]]
    (tmp_path / "plain.tflite").write_bytes(content)
    return tmp_path / "plain.tflite", text


def test_a_tflite_file_is_measured_before_it_is_read(plain_tflite, monkeypatch):
    file, text = plain_tflite
    file.with_suffix(".json").write_bytes(text)
    size = file.stat().st_size
    monkeypatch.setenv(MAX_GB, str(3.1 * size / 10**9))
    assert len(read_file(file)[0]) == size
    monkeypatch.setenv(MAX_GB, str(2.9 * size / 10**9))
    with pytest.raises(UserError, match=r"the file .*plain\.tflite would take"):
        read_file(file)


def test_long_metadata_beside_a_tflite_file_is_not_read(plain_tflite):
    file, text = plain_tflite
    file.with_suffix(".json").write_bytes(text)
    os.truncate(file.with_suffix(".json"), MAX_BYTES + 1)
    with pytest.raises(UserError, match="it holds no metadata"):
        read_file(file)


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_metadata_in_a_tflite_file_is_packed_as_export_packs_it(packing, plain_tflite):
    file, text = plain_tflite
    with zipfile.ZipFile(file, "a", packing) as archive:
        archive.writestr(METADATA_NAME, text)
    with pytest.raises(UserError, match="it holds no metadata"):
        read_file(file)


def test_a_large_graph_is_measured_before_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "saved_model.pb").write_bytes(bytes(10**5))
    monkeypatch.setenv(MAX_GB, "0.005")
    with pytest.raises(UserError, match=r"the graph in .* would take"):
        check_saved_model(tmp_path, (8, 8, 1))


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
    with pytest.raises(UserError, match="the folder comes from the run's configuration"):
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
    with pytest.raises(UserError, match="is a link, and the files of a run"):
        RunDirectory(run_copy).require_unlinked()
    own = tmp_path / "own"
    own.symlink_to(elsewhere)  # which the user names
    require_unlinked(own, [own / "a.png", own / "b" / "c.png"])
    (elsewhere / "b").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link, and output must stay inside"):
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
    with pytest.raises(UserError, match="is a link, and the files of a run"):
        main([*options, str(run_copy)])
    assert not list(victim.iterdir())


def test_an_evaluation_follows_no_link_and_replaces_no_other_file(run_copy, tmp_path):
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
    with pytest.raises(UserError, match=r"scores.csv exists and was not written by"):
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
    assert inert("<script>x</script> [a](b) ![c](d) `e` | f") == (
        r"&lt;script&gt;x&lt;/script&gt; \[a\](b) \!\[c\](d) \`e\` \| f"
    )
    assert inert("`sota`, on classes seen in training") == "`sota`, on classes seen in training"
    assert code("a `b` <i>\n") == "`` a `b` <i>\\n ``"
    assert code("python benchmark.py") == "`python benchmark.py`"


def test_the_path_of_a_picture_is_no_order(tmp_path: Path):
    assert csv_cell("photos/a.png") == "photos/a.png"
    assert csv_cell(-1.5) == -1.5
