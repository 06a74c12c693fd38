"""The comparison of an export with its run, checked with hand-computed numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import plain_images, weighing_detector

from anomaly_tf.data.roles import Roles
from anomaly_tf.data.split import Split
from anomaly_tf.reporting.parity import compare, parity_table

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """Two detectors with the same scores, grey / 255, and the thresholds 0.5 and 51 / 255."""
    # Classes: 0 normal, 1 seen in training, 2 unseen, by which protocol `unseen` judges.
    test = plain_images([25, 102, 51, 102, 102, 25, 102, 204], [0, 0, 0, 1, 1, 1, 2, 2])
    empty = plain_images([], [])
    split = Split(empty, empty, test, Roles((0,), (1,), (2,)), ("good", "dent", "stain"))
    file = tmp_path_factory.mktemp("parity") / "exported.tflite"
    file.write_bytes(b"seven b")
    trained = weighing_detector(SHAPE, (1,), 0.5)
    exported = weighing_detector(SHAPE, (1,), float(trained.score(test.images[2:3])[0]))
    return compare(trained, exported, split, file)


def test_only_images_that_the_protocol_asks_about_count(report):
    assert report["n_test"] == 5
    # The normal 102 and 51 (exactly the threshold) and the unseen 102; seen ones do not count.
    assert report["verdicts_changed"] == 3
    assert "verdicts changed 3 of 5" in " ".join(parity_table(report).split())


def test_both_sides_have_their_own_threshold_and_false_alarms(report):
    trained, exported = report["trained"], report["exported"]
    assert (trained["threshold"], exported["threshold"]) == (0.5, pytest.approx(0.2))
    assert trained["false_alarm_rate"] == 0
    assert exported["false_alarm_rate"] == pytest.approx(2 / 3)
    # Of 6 pairs the unseen 102 ties with the normal 102.
    assert trained["auroc"] == exported["auroc"] == pytest.approx(5.5 / 6)
    assert exported["size_bytes"] == 7


def test_a_fall_of_auroc_is_a_loss_and_a_rise_is_none(tmp_path: Path):
    test = plain_images([25, 204], [0, 1])
    empty = plain_images([], [])
    split = Split(empty, empty, test, Roles((0,), unseen=(1,)), ("good", "dent"))
    file = tmp_path / "exported.tflite"
    file.write_bytes(b"")
    right, reversed_ = weighing_detector(SHAPE, (1,)), weighing_detector(SHAPE, (-1,))
    assert compare(right, reversed_, split, file)["lost"] == 1
    found = compare(reversed_, right, split, file)
    assert found["lost"] == -1
    # 25/255 and 204/255 against their negatives.
    assert found["score_difference_largest"] == pytest.approx(408 / 255)
    assert found["score_difference_mean"] == pytest.approx(229 / 255)
