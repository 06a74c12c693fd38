"""Metadata of models: every wrong value is refused before it is used."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import weighing_detector

from anomaly_tf import Detector
from anomaly_tf.deploy.exporters import _metadata
from anomaly_tf.deploy.saved_model import METADATA
from anomaly_tf.errors import UserError
from anomaly_tf.runs.checks import is_inner_path
from anomaly_tf.runs.detector_info import MAX_BYTES, SECTIONS, DetectorInfo

RIGHT: dict[str, Any] = {
    "threshold": {"value": 0.5, "method": "percentile", "percentile": 95},
    "calibration": {"size": 3, "scores": [0.1, 0.2, 1]},
    "bit_depth": 12,
    "max_pixels": 60_000_000,
    "data": {"train": "0" * 64, "validation": "1" * 64, "test": "2" * 64, "n_test": 5},
    "heat_scale": {"low": 0.1, "high": 0.5, "high_quantile": 0.999, "unit": "error"},
}
FIELDS = ("threshold.value", "calibration.scores")


def changed(info: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a dotted name; without it, if the value is `...`."""
    copy = json.loads(json.dumps(info))
    section = copy
    *parents, last = name.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    if value is ...:
        del section[last]
    return copy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", None),
        ("threshold.value", ...),
        ("threshold.value", True),
        ("threshold.value", "0.5"),
        ("threshold.value", float("nan")),
        ("threshold.value", float("inf")),
        ("threshold.value", 1e39),  # more than float32 holds
        ("threshold.value", 10**400),
        ("threshold.percentile", -1),
        ("threshold.percentile", ...),
        ("calibration.scores", []),
        ("calibration.scores", [0.1, float("nan")]),
        ("calibration.scores", [[0.1]]),
        ("calibration.scores", {"0": 0.1}),
        ("calibration.size", 2),
        ("heat_scale", {"low": 1.0, "high": 1.0}),
        ("heat_scale", {}),
        ("bit_depth", 7),
        ("bit_depth", 12.5),
        ("max_pixels", 0),
        ("max_pixels", 10**9),
        ("data", {}),
        ("data.train", "no digest"),
        ("data.n_test", -1),
        ("heat_scale", 5),
        ("training", "long ago"),
        ("heat_scale.low", -1),
        ("heat_scale.high", 0),
        ("heat_scale.high", float("nan")),
        ("heat_scale.high_quantile", 2),
        ("image_shape", [28, 28]),
        ("image_shape", [28, 28, 2]),
        ("image_shape", [28, 0, 1]),
        ("image_shape", [28, 28.0, 1]),
        ("image_shape", [10**9, 28, 1]),
        ("image_score", "median"),
        ("outputs", ["error_map"]),
        ("outputs", ["score", "score"]),
        ("outputs", ["score", "features"]),
        ("outputs", "score"),
        ("batch_size", 0),
        ("batch_size", 10**6),
        ("batch_size", True),
        ("model_bytes", -1),
        ("model_sha256", "0" * 63),
        ("model_sha256", None),
        ("files_sha256", {"../saved_model.pb": "0" * 64}),
        ("files_sha256", {"saved_model.pb": "0"}),
        ("class_names", [1, 2]),
        ("approach", 3),
        ("training.epochs", -1),
        ("training.validation", {"val_auroc": "high"}),
        ("training.train_seconds", float("inf")),
    ],
)
def test_a_wrong_value_is_refused(name, value):
    assert DetectorInfo.parse(json.dumps(RIGHT).encode(), FIELDS).to_json() == RIGHT
    with pytest.raises(ValueError, match=r"\S"):
        DetectorInfo.parse(json.dumps(changed(RIGHT, name, value)).encode(), FIELDS)


# Fields that are not used in any computation.
UNREAD = ("format", "format_version", "score_statistics", "preprocessing", "source", "quantization")


def fields() -> Iterator[str]:
    for item in dataclasses.fields(DetectorInfo):
        if item.name in SECTIONS:
            for inner in dataclasses.fields(SECTIONS[item.name]):
                yield f"{item.name}.{inner.name}"
        elif item.name not in (*UNREAD, "others"):
            yield item.name


@pytest.mark.parametrize("name", [*fields()])
def test_a_value_of_another_type_is_refused_in_every_field(name):
    for value in (None, True, [{}], {"a": {}}, {"a": 1, "b": "1"}):
        with pytest.raises(ValueError, match=rf"^{name.split('.')[0]}[ .\w]* must be "):
            DetectorInfo.parse(json.dumps(changed(RIGHT, name, value)).encode(), ())


