"""One detector in several threads, and pickled to other processes."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import ROOT, run_command, small_config, small_model, weighing_detector

from anomaly_tf import Detector
from anomaly_tf.deploy import keras_run
from anomaly_tf.deploy.litert import LiteRTDetector
from anomaly_tf.detection.scoring import GradCam, Scorer
from anomaly_tf.errors import UserError
from anomaly_tf.runs.sections import HeatScale

THREADS = 4
KINDS = ("run", "saved_model", "tflite")


def at_once(call: Callable[[int], object]) -> None:
    """Calls in as many threads, which begin together; raises what one of them raised."""
    barrier, errors = threading.Barrier(THREADS), []

    def work(number: int) -> None:
        barrier.wait()
        try:
            call(number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_share_a_detector(kind, deployed, small_arrays):
    images = [small_arrays[2][20 * n : 20 * n + 13 + n] for n in range(THREADS)]
    alone, shared = Detector.load(deployed[kind]), Detector.load(deployed[kind])
    calls = ("score", "predict", "explain", "reconstruct", "explain_and_reconstruct")
    right = {(name, n): getattr(alone, name)(images[n]) for name in calls for n in range(THREADS)}

    def work(number: int) -> None:
        # Each thread starts with another call, so that first calls happen at the same time.
        for place in range(3 * len(calls)):
            name = calls[(number + place) % len(calls)]
            found = getattr(shared, name)(images[number])
            for one, other in zip(found, right[name, number], strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    at_once(work)


def test_threads_share_grad_cam(capfd):
    model = small_model(small_config("cnn")).detector
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (3 + n, 16, 16, 1), np.uint8) for n in range(THREADS)]
    alone, shared = GradCam(model), GradCam(model)
    right = [alone(part) for part in images]
    found: dict[int, np.ndarray] = {}
    at_once(lambda number: found.update({number: shared(images[number])}))
    for number in range(THREADS):
        np.testing.assert_allclose(found[number], right[number], rtol=1e-5, atol=1e-7)
    assert "retracing" not in capfd.readouterr().err


def slowed(make: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    """The same, but that it waits for a second caller, who may not come."""
    both = threading.Event()

    def call(*arguments: Any, **keywords: Any) -> Any:
        calls.append(len(calls))
        if len(calls) > 1:
            both.set()
        both.wait(0.3)
        return make(*arguments, **keywords)

    return call


def test_of_threads_that_begin_together_one_makes_the_graph(monkeypatch):
    scorers: list[int] = []
    monkeypatch.setattr(keras_run, "Scorer", slowed(keras_run.Scorer, scorers))
    detector = weighing_detector((8, 8, 1), (1,))
    at_once(lambda number: detector.score(np.zeros((1, 8, 8, 1), np.uint8)))
    assert scorers == [0]
    graphs: list[int] = []
    grad_cam = GradCam(small_model(small_config("cnn")).detector)
    monkeypatch.setattr(grad_cam, "_grad_cam_of_batch", slowed(grad_cam._grad_cam_of_batch, graphs))
    at_once(lambda number: grad_cam(np.zeros((1, 16, 16, 1), np.uint8)))
    assert graphs == [0]


class Counted(keras.layers.Layer):
    """Counts how often Python goes through it."""

    calls = 0

    def call(self, images):
        self.calls += 1
        return images


def test_a_scorer_has_its_graph_before_threads_call_it():
    layer = Counted()
    image = keras.Input((8, 8, 1), dtype="uint8")
    score = keras.ops.mean(layer(keras.ops.cast(image, "float32")), axis=(1, 2, 3))
    scorer = Scorer(keras.Model(image, {"score": score}))
    made = layer.calls
    at_once(lambda number: scorer(np.zeros((number + 1, 8, 8, 1), np.uint8)))
    assert layer.calls == made


def test_threads_load_at_the_same_time(deployed, small_arrays):
    images, scores = small_arrays[2][:5], {}
    at_once(lambda n: scores.update({n: Detector.load(deployed[KINDS[n % 3]]).score(images)}))
    for number in range(THREADS):
        np.testing.assert_allclose(scores[number], scores[0], rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_is_pickled_by_its_path(kind, deployed, small_arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(deployed[kind].parent)
    detector = Detector.load(deployed[kind].name)
    detector.set_percentile(42)
    detector.info.bit_depth, detector.info.max_pixels = 12, 10**8
    detector.info.heat_scale = HeatScale(0.25, 0.75, 0.5, 0.6, "error")
    content = pickle.dumps(detector)
    assert len(content) < 2000
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(content)
    assert type(again) is type(detector)
    assert again.info.threshold == detector.info.threshold
    assert (again.info.bit_depth, again.info.max_pixels) == (12, 10**8)
    assert again.info.heat_scale == detector.info.heat_scale
    images = small_arrays[2][:5]
    np.testing.assert_array_equal(again.score(images), detector.score(images))
    # And once more, from what was unpickled.
    assert pickle.loads(pickle.dumps(again)).threshold == detector.threshold


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_has_a_threshold_of_its_own(copied, deployed):
    detector = Detector.load(deployed["tflite"])
    before = detector.info.threshold.value
    other = copied(detector)
    other.set_percentile(1)
    other.info.threshold.value -= 1
    assert detector.threshold == before


FORKED = """
import multiprocessing, sys
from anomaly_tf import Detector

