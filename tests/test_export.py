"""Exports of every approach compared with their run, and errors of exports."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import ENVIRONMENT, ROOT, assert_one_line, normal_set, run_script, weighing_detector
from keras import layers

from anomaly_tf import Detector
from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.cli import export
from anomaly_tf.deploy import exporters
from anomaly_tf.deploy.conversion import convert, with_subpixel_convolutions
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.deploy.litert import LiteRTDetector, read_file
from anomaly_tf.detection.threshold import conformal_threshold
from anomaly_tf.errors import UserError
from anomaly_tf.reporting import parity
from anomaly_tf.runs.directory import RunDirectory

# Largest difference of scores allowed, as a share of the spread of the scores; and of AUROC. The
# runs here were trained for seconds, so their scores lie closer together than those of users.
FORMATS = {
    "saved_model": (1e-4, 1e-4),
    "none": (1e-4, 1e-4),
    "float16": (0.03, 0.005),
    "dynamic": (0.3, 0.02),
    "int8": (0.6, 0.03),
}
# float16 and dynamic change how the converter stores weights, layer by layer: of approaches that
# are made of the same layers one is enough, here autoencoder, cnn and sota; int8 depends on what
# lies where; the detector of gan is made as that of contrastive.
AS_ANOTHER = {
    **dict.fromkeys(
        ("contrastive", "ganomaly", "nsa", "supervised", "transform", "vae"),
        ("float16", "dynamic"),
    ),
    "gan": ("none", "float16", "dynamic", "int8"),
}
NOT_QUANTIZED = [name for name in APPROACHES if not options_of(name).quantizable]
EXPORTS = [
    (approach, kind)
    for approach in APPROACHES
    for kind in FORMATS
    if kind not in AS_ANOTHER.get(approach, ())
    and not (approach in NOT_QUANTIZED and kind in ("dynamic", "int8"))
]


@pytest.fixture(scope="module")
def exported(evaluated, deployed, tmp_path_factory) -> Callable[..., tuple[Path, Path, dict]]:
    """Exports in this process, each once: the run, what was exported, the report."""
    made = {"saved_model": deployed["saved_model"].parents[1], "none": deployed["tflite"].parent}
    kept: dict[tuple, tuple[Path, Path, dict]] = {}

    def run(approach: str, kind: str, *more: str) -> tuple[Path, Path, dict]:
        key = approach, kind, more
        if key not in kept:
            if approach == "sota":
                trained, folder = deployed["run"], None if more else made.get(kind)
            else:
                trained, folder = evaluated(approach, options_of(approach)().protocol).run, None
            if folder is None:
                folder = tmp_path_factory.mktemp("export")
                options = ["--run-dir", str(trained), "--output", str(folder), *more]
                if kind == "saved_model":
                    options += ["--format", "saved_model"]
                else:
                    options += ["--format", "tflite", "--quantize", kind]
                assert export.main(options) in (0, 3)
            (report,) = (json.loads(file.read_text()) for file in folder.glob("*-parity.json"))
            kept[key] = trained, Path(report["path"]), report
        return kept[key]

    return run


@pytest.fixture
def smallest_copy(evaluated, tmp_path) -> Path:
    """A copy of the run that exports fastest, to be changed."""
    return Path(shutil.copytree(evaluated("autoencoder", "one_class").run, tmp_path / "copy"))


@pytest.fixture(scope="module")
def images(small_arrays) -> np.ndarray:
    return small_arrays[2][:200]


@pytest.mark.parametrize(("approach", "kind"), EXPORTS)
def test_every_export_scores_as_the_run_does(approach, kind, exported, images):
    run, path, report = exported(approach, kind)
    trained, leaving = Detector.load(run), Detector.load(path)
    assert leaving.outputs == trained.outputs
    largest, auroc = FORMATS[kind]
    expected, scores = trained.score(images), leaving.score(images)
    assert scores.dtype == np.float32
    assert np.abs(scores - expected).max() < largest * expected.std()
    assert report["score_difference_largest"] >= np.abs(scores - expected).max() * (1 - 1e-6)
    measure = "accuracy" if options_of(approach).learns_from == "classes" else "auroc"
    before, after = (report[side][measure] for side in ("trained", "exported"))
    assert abs(before - after) < auroc
    assert report["lost"] == pytest.approx(before - after)
    if kind in ("saved_model", "none"):
        near = np.abs(expected - trained.threshold) < 1e-4
        np.testing.assert_array_equal(
            leaving.predict(images)[~near], trained.predict(images)[~near]
        )
        for name in trained.outputs[1:]:
            given, right = (side.infer(images, (name,))[name] for side in (leaving, trained))
            assert given.dtype == right.dtype
            close = 1 if name == "reconstruction" else 1e-4 * right.std()
            np.testing.assert_allclose(given, right, rtol=1e-4, atol=close)
    # The threshold fits the scores of the file itself: one in twenty normal validation images.
    calibration = np.array(leaving.info.calibration.scores)
    assert np.mean(calibration >= leaving.threshold) == pytest.approx(
        0.05, abs=1 / len(calibration)
    )
    assert len(calibration) == trained.info.calibration.size


@pytest.mark.parametrize("kind", ["none", "int8"])
def test_a_fixed_larger_batch_scores_the_same(kind, exported, images):
    _, one, _ = exported("contrastive", kind)
    _, several, _ = exported("contrastive", kind, "--batch-size", "32")
    assert "batch32" in several.name
    batched, single = LiteRTDetector.load(several), LiteRTDetector.load(one)
    assert batched.info.batch_size == 32
    for count in (0, 5, 32, 70):
        scores = batched.score(images[:count])
        assert scores.shape == (count,)
        if kind == "none":
            np.testing.assert_allclose(scores, single.score(images[:count]), rtol=1e-4)
        else:  # the representative images came in other batches
            np.testing.assert_allclose(scores, single.score(images[:count]), rtol=0.05)
    assert batched.reconstruct(images[:5]).shape == (5, 28, 28, 1)


def test_int8_is_small_and_still_ranks_finely(exported, images):
    _, floating, _ = exported("sota", "none")
    _, path, report = exported("sota", "int8")
    assert path.stat().st_size < floating.stat().st_size / 3
    assert report["exported"]["size_bytes"] == path.stat().st_size
    # A score made of 256 levels would be one of few values.
    assert len(np.unique(Detector.load(path).score(images))) > 0.95 * len(images)


@pytest.mark.parametrize(
    ("kind", "stored", "pictures"),
    [
        ("none", np.float32, {np.float32}),
        ("float16", np.float16, {np.float32}),
        ("dynamic", np.int8, {np.float32}),
        ("int8", np.int8, {np.float32, np.int8}),
    ],
)
def test_each_quantization_stores_the_types_in_its_name(kind, stored, pictures, exported):
    _, path, report = exported("sota", kind)
    model, info = read_file(path)
    assert (report["quantize"], info.quantization, info.batch_size) == (kind, kind, 1)
    interpreter = Interpreter(model_content=model)
    assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 28, 28, 1]
    numbers: dict[type, int] = {}  # in tensors of each kind
    inside = set()
    for tensor in interpreter.get_tensor_details():
        kind_of_number, shape = tensor["dtype"], tensor["shape"].tolist()
        numbers[kind_of_number] = numbers.get(kind_of_number, 0) + int(np.prod(shape))
        if len(shape) == 4 and shape[:3] in ([1, 14, 14], [1, 28, 28]):
            inside.add(kind_of_number)
    assert numbers[stored] > 500_000  # nearly all of its weights
    assert not {np.float16, np.int8} - {stored} & set(numbers)
    assert inside - {np.uint8} == pictures


HEIGHT, WIDTH = 10, 8
# More than one batch of three and a part of another; every picture of one colour.
COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (51, 102, 153), (0, 0, 0), (255, 255, 255), (9, 0, 0)],
    np.uint8,
)
WEIGHTS = (0.5, 0.25, 0.125)
COLOUR_SCORES = COLOURS @ np.array(WEIGHTS) / 255


@pytest.fixture(scope="module")
def coloured() -> np.ndarray:
    """A picture of each colour, uint8 (7, 10, 8, 3), whose first row is black."""
    pictures = np.empty((len(COLOURS), HEIGHT, WIDTH, 3), np.uint8)
    pictures[:] = COLOURS[:, None, None]
    pictures[:, 0] = 0
    return pictures


@pytest.fixture(scope="module")
def weighing(coloured, tmp_path_factory) -> dict[str, Path]:
    """One detector in both formats; its own threshold is the score of the fourth colour."""
    folder = tmp_path_factory.mktemp("weighing")
    detector = weighing_detector((HEIGHT, WIDTH, 3), WEIGHTS, image_score="maximum")
    detector.info.threshold.value = float(detector.score(coloured[3:4])[0])
    exporters.export_saved_model(detector, folder / "saved_model")
    exporters.export_tflite(
        detector, folder / "weighing.tflite", "none", 3, normal_set(coloured[:5]), coloured[:3]
    )
    return {"saved_model": folder / "saved_model", "tflite": folder / "weighing.tflite"}


@pytest.mark.parametrize("kind", ["saved_model", "tflite"])
def test_an_export_gives_each_colour_its_own_score_map_and_reconstruction(kind, weighing, coloured):
    detector = Detector.load(weighing[kind], trust=True)
    assert detector.image_shape == (HEIGHT, WIDTH, 3)
    for count in (7, 1, 3):
        found = detector.infer(coloured[:count], ("reconstruction", "score", "error_map"))
        # Nine rows of ten are coloured.
        np.testing.assert_allclose(found["score"], 0.9 * COLOUR_SCORES[:count], atol=1e-6)
        np.testing.assert_array_equal(found["reconstruction"], coloured[:count])
        maps = np.broadcast_to(COLOUR_SCORES[:count, None, None], (count, HEIGHT, WIDTH)).copy()
        maps[:, 0] = 0
        np.testing.assert_allclose(found["error_map"], maps, atol=1e-6)


@pytest.mark.parametrize("kind", ["saved_model", "tflite"])
def test_an_export_keeps_the_metadata_of_the_run(kind, weighing):
    info = Detector.load(weighing[kind], trust=True).info
    trained = weighing_detector((HEIGHT, WIDTH, 3), WEIGHTS, image_score="maximum").info
    kept = ("approach", "protocol", "dataset", "class_names", "roles", "seed", "image_score")
    for name in (*kept, "heat_scale"):
        assert getattr(info, name) == getattr(trained, name), name
    assert info.outputs == ["score", "error_map", "reconstruction"]
    assert info.preprocessing["colours"] == "RGB"
    assert info.source["command"] == "python train.py --data drawn"


@pytest.mark.parametrize("kind", ["saved_model", "tflite"])
def test_many_images_keep_their_order(kind, weighing, coloured):
    colours = np.random.default_rng(0).integers(0, len(coloured), 1203)
    scores = Detector.load(weighing[kind], trust=True).score(coloured[colours])
    np.testing.assert_allclose(scores, 0.9 * COLOUR_SCORES[colours], atol=1e-6)


def test_a_tflite_file_has_the_batch_size_in_its_metadata(weighing):
    model, info = read_file(weighing["tflite"])
    shape = Interpreter(model_content=model).get_input_details()[0]["shape"].tolist()
    assert shape == [3, HEIGHT, WIDTH, 3]
    assert info.batch_size == 3


def test_a_tflite_file_is_calibrated_on_its_own_scores_of_normal_images(weighing):
    detector = Detector.load(weighing["tflite"])
    # The colours 0 to 4, sorted; the 95th percentile lies four fifths of the way to the last.
    scores = 0.9 * np.array([0, 0.125, 0.275, 0.25, 0.5])
    np.testing.assert_allclose(detector.calibration_scores, np.sort(scores), atol=1e-6)
    low, high = np.sort(scores)[-2:]
    assert detector.threshold == pytest.approx(low + 0.8 * (high - low))
    assert detector.info.score_statistics["normal"]["maximum"] == pytest.approx(0.45)


def test_a_saved_model_judges_by_its_own_threshold_or_a_given_one(weighing, coloured):
    signatures = tf.saved_model.load(str(weighing["saved_model"])).signatures
    images = tf.constant(coloured)
    found = signatures["serve"](images=images)
    # Its own is the score of the fourth, which is an anomaly as well.
    assert found["is_anomaly"].numpy().tolist() == [True, False, False, True, False, True, False]
    given = signatures["with_threshold"](images=images, threshold=found["score"][1])
    assert given["is_anomaly"].numpy().tolist() == [True, True, False, True, False, True, False]


def test_a_saved_model_resizes_each_side_to_its_own_length(weighing, coloured):
    serve = tf.saved_model.load(str(weighing["saved_model"])).signatures["serve"]
    tall = np.repeat(coloured, 4, axis=1)
    found = serve(images=tf.constant(tall))["error_map"].numpy()
    assert found.shape == (7, HEIGHT, WIDTH)
    np.testing.assert_allclose(
        found[:, 2:], COLOUR_SCORES[:, None, None] + 0 * found[:, 2:], atol=1e-6
    )
    assert (found[:, 0] <= 0.2 * COLOUR_SCORES[:, None] + 1e-6).all()  # the black row is the first
    # Thin white lines become grey, where the nearest pixels would be white or black.
    lines = np.zeros((1, HEIGHT, 8 * WIDTH, 3), np.uint8)
    lines[:, :, ::8] = 255
    score = serve(images=tf.constant(lines))["score"].numpy()[0]
    assert score == pytest.approx(sum(WEIGHTS) / 8, rel=0.1)


@pytest.mark.parametrize(("brightest", "expected"), [(255, 0.8), (51, 0.2)])
def test_int8_learns_its_range_from_the_samples(brightest, expected):
    image = keras.Input((8, 8, 1), dtype="uint8")
    entrance = layers.Conv2D(1, 1, use_bias=False)
    behind = layers.Conv2D(1, 1, use_bias=False)
    inner = keras.Input((8, 8, 1))
    network = keras.Model(inner, behind(entrance(inner)), name="network")
    score = keras.ops.mean(network(layers.Rescaling(1 / 255)(image)), axis=(1, 2, 3))
    model = keras.Model(image, {"score": score})
    for layer in (entrance, behind):
        layer.set_weights([np.ones((1, 1, 1, 1), np.float32)])
    samples = np.full((4, 8, 8, 1), brightest, np.uint8)
    file = convert(model, 2, "int8", samples)
    info = dataclasses.replace(weighing_detector((8, 8, 1), (1,)).info, outputs=["score"])
    bright = np.full((1, 8, 8, 1), 204, np.uint8)
    # Pixels brighter than all samples are clipped to the brightest sample.
    assert LiteRTDetector(file, info).score(bright)[0] == pytest.approx(expected, abs=0.01)


class Recorded(Exception):
    """The arguments that an exporter was called with, instead of a file."""


@pytest.mark.parametrize(("approach", "kinds"), [("autoencoder", {0}), ("supervised", {0, 1})])
def test_export_passes_its_options_and_the_right_images_on(
    approach, kinds, evaluated, small_dataset, tmp_path, monkeypatch
):
    def record(*arguments):
        raise Recorded(*arguments)

    monkeypatch.setattr(exporters, "export_tflite", record)
    run = evaluated(approach, options_of(approach)().protocol).run
    options = ["--format", "tflite", "--quantize", "dynamic", "--batch-size", "7"]
    with pytest.raises(Recorded) as recorded:
        export.main(["--run-dir", str(run), "--output", str(tmp_path), *options])
    detector, path, quantization, batch_size, validation, samples, _ = recorded.value.args
    normal = validation.normal
    assert path == tmp_path / f"{approach}-dynamic-batch7.tflite"
    assert (quantization, batch_size) == ("dynamic", 7)
    info = json.loads((run / "detector.json").read_text())
    assert detector.info.to_json() == info
    # The images that set the run's threshold, of the training files and not of the test set.
    scores = np.sort(detector.score(normal))
    np.testing.assert_allclose(scores, info["calibration"]["scores"], rtol=1e-5)
    classes = {
        image.tobytes(): number
        for image, number in zip(
            small_dataset.train_images, small_dataset.train_classes, strict=True
        )
    }
    found = [classes[image.tobytes()] for image in samples]
    assert {int(number > 0) for number in found} == kinds
    assert len(samples) == min(500, info["training"]["n_validation"] if 1 in kinds else len(normal))
    known = {image.tobytes() for image in normal}
    assert {image.tobytes() for image in samples if classes[image.tobytes()] == 0} <= known


def test_a_tflite_file_carries_its_metadata(exported):
    run, path, _ = exported("sota", "int8")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["anomaly_tf.json"]
        info = json.loads(archive.read("anomaly_tf.json"))
    assert info == json.loads(path.with_suffix(".json").read_text())
    model = path.read_bytes()[: info["model_bytes"]]
    assert hashlib.sha256(model).hexdigest() == info["model_sha256"]
    trained = json.loads((run / "detector.json").read_text())
    for key in ("approach", "class_names", "image_shape", "roles"):
        assert info[key] == trained[key]
    scores = info["calibration"]["scores"]
    assert info["threshold"]["value"] == pytest.approx(np.percentile(scores, 95))
    assert info["score_statistics"]["normal"]["mean"] == pytest.approx(np.mean(scores))
    assert info["source"]["model_sha256"] == trained["model_sha256"]


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_tflite_file_keeps_the_promise_by_its_own_scores(
    quantize, smallest_copy, images, tmp_path
):
    trained = TrainedDetector.load(smallest_copy)
    trained.set_false_alarm_rate(0.05)
    trained.save_info(RunDirectory(smallest_copy))
    options = ["--run-dir", str(smallest_copy), "--output", str(tmp_path / "export")]
    assert export.main([*options, "--format", "tflite", "--quantize", quantize]) in (0, 3)
    (path,) = (tmp_path / "export").glob("*.tflite")
    leaving = Detector.load(path)
    assert leaving.threshold_method == "conformal 0.05"
    own = np.array(json.loads(path.with_suffix(".json").read_text())["calibration"]["scores"])
    assert leaving.threshold == conformal_threshold(own, 0.05)
    verdicts = leaving.predict(images).astype(bool)
    np.testing.assert_array_equal(verdicts, leaving.p_values(leaving.score(images)) <= 0.05)
    (report,) = (json.loads(file.read_text()) for file in path.parent.glob("*-parity.json"))
    assert report["trained"]["threshold"] == trained.threshold
    assert report["exported"]["threshold"] == leaving.threshold


def test_a_saved_model_takes_the_promised_threshold_inside(smallest_copy, images, tmp_path):
    trained = TrainedDetector.load(smallest_copy)
    trained.set_false_alarm_rate(0.05)
    trained.save_info(RunDirectory(smallest_copy))
    options = ["--run-dir", str(smallest_copy), "--output", str(tmp_path)]
    assert export.main([*options, "--format", "saved_model"]) == 0
    path = tmp_path / "autoencoder" / "1"
    leaving = Detector.load(path)
    assert leaving.info.threshold == trained.info.threshold
    found = tf.saved_model.load(str(path)).signatures["serve"](images=tf.constant(images))
    np.testing.assert_array_equal(found["is_anomaly"], leaving.p_values(found["score"]) <= 0.05)


def test_one_copied_file_is_enough(exported, images, tmp_path):
    _, path, _ = exported("sota", "none")
    alone = shutil.copy(path, tmp_path / "alone.tflite")
    np.testing.assert_array_equal(
        Detector.load(alone).score(images[:5]), Detector.load(path).score(images[:5])
    )


SERVE = """
import sys
sys.modules["anomaly_tf"] = None  # cannot be imported
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
serve = model.signatures["serving_default"]
found = {name: value.numpy() for name, value in serve(images=tf.constant(images)).items()}
large = tf.constant(np.repeat(np.repeat(images, 3, axis=1), 2, axis=2))
found["large"] = serve(images=large)["score"].numpy()
threshold = tf.constant(float(np.median(found["score"])))
other = model.signatures["with_threshold"](images=tf.constant(images), threshold=threshold)
found["half"] = other["is_anomaly"].numpy()
np.savez(sys.argv[3], **found)
"""


def test_a_saved_model_needs_tensorflow_only(exported, images, tmp_path):
    run, path, _ = exported("sota", "saved_model")
    assert path.parts[-2:] == ("sota", "1")  # as TensorFlow Serving wants it
    np.save(tmp_path / "images.npy", images[:20])
    arguments = [path, tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run(
        [sys.executable, "-c", SERVE, *map(str, arguments)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    found, trained = np.load(tmp_path / "found.npz"), Detector.load(run)
    np.testing.assert_allclose(found["score"], trained.score(images[:20]), atol=1e-5)
    np.testing.assert_array_equal(found["is_anomaly"], trained.predict(images[:20]))
    np.testing.assert_allclose(found["error_map"], trained.explain(images[:20]), atol=1e-4)
    assert found["reconstruction"].dtype == np.uint8
    assert found["half"].sum() in (10, 11)
    # An image enlarged by whole factors shrinks to nearly what it was: triangles reach further.
    assert np.corrcoef(found["large"], found["score"])[0, 1] > 0.95


def test_resizing_inside_is_that_of_predict(exported, tmp_path):
    from PIL import Image

    from anomaly_tf.data.images import read_image

    _, path, _ = exported("autoencoder", "saved_model")
    photo = np.random.default_rng(0).integers(0, 256, (90, 70), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    detector = Detector.load(path)
    small = read_image(tmp_path / "photo.png", (28, 28, 1))[None]
    inside = detector._serve(images=photo[None, ..., None])
    # The reconstruction of a picture that differs by a grey level differs by about as much.
    np.testing.assert_allclose(inside["score"].numpy(), detector.score(small), rtol=0.01)


def test_a_transposed_convolution_as_a_subpixel_convolution():
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 5, 3))
    x = layers.Conv2DTranspose(6, 4, strides=2, padding="same", use_bias=False)(image)
    x = layers.Cropping2D(((0, 1), (0, 3)))(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(2, 4, strides=2, padding="same")(x)
    x = layers.Conv2DTranspose(2, 3, strides=2, padding="same")(x)  # of another kind: stays
    model = keras.Model(image, x)
    for weight in model.weights:
        low = 0.5 if "variance" in weight.name else -1.0
        weight.assign(np.random.default_rng(1).uniform(low, 1.0, weight.shape))
    changed = with_subpixel_convolutions(model)
    images = np.random.default_rng(2).normal(size=(7, 4, 5, 3)).astype(np.float32)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(changed.predict(images, verbose=0), expected, atol=1e-4)
    kinds = [type(layer) for layer in changed._flatten_layers()]
    assert kinds.count(layers.Conv2DTranspose) == 1
    assert layers.BatchNormalization not in kinds


def test_a_loss_of_quality_ends_in_status_three(exported, monkeypatch, capsys, tmp_path):
    run, _, _ = exported("autoencoder", "none")
    monkeypatch.setattr(parity, "ALLOWED_LOSS", -1.0)
    options = ["--run-dir", str(run), "--format", "tflite", "--output", str(tmp_path)]
    assert export.main(options) == 3
    output = capsys.readouterr()
    assert "error: the export lost" in output.err
    assert "AUROC" in output.out
    assert (tmp_path / "autoencoder.tflite").is_file()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncated", "truncated"),
        ("foreign", "was not written by export.py"),
        ("empty", "was not written by export.py"),
        ("changed", "another SHA-256 digest"),
        ("swapped", "another SHA-256 digest"),
        ("metadata", "metadata of .* is damaged"),
    ],
)
def test_a_damaged_tflite_file(damage, words, exported, tmp_path):
    _, path, _ = exported("sota", "none")
    content = path.read_bytes()
    info = json.loads(path.with_suffix(".json").read_text())
    model = content[: info["model_bytes"]]
    file = tmp_path / "model.tflite"
    if damage == "truncated":
        content = content[:-100]
    if damage == "foreign":
        content = model
    if damage == "empty":
        content = b""
    if damage == "changed":
        content = content[:9000] + bytes([content[9000] ^ 1]) + content[9001:]
    if damage == "swapped":  # with what describes another file
        content = model
        other = exported("sota", "int8")[1].with_suffix(".json").read_text()
        file.with_suffix(".json").write_text(other)
    if damage == "metadata":
        content = model
        file.with_suffix(".json").write_text(json.dumps({**info, "threshold": None}))
    file.write_bytes(content)
    with pytest.raises(UserError, match=words) as refused:
        Detector.load(file)
    assert "\n" not in str(refused.value)


def test_metadata_beside_the_file_serves_as_well(exported, images, tmp_path):
    _, path, _ = exported("sota", "none")
    info = json.loads(path.with_suffix(".json").read_text())
    (tmp_path / "plain.tflite").write_bytes(path.read_bytes()[: info["model_bytes"]])
    (tmp_path / "plain.json").write_text(json.dumps(info))
    scores = Detector.load(tmp_path / "plain.tflite").score(images[:5])
    np.testing.assert_array_equal(scores, Detector.load(path).score(images[:5]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("changed", "was changed"),
        ("incomplete", "is missing"),
        ("foreign", "was not written by export.py"),
        ("metadata", "is damaged"),
    ],
)
def test_a_damaged_saved_model(damage, words, exported, tmp_path):
    _, path, _ = exported("sota", "saved_model")
    copy = Path(shutil.copytree(path, tmp_path / "sota" / "1"))
    if damage == "changed":
        with (copy / "saved_model.pb").open("ab") as file:
            file.write(b"\0")
    if damage == "incomplete":
        (copy / "variables" / "variables.index").unlink()
    if damage == "foreign":
        shutil.rmtree(copy / "assets.extra")
    if damage == "metadata":
        (copy / "assets.extra" / "anomaly_tf.json").write_text("[]")
    with pytest.raises(UserError, match=words):
        Detector.load(tmp_path / "sota")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--format tflite", ["--run-dir", "missing"]),
        ("--run-dir none --format tflite", ["none does not exist"]),
        ("--run-dir none --format onnx", ["--format must be one of 'saved_model', 'tflite'"]),
        ("--run-dir none --format tflite --quantize int4", ["--quantize", "int4"]),
        ("--run-dir none --format tflite --batch-size 0", ["--batch-size", "at least 1"]),
        ("--run-dir none --format saved_model --quantize int8", ["--format tflite"]),
    ],
)
def test_wrong_options_of_export(options, words, without_tensorflow, tmp_path):
    done = run_script("export.py", *options.split(), cwd=tmp_path, env=without_tensorflow)
    assert_one_line(done, *words)


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_that_is_no_folder(output, trained_run, without_tensorflow, tmp_path):
    (tmp_path / "file").write_text("keep me")
    options = ("--run-dir", trained_run, "--format", "tflite", "--output", output)
    done = run_script("export.py", *options, cwd=tmp_path, env=without_tensorflow)
    assert_one_line(done, f"cannot write to {output}", "choose another --output")
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.parametrize("options", [("saved_model",), ("tflite", "--quantize", "int8")])
def test_no_space_left_leaves_the_old_export(options, exported, images, tmp_path):
    run, good, _ = exported("autoencoder", "int8" if "int8" in options else "saved_model")
    folder = Path(shutil.copytree(good.parents[len(options) == 1], tmp_path / "out"))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def little_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run_script(
        *("export.py", "--run-dir", run, "--output", folder, "--format", *options),
        preexec_fn=little_space,
        env={**ENVIRONMENT, "TMPDIR": str(tmp_path)},
    )
    assert_one_line(done, "free or choose another folder")
    after = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert after == before
    assert not list(folder.rglob(".partial-*"))


@pytest.fixture(scope="session")
def edge_python(tmp_path_factory) -> Path:
    """A Python that has what requirements-edge.txt lists, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("edge")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    requirements = ROOT / "requirements-edge.txt"
    subprocess.run([python, *install, "-r", requirements], check=True, capture_output=True)
    return python