def test_colours_of_no_width_are_refused():
    heat = {"low": 1, "high": 1, "unit": "error"}
    with pytest.raises(ValueError, match=r"heat_scale\.high must be above low; got 1 and 1"):
        DetectorInfo.parse(json.dumps(RIGHT | {"heat_scale": heat}).encode(), FIELDS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b"\xff{}", "decode"),
        (b"[1]", "expected an object"),
        (b'{"threshold": 1e999}', "is too large"),
        (b'{"other": -Infinity}', "-Infinity is not a number"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' + b"1" * 5000 + b"}", "limit"),
        (b" " * (MAX_BYTES + 1), "more than 64 MB"),
    ],
)
def test_content_that_is_not_metadata(content, words):
    with pytest.raises(ValueError, match=words):
        DetectorInfo.parse(content, FIELDS)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("saved_model.pb", True),
        ("variables/variables.index", True),
        ("..", False),
        ("../up", False),
        ("a/../../up", False),
        ("/etc/passwd", False),
        ("a//b", False),
        ("a\\..\\..\\b", False),
        ("C:b", False),
        ("a\0b", False),
        (".", False),
        ("", False),
    ],
)
def test_paths_that_lead_out_of_a_folder(name, inside):
    assert is_inner_path(name) == inside


@pytest.fixture
def copies(deployed, tmp_path) -> dict[str, tuple[Path, Path]]:
    """Of each kind a copy to be damaged: what is loaded, and the file of its metadata."""
    run = Path(shutil.copytree(deployed["run"], tmp_path / "run"))
    folder = Path(shutil.copytree(deployed["saved_model"], tmp_path / "saved"))
    info = json.loads(deployed["tflite"].with_suffix(".json").read_text())
    file = tmp_path / "plain.tflite"
    file.write_bytes(deployed["tflite"].read_bytes()[: info["model_bytes"]])
    (tmp_path / "plain.json").write_text(json.dumps(info))
    return {
        "run": (run, run / "detector.json"),
        "saved_model": (folder, folder / METADATA),
        "tflite": (file, tmp_path / "plain.json"),
    }


@pytest.mark.parametrize("kind", ["run", "saved_model", "tflite"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold.value", float("nan")),
        ("calibration.scores", [1e39]),
        ("image_shape", [28, 28, 3]),
        ("image_shape", [27, 28, 1]),
        ("approach", ...),
    ],
)
def test_metadata_that_does_not_fit_ends_in_one_line(kind, name, value, copies):
    path, file = copies[kind]
    Detector.load(path)
    file.write_text(json.dumps(changed(json.loads(file.read_text()), name, value)))
    with pytest.raises(UserError, match=r"(damaged|not an anomaly_tf detector)") as refused:
        Detector.load(path, trust=True)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("kind", ["run", "saved_model"])
def test_an_endless_file_of_metadata_is_not_read(kind, copies):
    path, file = copies[kind]
    with file.open("r+b") as opened:
        opened.truncate(2**40)  # a terabyte of zeros that takes no room on the disk
    with pytest.raises(UserError, match="more than 64 MB"):
        Detector.load(path)


def test_a_bomb_of_metadata_in_a_tflite_file(copies):
    path, file = copies["tflite"]
    text = file.read_bytes()
    file.unlink()
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("anomaly_tf.json", text + b" " * MAX_BYTES)
    assert path.stat().st_size < MAX_BYTES / 10
    with pytest.raises(UserError, match="holds no metadata"):
        Detector.load(path)


def test_packed_metadata_that_is_damaged(deployed, tmp_path):
    content = deployed["tflite"].read_bytes()
    packed = content.index(b"anomaly_tf.json") + len("anomaly_tf.json")
    file = tmp_path / "damaged.tflite"
    file.write_bytes(content[:packed] + b"\x07" + content[packed + 1 :])  # no kind of block
    with pytest.raises(UserError, match="holds no metadata"):
        Detector.load(file)


def test_an_export_takes_the_bit_depth_along_and_no_digest_of_the_data():
    data = RIGHT["data"]
    run = weighing_detector((8, 8, 1), (1,), bit_depth=12, data=data)
    assert run.info.data.n_test == 5
    exported = _metadata(run)
    assert exported.bit_depth == exported.preprocessing["bit_depth_of_16_bit_files"] == 12
    assert "data" not in exported.to_json()
    plain = _metadata(weighing_detector((8, 8, 1), (1,)))
    assert "bit_depth" not in str(plain.to_json())
