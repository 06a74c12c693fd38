"""The guarantees hold over random divisions of simulated and real scores.

Each figure is a mean over divisions; it may miss by three standard errors of that mean. The drawn
scores and divisions have a fixed seed.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from anomaly_tf import Detector
from measurements import conformal

SPLITS = 800


@pytest.fixture(scope="module")
def real_scores(trained_run, fashion, small_arrays) -> np.ndarray:
    """Scores of a trained run for about 6,400 T-shirts that are not in its training set."""
    known = {image.tobytes() for image in small_arrays[0]}
    published = ((fashion.train_images, fashion.train_classes),)
    published += ((fashion.test_images, fashion.test_classes),)
    images = np.concatenate([images[classes == 0] for images, classes in published])
    new = np.array([image.tobytes() not in known for image in images])
    assert 6000 < new.sum() < 6600
    return Detector.load(trained_run).score(images[new])


@pytest.fixture(params=["continuous", "tied", "real"])
def draw(request) -> conformal.Draw:
    if request.param == "real":
        return conformal.divided(request.getfixturevalue("real_scores"))
    return getattr(conformal, request.param)


def assert_at_most(found: dict[str, float], promised: float) -> None:
    assert found["mean"] <= promised + 3 * found["standard_error"], (found, promised)


# 99 images make rates of exactly 0.01, 0.05 and 0.1, so that one score too low would be seen.
@pytest.mark.parametrize("size", [99, 130, 600])
def test_the_false_alarm_rate_is_kept_and_used(size, draw):
    found = conformal.simulate(draw, size, splits=SPLITS)
    assert set(found) == {"0.01", "0.05", "0.1"}
    for rate, rates in found.items():
        assert_at_most(rates, float(rate))
        assert rates["percentile_5"] < rates["mean"] < rates["percentile_95"]
        if draw is not conformal.tied:
            least = float(rate) - 1 / (size + 1)
            assert rates["mean"] >= least - 3 * rates["standard_error"], (rate, rates)


@pytest.mark.parametrize("kind", ["continuous", "tied"])
def test_a_percentile_does_not_keep_it(kind):
    draw = getattr(conformal, kind)
    found = conformal.simulate(draw, splits=SPLITS, set_threshold=conformal.percentile_of_rate)
    for rate, rates in found.items():
        assert rates["mean"] > float(rate) + 3 * rates["standard_error"]


@pytest.mark.parametrize("size", [99, 600])
@pytest.mark.parametrize("anomaly_share", [0, 0.1, 0.4])
def test_few_of_the_alarms_of_a_batch_are_false(anomaly_share, size, draw):
    found = conformal.simulate_batches(
        draw, 0.1, anomaly_share, calibration_size=size, splits=SPLITS
    )
    # Theory says level times share of normal images; with ties less.
    assert_at_most(found["false_discoveries"], 0.1 * (1 - anomaly_share))
    if draw is conformal.continuous and size == 600:  # with fewer, p-values are coarse
        assert found["false_discoveries"]["mean"] > 0.05 * (1 - anomaly_share)
        assert not anomaly_share or found["detection"]["mean"] > 0.6


def test_one_by_one_more_of_the_alarms_are_false(monkeypatch):
    monkeypatch.setattr(conformal, "select_anomalies", lambda p_values, level: p_values <= level)
    found = conformal.simulate_batches(conformal.continuous, 0.1, 0.1, splits=SPLITS)
    assert found["false_discoveries"]["mean"] > 0.3


@pytest.mark.parametrize("level", [0.01, 0.05])
def test_a_clean_stream_is_seldom_reported_as_drift(level, draw):
    found = conformal.simulate_drift(draw, level, splits=SPLITS)
    assert_at_most(found["0"], level)
    if draw is not conformal.tied:  # the test is near its level, not merely silent
        assert found["0"]["mean"] >= 0.6 * level - 3 * found["0"]["standard_error"]
        assert found["0.25"]["mean"] > 0.2
    assert found["0.5"]["mean"] > 0.95


def test_the_benchmark_prints_json_also_of_a_run(trained_run, small_arrays, capsys):
    options = ["--splits", "20", "--calibration-size", "99", "--stream-size", "50"]
    conformal.main([*options, "--run-dir", str(trained_run)])
    found = json.loads(capsys.readouterr().out)
    assert found["splits"] == 20
    for kind in ("continuous", "tied", "run"):
        assert 0 < found[kind]["false_alarm_rate"]["0.1"]["mean"] < 0.2
    # As evaluate.py computes it: with the calibration and the test images of the run.
    detector = Detector.load(trained_run)
    detector.set_false_alarm_rate(0.05)
    _, _, images, classes = small_arrays
    alarms = detector.predict(images[classes == 0]).mean()
    assert found["run_on_its_test_set"]["0.05"] == pytest.approx(alarms)
