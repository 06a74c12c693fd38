"""`anomaly_tf.train` and what a detector can do from Python, as in a notebook."""

from __future__ import annotations

import dataclasses
import pickle
import random
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT, run_command
from PIL import Image

import anomaly_tf
from anomaly_tf import Detector, UserError
from anomaly_tf.approaches import APPROACHES
from anomaly_tf.approaches.configs import load_config
from anomaly_tf.cli import evaluate, export, predict
from anomaly_tf.deploy import exporters
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.runs.caches import may_write
from anomaly_tf.training import loop

SHORT = {"training__epochs": 2, "training__steps_per_epoch": 5, "training__batch_size": 16}


@pytest.fixture(scope="module")
def drawn(small_arrays) -> tuple[np.ndarray, np.ndarray]:
    """Real images uint8 (60, 28, 28, 1) and their labels: 48 T-shirts, 12 trousers."""
    images, classes, _, _ = small_arrays
    chosen = np.concatenate([np.flatnonzero(classes == 0)[:48], np.flatnonzero(classes == 1)[:12]])
    return images[chosen], (classes[chosen] == 1).astype(int)


@pytest.fixture(scope="module")
def files(drawn, tmp_path_factory) -> list[Path]:
    """The same as PNG files of 40 x 40, in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, (image, label) in enumerate(zip(*drawn, strict=True)):
        path = folder / ("good", "bad")[label] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).resize((40, 40)).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def trained(drawn) -> TrainedDetector:
    images, labels = drawn
    return anomaly_tf.train(images[labels == 0], verbose=0, **SHORT)


@pytest.fixture(scope="module")
def kinds(trained, tmp_path_factory) -> dict[str, Path]:
    """The detector as each kind that can be loaded."""
    folder = tmp_path_factory.mktemp("kinds")
    trained.save(folder / "run")
    trained.export(folder / "saved")
    trained.export(folder / "litert.tflite")
    return {"run": folder / "run", "saved": folder / "saved", "litert": folder / "litert.tflite"}


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("approach", APPROACHES)
def test_every_approach_trains_on_arrays(approach, drawn, monkeypatch):
    """As far as the call of `fit`, which `test_training.py` and others make."""
    images, labels = drawn
    arrived = []

    def arrive(config, dataset, split, *rest, **keywords):
        arrived.append((config, split))
        raise UserError("arrived")

    monkeypatch.setattr(loop, "train", arrive)
    with pytest.raises(UserError, match="arrived"):
        anomaly_tf.train(images, labels, approach=approach, verbose=0, seed=3)
    ((config, split),) = arrived
    assert (config.approach, config.seed) == (approach, 3)
    assert len(split.test) == 0
    assert len(split.train) + len(split.validation) >= 48


def test_nothing_is_printed_and_nothing_stays_on_disk(drawn, trained, tmp_path, monkeypatch, capfd):
    """With `trained` before it: TensorFlow says once a process that it finds no GPU."""
    monkeypatch.chdir(tmp_path)
    images, labels = drawn
    detector = anomaly_tf.train(images, labels, approach="gan", verbose=0, **SHORT)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    folder = detector.run.path
    assert folder.is_dir()
    del detector
    assert not folder.exists()


def test_labels_that_say_what_is_normal_are_no_guess(drawn, tmp_path, capsys):
    """Although there are four times as many anomalies."""
    images, labels = drawn
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        detector = anomaly_tf.train(images, 1 - labels, approach="gan", verbose=2, **SHORT)
    assert "normal class: " not in capsys.readouterr().out
    assert detector.info.class_names == ["normal", "anomaly"]
    assert detector.info.roles["normal"] == [0]


def test_a_doubt_is_a_warning_by_its_category_only(drawn):
    images, _ = drawn
    with pytest.warns(UserWarning, match=r"^no grey level is above 15 of 255"):
        anomaly_tf.train(images // 17, verbose=0, **SHORT)


def test_an_epoch_is_one_line(drawn, tmp_path, capsys):
    images, labels = drawn
    run = tmp_path / "run"
    anomaly_tf.train(images, labels, approach="gan", run_dir=run, verbose=2, **SHORT)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all(line.split()[2] == "val_auroc" for line in lines)
    assert "left" in lines[0]
    assert "left" not in lines[1]
    assert max(map(len, lines)) <= 120


def test_a_progress_bar_fits_the_terminal_and_is_removed_before_the_line(
    drawn, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "50")
    images, labels = drawn
    anomaly_tf.train(images[labels == 0], verbose=1, **SHORT)
    out = capsys.readouterr().out
    assert "] 1/5  " in out
    assert "\r\033[Kepoch 1/2  loss" in out
    assert max(len(line) for line in re.split(r"[\r\n]", out) if "]" in line) == 49 + len("\033[K")


@pytest.mark.parametrize(
    ("options", "n_test"),
    [
        ({}, 0),
        ({"folder": {"storage": "memory"}}, 0),
        ({"folder__test_fraction": 0.5}, 30),
        ({"folder": {"test_fraction": 0.5}}, 30),
    ],
)
def test_arrays_have_a_test_set_only_if_asked(options, n_test, drawn, monkeypatch):
    arrived = []

    def arrive(config, dataset, split, *rest, **keywords):
        arrived.append(len(split.test))
        raise UserError("arrived")

    monkeypatch.setattr(loop, "train", arrive)
    with pytest.raises(UserError, match="arrived"):
        anomaly_tf.train(*drawn, approach="sota", verbose=0, **options)
    assert arrived == [n_test]


def test_training_leaves_the_callers_random_numbers_alone(drawn):
    np.random.seed(1)
    random.seed(1)
    expected = np.random.random(), random.random()
    np.random.seed(1)
    random.seed(1)
    anomaly_tf.train(drawn[0], verbose=0, **SHORT)
    assert (np.random.random(), random.random()) == expected


def test_a_folder_is_divided_as_by_the_command(files, tmp_path, capsys):
    folder = files[0].parents[1]
    run = tmp_path / "run"
    detector = anomaly_tf.train(folder, run_dir=run, verbose=0, data_dir=tmp_path, **SHORT)
    assert evaluate.main(["--run-dir", str(run)]) == 0
    assert f"anomaly_tf.train({str(folder)!r}, approach='vae'" in detector.info.training.command
    assert predict.main(["--model", str(run), "--format", "csv", *map(str, files[:3])]) in (0, 1)
    rows = capsys.readouterr().out.splitlines()[-3:]
    expected = [float(row.split(",")[1]) for row in rows]
    np.testing.assert_allclose(detector.score_files(files[:3]), expected, rtol=1e-5)


def test_a_list_of_files_is_learnt_from_and_exported(files, tmp_path, capsys):
    labels = [int(file.parent.name == "bad") for file in files]
    with pytest.warns(UserWarning, match="left out: 8 images that approach"):
        detector = anomaly_tf.train(files, labels, verbose=0, data_dir=tmp_path, **SHORT)
    assert detector.image_shape == (40, 40, 1)
    assert detector.info.class_names == ["normal", "anomaly"]
    detector.save(tmp_path / "run")
    assert export.main(["--run-dir", str(tmp_path / "run"), "--format", "tflite"]) in (0, 3)
    assert (
        "the run has no test images; compared on its validation images" in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="has no test images"):
        evaluate.main(["--run-dir", str(tmp_path / "run")])


@pytest.mark.parametrize("kind", ["run", "saved", "litert"])
def test_every_kind_reads_scores_and_saves(kind, kinds, trained, files, tmp_path):
    detector = Detector.load(kinds[kind])
    image = detector.read(files[0])
    assert (image.shape, image.dtype) == ((28, 28, 1), np.uint8)
    scores = detector.score_files(map(str, files[:4]))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, trained.score_files(files[:4]), rtol=1e-3)
    np.testing.assert_allclose(scores[:1], detector.score(image[np.newaxis]), rtol=1e-5)
    assert detector.score_files([]).shape == (0,)
    other = tmp_path / kinds[kind].name
    detector.save(other)
    again = Detector.load(other)
    np.testing.assert_array_equal(again.score_files(files[:4]), scores)
    assert again.threshold == detector.threshold
    (tmp_path / "taken.tflite").write_text("mine")
    for taken in (tmp_path / "taken.tflite", tmp_path):
        with pytest.raises(UserError, match=r"already exists|must end in"):
            detector.save(taken)
    assert (tmp_path / "taken.tflite").read_text() == "mine"


@pytest.mark.parametrize("kind", ["run", "litert"])
def test_a_new_threshold_is_saved_in_place_and_elsewhere(kind, kinds, tmp_path):
    first = tmp_path / kinds[kind].name
    detector = Detector.load(kinds[kind])
    detector.save(first)
    detector.set_percentile(50)
    detector.save(first)
    assert Detector.load(first).threshold == detector.threshold
    assert Detector.load(kinds[kind]).threshold > detector.threshold


def test_a_new_threshold_of_a_saved_model_is_refused(kinds, tmp_path):
    detector = Detector.load(kinds["saved"])
    detector.set_percentile(50)
    with pytest.raises(UserError, match="part of its graph"):
        detector.save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_file_raises_or_becomes_nan(trained, files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    with pytest.raises(UserError, match=r"broken\.png"):
        trained.score_files([files[0], broken])
    with pytest.warns(UserWarning, match=r"1 files have no score: .*broken\.png"):
        scores = trained.score_files([files[0], broken, files[1]], on_error="nan")
    assert np.isnan(scores).tolist() == [False, True, False]
    with pytest.raises(TypeError, match="expected a list"):
        trained.score_files(str(files[0]))
    with pytest.raises(ValueError, match="on_error"):
        trained.score_files(files, on_error="ignore")


def test_an_export_replaces_only_an_export(trained, tmp_path):
    (tmp_path / "mine.tflite").write_text("keep me")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("keep me")
    for name in ("mine.tflite", "folder"):
        with pytest.raises(UserError, match="not written by this command"):
            trained.export(tmp_path / name)
    with pytest.raises(ValueError, match="quantize"):
        trained.export(tmp_path / "a.tflite", quantize="int4")
    with pytest.raises(UserError, match=r"quantize is for a \.tflite or \.html file"):
        trained.export(tmp_path / "new", quantize="int8")
    trained.export(tmp_path / "twice.tflite")
    trained.export(tmp_path / "twice.tflite", quantize="float16", batch_size=4)
    assert Detector.load(tmp_path / "twice.tflite").info.batch_size == 4
    assert (tmp_path / "mine.tflite").read_text() == "keep me"


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_run_of_arrays_is_exported_from_its_validation_images(kinds, tmp_path, capsys):
    run = kinds["run"]
    again = Detector.load(run)
    again.export(tmp_path / "again.tflite", quantize="int8")
    np.testing.assert_allclose(
        Detector.load(tmp_path / "again.tflite").threshold, again.threshold, rtol=0.2
    )
    copy = tmp_path / "copy"
    again.save(copy)
    np.savez(copy / "validation.npz", images=np.zeros((4, 28, 28), np.uint8), labels=[0] * 4)
    with pytest.raises(UserError, match="not the validation set of the run"):
        Detector.load(copy).export(tmp_path / "other.tflite")


def test_an_export_writes_no_cache_into_a_folder_that_only_the_run_names(
    kinds, tmp_path, monkeypatch
):
    detector = Detector.load(kinds["run"])
    named = Path(load_config(detector.run.config).data_dir)

    def opened(*arguments):
        assert not may_write(named / "cache")
        raise UserError("opened")

    monkeypatch.setattr(exporters, "open_split", opened)
    with pytest.raises(UserError, match="opened"):
        detector.export(tmp_path / "new.tflite")


def test_an_alias_has_its_options_named_as_in_python():
    with pytest.raises(UserError) as raised:
        anomaly_tf.train(IMAGES[:3], [0, 0, 1], approach="baseline")
    assert "with normal_class" in str(raised.value)


def test_a_detector_in_memory_only_cannot_be_saved(trained, tmp_path):
    detector = TrainedDetector(trained.model, dataclasses.replace(trained.info))
    with pytest.raises(ValueError, match="in memory only"):
        detector.save(tmp_path / "run")


IMAGES = np.zeros((20, 16, 16), np.uint8) + 100


@pytest.mark.parametrize(
    ("data", "labels", "options", "words"),
    [
        (IMAGES, None, {"approach": "vea"}, "did you mean 'vae'"),
        (IMAGES, None, {"approach": 5}, "unknown approach '5'"),
        (IMAGES, None, {"epochs": 3}, "did you mean 'training__epochs'"),
        (IMAGES, None, {"training": {"epoch": 3}}, "did you mean 'training__epochs'"),
        (IMAGES, None, {"networks__fliters": 3}, "did you mean 'networks__filters'"),
        (IMAGES, None, {"training__epochs": "x"}, "training__epochs must be a whole number"),
        (IMAGES, None, {"training__epochs": 0}, "training__epochs must be at least 1"),
        (IMAGES, None, {"training": {"epochs": 3}, "training__epochs": 3}, "given twice"),
        (IMAGES, None, {"training": 3}, "must hold options"),
        (IMAGES, None, {"verbose": 7}, "verbose"),
        (IMAGES, None, {"run_dir": ""}, "run_dir is empty"),
        (IMAGES, None, {"training__epochs": None}, "training__epochs must be a whole number"),
        (IMAGES, None, {"seed": None}, "seed must be a whole number; got nothing"),
        (IMAGES, None, {"approach": "VAE"}, "did you mean 'vae'"),
        (IMAGES, None, {"approach": "cnn"}, "needs at least 2"),
        (IMAGES[:, :4], None, {}, "at least 8 pixels high and wide; got 4x16; .* image_size 8"),
        (IMAGES, None, {"threshold__percentile": 101}, "threshold__percentile must be"),
        (IMAGES / 255, None, {}, r"if white is 1, give numpy\.uint8\(images \* 255\)"),
        (IMAGES * 1.0, None, {}, "got float64"),
        (IMAGES.astype(int) + 100, None, {}, r"give numpy\.uint8\(images\)"),
        (IMAGES[0], None, {}, "got uint8"),
        (IMAGES[:0], None, {}, "got uint8"),
        (np.zeros((4, 8, 8, 2), np.uint8), None, {}, "got uint8"),
        (IMAGES[:3], None, {}, "holds 3 normal images"),
        (IMAGES, [0] * 19, {}, r"labels must be .*\(20,\), one per image"),
        (IMAGES, [1] * 20, {}, "every image as an anomaly"),
        (IMAGES, [0.0] * 20, {}, "whole numbers"),
        (IMAGES, None, {"approach": "sota"}, "learns from labelled anomalies"),
        ("nowhere/", None, {}, "nowhere"),
        (ROOT / "docs", [0], {}, "leave them out"),
        ([], None, {}, "list of files is empty"),
        (["a.png", "b.png"], None, {}, "no image"),
        (["a.png", "a.png"], None, {}, "no image"),
        (["a.png", "a.png"], [0, 1], {}, "in the list with two labels"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*copies of others")
def test_a_mistake_is_one_line_that_names_it(data, labels, options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words) as raised:
        anomaly_tf.train(data, labels, **options)
    assert "\n" not in str(raised.value)
    assert not re.search(r"--(?!help)", str(raised.value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [5, None, {"a": 1}, [IMAGES[0], IMAGES[1]], [b"a.png"]])
def test_data_of_another_type_is_a_type_error(data):
    with pytest.raises(TypeError, match="expected a folder, a uint8 array"):
        anomaly_tf.train(data)


def test_ctrl_c_keeps_the_best_epoch(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def interrupt(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Validation, "on_epoch_begin", interrupt, raising=False)
    with pytest.raises(KeyboardInterrupt, match=r"kept the weights of epoch 1 .*runs/vae/"):
        anomaly_tf.train(drawn[0], verbose=0, **SHORT)
    (run,) = (tmp_path / "runs" / "vae").iterdir()
    assert Detector.load(run).info.training.status == "interrupted"


def test_a_detector_that_was_not_saved_is_not_pickled(drawn, tmp_path):
    """Its run would be gone with it."""
    detector = anomaly_tf.train(drawn[0], verbose=0, **SHORT)
    with pytest.raises(TypeError, match="it was not saved"):
        pickle.dumps(detector)
    detector.set_percentile(np.float32(90))
    detector.save(tmp_path / "run")
    assert pickle.loads(pickle.dumps(detector)).threshold == detector.threshold


def test_a_detector_is_pickled_while_its_run_is_there(kinds, files):
    detector = Detector.load(kinds["run"])
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.score_files(files[:2]), detector.score_files(files[:2]))


def test_the_package_is_imported_from_any_folder_and_at_once(tmp_path):
    code = "import sys, anomaly_tf; print(*{'tensorflow', 'sklearn', 'numpy'} & {*sys.modules})"
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = run_command(sys.executable, "-c", code, cwd=tmp_path, env=environment)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Detectors"):
        anomaly_tf.Detectors  # noqa: B018
    assert set(anomaly_tf.__all__) <= set(dir(anomaly_tf))
    for name in anomaly_tf.__all__:
        assert getattr(anomaly_tf, name).__doc__
