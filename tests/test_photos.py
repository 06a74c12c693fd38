"""`make bench-photos`: what it measures and keeps, and its tables; see test_elpv, test_textures."""

from __future__ import annotations

import json
import shlex
import shutil
import sys

import pytest
from conftest import ROOT, run_command
from PIL import Image

from anomaly_tf.approaches import APPROACHES
from anomaly_tf.command_line import parse_options, parse_train_options
from anomaly_tf.errors import UserError
from measurements import photo_tables, photos
from measurements.measuring import package_folder, peak_memory
from measurements.photos import PARTS, ROWS, PhotoBenchmarkOptions, chosen_rows

RESULTS = ROOT / "results" / "photos.json"
SHORT = (
    *("--approach", "autoencoder", "--training.epochs", "1", "--training.steps-per-epoch", "4"),
    *("--training.batch-size", "8"),
)


def options_of(*arguments: str) -> PhotoBenchmarkOptions:
    return parse_options(PhotoBenchmarkOptions, "photos.py", "", [*arguments])


def test_every_part_has_rows_columns_and_a_title():
    assert options_of().parts == tuple(PARTS)
    for table in (ROWS, photo_tables.COLUMNS, photo_tables.TITLES):
        assert {*table} == {*PARTS}
    assert {part for users in photos.NEEDED.values() for part in users} <= {*PARTS}


def test_every_row_is_one_that_train_takes():
    rows = [flags for rows in ROWS.values() for flags in rows.values()]
    for flags in (flags for flags in rows if flags[1] in APPROACHES):
        assert parse_train_options([*flags]).config.approach == flags[1]


def test_rows_are_chosen_by_name():
    chosen = chosen_rows(options_of("--parts", "memory,elpv", "--approaches", "vae"))
    assert chosen == {"memory": {}, "elpv": {"vae": ("--approach", "vae")}}
    with pytest.raises(UserError, match="'sofa' is no row of gravel; choose from auto, nsa"):
        chosen_rows(options_of("--parts", "gravel", "--approaches", "vae,sofa"))


def test_results_that_could_not_be_kept_are_not_measured(tmp_path):
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(UserError, match=r"cannot write to .*file.*choose another --output"):
        photos.main(["--output", str(tmp_path / "file" / "new.json")])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_package_is_named_before_anything_is_measured(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"no_such_photos is not installed; run make bench-photos"):
        package_folder("no_such_photos")
    monkeypatch.setattr(photos, "NEEDED", {"no_such_photos": ("gravel",)})
    output = tmp_path / "photos.json"
    with pytest.raises(UserError, match="no_such_photos is not installed"):
        photos.main(["--parts", "cloth,gravel", "--output", str(output)])
    assert not output.exists()
    assert photos.required_packages(("cloth",)) == {}


