"""Exports of every approach against the run that they were made from, and what can go wrong."""

from __future__ import annotations

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
from conftest import ENVIRONMENT, ROOT, assert_one_line, run_script
from keras import layers

import export
from anomaly_tf import Detector
from anomaly_tf.deploy.conversion import with_subpixel_convolutions
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.deploy.litert import LiteRTDetector
from anomaly_tf.detection.threshold import conformal_threshold
from anomaly_tf.errors import UserError
from anomaly_tf.reporting import parity
from anomaly_tf.runs.directory import RunDirectory

PROTOCOLS = {
    "autoencoder": "one_class",
    "cnn": "classification",
    "contrastive": "imbalance",
    "gan": "imbalance",
    "supervised": "imbalance",
    "transform": "one_class",
    "vae": "one_class",
    "sota": "imbalance",
}
# Largest difference of scores allowed, as a share of the spread of the scores; and of AUROC. The
# runs here were trained for seconds, so their scores lie closer together than those of users.
FORMATS = {
    "saved_model": (1e-4, 1e-4),
    "none": (1e-4, 1e-4),
    "float16": (0.02, 0.005),
    "dynamic": (0.3, 0.02),
    "int8": (0.6, 0.03),
}
# float16 and dynamic change how the converter stores weights, layer by layer: of approaches that
# are made of the same layers one is enough. int8 depends on what lies where.
STORED = {"autoencoder": "dense layers", "cnn": "convolutions", "sota": "all kinds"}
EXPORTS = [
    (approach, kind)
    for approach in PROTOCOLS
    for kind in FORMATS
    if kind not in ("float16", "dynamic") or approach in STORED
    # The detector of gan is made as that of contrastive.
    if approach != "gan" or kind == "saved_model"
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
                trained, folder = evaluated(approach, PROTOCOLS[approach]).run, None
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
    measure = "accuracy" if approach == "cnn" else "auroc"
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
import importlib.util, sys
import numpy as np, tensorflow as tf
assert importlib.util.find_spec("anomaly_tf") is None
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


def test_a_saved_model_needs_tensorflow_alone(exported, images, tmp_path):
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
    told = capsys.readouterr()
    assert "error: the export lost" in told.err
    assert "AUROC" in told.out
    assert (tmp_path / "autoencoder.tflite").is_file()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncated", "truncated"),
        ("foreign", "was not made by export.py"),
        ("empty", "was not made by export.py"),
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
    with pytest.raises(UserError, match=words) as told:
        Detector.load(file)
    assert "\n" not in str(told.value)


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
        ("foreign", "was not made by export.py"),
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
