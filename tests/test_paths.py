"""A leading `~` is the home folder in every path that a user gives."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_tf import Detector
from anomaly_tf.approaches import options_of
from anomaly_tf.approaches.configs import load_config
from anomaly_tf.benchmark import BenchmarkOptions
from anomaly_tf.cli.evaluate import EvaluateOptions
from anomaly_tf.cli.export import ExportOptions
from anomaly_tf.command_line import parse_options, parse_train_options
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.sources import load_dataset, open_dataset
from anomaly_tf.deploy.litert import LiteRTDetector
from anomaly_tf.deploy.saved_model import SavedModelDetector
from anomaly_tf.runs.directory import open_run, plan_run
from anomaly_tf.runs.paths import expand_home, user_path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_only_a_leading_tilde_counts(home, monkeypatch):
    for path, meant in (
        *(("~", str(home)), ("~/a b", f"{home}/a b"), ("a/~/b", "a/~/b"), ("./~", "./~")),
        *(("/x", "/x"), ("", ""), ("~nobody-of-that-name/x", "~nobody-of-that-name/x")),
    ):
        assert expand_home(path) == meant
    assert user_path("~/a") == user_path(Path("~/a")) == home / "a"
    monkeypatch.chdir(home)
    (home / "~root").touch()  # an editor's copy, which no shell expands where it stands in a list
    assert expand_home("~root") == "~root"


def test_in_every_option_and_in_files(home):
    options = ["--approach=vae", "--data=~/p", "--data-dir=~/cache", "--run-dir=~/run"]
    asked = parse_train_options(options)
    assert (asked.config.data, asked.config.data_dir) == (f"{home}/p", f"{home}/cache")
    assert asked.run_dir == f"{home}/run"
    (home / "my.yaml").write_text("approach: vae\ndata: ~/from file\n")
    assert parse_train_options(["--config=~/my.yaml"]).config.data == f"{home}/from file"
    assert load_config(Path("~/my.yaml")).data == f"{home}/from file"
    (home / "run").mkdir()
    shutil.copy(home / "my.yaml", home / "run" / "config.yaml")
    asked = parse_train_options(["--resume=~/run"])
    assert (asked.resume, asked.config.data) == (f"{home}/run", f"{home}/from file")
    for kind, given in (
        (EvaluateOptions, ("run-dir", "data", "data-dir")),
        (ExportOptions, ("run-dir", "data", "data-dir", "output")),
        (BenchmarkOptions, ("data", "data-dir", "output")),
    ):
        more = ["--format=tflite"] if kind is ExportOptions else []
        found = parse_options(kind, "", "", [*(f"--{name}=~/x" for name in given), *more])
        for name in given:
            assert getattr(found, name.replace("-", "_")) == f"{home}/x"


def test_in_the_python_interface(home, deployed, monkeypatch):
    monkeypatch.setenv("HOME", str(deployed["run"].parent))
    inside = {
        kind: f"~/{path.relative_to(deployed['run'].parent)}" for kind, path in deployed.items()
    }
    for path in inside.values():
        assert Detector.load(path).threshold > 0
    assert SavedModelDetector.load(inside["saved_model"]).threshold > 0
    assert open_run(inside["run"])[0].path == deployed["run"]
    monkeypatch.setenv("HOME", str(home))
    assert plan_run("~/new", "vae").path == home / "new"
    shutil.copy(deployed["tflite"], home / "a.tflite")
    detector = LiteRTDetector.load("~/a.tflite")
    for number in range(4):
        (home / "p").mkdir(exist_ok=True)
        Image.new("L", (28, 28), number).save(home / "p" / f"{number}.png")
    assert detector.read("~/p/3.png").max() == 3
    config = options_of("autoencoder")(data="~/p", data_dir="~/cache")
    assert len(open_dataset(config).train) == len(load_folder(Path("~/p"), config).train) == 4
    images = np.zeros((4, 28, 28), np.uint8)
    np.savez(home / "a.npz", images=images, labels=np.arange(4))
    assert len(load_dataset("~/a.npz", Path("~/cache")).train) == 4
    assert not os.path.exists("~")
