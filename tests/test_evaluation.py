"""Metrics of evaluate.py on images whose scores and maps can be computed by hand."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_one_line, plain_images, run_command, run_script, weighing_detector
from matplotlib.figure import Figure
from PIL import Image

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.approaches.dual_gan.options import DualGanConfig
from anomaly_tf.cli import evaluate as evaluate_script
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.masks import MaskedImages
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roles import Roles
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_file import open_split, save_split
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.reporting import evaluation as measuring
from anomaly_tf.reporting import pictures as drawing
from anomaly_tf.reporting.evaluation import Evaluation, evaluate, save_figures
from anomaly_tf.reporting.pictures import draw
from anomaly_tf.reporting.table import table
from anomaly_tf.runs.directory import RunDirectory, open_run, unfinished_training

# Red pixels of each picture, which are all of its score: number / 80 of 10 x 8 pixels.
TESTED = {
    "good": {"a": 2, "b": 10, "c": 0},
    "dent": {"a": 8, "b": 4, "c": 12},
    "stain": {"a": 1, "b": 6},
}
WITHOUT_MASK = ("stain", "a")


@pytest.fixture(scope="module")
def metrics(evaluated_folder) -> dict:
    """The metrics of the evaluation."""
    return json.loads((evaluated_folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def evaluated_folder(tmp_path_factory) -> Path:
    """Of a folder of blue images; a defect is red, and marked by a mask, each elsewhere."""
    folder = tmp_path_factory.mktemp("evaluation")
    photos = folder / "photos"
    colours = np.zeros((10, 8, 3), np.uint8)
    colours[..., 2] = 255
    for number in range(6):
        save(
            colours - np.array([0, 0, number], np.uint8),
            photos / "train" / "good" / f"{number}.png",
        )
    place = 0
    for name, pictures in TESTED.items():
        for stem, count in pictures.items():
            red = np.zeros(80, bool)
            red[place : place + count] = True
            place += count
            picture = colours.copy()
            picture[red.reshape(10, 8)] = (255, 0, 0)
            save(picture, photos / "test" / name / f"{stem}.png")
            if name != "good" and (name, stem) != WITHOUT_MASK:
                mask = 255 * red.reshape(10, 8).astype(np.uint8)
                save(mask, photos / "ground_truth" / name / f"{stem}_mask.png")
    config = AutoencoderConfig(data=str(photos), data_dir=str(folder), image_size="10x8")
    dataset = load_folder(photos, config)
    save_split(make_split(config, dataset), dataset, folder / "split.json")
    detector = weighing_detector((10, 8, 3), (1, 0, 0), threshold=5 / 80)
    detector.info.class_names = list(dataset.class_names)
    run = RunDirectory(folder / "run")
    split = open_split(config, folder / "split.json")
    evaluation = evaluate(detector, split, config)
    save_figures(evaluation, detector, split, run)
    assert draw(detector, split, evaluation, run.history, run) == []
    assert json.loads(run.metrics.read_text()) == evaluation.metrics
    return run.path


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_each_image_is_scored_with_its_label(metrics):
    # Dents of 8, 4 and 12 against 2, 10 and 0 win 2 + 2 + 3 of 9; stains of 1 and 6 win 1 + 2 of 6.
    assert metrics["auroc_by_class"] == pytest.approx({"dent": 7 / 9, "stain": 3 / 6})
    assert metrics["auroc"] == pytest.approx(10 / 15)
    # From 5 on: 10 of the good ones; 8, 12 and 6 of the others.
    assert metrics["confusion_matrix"] == [[2, 1], [2, 3]]
    assert metrics["test_detection_rate"] == pytest.approx(3 / 5)
    assert metrics["normal_scores"]["median"] == pytest.approx(2 / 80)
    assert (metrics["n_test"], metrics["normal_class_name"]) == (8, "good")


def test_the_most_unusual_normal_pictures_are_named(metrics):
    found = {row["file"]: row["score"] for row in metrics["most_unusual_normal"]}
    assert list(found) == ["test/good/b.png", "test/good/a.png", "test/good/c.png"]
    assert list(found.values()) == pytest.approx([10 / 80, 2 / 80, 0], abs=1e-6)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_test_picture_has_its_row(evaluated_folder):
    rows = {row.pop("file"): row for row in rows_of(evaluated_folder)}
    assert len(rows) == 8
    # Calibration scores are 0.1, 0.2 and 0.3: of 12 / 80 = 0.15 two are as high, of 0.125 too.
    score = {name: float(row.pop("score")) for name, row in rows.items()}
    assert score["test/dent/c.png"] == pytest.approx(12 / 80)
    assert rows["test/dent/c.png"] == {
        **{"label": "anomaly", "class": "dent", "verdict": "anomaly", "p_value": "0.75"}
    }
    assert rows["test/stain/a.png"] == {
        **{"label": "anomaly", "class": "stain", "verdict": "normal", "p_value": "1"}
    }
    assert rows["test/good/b.png"]["verdict"] == "anomaly"


def test_mistakes_are_named(metrics):
    files = {
        name: [(row["file"], row["class"]) for row in metrics[name]]
        for name in ("worst_misses", "worst_false_alarms")
    }
    assert files == {
        "worst_misses": [("test/stain/a.png", "stain"), ("test/dent/b.png", "dent")],
        "worst_false_alarms": [("test/good/b.png", "good")],
    }
    assert metrics["worst_misses"][0]["score"] == pytest.approx(1 / 80)


def test_each_map_is_compared_with_the_mask_of_its_own_picture(metrics):
    # Four masks of 8 + 4 + 12 + 6 pixels, all found. Of the 3 x 80 pixels of good images and the
    # 4 x 80 - 30 others of marked ones, 12 are as red; the picture without a mask is left out.
    assert metrics["n_masks"] == 4
    assert metrics["pixel_auroc"] == pytest.approx((530 - 12 / 2) / 530)
    # Up to 12 / 530 of false positives the overlap rises from 0 to 1, where it stays up to 0.3.
    assert metrics["aupro"] == pytest.approx((0.3 - 12 / 530 / 2) / 0.3)


def test_seen_and_unseen_classes_are_measured_apart():
    # Classes: 0 normal, 1 seen in training, 2 unseen.
    test = plain_images([20, 80, 60, 90, 10, 70, 95], [0, 0, 1, 1, 2, 2, 2])
    empty = plain_images([], [])
    split = Split(empty, empty, test, Roles((0,), (1,), (2,)), ("good", "dent", "stain"))
    detector = weighing_detector((8, 8, 1), (1,), threshold=65 / 255)
    detector.info.class_names = list(split.class_names)
    config = DualGanConfig(protocol="unseen", normal_class=("good",), seed=4)
    metrics = evaluate(detector, split, config).metrics
    # Unseen: 10 beats none of 20 and 80, 70 beats one, 95 both. Seen: 60 beats one, 90 both.
    assert metrics["auroc"] == metrics["auroc_unseen"] == pytest.approx(3 / 6)
    assert metrics["auroc_seen"] == pytest.approx(3 / 4)
    assert metrics["confusion_matrix"] == [[1, 1], [1, 2]]
    assert (metrics["n_test"], metrics["seed"], metrics["protocol"]) == (5, 4, "unseen")
    assert (metrics["seen_classes"], metrics["unseen_classes"]) == (["dent"], ["stain"])
    assert "AUROC against stain (unseen)" in table(metrics)
    # Images that are no files go by their place in the test set.
    assert [row["number"] for row in metrics["worst_misses"]] == [4, 2]
    assert [row["number"] for row in metrics["worst_false_alarms"]] == [1]


def evaluated_again(run: Path, *options: object, capsys) -> tuple[int, str, str]:
    status = evaluate_script.main(["--run-dir", str(run), *map(str, options)])
    return status, *capsys.readouterr()


def test_figures_are_shown_and_kept_before_anything_is_drawn(trained_run, tmp_path, monkeypatch):
    output, seen = tmp_path / "out", []

    def dying(*arguments: object) -> list[str]:
        seen.append((tmp_path / "said").read_text())  # not what waits in Python to be written
        raise ZeroDivisionError

    monkeypatch.setattr(drawing, "draw", dying)
    with (tmp_path / "said").open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(ZeroDivisionError):
            evaluate_script.main(["--run-dir", str(trained_run), "--output", str(output)])
    assert "AUROC" in seen[0]
    assert {path.name for path in output.iterdir()} == {"metrics.json", "scores.csv"}


def test_figures_that_cannot_be_kept_are_shown_all_the_same(
    trained_run, tmp_path, capsys, monkeypatch
):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(measuring, "save_figures", full)
    with pytest.raises(OSError, match="No space"):
        evaluated_again(trained_run, "--output", tmp_path / "out", capsys=capsys)
    assert "AUROC" in capsys.readouterr().out


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_with_an_output_the_run_is_only_read_and_a_missing_picture_costs_nothing_else(
    run_copy, tmp_path, capsys
):
    (run_copy / "history.csv").write_text("loss\n1\n")
    before = contents(run_copy)
    output = tmp_path / "place"
    # An earlier evaluation is replaced, and its plots do not stay beside other figures.
    (output / "plots").mkdir(parents=True)
    shutil.copy(run_copy / "metrics.json", output)
    for name in ("losses", "of_before"):
        shutil.copy(run_copy / "plots" / "roc.png", output / "plots" / f"{name}.png")
    options = ("--output", output, "--threshold.percentile", 50)
    status, said, errors = evaluated_again(run_copy, *options, capsys=capsys)
    assert status == 3
    assert errors.startswith(f"error: {output}/plots/losses.png was not drawn (ValueError")
    assert "history.csv is damaged" in errors
    assert errors.count("\n") == 1
    assert contents(run_copy) == before
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["threshold_method"] == "percentile 50"
    assert f"{metrics['auroc']:.4f}" in said
    rows = rows_of(output)
    assert len(rows) == metrics["n_test"] == 1500
    assert [row["number"] for row in rows[:3]] == ["0", "1", "2"]
    alarms = sum(row["verdict"] == "anomaly" and row["label"] == "normal" for row in rows)
    assert alarms == metrics["confusion_matrix"][0][1]
    kept = {"metrics.json", "scores.csv", "examples.json", "report.html", "plots"}
    assert {path.name for path in output.iterdir()} == kept
    drawn = {path.stem for path in (output / "plots").glob("*.png")}
    assert {"scores", "worst_misses", "roc"} <= drawn
    assert not {"losses", "of_before"} & drawn
    assert len(drawn) == 9


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("notes", ["--output", "holds other files"]),
        ("notes/note.txt", ["cannot write to", "is not a folder", "--output"]),
        ("other_run", ["--output", "holds other files"]),
        ("idx/inside", ["--output", "lies in the data"]),
        ("blocked", ["blocked/metrics.json is a folder", "--output"]),
        ("closed", ["cannot write to closed", "--output"]),
    ],
)
def test_an_output_that_is_not_its_own_is_refused_before_work(
    output, words, run_copy, small_folder, tmp_path, without_tensorflow
):
    place = tmp_path / "place"
    (place / "notes").mkdir(parents=True)
    (place / "notes" / "note.txt").write_text("keep me")
    (place / "blocked" / "metrics.json").mkdir(parents=True)
    (place / "idx").symlink_to(small_folder)
    shutil.copytree(run_copy, place / "other_run")
    (place / "closed").symlink_to("/proc")  # where nobody may write
    before = contents(place)
    options = ("--run-dir", run_copy, "--output", output)
    done = run_script("evaluate.py", *options, cwd=place, env=without_tensorflow)
    assert_one_line(done, *words)
    assert contents(place) == before


@pytest.mark.parametrize(
    ("script", "closed"), [("evaluate.py", "."), ("train.py", "."), ("evaluate.py", "plots")]
)
def test_a_run_that_cannot_be_written_is_refused_before_work(
    script, closed, run_copy, without_tensorflow
):
    closed = run_copy / closed
    facts = json.loads((run_copy / "detector.json").read_text())
    facts["training"]["status"] = "interrupted"
    (run_copy / "detector.json").write_text(json.dumps(facts))
    for path in (closed, *closed.rglob("*")):
        path.chmod(0o555)
    command: list[object] = [sys.executable, ROOT / script]
    if os.geteuid() == 0:  # without root's right to write everywhere
        if shutil.which("setpriv") is None:
            pytest.skip("needs the command setpriv")
        for path in (closed, *closed.rglob("*")):
            os.chown(path, 65534, 65534)
        rights = "-dac_override,-dac_read_search,-fowner"
        command = ["setpriv", "--bounding-set", rights, *command]
    option = {"evaluate.py": "--run-dir", "train.py": "--resume"}[script]
    done = run_command(*command, option, run_copy, env=without_tensorflow)
    remedy = {"evaluate.py": "choose another --output", "train.py": "choose another run"}[script]
    assert_one_line(done, f"cannot write to {closed}: Permission denied", remedy)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("completed", None),
        ("interrupted", "was interrupted after epoch 2; this is the detector of epoch"),
        ("running", "is unfinished after epoch 2"),
        ("non_finite_loss", "ended with a loss that is not finite after epoch 2"),
    ],
)
def test_an_unfinished_training_is_mentioned(status, words, run_copy):
    run, info = open_run(run_copy)
    info.training.status = status
    note = unfinished_training(run, info)
    if words is None:
        assert note is None
        return
    assert words in note
    assert (f"anomaly-tf train --resume {run_copy}" in note) == (status != "non_finite_loss")


@pytest.mark.parametrize("script", ["evaluate.py", "export.py"])
def test_scripts_report_an_unfinished_training(script, run_copy, tmp_path, without_tensorflow):
    facts = json.loads((run_copy / "detector.json").read_text())
    facts["training"] |= {"status": "interrupted", "best_epoch": 0, "epochs": 0}
    (run_copy / "detector.json").write_text(json.dumps(facts))
    options = ["--run-dir", run_copy, "--output", tmp_path / "out"]
    options += ["--format", "tflite"] if script == "export.py" else []
    # TensorFlow, which is not there, comes after the note.
    said = run_script(script, *options, env=without_tensorflow).stderr
    assert said.startswith(f"note: the training of {run_copy} was interrupted after epoch 0; this ")
    assert "this is the detector of its unfinished first epoch" in said


# A class and files as hostile names have them, and a name that a spreadsheet takes for a formula.
HOSTILE = "a\n\x1b[31mb"


def hostile_split() -> Split:
    """Two normal images and two anomalies, one with the score of a normal image."""
    images = plain_images([20, 80, 10, 90], [0, 0, 1, 1])
    files = ("=1+1.png", f"x/{HOSTILE}.png", f"y/{HOSTILE}.png", "@y.png")
    test = LabelledImages(images.images, images.classes, files, labels=images.labels)
    empty = plain_images([], [])
    return Split(empty, empty, test, Roles((0,), unseen=(1,)), ("@x", HOSTILE))


@pytest.fixture
def hostile(tmp_path) -> tuple:
    """A detector, a split whose names are hostile, and what was measured."""
    detector, split = weighing_detector((8, 8, 1), (1,)), hostile_split()
    detector.info.class_names = list(split.class_names)
    config = AutoencoderConfig(data=str(tmp_path / HOSTILE), normal_class=("@x",))
    return detector, split, evaluate(detector, split, config)


def test_names_in_the_scores_are_no_formulas(hostile, tmp_path):
    detector, split, evaluation = hostile
    save_figures(evaluation, detector, split, RunDirectory(tmp_path))
    shown = r"a\n\x1b[31mb"
    assert [(row["file"], row["class"]) for row in rows_of(tmp_path)] == [
        ("'=1+1.png", "'@x"),
        (f"x/{shown}.png", "'@x"),
        (f"y/{shown}.png", shown),
        ("'@y.png", shown),
    ]


def test_the_table_shows_names_without_escapes_in_straight_columns(hostile):
    metrics = hostile[-1].metrics
    lines = table(metrics).split("\n")
    assert all(map(str.isprintable, lines))
    (longest,) = (line for line in lines if line.startswith(r"  AUROC against a\n\x1b[31mb  "))
    (threshold,) = (line for line in lines if line.startswith("  threshold  "))
    assert threshold.index(f"{metrics['threshold']:.4g}") == longest.index("0.5000")
    unusual = {"auroc": None, "most_unusual_normal": [{"file": HOSTILE, "score": 1.0}]}
    for more in (unusual, {"normal_class_name": HOSTILE}):
        assert r"a\n\x1b[31mb" in table(metrics | more)
        assert table(metrics | more).replace("\n", "").isprintable()


def test_an_interval_needs_more_than_one_anomaly(hostile):
    metrics = hostile[-1].metrics | {"auroc_ci95": None}
    assert "0.5000  (too few images for a confidence interval)" in table(metrics)


def drawn_of(detector: TrainedDetector, split: Split, evaluation: Evaluation) -> dict:
    """The plots of groups of images, by name."""
    return drawing.Explanations(detector, split, evaluation).drawings()


def labels_of(figure: Figure) -> list[str]:
    """The titles above the images of a plot."""
    axis = figure.axes[0]
    return [text.get_text() for text in axis.get_xticklabels()] or [
        one.get_title() for one in figure.axes if one.get_title()
    ]


def test_a_caption_keeps_its_lines_for_any_names(hostile, tmp_path):
    detector, split, evaluation = hostile
    shown, masks = r"a\n\x1b[31mb", np.zeros((2, 8, 8), bool)
    masks[:, :2] = True
    masked = MaskedImages(split.test.take(np.array([2, 3])), masks, 0)
    evaluation = dataclasses.replace(evaluation, masked=masked)
    figures = drawn_of(detector, split, evaluation)
    captions = [f"{shown}\n{name}" for name in (f"{shown}.png", "@y.png")]
    assert labels_of(figures["localisation"]()) == captions
    captions = [f"{text}\n{score}" for text, score in zip(captions, (0.0392, 0.353), strict=True)]
    assert labels_of(figures["worst_misses"]()) == captions


def test_images_that_are_no_files_are_captioned_by_their_number(hostile, tmp_path):
    detector, split, evaluation = hostile
    test = dataclasses.replace(split.test, files=())
    split = dataclasses.replace(split, test=test)
    figures = drawn_of(detector, split, evaluation)
    labels = labels_of(figures["worst_misses"]())
    assert [label.split("\n")[1] for label in labels] == ["number 2", "number 3"]


@pytest.mark.parametrize("name", ["metrics.json", "scores.csv"])
def test_a_failure_in_mid_writing_leaves_the_file_of_before(name, hostile, tmp_path):
    detector, split, evaluation = hostile
    save_figures(evaluation, detector, split, RunDirectory(tmp_path))
    before = (tmp_path / name).read_bytes()
    if name == "metrics.json":
        evaluation.metrics["auroc"] = float("nan")
    else:
        evaluation = dataclasses.replace(evaluation, scores=np.arange(100, dtype=np.float32))
    with pytest.raises((ValueError, IndexError)):
        save_figures(evaluation, detector, split, RunDirectory(tmp_path))
    assert (tmp_path / name).read_bytes() == before


def test_an_evaluation_prints_names_without_their_escapes(run_copy, tmp_path, capsys, monkeypatch):
    run = run_copy.rename(tmp_path / HOSTILE)
    facts = json.loads((run / "detector.json").read_text())
    facts["training"]["status"] = "interrupted"
    (run / "detector.json").write_text(json.dumps(facts))

    def failing() -> Figure:
        raise ValueError(f"of {HOSTILE}\r\n\tletters")

    def opened(*arguments, **keywords) -> Split:
        left_out = (f"left out: 1 file ({HOSTILE})",)
        return dataclasses.replace(open_split(*arguments, **keywords), left_out=left_out)

    monkeypatch.setattr(drawing, "_drawings", lambda *arguments: {"roc": failing})
    monkeypatch.setattr(evaluate_script, "open_split", opened)
    status, said, errors = evaluated_again(run, capsys=capsys)
    assert status == 3
    assert (said + errors).replace("\n", "").isprintable()
    left_out, note, failure = errors.splitlines()
    assert left_out == r"left out: 1 file (a\n\x1b[31mb)"
    assert note.startswith("note: the training of ")
    assert failure.endswith(r"roc.png was not drawn (ValueError: of a \x1b[31mb letters)")
    assert said.splitlines()[-1].startswith("written: ")
    assert not list((run / "plots").iterdir())
