"""Commands write into no folder that they read, and replace no files of others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import assert_one_line, run_script
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from anomaly_tf.approaches import options_of
from anomaly_tf.benchmark import BenchmarkOptions, Cell, run_cells
from anomaly_tf.cli import export
from anomaly_tf.config import FolderConfig
from anomaly_tf.data.sources import open_dataset
from anomaly_tf.errors import UserError
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import require_writable
from anomaly_tf.runs.outputs import (
    HEAT_MAP,
    SCORES_HEAD,
    is_benchmark_report,
    is_exported_file,
    is_exported_folder,
    is_heat_map,
    is_own_run,
    json_with,
    require_own_place,
    software_of,
)
from measurements.measuring import kept_results


def refused(words: str, option: str, root: Path, outputs, read_from=()) -> None:
    with pytest.raises(UserError, match=words) as caught:
        require_own_place(option, root, outputs, read_from)
    assert f"another {option}" in str(caught.value)


def never(path: Path) -> bool:
    return False


def test_no_output_lies_in_a_folder_that_is_read(tmp_path):
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(photos)
    read = [photos, photos / "sub"]
    words = "which this command reads from"
    for root in (photos, photos / "sub", tmp_path / "link", photos / "sub" / "..", photos / "."):
        refused(words, "--output", root, {}, read)
    # From above, and by the folder that one of its files goes to.
    refused(words, "--output", tmp_path, {photos / "sub" / "a.png": never}, read)
    refused(words, "--output", tmp_path / "link", {}, [photos / "sub" / ".."])
    require_own_place("--output", tmp_path, {tmp_path / "a.png": never}, read)
    require_own_place("--output", photos / "new", {photos / "new" / "a.png": never}, read)


def test_only_recognised_files_are_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("mine")
    refused("was not written by this command", "--output", out, {out / "a": never})
    require_own_place("--output", out, {out / "a": Path.is_file, out / "b": never})
    (out / "gone").symlink_to("nowhere")
    refused("was not written", "--output", out, {out / "gone": never})
    os.link(out / "a", out / "hard")
    refused("was not written", "--output", out, {out / "hard": is_heat_map})
    (out / "linked").symlink_to(tmp_path)
    refused("is a link to another place", "--output", out, {out / "linked" / "x" / "y": never})
    os.mkfifo(out / "pipe")  # which is not to be waited for
    for is_own in (is_heat_map, is_exported_file, is_benchmark_report, json_with("a")):
        refused("was not written", "--output", out, {out / "pipe": is_own})
    refused("is not a folder", "--output", out, {out / "a" / "y": never})
    # The user may have named a link.
    require_own_place("--output", out / "linked", {out / "linked" / "y": never})


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_of_others_bear_no_mark(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    mark = PngInfo()
    mark.add_text("Comment", HEAT_MAP)
    mark.add_text("Software", "GIMP")
    Image.new("L", (8, 8)).save(path, pnginfo=mark)
    assert software_of(path) == ("GIMP" if suffix == "png" else "")
    assert not is_heat_map(path)
    for content in (b"", b"\x89PNG\r\n\x1a\n", path.read_bytes()[:40]):
        path.write_bytes(content)
        assert software_of(path) == ""
    assert software_of(tmp_path) == software_of(tmp_path / "none") == ""


def test_exports_are_recognised_until_something_is_added(deployed, tmp_path):
    assert is_exported_file(deployed["tflite"])
    folder = deployed["saved_model"]
    assert is_exported_folder(folder)
    assert not is_exported_folder(folder.parent)
    own = folder / "notes.txt"
    own.write_text("to be kept")
    try:
        assert not is_exported_folder(folder)
    finally:
        own.unlink()
    plain = tmp_path / "a.tflite"
    plain.write_bytes(b"TFL3")
    assert not is_exported_file(plain)
    plain.with_suffix(".json").write_bytes(deployed["tflite"].with_suffix(".json").read_bytes())
    assert is_exported_file(plain)  # as before a model held its own metadata


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tflite", "sota.tflite"),
        ("tflite", "sota.json"),
        ("tflite", "sota-parity.json"),
        ("saved_model", "sota/1/notes.txt"),
        ("saved_model", "sota/1"),
        ("saved_model", "sota-saved_model-parity.json"),
    ],
)
def test_an_export_replaces_no_other_file(kind, name, trained_run, tmp_path):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text('{"mine": true}')
    options = ["--run-dir", str(trained_run), "--format", kind, "--output"]
    with pytest.raises(UserError, match=r"not written by .*another --output"):
        export.main([*options, str(tmp_path / "out")])
    assert mine.read_text() == '{"mine": true}'
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == 1


def test_an_export_lies_neither_in_its_run_nor_in_the_data(trained_run, small_folder):
    before = sorted(trained_run.rglob("*"))
    for place in (trained_run, small_folder):
        with pytest.raises(UserError, match="which this command reads from"):
            export.main(
                ["--run-dir", str(trained_run), "--format", "tflite", "--output", str(place)]
            )
    assert sorted(trained_run.rglob("*")) == before


@pytest.mark.parametrize("place", [".", "normal", "link"])
def test_no_cache_lies_among_the_pictures(place, tmp_path):
    photos = tmp_path / "photos"
    for number in range(6):
        path = photos / "normal" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    (photos / "link").symlink_to(".")
    config = options_of("autoencoder")(
        data=str(photos), data_dir=str(photos / place), folder=FolderConfig(storage="disk")
    )
    before = sorted(photos.rglob("*"))
    with pytest.raises(UserError, match=r"^--data-dir .* reads from; choose another --data-dir"):
        open_dataset(config)
    assert sorted(photos.rglob("*")) == before


def test_no_cache_lies_among_idx_files(small_folder, without_tensorflow, tmp_path):
    options = ("--data", small_folder, "--data-dir", small_folder, "--run-dir", tmp_path / "run")
    done = run_script("train.py", *options, env=without_tensorflow)
    assert_one_line(done, "which this command reads from; choose another --data-dir")


@pytest.mark.parametrize(
    "name",
    [
        "benchmark.md",
        "benchmark.html",
        "cells/vae-one_class-class0-seed0.json",
        "runs/vae-one_class-class0-seed0/photo.png",
    ],
)
def test_a_benchmark_replaces_no_other_file(name, tmp_path):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True, parents=True)
    mine.write_text("{}")
    options = BenchmarkOptions(
        approaches=("vae",),
        protocols=("one_class",),
        output=str(tmp_path),
        data=str(tmp_path / "x"),
    )
    with pytest.raises(UserError, match=r"not written by .*another --output"):
        next(run_cells(options))
    assert mine.read_text() == "{}"
    assert Cell("vae", "one_class", 0, 0).name in "cells/vae-one_class-class0-seed0.json"


def test_a_benchmark_does_not_write_among_the_data(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    options = BenchmarkOptions(approaches=("vae",), output=str(tmp_path), data=str(tmp_path))
    with pytest.raises(UserError, match="which this command reads from"):
        next(run_cells(options))


def test_only_runs_are_removed(run_copy, tmp_path):
    shutil.rmtree(run_copy / "export", ignore_errors=True)
    (run_copy / "said.json").unlink()  # of the tests
    assert is_own_run(run_copy)
    for name in ("notes.txt", "export/model.tflite", "plots/mine.txt", "tensorboard/mine.txt"):
        (run_copy / name).parent.mkdir(exist_ok=True)
        (run_copy / name).touch()
        assert not is_own_run(run_copy)
        (run_copy / name).unlink()
    assert is_own_run(run_copy)
    assert not is_own_run(tmp_path / "none")
    run = tmp_path / "run"
    run.mkdir()
    assert is_own_run(run)
    (run / ".partial-x").touch()
    (run / "config.yaml").touch()
    (run / "tensorboard").mkdir()
    assert is_own_run(run)
    (run / "photo.png").touch()
    assert not is_own_run(run)


@pytest.mark.parametrize(
    "name",
    [
        *("metrics.json", "scores.csv", "examples.json", "report.html"),
        *("plots/mine.png", "plots/dir.png", "plots/curve.png"),
    ],
)
def test_an_evaluation_replaces_an_evaluation_only(name, trained_run, tmp_path):
    run = RunDirectory(tmp_path)
    run.plots.mkdir()
    Image.new("L", (2, 2)).save(run.plots / "roc.png", pnginfo=mark("Matplotlib version3.9"))
    run.scores.write_text(f"file,{SCORES_HEAD}\n")
    run.require_own_evaluation("--output", [])
    path = tmp_path / name
    if "dir" in name:
        path.mkdir()
    elif path.suffix == ".png":
        Image.new("L", (2, 2)).save(path, pnginfo=mark("Matplotlib" if "curve" in name else "me"))
    else:
        path.write_text('{"mine": true}')
    with pytest.raises(UserError, match=rf"{path.name} .*not written by this command"):
        run.require_own_evaluation("--output", [])


def mark(writer: str) -> PngInfo:
    info = PngInfo()
    info.add_text("Software", writer)
    return info


def test_a_folder_that_is_none_is_refused_before_work(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file", "file/deep/er", "dangling", "dangling/deep", "loop"):
        with pytest.raises(UserError, match=r"is (a link to no|not a) folder; .* --output"):
            require_writable(tmp_path / name, "--output")
    require_writable(tmp_path / "new" / "deep", "--output")


def test_a_cache_lies_in_no_folder_of_pictures(tmp_path):
    folder = tmp_path / "all" / "folders"
    for name in ("good", "bad"):
        for number in range(6):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * number).save(folder / name / f"{number}.png")
    config = options_of("autoencoder")(data=str(folder), data_dir=str(tmp_path / "all"))
    with pytest.raises(UserError, match="which this command reads from; choose another --data-dir"):
        open_dataset(config)


def test_measurements_replace_no_other_file(tmp_path):
    path = tmp_path / "results.json"
    assert kept_results(path) == {}
    for content in (
        {"mine": 1},
        {"cells": [{"cell_type": "code"}]},
        {"cells": []},
        {"hardware": {"disk": 1}},
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"holds no measurement.*another --output"):
            kept_results(path)
        assert json.loads(path.read_text()) == content
    for file in Path(__file__).parents[1].glob("results/*.json"):
        assert kept_results(file)


def test_links_are_not_treated_as_their_targets(deployed, tmp_path):
    run, link = tmp_path / "run", tmp_path / "link"
    run.mkdir()
    (run / "config.yaml").touch()
    link.symlink_to(run)
    assert is_own_run(run)
    assert not is_own_run(link)
    link.unlink()
    link.symlink_to(deployed["saved_model"])
    assert is_exported_folder(deployed["saved_model"])
    assert not is_exported_folder(link)


def test_large_files_are_not_looked_into(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert json_with("a")(path)
    path.write_text('{"a": 1}' + 65 * 10**6 * " ")
    assert not json_with("a")(path)
    path = tmp_path / "a.png"
    for length, found in ((10, HEAT_MAP), (5000, "")):
        info = PngInfo()
        info.add_text("Comment", "x" * length)
        info.add_text("Software", HEAT_MAP)
        Image.new("L", (8, 8)).save(path, pnginfo=info)
        assert software_of(path) == found
