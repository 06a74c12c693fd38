"""Folders of images from training to prediction, as a user works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from anomaly_tf.cli import evaluate, export, predict, train
from anomaly_tf.errors import UserError
from anomaly_tf.training import loop
from measurements.surfaces import write_surfaces

SHORT = (
    "--training.epochs",
    "2",
    "--training.steps-per-epoch",
    "60",
    "--training.ema-decay",
    "0.9",
)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """scikit-learn's digits, 8x8 pixels, as PNG files: 0 is normal."""
    folder = tmp_path_factory.mktemp("digits")
    images, classes = load_digits(return_X_y=True)
    for number, (image, digit) in enumerate(zip(images, classes, strict=True)):
        place = folder / ("anomaly" if digit else "normal")
        place.mkdir(exist_ok=True)
        grey = np.round(image.reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(grey).save(place / f"{digit} {number}.png")
    return folder


def run(data: Path, place: Path, *options: str) -> dict:
    """Trains and evaluates in this process; gives metrics.json."""
    arguments = ["--data", str(data), "--data-dir", str(place / "cache"), *SHORT, *options]
    assert train.main([*arguments, "--run-dir", str(place / "run")]) == 0
    evaluate.main(["--run-dir", str(place / "run")])
    return json.loads((place / "run" / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("approach", "storage", "floor"), [("autoencoder", "memory", 0.95), ("sota", "disk", 0.99)]
)
def test_digits_from_training_to_prediction(approach, storage, floor, digits, tmp_path, capsys):
    metrics = run(digits, tmp_path, "--approach", approach, "--folder.storage", storage)
    assert metrics["auroc"] >= floor
    assert metrics["normal_class_name"] == "normal"
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert metrics["n_test"] == len(split["test"]["files"])
    said = capsys.readouterr().out
    assert "read as 8x8" in said
    options = ["--run-dir", str(tmp_path / "run"), "--format", "tflite", "--quantize", "int8"]
    assert export.main(options) == 0
    model = tmp_path / "run" / "export" / f"{approach}-int8.tflite"
    files = [str(digits / file) for file in split["test"]["files"] if "normal" in file]
    capsys.readouterr()
    assert predict.main(["--model", str(model), *files, "--format", "jsonl"]) in (0, 1)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == len(files)
    assert np.mean([row["is_anomaly"] for row in rows]) < 0.3


def test_normal_images_only(digits, tmp_path, capsys):
    shutil.copytree(digits / "normal", tmp_path / "only")
    metrics = run(tmp_path / "only", tmp_path, "--approach", "vae", "--image-size", "16x12")
    assert metrics["auroc"] is None
    assert metrics["auroc_by_class"] == {}
    assert 0 <= metrics["test_false_alarm_rate"] < 0.4
    shown = metrics["most_unusual_normal"]
    assert len(shown) == 10
    assert shown[0]["score"] == pytest.approx(metrics["normal_scores"]["maximum"])
    assert (tmp_path / "only" / shown[0]["file"]).is_file()
    said = capsys.readouterr().out
    assert "n/a (no anomalies in the test set)" in said
    assert "read as 16x12 (height x width, as given)" in said
    pictures = {path.stem for path in (tmp_path / "run" / "plots").iterdir()}
    assert {"most_unusual", "scores"} <= pictures
    assert not pictures & {"roc", "anomaly", "auroc_by_class"}


def test_synthetic_anomalies_are_called_so(digits, tmp_path, capsys):
    shutil.copytree(digits / "normal", tmp_path / "only")
    options = ("--approach", "autoencoder", "--protocol", "corruption", "--corruption.sweep", "1")
    metrics = run(tmp_path / "only", tmp_path, *options)
    assert metrics["auroc"] > 0.6
    assert "synthetic anomalies" in capsys.readouterr().out


def test_several_normal_classes(digits, tmp_path):
    for digit in range(4):
        for file in sorted((digits).glob(f"*/{digit} *.png"))[:60]:
            target = tmp_path / "photos" / str(digit) / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    metrics = run(
        tmp_path / "photos", tmp_path, "--approach", "autoencoder", "--normal-class", "0,3"
    )
    assert metrics["normal_class_name"] == ["0", "3"]
    assert set(metrics["auroc_by_class"]) == {"1", "2"}


@pytest.fixture(scope="session")
def surfaces(tmp_path_factory) -> Path:
    """A few surfaces with defects and their masks."""
    folder = tmp_path_factory.mktemp("surfaces")
    write_surfaces(folder, seed=0, train=30, test=4, size=64)
    return folder


def test_where_defects_are(surfaces, tmp_path, capsys):
    photos = Path(shutil.copytree(surfaces, tmp_path / "photos"))
    metrics = run(photos, tmp_path, "--approach", "vae")
    assert metrics["n_masks"] == 12
    assert metrics["pixel_auroc"] > 0.6
    assert 0 < metrics["aupro"] <= 1
    assert set(metrics["auroc_by_class"]) == {"scratch", "stain", "missing"}
    assert (tmp_path / "run" / "plots" / "localisation.png").stat().st_size > 10_000
    assert "(12 masks)" in capsys.readouterr().out
    for mask in photos.glob("ground_truth/*/*.png"):
        Image.new("L", (64, 64)).save(mask)
    evaluate.main(["--run-dir", str(tmp_path / "run")])
    assert "n/a (no mask marks a part of a test image)" in capsys.readouterr().out


def test_a_picture_that_is_gone_or_broken_after_training(surfaces, tmp_path):
    photos = Path(shutil.copytree(surfaces, tmp_path / "photos"))
    arguments = ["--approach", "autoencoder", "--data", str(photos), *SHORT]
    assert train.main([*arguments, "--run-dir", str(tmp_path / "run")]) == 0
    (photos / "test" / "good" / "001.png").write_bytes(b"no longer")
    options = ["--run-dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"replaced under their names: 1 \(first: .*001\.png\)"):
        evaluate.main(options)
    moved = shutil.copytree(surfaces, tmp_path / "elsewhere")
    shutil.rmtree(photos)
    with pytest.raises(UserError, match=r"are not in .*photos .*with --data"):
        evaluate.main(options)
    evaluate.main([*options, "--data", str(moved)])
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_picture_that_breaks_during_training_ends_it_in_one_line(digits, tmp_path, monkeypatch):
    photos = Path(shutil.copytree(digits, tmp_path / "photos"))
    train_run = loop.train

    def break_then_train(config, dataset, split, *arguments, **keywords):
        for file in split.train.files[:60]:
            (photos / file).write_bytes(b"gone")
        return train_run(config, dataset, split, *arguments, **keywords)

    monkeypatch.setattr(loop, "train", break_then_train)
    uncached = ("--folder.storage", "disk", "--folder.cache", "false")
    with pytest.raises(UserError, match=r"png is not an image .*no epoch was finished"):
        run(photos, tmp_path, "--approach", "autoencoder", *uncached)
