"""Thresholds and metrics compared with hand-computed numbers."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm, rankdata

from anomaly_tf.detection.metrics import (
    auroc_by_class,
    auroc_confidence_interval,
    classification_metrics,
    detection_metrics,
)
from anomaly_tf.detection.threshold import (
    conformal_rank,
    conformal_threshold,
    p_values,
    percentile_threshold,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.3, 5.0, 0.25, 4.0, 6.0, 7.0])
CLASSES = np.array([1, 1, 1, 1, 0, 0, 2, 2])
NAMES = ("bag", "shirt", "boot")


def test_the_percentile_lies_between_the_two_nearest_scores():
    # 101 scores 0 to 100: the 95th percentile is 95, the 97.5th half way from 97 to 98.
    scores = np.random.default_rng(0).permutation(101.0 * np.arange(101) / 101)
    assert percentile_threshold(scores, 95) == pytest.approx(95)
    assert percentile_threshold(scores, 97.5) == pytest.approx(97.5)


@pytest.mark.parametrize("scores", [[], [[1.0]], [1.0, np.nan], [np.inf]])
@pytest.mark.parametrize("set_threshold", [percentile_threshold, conformal_threshold])
def test_a_threshold_needs_finite_scores(set_threshold, scores):
    with pytest.raises(ValueError, match="expected finite scores"):
        set_threshold(np.array(scores), 0.95)


@pytest.mark.parametrize(
    ("size", "rate", "rank"),
    # ceil((n + 1)(1 - rate)) by hand; in floating point 20 * 0.95 is 19, but 100 * 0.71 is above.
    [
        (19, 0.05, 19),
        (99, 0.05, 95),
        (99, 0.29, 71),
        (9, 0.3, 7),
        (600, 0.05, 571),
        (3, 0.9, 1),
        (99, 1 - 1e-12, 1),
    ],
)
def test_the_conformal_threshold_lies_right_above_the_kth_score(size, rate, rank):
    assert conformal_rank(size, rate) == rank
    scores = np.random.default_rng(0).permutation(np.arange(1, size + 1, dtype=np.float32))
    threshold = conformal_threshold(scores, rate)
    assert threshold > rank
    assert np.float32(threshold) == threshold == np.nextafter(np.float32(rank), np.float32(1e9))


@pytest.mark.parametrize("decimals", [0, 1, 2, 8])
@pytest.mark.parametrize("size", [1, 7, 19, 20, 99, 100, 600])
def test_the_conformal_verdict_is_a_p_value_of_at_most_the_rate(size, decimals):
    random = np.random.default_rng(size)
    # Few decimals make ties, among the calibration scores and with them.
    known, new = (np.round(random.normal(size=n), decimals).astype(np.float32) for n in (size, 300))
    new = np.concatenate([new, known, np.nextafter(known, np.float32(9))])
    new[np.abs(new) < np.finfo(np.float32).tiny] = 0  # as TensorFlow counts
    found = p_values(new, known.tolist())
    rates = {count / (size + 1) for count in range(1, size + 1)} | {0.01, 0.05, 0.1, 0.29, 0.9999}
    for rate in sorted(rate for rate in rates if rate * (size + 1) >= 1):
        verdicts = new >= conformal_threshold(known.tolist(), rate)
        np.testing.assert_array_equal(verdicts, found <= rate, err_msg=f"{rate}")


@pytest.mark.parametrize("rate", [0.3, 0.1, 0.07, 0.05, 0.01, 1 / 49, 1 / 3, 0.001])
def test_the_error_for_too_few_images_names_the_number_needed(rate):
    with pytest.raises(
        ValueError, match=rf"a rate of {rate:g} needs \d+ .*, and there are 0"
    ) as said:
        conformal_rank(0, rate)
    needed = int(str(said.value).split("needs ")[1].split()[0])
    assert conformal_rank(needed, rate) == needed  # above all of them
    with pytest.raises(ValueError, match=f"needs {needed} .* there are {needed - 1};") as said:
        conformal_threshold(np.arange(needed - 1), rate)
    possible = float(str(said.value).split("at least ")[1])
    assert conformal_rank(needed - 1, possible) == needed - 1


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, np.nan])
def test_a_rate_lies_between_zero_and_one(rate):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        conformal_threshold(np.arange(50), rate)


def test_a_threshold_above_zero_is_one_for_tensorflow_too():
    # A classifier that is sure of most images gives them a score of 0.
    threshold = conformal_threshold(np.repeat([0.0, 1.0], [98, 1]), 0.05)
    assert 0 < threshold < 1e-37
    compare = tf.function(lambda scores: scores >= tf.constant(threshold, tf.float32))
    assert not compare(tf.zeros(1000)).numpy().any()


def test_a_p_value_counts_the_normal_scores_that_are_at_least_as_high():
    # Of five, 0, 1 (the equal one), 3 and all are at least as high as the four scores.
    given = p_values(np.array([9.0, 5.0, 3.0, 0.0]), np.array([3.0, 1.0, 5.0, 2.0, 4.0]))
    np.testing.assert_allclose(given, np.array([1, 2, 4, 6]) / 6)


@pytest.fixture(scope="module")
def metrics():
    return detection_metrics(LABELS, SCORES, threshold=4.0)


def test_auroc_counts_pairs_in_the_right_order_from_raw_scores(metrics):
    # Of 16 pairs, the anomaly 0.25 loses against 0.3 and 5.0, the anomaly 4.0 against 5.0.
    assert metrics["auroc"] == pytest.approx(13 / 16)


def test_auroc_by_class_takes_all_normal_images_and_one_class():
    # Bags lose 3 of 8 pairs, boots none.
    found = auroc_by_class(LABELS, SCORES, CLASSES, NAMES)
    assert found == {"bag": pytest.approx(5 / 8), "boot": 1.0}


def test_the_roc_curve_gives_the_best_detection_rate_for_each_false_alarm_rate(metrics):
    curve = metrics["roc_curve"]
    rates = dict(zip(curve["false_alarm_rate"], curve["detection_rate"], strict=True))
    # Without a false alarm 6 and 7 are found; with one in four (5.0) 4.0 as well; with two all.
    assert (rates[0.0], rates[0.25], rates[1.0]) == (0.5, 0.75, 1.0)
    below = [found for rate, found in rates.items() if 0.25 <= rate < 0.5]
    assert set(below) == {0.75}


def test_without_anomalies_only_the_false_alarms_are_known():
    metrics = detection_metrics(np.zeros(4, int), np.array([1.0, 2.0, 3.0, 4.0]), threshold=3.0)
    for name in ("auroc", "auroc_ci95", "average_precision", "roc_curve", "test_detection_rate"):
        assert metrics[name] is None, name
    assert metrics["test_false_alarm_rate"] == 0.5
    assert metrics["confusion_matrix"] == [[2, 2], [0, 0]]


def test_classification_metrics_count_predictions_per_class():
    found = classification_metrics(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), NAMES)
    assert found["accuracy"] == 0.75
    assert found["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found["classification_report"]["shirt"]["precision"] == 0.5


def test_a_score_equal_to_the_threshold_is_an_anomaly(metrics):
    # Anomalies: 5.0 (false), 4.0 (exactly the threshold), 6.0, 7.0.
    assert metrics["confusion_matrix"] == [[3, 1], [1, 3]]
    assert metrics["test_false_alarm_rate"] == pytest.approx(1 / 4)
    assert metrics["test_detection_rate"] == pytest.approx(3 / 4)
    assert metrics["classification_report"]["anomaly"]["precision"] == pytest.approx(3 / 4)


def test_false_alarm_rate_at_95_percent_found(metrics):
    # All four anomalies are found from 0.25 on, and with them the normal 0.3 and 5.0.
    assert metrics["fpr_at_95_tpr"] == pytest.approx(2 / 4)


def test_average_precision(metrics):
    # Down the ranking: 7 and 6 are right, 5 is wrong, 4 is the third of four, 0.25 the fourth
    # of six.
    expected = (1 / 1 + 2 / 2 + 3 / 4 + 4 / 6) / 4
    assert metrics["average_precision"] == pytest.approx(expected)


def test_confidence_interval_agrees_with_a_bootstrap():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [300, 900])
    scores = random.normal(labels * 1.5, 1.0)
    low, high = auroc_confidence_interval(labels, scores)
    chosen = np.concatenate(
        [random.integers(0, 300, (2000, 300)), random.integers(300, 1200, (2000, 900))], axis=1
    )
    # AUROC of each resample from the rank sum of its anomalies (Mann-Whitney).
    ranks = rankdata(scores[chosen], axis=1)[:, 300:].sum(axis=1)
    resampled = (ranks - 900 * 901 / 2) / (300 * 900)
    # Two estimates of the same interval: within a tenth of its width.
    tolerance = (high - low) / 10
    assert low == pytest.approx(np.percentile(resampled, 2.5), abs=tolerance)
    assert high == pytest.approx(np.percentile(resampled, 97.5), abs=tolerance)


def test_confidence_interval_stays_within_zero_and_one():
    labels = np.array([0, 0, 1, 1])
    for scores in ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0], [4.0, 3.0, 2.0, 1.0]):
        low, high = auroc_confidence_interval(labels, np.array(scores))
        assert 0.0 <= low < high <= 1.0


def test_perfectly_ranked_images_leave_a_doubt_that_fades_with_their_number():
    reach = []
    for count in (2, 7, 50, 1000):
        labels = np.repeat([0, 1], count)
        low, high = auroc_confidence_interval(labels, np.arange(2.0 * count))
        assert high == 1.0
        reach.append(1 - low)
        # The other way round, the same doubt.
        mirrored = auroc_confidence_interval(labels, -np.arange(2.0 * count))
        assert mirrored == pytest.approx((0.0, 1 - low), abs=1e-9)
    assert reach == sorted(reach, reverse=True)
    assert reach[0] > 0.5
    assert 0.001 < reach[-1] < 0.01
    # Where 1 - x = 1.96 sqrt(x (1 - x) (1 + (2 - 1) ((1 - x) / (2 - x) + x / (1 + x))) / 4).
    x = 1 - reach[0]
    spread = 1 + (1 - x) / (2 - x) + x / (1 + x)
    assert 1 - x == pytest.approx(1.959964 * np.sqrt(x * (1 - x) * spread / 4), abs=1e-6)


@pytest.mark.parametrize(("anomalies", "normal"), [(3, 4), (10, 10), (5, 60)])
@pytest.mark.parametrize("distance", [0.5, 1.5, 3.0])
def test_the_interval_of_few_images_has_its_stated_coverage(anomalies, normal, distance):
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [normal, anomalies])
    truth, held = norm.cdf(distance / np.sqrt(2)), 0
    for _ in range(200):
        low, high = auroc_confidence_interval(labels, random.normal(labels * distance, 1.0))
        held += low <= truth <= high
    assert held >= 0.9 * 200  # DeLong's holds it in 20 to 90 %


def test_a_few_anomalies_among_very_many_normal_images_have_an_interval():
    labels = np.repeat([0, 1], [200_000, 50])
    scores = np.concatenate([np.arange(200_000.0), np.full(50, -1.0)])
    scores[-1] = 0.5  # above one of them; an AUROC of a ten-millionth
    low, high = auroc_confidence_interval(labels, scores)
    assert low == 0.0
    assert 0.01 < high < 0.1
