"""A model that is new on a machine computes its first score in a separate process with limits."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import tensorflow as tf
from conftest import normal_set, run_command, weighing_detector

from anomaly_tf import Detector
from anomaly_tf.deploy import trial
from anomaly_tf.deploy.exporters import export_saved_model, export_tflite
from anomaly_tf.deploy.saved_model import METADATA
from anomaly_tf.errors import UserError
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.limits import MAX_GB, MAX_SECONDS

UNTRIED = "could not be tried in a separate process"


@pytest.fixture(autouse=True)
def nothing_is_known(tmp_path, monkeypatch) -> Path:
    """The folder of caches of a user who has loaded no model yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "anomaly_tf" / "known-models"


@pytest.fixture
def no_process(monkeypatch) -> None:
    """No other process can be started; a model that needs one gives a warning."""
    monkeypatch.setattr(sys, "executable", "/no/python")


@pytest.fixture
def tflite_info(deployed) -> dict[str, Any]:
    return json.loads(deployed["tflite"].with_suffix(".json").read_text())


def needs_a_process(path: Path, **trust: bool) -> bool:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Detector.load(path, **trust)
    return any(UNTRIED in str(warning.message) for warning in said)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        Detector.load(path)
    assert str(refused.value).isprintable()
    return str(refused.value)


def filled(side: int) -> hostile.Act:
    """An array whose size is known only as the model runs."""

    def act(x):
        size = side + tf.cast(tf.reduce_min(x), tf.int32)
        return tf.reshape(tf.reduce_mean(tf.fill([size, size], 1.5)), (1, 1, 1, 1)) * x

    return act


def convolved(side: int, times: int) -> hostile.Act:
    """Convolutions over cubes, which the description does not price."""

    def act(x):
        around = [[0, 0], [0, side - 28], [0, side - 28], [0, side - 1], [0, 0]]
        cube = tf.pad(tf.reshape(x, (1, 28, 28, 1, 1)), around)
        for _ in range(times):
            cube = tf.nn.conv3d(cube, tf.ones((9, 9, 9, 1, 1)), [1] * 5, "SAME")
        return cube[:, :, :, 0]

    return act


@pytest.mark.parametrize(
    ("act", "name", "limit"),
    [(filled(8000), MAX_GB, "0.1"), (convolved(100, 30), MAX_SECONDS, "0.5")],
    ids=["memory", "time"],
)
def test_costs_that_no_description_shows_are_refused(
    act, name, limit, tflite_info, tmp_path, monkeypatch, nothing_is_known
):
    monkeypatch.setenv(name, limit)
    file = tmp_path / "more.tflite"
    hostile.hostile_tflite(file, tflite_info, act)
    message = refusal(file)
    assert f"the model in {file} takes more than" in message
    assert f"set {MAX_GB} or {MAX_SECONDS} in the environment" in message
    assert not nothing_is_known.exists()
    assert "takes more than" in refusal(file)  # and so the next time