def test_a_part_is_measured_and_the_others_are_kept(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(ROWS, "cloth", {"short": SHORT, "other": ()})
    monkeypatch.setattr(photos, "CLOTH", (12, 4))
    monkeypatch.setattr(photos, "CLOTH_SIZES", (64,))
    output = tmp_path / "photos.json"
    earlier = {"seconds": 1.0, "peak_mb": 2.0}
    other = {"auroc": 0.5, "auroc_by_class": {"stain": 0.5}}
    kept = {"memory": {"set": {"padim": earlier}}, "cloth": {"64": {"other": other}}}
    output.write_text(json.dumps(kept | {"hardware": "CPU: a processor"}))
    photos.main(["--parts", "cloth", "--approaches", "short", "--output", str(output)])
    results = json.loads(output.read_text())
    found = results["cloth"]["64"].pop("short")
    assert {part: results[part] for part in kept} == kept
    assert results["hardware"].startswith("CPU: ")
    assert found["approach"] == "autoencoder"
    # A tenth of the training images is for validation.
    assert (found["n_train"] + found["n_validation"], found["n_test"]) == (12, 16)
    assert 0 <= found["auroc_ci95"][0] <= found["auroc"] <= found["auroc_ci95"][1] <= 1
    assert set(found["auroc_by_class"]) == {"scratch", "stain", "missing"}
    assert found["aupro"] is not None
    assert found["seconds"] > 0
    assert found["peak_mb"] > 200
    assert f"| 64 | `short` | {found['auroc']:.3f} |" in capfd.readouterr().out


def test_an_export_is_measured_or_its_refusal_is_kept(monkeypatch, trained_run, tmp_path):
    monkeypatch.chdir(ROOT)
    run = shutil.copytree(trained_run, tmp_path / "copy" / "run")
    model, found = photos.exported(run, "float16")
    assert model is not None
    assert found["auroc"] == pytest.approx(found["auroc_of_run"], abs=0.002)
    assert found["megabytes"] == model.stat().st_size / 1e6
    assert found["milliseconds"] > 0
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        Image.new("L", (8, 8), 80 * number).save(pictures / f"{number}.png")
    assert len(photos.scores_of(model, pictures)) == 3
    model, found = photos.exported(tmp_path / "run", "none")
    assert model is None
    assert found["refused"].startswith(f"run directory {tmp_path / 'run'} does not exist")


def test_the_memory_of_a_command_is_its_own():
    large = bytearray(b"1" * 300_000_000)
    assert peak_memory([sys.executable, "-c", "pass"]) < 100
    took = peak_memory([sys.executable, "-c", "bytearray(b'1' * 300_000_000)"])
    assert 300 < took < 700
    del large


def test_a_command_that_fails_is_not_measured():
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    assert peak_memory(command, allowed=(3,)) > 1
    with pytest.raises(RuntimeError, match="ended with status 3"):
        peak_memory(command)


def test_tables_show_what_was_measured():
    cell = {"approach": "padim", "auroc": 0.9, "auroc_ci95": [0.85, 0.95], "fpr_at_95_tpr": 0.25}
    cell |= {"seconds": 30.4, "peak_mb": 812.3}
    draws = {"draw 0": {"auto": cell}, "draw 1": {"auto": cell | {"auroc": 0.8}}}
    missed = {"grass": "0 of 16", "coin": "2 of 13"}
    export = {"padim, int8": {"refused": "no int8"}}
    text = photo_tables.tables(
        {
            "hardware": "CPU: a processor",
            "elpv": {"mono": {"auto": cell, "vae": cell | {"auroc_ci95": None}}},
            "labelled": draws,
            "gravel": {"twelve crops": {"vae": cell | {photos.MISSED: missed}}},
            "exports": {"128": export},
        }
    )
    lines = text.splitlines()
    assert "| mono | `auto`: `padim` | 0.900 | 0.850 to 0.950 | 25.0% | 30 | 812 |" in lines
    assert "| mono | `vae` | 0.900 |  | 25.0% | 30 | 812 |" in lines
    assert "| mean of 2 | `auto` | 0.850 |  | 25.0% | 30 | 812 |" in lines
    assert "| twelve crops | `vae` | grass 0 of 16, coin 2 of 13 | 30 | 812 |" in lines
    assert "| 128 | `padim, int8` |  |  |  |  | no int8 |" in lines
    assert "Many pictures" not in text


def test_make_installs_the_photographs_before_it_measures():
    done = run_command(
        *("make", "--no-print-directory", "-n", "-o", ".venv/ready-requirements", "bench-photos")
    )
    set_up, measure = done.stdout.splitlines()[-2:]
    assert shlex.split(set_up)[:4] == [
        "sh",
        "tools/environment.sh",
        ".venv",
        "requirements-photos.txt",
    ]
    assert measure.strip() == ".venv/bin/python -m measurements.photos"


@pytest.mark.skipif(not RESULTS.exists(), reason="not measured yet")
def test_the_page_shows_the_kept_results():
    results = json.loads(RESULTS.read_text("utf-8"))
    page = (ROOT / "docs" / "explanation" / "photographs.md").read_text("utf-8")
    for part in (part for part in PARTS if part in results):
        assert photo_tables.table(part, results[part]) in page
