"""The Python API: scores, verdicts, maps, and the errors for wrong arrays."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from anomaly_tf import Detector
from anomaly_tf.config import ThresholdConfig
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.errors import UserError
from anomaly_tf.runs.sections import Threshold


@pytest.fixture(scope="module")
def detector(trained_run) -> Detector:
    return Detector.load(trained_run)


@pytest.fixture(scope="module")
def images(small_arrays) -> np.ndarray:
    return small_arrays[2][:50]


def test_scores_verdicts_and_maps(detector, images):
    scores = detector.score(images)
    assert scores.shape == (50,)
    assert scores.dtype == np.float32
    verdicts = detector.predict(images)
    np.testing.assert_array_equal(verdicts, scores >= detector.threshold)
    assert 0 < verdicts.mean() < 1
    maps = detector.explain(images)
    assert maps.shape == (50, 28, 28)
    assert maps.dtype == np.float32
    assert (maps.mean(axis=(1, 2)) < scores * (1 + 1e-5)).all()  # the classifier only adds
    reconstructed = detector.reconstruct(images)
    assert reconstructed.shape == images.shape
    assert reconstructed.dtype == np.uint8
    # The map is the distance of the two images, but for the rounding to whole grey levels.
    distance = np.abs(images.astype(float) - reconstructed)[..., 0] / 127.5
    np.testing.assert_allclose(maps, distance, atol=0.5 / 127.5 + 1e-5)


def test_a_score_equal_to_the_threshold_is_an_anomaly(detector, images):
    scores = detector.score(images)
    info = dataclasses.replace(detector.info, threshold=Threshold(float(scores[7])))
    assert TrainedDetector(detector.model, info).predict(images)[7] == 1


def test_a_score_does_not_depend_on_the_other_images(detector, images):
    alone = np.concatenate([detector.score(images[i : i + 1]) for i in range(5)])
    # The order of float32 sums depends on the batch: a few units in the last place.
    np.testing.assert_allclose(alone, detector.score(images)[:5], rtol=1e-5)
    shuffled = np.random.default_rng(0).permutation(50)
    np.testing.assert_allclose(
        detector.score(images[shuffled]), detector.score(images)[shuffled], rtol=1e-5
    )


def test_unusual_but_right_arrays(detector, images):
    scores = detector.score(images[:4])
    np.testing.assert_allclose(detector.score(images[:4, ..., 0]), scores, rtol=1e-6)
    read_only = images[:4].copy()
    read_only.flags.writeable = False
    np.testing.assert_allclose(detector.score(read_only), scores, rtol=1e-6)
    strided = np.repeat(images[:4], 2, axis=2)[:, :, ::2]
    np.testing.assert_allclose(detector.score(strided), scores, rtol=1e-6)
    assert detector.score(images[:0]).shape == (0,)
    assert detector.predict(images[:0]).shape == (0,)
    assert detector.explain(images[:0]).shape == (0, 28, 28)
    assert detector.reconstruct(images[:0]).shape == (0, 28, 28, 1)


@pytest.mark.parametrize("method", ["score", "predict", "explain", "reconstruct"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda images: images / 255, ["float64", "values 0 to 1"]),
        (lambda images: images.astype(int) - 5, ["int64", "values -5 to 250"]),
        (lambda images: images.astype(float) * np.nan, ["float64", "nan"]),
        (lambda images: images[0], ["shape (28, 28, 1)"]),
        (lambda images: images[:, :20], ["shape (50, 20, 28, 1)"]),
        (lambda images: np.repeat(images, 3, axis=3), ["shape (50, 28, 28, 3)"]),
        (lambda images: images.tolist(), ["a list"]),
        (lambda images: images.astype(str), ["<U"]),
    ],
)
def test_wrong_arrays(method, wrong, words, detector, images):
    with pytest.raises(ValueError, match=r"expected uint8 images \(N, 28, 28, 1\)") as caught:
        getattr(detector, method)(wrong(images))
    for word in words:
        assert word in str(caught.value)


def test_a_new_threshold_comes_from_the_stored_scores(detector):
    copy = TrainedDetector(detector.model, dataclasses.replace(detector.info))
    copy.set_threshold(ThresholdConfig(percentile=80))
    scores = np.array(detector.info.calibration.scores)
    assert copy.threshold == pytest.approx(np.percentile(scores, 80))
    assert copy.threshold < detector.threshold


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_a_promised_false_alarm_rate(rate, detector, images):
    copy = TrainedDetector(detector.model, dataclasses.replace(detector.info))
    copy.set_threshold(ThresholdConfig(method="conformal", false_alarm_rate=rate))
    assert copy.info.to_json()["threshold"] == {
        "value": copy.threshold,
        "method": "conformal",
        "false_alarm_rate": rate,
    }
    assert copy.threshold_method == f"conformal {rate:g}"
    verdicts = copy.predict(images).astype(bool)
    np.testing.assert_array_equal(verdicts, copy.p_values(copy.score(images)) <= rate)
    assert 0 < verdicts.mean() < 1
    # Of the calibration images themselves no more than the rate are alarms, and nearly as many.
    alarms = (copy.calibration_scores >= copy.threshold).mean()
    assert rate - 2 / len(copy.calibration_scores) < alarms <= rate


def test_a_rate_that_the_calibration_images_cannot_promise(detector):
    copy = TrainedDetector(detector.model, dataclasses.replace(detector.info))
    with pytest.raises(ValueError, match=r"a rate of 0\.001 needs 999 normal validation images"):
        copy.set_false_alarm_rate(0.001)
    assert copy.info.threshold == detector.info.threshold


def test_a_folder_that_is_not_a_run_is_refused(tmp_path, run_copy):
    with pytest.raises(UserError, match="does not exist"):
        Detector.load(tmp_path / "none")
    with pytest.raises(UserError, match="not a run directory"):
        Detector.load(tmp_path)
    (run_copy / "model.keras").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"has lost its model\.keras; restore"):
        Detector.load(run_copy)


def test_a_model_file_that_was_changed_is_refused(run_copy):
    file = run_copy / "model.keras"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="not the file that training saved"):
        Detector.load(run_copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"threshold": 3}'])
def test_a_damaged_detector_file_is_refused(content, run_copy):
    (run_copy / "detector.json").write_text(content)
    with pytest.raises(UserError, match=r"detector\.json is damaged"):
        Detector.load(run_copy)


def test_a_loading_error_is_a_value_error():
    assert issubclass(UserError, ValueError)


def test_detector_json_has_the_facts_of_the_training(trained_run):
    facts = json.loads((trained_run / "detector.json").read_text())
    assert facts["approach"] == "sota"
    assert facts["training"]["chosen_by"] == "val_auroc"
    assert facts["roles"] == {"normal": [0], "seen": [*range(1, 10)], "unseen": []}
    assert facts["training"]["command"].startswith("python train.py --approach sota")
    assert facts["training"]["images_per_second"] > 0
    assert facts["calibration"]["size"] == len(facts["calibration"]["scores"])
    assert facts["calibration"]["scores"] == sorted(facts["calibration"]["scores"])
    assert (
        facts["score_statistics"]["anomaly"]["mean"] > facts["score_statistics"]["normal"]["mean"]
    )