detector = Detector.load(sys.argv[1])
images = __import__("numpy").zeros((2, *detector.image_shape), "uint8")
detector.score(images)

def attempt(loads):
    try:
        print((Detector.load(sys.argv[1]) if loads else detector).score(images).shape, flush=True)
    except ValueError as error:
        print(error, flush=True)

for loads in (False, True):
    process = multiprocessing.get_context("fork").Process(target=attempt, args=(loads,))
    process.start()
    process.join(120)
    process.kill()
"""


@pytest.mark.parametrize("kind", ["run", "tflite"])
def test_a_forked_process_scores_or_reports_the_reason(kind, deployed):
    done = run_command(sys.executable, "-c", FORKED, deployed[kind], cwd=ROOT)
    said = done.stdout.splitlines()
    assert len(said) == 2
    if kind == "tflite":
        assert said == ["(2,)", "(2,)"]
    else:
        assert all(line.startswith("TensorFlow does not work in a process forked") for line in said)


UNPICKLING = "import pickle, sys; print(pickle.load(sys.stdin.buffer).threshold)"


def test_another_process_loads_a_pickled_detector(deployed, tmp_path, without_tensorflow):
    detector = Detector.load(deployed["tflite"])
    detector.set_false_alarm_rate(0.1)
    (tmp_path / "pickled").write_bytes(pickle.dumps(detector))
    path = f"{without_tensorflow['PYTHONPATH']}:{ROOT}"
    with (tmp_path / "pickled").open("rb") as file:
        done = run_command(
            *(sys.executable, "-c", UNPICKLING),
            env={**without_tensorflow, "PYTHONPATH": path},
            cwd=tmp_path,
            stdin=file,
        )
    assert (done.stdout, done.stderr) == (f"{detector.threshold}\n", "")


def test_trust_and_threads_are_kept(deployed, run_copy):
    facts = json.loads((run_copy / "detector.json").read_text())
    facts.pop("model_sha256")
    (run_copy / "detector.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="--trust"):
        Detector.load(run_copy)
    content = pickle.dumps(Detector.load(run_copy, trust=True))
    assert pickle.loads(content).threshold == facts["threshold"]["value"]
    model = LiteRTDetector.load(deployed["tflite"], threads=1)
    assert pickle.loads(pickle.dumps(model))._threads == 1


def test_a_model_replaced_after_pickling_is_refused(deployed, tmp_path):
    model = Path(shutil.copy(deployed["tflite"], tmp_path / "model.tflite"))
    content = pickle.dumps(Detector.load(model))
    info = Detector.load(model).info
    other = bytearray(model.read_bytes()[: info.model_bytes]) + b"\0"
    facts = info.to_json() | {"model_bytes": len(other)}
    facts["model_sha256"] = hashlib.sha256(other).hexdigest()
    model.write_bytes(other)
    model.with_suffix(".json").write_text(json.dumps(facts))
    assert Detector.load(model).threshold == info.threshold.value  # a model of its own right
    with pytest.raises(UserError, match="is no longer the detector that was pickled"):
        pickle.loads(content)
    model.unlink()
    with pytest.raises(UserError, match="does not exist"):
        pickle.loads(content)


def test_without_a_path_one_line_gives_the_reason():
    detector = weighing_detector((8, 8, 1), (1,))
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=r"^cannot pickle this TrainedDetector: it was not"):
            copied(detector)
    twin = copy.copy(detector)  # which shares the model
    assert twin.model is detector.model
