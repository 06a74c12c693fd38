"""The threshold is computed from normal images that are not in the training set."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from anomaly_tf import Detector
from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.approaches.classifier.options import ClassifierConfig
from anomaly_tf.approaches.configs import load_config
from anomaly_tf.approaches.contrastive.options import ContrastiveConfig
from anomaly_tf.approaches.dual_gan.options import DualGanConfig
from anomaly_tf.cli import train
from anomaly_tf.config import Config, CorruptionConfig, ThresholdConfig
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_file import open_split
from anomaly_tf.data.stored import Images
from anomaly_tf.detection.threshold import labelled_threshold, require_calibration
from anomaly_tf.errors import UserError
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.sections import Calibration


def contents(images: Images) -> set[str]:
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in images[:]}


@pytest.mark.parametrize(
    "config",
    [
        DualGanConfig(normal_class=(3,)),
        DualGanConfig(normal_class=(3,), protocol="unseen"),
        ContrastiveConfig(protocol="corruption", corruption=CorruptionConfig(kinds=("noise",))),
        AutoencoderConfig(normal_class=(3,), seed=7),
        ClassifierConfig(),
    ],
    ids=lambda config: config.protocol,
)
def test_no_image_of_fashion_mnist_that_is_calibrated_on_was_trained_on_or_is_tested(
    config: Config, fashion
):
    split = make_split(config, fashion)
    calibration, learnt = contents(split.validation.normal), contents(split.train.images)
    # All images differ, so that their content identifies them.
    assert len(calibration) == len(split.validation.normal)
    assert len(calibration) == (6000 if len(split.roles.normal) == 10 else 600)
    assert len(learnt) == len(split.train)
    assert not calibration & learnt
    assert not calibration & contents(split.test.images)
    # All of them are clean images of the normal classes, from the training files.
    normal = np.isin(fashion.train_classes, split.roles.normal)
    assert calibration <= contents(fashion.train_images[normal])


@pytest.fixture(scope="module", params=["divided by us", "with a test folder"])
def photos(request, tmp_path_factory) -> Path:
    """scikit-learn's digits as PNG files, 0 is normal; some normal ones lie there twice."""
    folder = tmp_path_factory.mktemp("digits") / "photos"
    divided = request.param == "with a test folder"
    for number, (image, digit) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        name = "anomaly" if digit else "normal"
        part = ("test" if digit or number > 1500 else "train") if divided else ""
        file = folder / part / name / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image.reshape(8, 8) * 255 / 16).astype(np.uint8)).save(file)
        if digit == 0 and number % 3 == 0:
            shutil.copy(file, file.with_name(f"{number:04} copy.png"))
    return folder


def trained(photos: Path, place: Path) -> tuple[RunDirectory, Config]:
    options = ["--approach", "autoencoder", "--data", str(photos), "--run-dir", str(place / "run")]
    options += ["--data-dir", str(place / "cache"), "--training.steps-per-epoch", "5"]
    options += ["--threshold.method", "conformal", "--threshold.false-alarm-rate", "0.1"]
    assert train.main([*options, "--training.epochs", "2"]) == 0
    run = RunDirectory(place / "run")
    return run, load_config(run.config)


def test_no_picture_of_a_folder_that_is_calibrated_on_was_trained_on(photos, tmp_path):
    run, _ = trained(photos, tmp_path)
    split = json.loads(run.split.read_text())
    normal = split["roles"]["normal"]
    digests = {
        name: {
            hashlib.sha256((photos / file).read_bytes()).hexdigest()
            for file, number in zip(
                *(split[name][key] for key in ("files", "classes")), strict=True
            )
            if number in normal
        }
        for name in ("train", "validation")
    }
    assert len(digests["validation"]) == json.loads(run.detector.read_text())["calibration"]["size"]
    assert len(digests["validation"]) >= 14
    assert len(digests["train"]) >= 100
    assert not digests["validation"] & digests["train"]


def assert_calibrated_on_validation(run: RunDirectory, split: Split) -> None:
    """The stored scores are those of the normal validation images, of all of them and no other."""
    detector, part = Detector.load(run.path), split.validation
    scores = np.sort(detector.score(part.images[:])[part.labels == 0])
    # The order of float32 sums may depend on the machine's load: a few units in the last place.
    np.testing.assert_allclose(detector.calibration_scores, scores, rtol=1e-5)
    assert detector.info.calibration.size == len(scores) == len(part.normal)
    learnt = np.sort(detector.score(split.train.normal[: len(scores)]))
    assert not np.allclose(detector.calibration_scores, learnt, rtol=1e-3)


def test_the_stored_scores_are_those_of_the_normal_validation_images(trained_run):
    run = RunDirectory(trained_run)
    assert_calibrated_on_validation(run, open_split(load_config(run.config), run.split))


def test_the_stored_scores_of_a_folder_are_those_of_its_normal_validation_images(photos, tmp_path):
    run, config = trained(photos, tmp_path)
    split = open_split(config, run.split)
    assert_calibrated_on_validation(run, split)
    # With the promise that they set: of a folder, as of any other data.
    detector = Detector.load(run.path)
    assert detector.threshold_method == "conformal 0.1"
    verdicts = detector.predict(split.test.images[:]).astype(bool)
    found = detector.p_values(detector.score(split.test.images[:]))
    np.testing.assert_array_equal(verdicts, found <= 0.1)


@pytest.mark.parametrize(
    ("normal", "anomalies", "threshold"),
    [
        ([1, 2, 3], [5, 6], 4.0),
        ([1, 2, 3, 10], [5, 6], 4.0),
        ([1, 2, 8], [3, 9], 2.5),
        ([4], [4], 4.0),
    ],
)
def test_labelled_anomalies_give_the_threshold_that_separates_best(normal, anomalies, threshold):
    scores = Calibration(len(normal), [*map(float, normal)], [*map(float, anomalies)])
    assert labelled_threshold(scores) == threshold


def test_a_labelled_threshold_without_anomalies_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        labelled_threshold(Calibration(1, [1.0]))
    with pytest.raises(UserError, match=r"labelled needs labelled anomalies .* imbalance"):
        require_calibration(ThresholdConfig("labelled"), 100, 0)
    require_calibration(ThresholdConfig("labelled"), 1, 1)