LIMITED = """
import mmap, resource
from anomaly_tf.deploy.trial_process import MAPPED, _limit_this_process
_limit_this_process()
mmap.mmap(-1, MAPPED // 2)
limit = resource.getrlimit(resource.RLIMIT_AS)[0]
print(limit, flush=True)
mmap.mmap(-1, limit)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of what a process maps")
def test_the_trial_process_cannot_map_unlimited_memory(monkeypatch):
    monkeypatch.setenv(MAX_GB, "0.5")
    done = run_command(sys.executable, "-c", LIMITED, env=None)
    assert done.returncode == 1
    assert 0 < int(done.stdout) < 50 * 10**9
    assert "Cannot allocate memory" in done.stderr


def test_a_model_that_ends_its_process_is_refused(deployed, tmp_path):
    folder = Path(shutil.copytree(deployed["saved_model"], tmp_path / "ending"))
    outputs = json.loads((folder / METADATA).read_text())["outputs"]

    def contradict(graph: Any) -> None:
        """Says int32 of numbers that say int16 of themselves, at which TensorFlow aborts."""
        for function in graph.graph_def.library.function:
            if "serve" not in function.signature.name:
                continue
            for node in function.node_def:
                if node.op == "Const" and node.name.endswith("strided_slice/stack_2"):
                    node.attr["value"].tensor.dtype = tf.int16.as_datatype_enum
                    return
        raise AssertionError("no such constant")

    hostile.change_graph(folder, contradict)
    hostile.change_json(folder / METADATA, lambda info: info.update(outputs=outputs))
    assert "or ends its process" in refusal(folder)


def test_a_tried_model_is_not_tried_again(deployed, nothing_is_known, monkeypatch):
    Detector.load(deployed["tflite"])
    (known,) = nothing_is_known.iterdir()
    monkeypatch.setattr(sys, "executable", "/no/python")
    assert not needs_a_process(deployed["tflite"])
    known.unlink()
    assert needs_a_process(deployed["tflite"])


def test_a_known_model_is_not_tried(deployed, nothing_is_known, no_process):
    info = Detector.load(deployed["run"], trust=True).info
    trial.remember(info)
    assert not needs_a_process(deployed["run"])
    info.image_shape = [56, 56, 1]  # with larger images the same model takes more
    trial.require_first_score(trial.KERAS, deployed["run"], Detector.load(deployed["run"]).info)
    with pytest.warns(UserWarning, match=UNTRIED):
        trial.require_first_score(trial.KERAS, deployed["run"], info)


def test_a_model_created_here_is_known(nothing_is_known, tmp_path):
    detector = weighing_detector((8, 8, 1), (1,))
    images = np.zeros((3, 8, 8, 1), np.uint8)
    (tmp_path / "run").mkdir()
    detector.write(RunDirectory(tmp_path / "run"))
    assert len([*nothing_is_known.iterdir()]) == 1
    export_saved_model(detector, tmp_path / "saved")
    assert len([*nothing_is_known.iterdir()]) == 2
    export_tflite(detector, tmp_path / "file.tflite", "none", 1, normal_set(images), images)
    assert len([*nothing_is_known.iterdir()]) == 3
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "executable", "/no/python")
        for path in ("saved", "file.tflite"):
            assert not needs_a_process(tmp_path / path)


@pytest.mark.parametrize("kind", ["run", "saved_model"])
def test_trust_needs_no_trial(kind, deployed, no_process, nothing_is_known):
    assert needs_a_process(deployed[kind])
    assert not needs_a_process(deployed[kind], trust=True)
    assert not nothing_is_known.exists()


def test_the_message_of_the_trial_process_is_passed_on(deployed, tflite_info, tmp_path):
    folder = tmp_path / "two\nlines"
    folder.mkdir()
    file = Path(shutil.copy(deployed["tflite"], folder / "other.tflite"))
    file.write_bytes(file.read_bytes()[: tflite_info["model_bytes"]])
    tflite_info["image_shape"] = [27, 28, 1]
    file.with_suffix(".json").write_text(json.dumps(tflite_info))
    message = refusal(file)
    assert "two\\nlines/other.tflite is damaged or not an anomaly_tf detector" in message
    assert "it takes images (28, 28, 1), not (27, 28, 1)" in message


def test_a_cache_that_cannot_be_written_does_no_harm(deployed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert Detector.load(deployed["tflite"]).threshold > 0


ON_TRIAL = """
import sys, warnings
from anomaly_tf.deploy import trial_process
sys.executable = "/no/python"
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    status = trial_process.main("litert", sys.argv[1])
print(status, [str(warning.message) for warning in said])
"""


def test_a_process_on_trial_starts_no_other(deployed):
    done = run_command(sys.executable, "-c", ON_TRIAL, deployed["tflite"], env=None)
    assert done.stdout.splitlines() == [trial.READY, "0 []"]
