"""The scripts as a user runs them, each in a separate process."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ENVIRONMENT, ROOT, assert_one_line, run_script
from PIL import Image

from anomaly_tf import Detector
from anomaly_tf.approaches.configs import load_config
from anomaly_tf.cli import evaluate, export, train
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.detection.threshold import conformal_threshold
from anomaly_tf.training import loop
from anomaly_tf.training.console import Console

METRICS_KEYS = set(
    """
    approach protocol dataset normal_class seed auroc auroc_ci95 average_precision fpr_at_95_tpr
    threshold threshold_method test_false_alarm_rate test_detection_rate confusion_matrix
    classification_report auroc_by_class n_train n_validation n_test train_seconds epochs
    best_epoch images_per_second hardware command
    """.split()  # noqa: SIM905
)
LOSSES = set(
    """
    reconstruction patch latent normal_adversarial abc anomaly_adversarial normal_discriminator
    anomaly_discriminator generator
    """.split()  # noqa: SIM905
)
PICTURES = set(
    """
    losses normal anomaly worst_false_alarms worst_misses scores roc precision_recall
    confusion_matrix auroc_by_class
    """.split()  # noqa: SIM905
)


@pytest.fixture(scope="module")
def said(trained_run) -> dict[str, dict[str, str]]:
    """Of each script what it printed, stdout and stderr."""
    return json.loads((trained_run / "said.json").read_text())


def test_train_reports_its_steps_and_the_next_command(said, trained_run):
    assert said["train.py"]["stderr"] == ""
    said = said["train.py"]["stdout"]
    assert "normal class 0 (0), protocol imbalance: 5400 training, 600 validation" in said
    assert "device: /CPU:0" in said
    assert "val_auroc" in said
    assert f"next: python evaluate.py --run-dir {trained_run}" in said


def test_the_run_directory_holds_what_is_documented(trained_run):
    names = {path.name for path in trained_run.iterdir()}
    assert {"config.yaml", "model.keras", "detector.json", "history.csv", "tensorboard"} <= names
    assert not [name for name in names if name.startswith(".partial")]
    header = (trained_run / "history.csv").read_text().splitlines()[0].split(",")
    assert LOSSES | {"epoch", "val_auroc"} <= set(header)


def test_metrics_hold_every_promised_key_and_agree_with_each_other(said, trained_run):
    metrics = json.loads((trained_run / "metrics.json").read_text())
    assert set(metrics) >= METRICS_KEYS
    low, high = metrics["auroc_ci95"]
    assert 0.8 < low < metrics["auroc"] < high <= 1.0
    assert metrics["n_test"] == 1500
    assert metrics["n_train"] + metrics["n_validation"] == 6000
    (kept, alarmed), (missed, found) = metrics["confusion_matrix"]
    assert kept + alarmed + missed + found == 1500
    assert metrics["test_false_alarm_rate"] == pytest.approx(alarmed / (kept + alarmed))
    assert set(metrics["auroc_by_class"]) == {str(number) for number in range(1, 10)}
    assert metrics["command"].startswith("python train.py --approach sota")
    assert f"{metrics['auroc']:.4f}" in said["evaluate.py"]["stdout"]
    assert said["evaluate.py"]["stderr"] == ""


def test_every_picture_is_there_and_shows_something(trained_run):
    assert {path.stem for path in (trained_run / "plots").iterdir()} == PICTURES
    for path in (trained_run / "plots").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_evaluate_again_with_another_percentile_changes_the_verdicts_only(run_copy):
    before = json.loads((run_copy / "metrics.json").read_text())
    model = (run_copy / "model.keras").read_bytes()
    evaluate.main(["--run-dir", str(run_copy), "--threshold.percentile", "99"])
    after = json.loads((run_copy / "metrics.json").read_text())
    assert after["threshold"] > before["threshold"]
    assert after["test_false_alarm_rate"] < before["test_false_alarm_rate"]
    assert after["auroc"] == pytest.approx(before["auroc"], abs=1e-6)
    assert (run_copy / "model.keras").read_bytes() == model
    # The run keeps its new threshold.
    assert json.loads((run_copy / "detector.json").read_text())["threshold"]["percentile"] == 99


CONFORMAL = ("--threshold.method", "conformal", "--threshold.false-alarm-rate")


def test_evaluate_again_with_a_promised_false_alarm_rate(run_copy, capsys):
    evaluate.main(["--run-dir", str(run_copy), *CONFORMAL, "0.1"])
    info = json.loads((run_copy / "detector.json").read_text())
    value = conformal_threshold(np.array(info["calibration"]["scores"]), 0.1)
    assert info["threshold"] == {"value": value, "method": "conformal", "false_alarm_rate": 0.1}
    metrics = json.loads((run_copy / "metrics.json").read_text())
    assert (metrics["threshold"], metrics["threshold_method"]) == (value, "conformal 0.1")
    assert "(conformal 0.1)" in capsys.readouterr().out
    # About 150 normal test images: three standard errors, of them and of the calibration images.
    assert 0 < metrics["test_false_alarm_rate"] < 0.1 + 3 * np.sqrt(0.1 * 0.9 * (1 / 150 + 1 / 60))
    # And back again.
    evaluate.main(["--run-dir", str(run_copy), "--threshold.percentile", "95"])
    metrics = json.loads((run_copy / "metrics.json").read_text())
    assert metrics["threshold_method"] == "percentile 95"


def test_a_rate_that_the_calibration_images_cannot_promise_leaves_the_run_as_it_was(
    run_copy, without_tensorflow
):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    options = ("--run-dir", run_copy, *CONFORMAL, "0.001")
    done = run_script("evaluate.py", *options, env=without_tensorflow)
    assert_one_line(done, "--threshold.false-alarm-rate: a rate of 0.001 needs 999", "or a rate of")
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before


def test_a_rate_that_the_validation_images_cannot_promise_is_refused_before_training(
    small_folder, without_tensorflow, tmp_path
):
    options = ("--data", small_folder, "--run-dir", tmp_path / "run", *CONFORMAL, "0.001")
    done = run_script("train.py", *options, env=without_tensorflow)
    assert_one_line(done, "--threshold.false-alarm-rate: a rate of 0.001 needs 999", "or a rate of")
    assert list(tmp_path.iterdir()) == [tmp_path / "modules"]


def test_training_with_a_promised_false_alarm_rate(small_folder, tmp_path):
    assert train.main(train_tiny(small_folder, tmp_path / "run", *CONFORMAL, 0.02)) == 0
    info = json.loads((tmp_path / "run" / "detector.json").read_text())
    value = conformal_threshold(np.array(info["calibration"]["scores"]), 0.02)
    assert info["threshold"] == {"value": value, "method": "conformal", "false_alarm_rate": 0.02}


def train_tiny(folder: Path, run: Path, *more: object) -> list[str]:
    options = (
        *("--data", folder, "--data-dir", folder / "cache", "--run-dir", run),
        *("--training.epochs", 1, "--training.steps-per-epoch", 4, "--training.batch-size", 16),
        *("--networks.filters", "[4,8]", "--networks.discriminator-filters", "[4]"),
    )
    return [str(option) for option in (*options, *more)]


class Reached(Exception):
    """Ends a script where it calls something, with the arguments of that call."""


def reached(*arguments: object, **keywords: object) -> None:
    raise Reached(arguments, keywords)


@pytest.mark.parametrize("script", [evaluate, export])
@pytest.mark.parametrize("given", [{}, {"data": "elsewhere", "data_dir": "fetched"}])
def test_the_data_of_a_run_may_have_moved(script, given, run_copy, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "open_split", reached)
    options = ["--run-dir", str(run_copy)]
    if script is export:
        options += ["--format", "tflite", "--output", str(tmp_path / "export")]
    for name, value in given.items():
        options += [f"--{name.replace('_', '-')}", value]
    with pytest.raises(Reached) as ended:
        script.main(options)
    (config, path), _ = ended.value.args
    assert config == dataclasses.replace(load_config(run_copy / "config.yaml"), **given)
    assert path == run_copy / "split.json"


@pytest.mark.parametrize("script", [evaluate, export])
@pytest.mark.parametrize("trust", [True, False])
def test_a_model_is_trusted_if_the_user_says_so(script, trust, run_copy, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainedDetector, "load", reached)
    options = ["--run-dir", str(run_copy), *["--trust"] * trust]
    if script is export:
        options += ["--format", "saved_model", "--output", str(tmp_path / "export")]
    with pytest.raises(Reached) as ended:
        script.main(options)
    assert ended.value.args == ((str(run_copy), trust), {})


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_deterministic_run_is_evaluated_deterministically(deterministic, run_copy, monkeypatch):
    text = (run_copy / "config.yaml").read_text()
    changed = text.replace("deterministic: false", f"deterministic: {str(deterministic).lower()}")
    assert (changed != text) == deterministic
    (run_copy / "config.yaml").write_text(changed)
    asked = []
    # Really asked for, it would hold for all tests of this process.
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    monkeypatch.setattr(TrainedDetector, "load", reached)
    with pytest.raises(Reached):
        evaluate.main(["--run-dir", str(run_copy)])
    assert bool(asked) == deterministic


def test_a_training_gets_its_options_its_folder_and_its_command(
    small_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "train", reached)
    run = tmp_path / "a run"
    options = train_tiny(small_folder, run, "--seed", 7, "--normal-class", 3)
    with pytest.raises(Reached) as ended:
        train.main(options)
    (config, dataset, split, directory, command), keywords = ended.value.args
    assert (config.seed, config.training.epochs, config.networks.filters) == (7, 1, (4, 8))
    assert (config.data, config.data_dir) == (str(small_folder), str(small_folder / "cache"))
    assert directory.path == run
    assert command == shlex.join(["anomaly-tf", "train", *options])
    assert keywords == {"resume": False, "console": Console(2)}
    assert len(dataset.train_images) == len(split.train) + len(split.validation) == 6000
    np.testing.assert_array_equal(split.train.labels, split.train.classes != 3)


def test_a_resumed_training_has_the_configuration_of_its_run(run_copy, monkeypatch):
    monkeypatch.setattr(loop, "train", reached)
    info = json.loads((run_copy / "detector.json").read_text())
    info["training"]["status"] = "interrupted"
    (run_copy / "detector.json").write_text(json.dumps(info))
    with pytest.raises(Reached) as ended:
        train.main(["--resume", str(run_copy)])
    (config, _, _, directory, _), keywords = ended.value.args
    assert config == load_config(run_copy / "config.yaml")
    assert directory.path == run_copy
    assert keywords == {"resume": True, "console": Console(2)}


def test_ctrl_c_in_the_terminal_leaves_a_run_that_loads(small_folder, tmp_path):
    run = tmp_path / "run"
    options = train_tiny(small_folder, run, "--training.epochs", 500)
    with subprocess.Popen(
        [sys.executable, "train.py", *options],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            for line in process.stdout:
                if re.match("epoch +2/", line):
                    break
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted; kept the weights of epoch" in errors
    assert "Traceback" not in errors
    assert np.isfinite(Detector.load(run).threshold)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--approach stoa", ["did you mean 'sota'"]),
        ("--losses.abc-wieght 2", ["did you mean '--losses.abc-weight'"]),
        ("--training.epochs many", ["--training.epochs", "whole number", "many"]),
        ("--normal-class 10", ["normal class 10 does not exist", "0 T-shirt/top"]),
        ("--threshold.percentile 150", ["--threshold.percentile", "150"]),
        ("--losses.abc-weight=-1", ["--losses.abc-weight", "at least 0"]),
        ("--config broken.yaml", ["broken.yaml line 2", "broken YAML"]),
        ("--data empty", ["folder empty holds no images"]),
        ("--data none", ["'none' is neither 'fashion_mnist' nor a folder"]),
        (
            "--approach vae --protocol imbalance",
            ["one_class, contaminated, corruption", "vae", "imbalance"],
        ),
        ("--protocol unseen --unseen.unseen-classes []", ["--unseen.unseen-classes", "got none"]),
        (
            "--protocol unseen --unseen.seen-classes 0,1",
            ["class 0 (T-shirt/top) is the normal one", "--unseen.seen-classes"],
        ),
        (
            "--protocol unseen --unseen.seen-classes [1,2,3,4,5,6,7,8,9]",
            ["no class is left to be unseen", "choose fewer --unseen.seen-classes"],
        ),
        ("--corruption.noise=-0.1", ["--corruption.noise must be at least 0; got -0.1"]),
        ("--run-dir full", ["full already exists", "--run-dir"]),
        ("--run-dir file/run", ["cannot write to file/run", "--run-dir"]),
        (f"--run-dir {'x' * 300}", ["xxx: File name too long"]),
    ],
)
def test_wrong_input_to_train(options, words, without_tensorflow, tmp_path):
    place = tmp_path / "place"
    (place / "empty").mkdir(parents=True)
    (place / "full").mkdir()
    (place / "full" / "notes.txt").write_text("keep me")
    (place / "file").write_text("")
    (place / "broken.yaml").write_text("losses: [1\n")
    before = sorted(place.rglob("*"))
    arguments = options.split()
    if "--run-dir" not in arguments:
        arguments += ["--run-dir", "new"]
    assert_one_line(run_script("train.py", *arguments, cwd=place, env=without_tensorflow), *words)
    assert sorted(place.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_to_write(without_tensorflow, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    done = run_script("train.py", "--run-dir", tmp_path / "closed" / "run", env=without_tensorflow)
    assert_one_line(done, "cannot write to", "--run-dir")


def test_a_class_that_the_folder_does_not_hold(small_folder, without_tensorflow, tmp_path):
    options = ("--data", small_folder, "--normal-class", 77, "--run-dir", tmp_path / "run")
    done = run_script("train.py", *options, env=without_tensorflow)
    assert_one_line(done, "normal class 77 does not exist")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("none", ["does not exist"]),
        ("not a run", ["not a run directory"]),
        ("incomplete", ["incomplete (no detector.json)"]),
        ("lost", ["has lost its detector.json"]),
        ("config", ["config.yaml", "did you mean"]),
    ],
)
def test_wrong_input_to_evaluate(damage, words, without_tensorflow, trained_run, tmp_path):
    run = tmp_path / "run"
    if damage != "none":
        run.mkdir()
    if damage in ("incomplete", "lost", "config"):
        (run / "config.yaml").write_text((trained_run / "config.yaml").read_text())
    if damage == "lost":
        (run / "model.keras").touch()
    if damage == "config":
        for name in ("detector.json", "model.keras"):
            (run / name).write_bytes((trained_run / name).read_bytes())
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("abc_scale", "abc_scala"))
    done = run_script("evaluate.py", "--run-dir", run, env=without_tensorflow)
    assert_one_line(done, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", ["--run-dir", "missing"]),
        ("--run-dir x --threshold.percentile 150", ["--threshold.percentile", "150"]),
        (
            "--run-dir x --threshold.false-alarm-rate 0.01",
            ["--threshold.false-alarm-rate needs --threshold.method conformal"],
        ),
        ("--run-dir x --treshold.percentile 99", ["did you mean '--threshold.percentile'"]),
    ],
)
def test_wrong_options_of_evaluate(options, words, without_tensorflow):
    done = run_script("evaluate.py", *options.split(), env=without_tensorflow)
    assert_one_line(done, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--approaches sofa", ["unknown approach 'sofa'; did you mean 'sota'"]),
        ("--approaches vae --protocols unseen", ["none of the approaches vae serves"]),
        ("--protocols everything", ["--protocols must be one of 'imbalance'", "everything"]),
        ("--normal-classes 0,10", ["normal class 10 does not exist"]),
        ("--epochs-share 2", ["--epochs-share", "at most 1"]),
        ("--seed 1", ["--seed", "--seeds"]),
        ("--config none.yaml", ["none.yaml"]),
    ],
)
def test_wrong_options_of_benchmark(options, words, without_tensorflow, tmp_path):
    done = run_script("benchmark.py", *options.split(), cwd=tmp_path, env=without_tensorflow)
    assert_one_line(done, *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "script", ["train.py", "evaluate.py", "export.py", "search.py", "benchmark.py"]
)
def test_help_explains_every_option_without_tensorflow(script, without_tensorflow):
    done = run_script(script, "--help", env={**without_tensorflow, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    known = {"benchmark.py": "--epochs-share", "export.py": "--quantize", "search.py": "--trials"}
    assert known.get(script, "--threshold.percentile") in done.stdout
    if script in ("train.py", "search.py"):
        for option in ("--approach", "--losses.abc-weight", "--training.steps-per-epoch"):
            assert option in done.stdout
    # An option without an explanation shows its type only.
    assert "\n                        (type:" not in done.stdout
