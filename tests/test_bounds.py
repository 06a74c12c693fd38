"""Untrusted models are refused before they need much memory or time; their outputs are checked."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import small_config, small_model, weighing_detector

from anomaly_tf import Detector
from anomaly_tf.deploy.answers import as_uint8, check_answer, check_shapes
from anomaly_tf.deploy.bounds import MAX_STEPS, Step, peak, require_few_steps
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.errors import UserError
from anomaly_tf.runs.limits import MAX_GB, MAX_SECONDS


@pytest.fixture
def saved_copy(deployed, tmp_path) -> Path:
    return Path(shutil.copytree(deployed["saved_model"], tmp_path / "saved"))


@pytest.fixture
def tflite_info(deployed) -> dict[str, Any]:
    return json.loads(deployed["tflite"].with_suffix(".json").read_text())


def refusal(path: Path) -> str:
    """The error for a model, which must be refused quickly."""
    begin = time.process_time()
    with pytest.raises(UserError) as refused:
        Detector.load(path)
    assert time.process_time() - begin < 10  # a third of what is promised
    message = str(refused.value)
    assert message.isprintable()
    assert path.name in message
    return message


def padded(side: int) -> hostile.Act:
    return lambda x: tf.pad(x, [[0, 0], [0, side], [0, side], [0, 0]])


KERAS: dict[str, tuple[hostile.Act, Callable[[str], str], str]] = {
    "filters": (
        keras.layers.Conv2D(7, 3),
        lambda text: text.replace('"filters": 7', '"filters": 80000000'),
        "more than 2 GB",
    ),
    "units": (
        lambda x: keras.layers.Reshape((1, 1, 7))(keras.layers.Dense(7)(keras.layers.Flatten()(x))),
        lambda text: text.replace('"units": 7', '"units": 2000000').replace("7]", "2000000]"),
        "more than 2 GB",
    ),
    "a pad": (
        lambda x: keras.ops.pad(x, ((0, 0), (0, 40_000), (0, 40_000), (0, 0))),
        str,
        "more than 2 GB",
    ),
    "a large kernel": (
        keras.layers.Conv2DTranspose(1, 2000),
        str,
        "more than 2 GB",
    ),
    "calls": (hostile.doubled(28), str, f"more than {MAX_STEPS:,} operations"),
    "parts": (
        lambda x: keras.ops.split(x, 7, axis=1)[0],
        lambda text: text.replace('"indices_or_sections": 7', '"indices_or_sections": 99999999'),
        "indices_or_sections is 99999999",
    ),
    "time": (
        lambda x: keras.layers.Conv2D(64, 9)(
            keras.layers.Conv2D(64, 9)(keras.layers.ZeroPadding2D(500)(x))
        ),
        str,
        "operations for one image",
    ),
}


@pytest.mark.parametrize("kind", KERAS)
def test_a_keras_file_that_would_take_too_much(kind, run_copy):
    act, change, words = KERAS[kind]
    hostile.hostile_run(run_copy, act, change)
    assert (run_copy / "model.keras").stat().st_size < 2**26
    assert words in refusal(run_copy)


GRAPHS: dict[str, tuple[hostile.Act, Callable[[Any], object], str]] = {
    "a constant": (
        lambda x: x * 0.3,
        lambda graph: hostile.enlarge_constant(graph, 10**9),
        "more than 2 GB",
    ),
    "a pad": (padded(40_000), lambda graph: None, "more than 2 GB"),
    "calls": (
        hostile.calls_twice(16),
        lambda graph: None,
        f"more than {MAX_STEPS:,} operations",
    ),
    "other shapes": (
        lambda x: tf.reshape(x, [1, 5, 5, 1]),
        lambda graph: None,
        "784 values in it become (1, 5, 5, 1)",
    ),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_saved_model_that_would_take_too_much(kind, saved_copy):
    act, change, words = GRAPHS[kind]
    hostile.hostile_saved_model(saved_copy, act)
    hostile.change_graph(saved_copy, change)
    assert words in refusal(saved_copy)


def test_functions_are_found_by_either_name(saved_copy):
    """Functions that only an object names, and not the list of functions, are traced as well."""
    hostile.hostile_saved_model(saved_copy, lambda x: x)

    def hide(graph: Any) -> None:
        nodes = graph.object_graph_def.nodes
        saver = next(
            function
            for function in graph.graph_def.library.function
            if any(node.op == "SaveV2" for node in function.node_def)
        )
        assert saver.signature.name not in graph.object_graph_def.concrete_functions
        for node in nodes:
            if node.HasField("bare_concrete_function"):
                node.bare_concrete_function.concrete_function_name = saver.signature.name

    hostile.change_graph(saved_copy, hide)
    assert "operation SaveV2" in refusal(saved_copy)


def test_a_tflite_file_that_would_take_too_much(tflite_info, tmp_path):
    file = tmp_path / "padded.tflite"
    hostile.hostile_tflite(file, tflite_info, padded(30_000))
    assert "more than 2 GB" in refusal(file)
    hostile.hostile_tflite(file, tflite_info, lambda x: x, more="0," * 2_100_000)
    assert file.stat().st_size < 2**20
    assert "more than 2,000,000 values" in refusal(file)


def test_the_environment_raises_the_limits(run_copy, monkeypatch):
    monkeypatch.setenv(MAX_GB, "0.001")
    message = refusal(run_copy)
    assert f"{MAX_GB}=" in message
    assert "more than 0.001 GB" in message
    monkeypatch.setenv(MAX_GB, "1")
    monkeypatch.setenv(MAX_SECONDS, "0.0001")
    message = refusal(run_copy)
    assert f"{MAX_SECONDS}=" in message
    monkeypatch.delenv(MAX_SECONDS)
    Detector.load(run_copy)
    for wrong in ("much", "nan", "-1", "inf"):
        monkeypatch.setenv(MAX_GB, wrong)
        with pytest.raises(UserError, match=f"{MAX_GB} in the environment must be a number"):
            Detector.load(run_copy)


def test_the_peak_of_memory_counts_kept_tensors():
    kept = [Step([], [(0, 10)]), Step([0], [(1, 20)]), Step([1], [(2, 5)], workspace=7)]
    assert peak(kept) == 32  # 20 + 5 + 7: the first is no longer needed
    assert peak([*kept, Step([0, 2], [])]) == 42
    with pytest.raises(ValueError, match="more than"):
        require_few_steps(MAX_STEPS + 1)


# Outputs of models.


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda x: tf.pad(x, [[0, 4], [0, 0], [0, 0], [0, 0]]), "float32 (7,) as score of 3"),
        (lambda x: tf.reshape(x, [1, 28, 28, 1]), "cannot score these images"),
        (lambda x: x / 0.0, "a score that is not finite"),
    ],
)
def test_outputs_of_a_saved_model_are_checked(act, words, saved_copy):
    hostile.hostile_saved_model(saved_copy, act)
    detector = Detector.load(saved_copy)
    with pytest.raises(UserError) as refused:
        detector.score(np.ones((3, 28, 28, 1), np.uint8))
    assert words in str(refused.value)
    assert str(refused.value).isprintable()


def test_every_output_is_checked(trained_run):
    detector = Detector.load(trained_run)

    def check(name, values, count):
        check_answer(name, values, detector.input_shape, 10, count)

    right = {
        "score": np.zeros(2, np.float32),
        "error_map": np.zeros((2, 28, 28), np.float32),
        "reconstruction": np.zeros((2, 28, 28, 1), np.uint8),
        "probabilities": np.zeros((2, 10), np.float32),
    }
    for name, values in right.items():
        check(name, values, 2)
        wrong = [None, values[:1], values[..., :-1], values[..., None], values.astype(np.float64)]
        if name != "reconstruction":
            wrong.append(np.full_like(values, np.nan))
        for value in wrong:
            with pytest.raises(UserError, match=name):
                check(name, value, 2)


def test_grad_cam_of_weights_that_are_no_numbers_is_no_map():
    model = small_model(small_config("cnn")).detector
    detector = TrainedDetector(model, weighing_detector((16, 16, 1), (1,)).info)
    images = np.zeros((2, 16, 16, 1), np.uint8)
    assert detector.explain(images).shape == (2, 16, 16)
    for weight in model.weights:
        weight.assign(np.full(weight.shape, np.nan))
    with pytest.raises(UserError, match="a error_map that is not finite"):
        detector.explain(images)


def test_a_reconstruction_that_is_no_number_has_no_grey_level():
    right = np.array([-1, 0.999, 7], np.float32)
    assert as_uint8(right).tolist() == [0, 255, 255]
    for wrong in (np.nan, np.inf):
        with pytest.raises(UserError, match="a reconstruction that is not finite"):
            as_uint8(np.array([0, wrong], np.float32))


@pytest.mark.parametrize(
    ("takes", "gives", "words"),
    [
        ((8, 9, 1), {"score": (), "error_map": (8, 8)}, "it takes images (8, 9, 1), not (8, 8, 1)"),
        ((8, 8, 1), {"score": ()}, "it has no output error_map for images (8, 8, 1)"),
        ((8, 8, 1), {"score": (1,), "error_map": (8, 8)}, "it has no output score for images"),
        ((8, 8, 1), {"score": (), "error_map": (8, 9)}, "it has no output error_map for images"),
    ],
)
def test_metadata_of_another_model_is_noticed(takes, gives, words):
    info = weighing_detector((8, 8, 1), (1,)).info
    check_shapes(info, (8, 8, 1), {"score": (), "error_map": (8, 8)}, ("score", "error_map"))
    with pytest.raises(ValueError, match=re.escape(words)):
        check_shapes(info, takes, gives, ("score", "error_map"))
