"""`--approach auto`: which approach is chosen, and the comparison on validation images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import assert_one_line, run_script
from PIL import Image
from test_advice import MANY

import anomaly_tf
from anomaly_tf.choice import MIN_COMPARED, MIN_LABELLED, choose
from anomaly_tf.cli import train
from anomaly_tf.detection.metrics import preferred
from anomaly_tf.runs.sections import Calibration
from anomaly_tf.training import loop
from anomaly_tf.training.comparison import upper_limit

SHORT = ["--training.batch-size", "16"]


@pytest.mark.parametrize(
    ("changes", "asked", "names", "protocol"),
    [
        ({}, "imbalance", ["padim"], "one_class"),
        ({"alikeness": 0.01}, "imbalance", ["patchcore"], "one_class"),
        ({"alikeness": None}, "imbalance", ["patchcore"], "one_class"),
        ({"image_shape": (28, 28, 1)}, "imbalance", ["transform"], "one_class"),
        ({"n_anomalies": MIN_COMPARED - 1}, "imbalance", ["padim"], "one_class"),
        ({"n_anomalies": MIN_COMPARED}, "imbalance", ["padim", "patchcore"], "imbalance"),
        (
            {"n_anomalies": MIN_COMPARED, "alikeness": 0.01},
            "imbalance",
            ["patchcore", "padim"],
            "imbalance",
        ),
        ({"n_anomalies": MIN_LABELLED}, "imbalance", ["padim", "patchcore", "sota"], "imbalance"),
        ({"n_anomalies": MIN_LABELLED}, "one_class", ["padim"], "one_class"),
        ({"n_anomalies": MIN_LABELLED}, "contaminated", ["padim"], "contaminated"),
    ],
)
def test_the_choice(changes, asked, names, protocol):
    found = dataclasses.replace(MANY, n_kinds=1, **changes)
    choice = choose(found, asked)
    assert [name for name, _ in choice.candidates] == names
    assert choice.candidates[0][1] == protocol
    assert names[0] in choice.reason


def test_labels_of_pictures_do_not_label_tiles():
    found = dataclasses.replace(MANY, n_anomalies=MIN_LABELLED, n_kinds=1)
    names = [name for name, _ in choose(found, "imbalance", without_labels=True).candidates]
    assert names == ["padim", "patchcore"]


def test_small_pictures_with_labels_compare_under_the_protocol_of_each():
    found = dataclasses.replace(MANY, image_shape=(28, 28, 1), n_anomalies=100, n_kinds=3)
    assert choose(found, "imbalance").candidates == (
        ("sota", "imbalance"),
        ("transform", "one_class"),
        ("padim", "imbalance"),
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Aligned pictures with a bright part, and twenty in which it is missing."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for name, count in (("good", 40), ("defect", 20)):
        (folder / name).mkdir()
        for number in range(count):
            picture = rng.normal(90, 6, (64, 64))
            if name == "good":
                picture[20:44, 12:30] += 90
            picture[40:60, 36:60] += 60
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(
                folder / name / f"{number:02}.png"
            )
    return folder


def test_a_run_is_that_of_the_chosen_approach(parts, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--approach", "auto", "--protocol", "one_class", "--data", str(parts), *SHORT]
    assert train.main([*options, "--run-dir", str(run), "--seed", "3"]) == 0
    assert "approach: padim (64x64 pixels, aligned, " in capsys.readouterr().out
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["approach"], config["protocol"], config["seed"]) == ("padim", "one_class", 3)
    assert config["training"]["batch_size"] == 16
    info = json.loads((run / "detector.json").read_text())
    assert info["approach"] == "padim"
    assert "--approach auto" in info["training"]["command"]


def test_labelled_anomalies_compare_the_candidates(parts, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--approach", "auto", "--data", str(parts), "--folder.test-fraction", "0.1", *SHORT]
    assert train.main([*options, "--run-dir", str(run)]) == 0
    said = capsys.readouterr().out
    assert "the best of padim, patchcore, each on its validation images" in said
    assert "learns from none of" not in said
    info = json.loads((run / "detector.json").read_text())
    best = info["approach"]
    assert f"approach: {best} has the largest validation AUROC (padim 1.0000, patchcore " in said
    assert info["protocol"] == "imbalance"
    assert info["training"]["validation"]["val_auroc"] == 1.0
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert run_script("evaluate.py", "--run-dir", run).returncode == 0


@pytest.mark.parametrize(
    ("n_anomalies", "other", "kept"),
    [(3, 0.88, "padim"), (300, 0.88, "patchcore"), (300, 0.81, "padim"), (1, 1.0, "padim")],
)
def test_the_first_choice_stays_within_the_standard_error_of_its_auroc(n_anomalies, other, kept):
    normal, anomalies = np.arange(100.0), np.full(n_anomalies, 79.5)  # an AUROC of 0.8
    calibration = Calibration(100, normal.tolist(), anomalies.tolist())
    best, reason = preferred({"padim": 0.8, "patchcore": other}, upper_limit(calibration))
    assert best == kept
    assert ("within a standard error" in reason) == (kept == "padim")
    assert preferred({"padim": 0.8, "patchcore": 0.7}, upper_limit(calibration)) == (
        "padim",
        "has the largest validation AUROC",
    )


def test_an_interrupted_comparison_keeps_what_was_interrupted(parts, tmp_path, monkeypatch, capsys):
    calls = []

    def interrupt(*arguments, **keywords):
        calls.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Validation, "on_epoch_end", interrupt)
    run = tmp_path / "run"
    options = ["--approach", "auto", "--data", str(parts), *SHORT, "--run-dir", str(run)]
    assert train.main(options) == 130
    assert len(calls) == 1
    assert f"--resume {run}" in capsys.readouterr().err
    assert (run / "config.yaml").is_file()


def test_an_interrupted_comparison_keeps_the_best_of_the_completed(
    parts, tmp_path, monkeypatch, capsys
):
    original, calls = loop.train, []

    def interrupted_in_the_second(*arguments, **keywords):
        calls.append(arguments)
        outcome = original(*arguments, **keywords)
        return outcome if len(calls) == 1 else dataclasses.replace(outcome, status="interrupted")

    monkeypatch.setattr(loop, "train", interrupted_in_the_second)
    run = tmp_path / "run"
    options = ["--approach", "auto", "--data", str(parts), *SHORT, "--run-dir", str(run)]
    assert train.main(options) == 130
    said = capsys.readouterr()
    assert f"patchcore was not compared (interrupted); kept padim in {run}" in said.err
    assert json.loads((run / "detector.json").read_text())["approach"] == "padim"


def test_auto_in_python(parts):
    files = sorted((parts / "good").iterdir())
    detector = anomaly_tf.train(
        files, approach="auto", verbose=0, training__batch_size=8, image_size=64
    )
    assert detector.info.approach == "padim"
    with pytest.raises(ValueError, match="approach auto has no option"):
        anomaly_tf.train(files, approach="auto", training__epochs=3)


def test_options_of_some_approaches_are_refused(parts, tmp_path):
    done = run_script("train.py", "--approach", "auto", "--data", parts, "--training.epochs", 3)
    assert_one_line(
        done, "auto has no option --training.epochs", "one of autoencoder", "name the approach"
    )
    assert_one_line(run_script("train.py", "--approach", "aut"), "did you mean 'auto'")