def test_the_runtime_needs_no_tensorflow(edge_python, exported, images, tmp_path):
    _, path, _ = exported("sota", "int8")
    code = (
        "import sys, numpy as np\n"
        "from anomaly_tf.deploy.litert import LiteRTDetector\n"
        "detector = LiteRTDetector.load(sys.argv[1], threads=1)\n"
        "images = np.load(sys.argv[2])\n"
        "np.savez(sys.argv[3], score=detector.score(images), map=detector.explain(images),\n"
        "         verdict=detector.predict(images), picture=detector.reconstruct(images))\n"
        "assert not {'tensorflow', 'keras', 'yaml', 'jsonargparse'} & set(sys.modules)\n"
    )
    np.save(tmp_path / "images.npy", images[:20])
    arguments = [path, tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run(
        [edge_python, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"},
        check=True,
    )
    found, here = np.load(tmp_path / "found.npz"), Detector.load(path)
    np.testing.assert_allclose(found["score"], here.score(images[:20]), rtol=1e-5)
    np.testing.assert_allclose(found["map"], here.explain(images[:20]), atol=1e-5)
    np.testing.assert_array_equal(found["verdict"], here.predict(images[:20]))
    assert found["picture"].dtype == np.uint8


def test_predict_runs_where_there_is_no_tensorflow(edge_python, exported, small_arrays, tmp_path):
    from PIL import Image

    _, path, _ = exported("sota", "int8")
    Image.fromarray(small_arrays[2][0][..., 0]).save(tmp_path / "a.png")
    done = subprocess.run(
        [edge_python, ROOT / "predict.py", "--model", path, "--format", "jsonl", "a.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.stderr == ""
    row = json.loads(done.stdout)
    expected = Detector.load(path).score(small_arrays[2][:1])[0]
    assert row["score"] == pytest.approx(expected, rel=1e-5)
    assert done.returncode == int(row["is_anomaly"])


def test_an_export_prints_names_without_their_escapes(
    deployed, run_copy, tmp_path, capsys, monkeypatch
):
    run = run_copy.rename(tmp_path / "a\n\x1b[31mb")
    facts = json.loads((run / "detector.json").read_text())
    facts["training"]["status"] = "interrupted"
    (run / "detector.json").write_text(json.dumps(facts))

    def copied(detector, path: Path, *arguments) -> None:
        path.parent.mkdir()
        shutil.copy(deployed["tflite"], path)

    monkeypatch.setattr(exporters, "export_tflite", copied)  # which takes its seconds
    output = tmp_path / "out\n\x1b"
    options = ["--run-dir", str(run), "--format", "tflite", "--output", str(output)]
    assert export.main(options) in (0, 3)
    said, errors = capsys.readouterr()
    assert (said + errors).replace("\n", "").isprintable()
    assert errors.startswith("note: the training of ")
    assert said.splitlines()[0].endswith(r"out\n\x1b/sota.tflite")
    assert r"out\n\x1b/sota.tflite" in said.splitlines()[-1]
