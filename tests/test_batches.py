"""Joint decisions on several images, compared with exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from anomaly_tf.detection.batches import MIN_IMAGES, check_drift, select_anomalies


@pytest.mark.parametrize(
    ("p_values", "level", "chosen"),
    [
        # The limits of four are 0.0125, 0.025, 0.0375 and 0.05.
        ([0.01, 0.5, 0.03, 0.02], 0.05, [True, False, True, True]),
        # Too high for its own limit, but a larger one keeps the next: both are found.
        ([0.02, 0.024], 0.025, [True, True]),
        ([0.02, 0.026], 0.025, [False, False]),
        ([0.05], 0.05, [True]),
        ([1.0, 1.0], 0.99, [False, False]),
        ([], 0.1, []),
    ],
)
def test_benjamini_hochberg_by_hand(p_values, level, chosen):
    found = select_anomalies(np.array(p_values), level)
    assert found.dtype == bool
    assert found.tolist() == chosen


@pytest.mark.parametrize("level", ["0.05", "0.1", "0.3"])
def test_benjamini_hochberg_in_fractions(level):
    random = np.random.default_rng(0)
    equal = 0
    for calibrated in (9, 19, 99, 199):
        for _ in range(200):
            size = int(random.integers(1, 30))
            ranks = np.sort(1 + (calibrated * random.random(size) ** 4).astype(int))
            exact = [Fraction(int(rank), calibrated + 1) for rank in ranks]
            limits = [Fraction(level) * (k + 1) / size for k in range(size)]
            equal += sum(a == b for a, b in zip(exact, limits, strict=True))
            passed = [k + 1 for k in range(size) if exact[k] <= limits[k]]
            found = select_anomalies(ranks / (calibrated + 1), float(level))
            assert found.sum() == max(passed, default=0)
            assert found[: found.sum()].all()
    assert equal > 20  # where rounding could decide


@pytest.mark.parametrize("level", [0, 1, -1, np.nan])
def test_a_false_discovery_rate_lies_between_zero_and_one(level):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        select_anomalies(np.array([0.5]), level)


def test_drift_by_hand():
    # Of 40 calibration scores 0 to 39, half lie below the whole stream: D is 1/2.
    found = check_drift(np.arange(20.0, 40.0), np.arange(40.0))
    assert found.statistic == pytest.approx(0.5)
    assert (found.size, found.median, found.calibration_median) == (20, 29.5, 19.5)
    assert found.drifted
    assert check_drift(np.arange(0.0, 20.0), np.arange(40.0)).drifted  # lower is a change, too
    same = check_drift(np.arange(0.0, 40.0, 2), np.arange(40.0))
    assert same.statistic == pytest.approx(1 / 40)
    assert same.drifted is False
    assert "none detected" in str(same)


def test_the_level_decides():
    stream = np.arange(11.0, 40.0)
    p_value = check_drift(stream, np.arange(40.0)).p_value
    assert not check_drift(stream, np.arange(40.0), level=p_value * 0.99).drifted
    assert check_drift(stream, np.arange(40.0), level=p_value).drifted


@pytest.mark.parametrize(("size", "calibrated"), [(0, 50), (19, 50), (50, 19), (0, 0)])
def test_few_images_are_not_tested_for_drift(size, calibrated):
    found = check_drift(np.zeros(size), np.arange(calibrated))
    assert found.drifted is None
    assert str(found).startswith(f"drift: not tested with {size} images; at least {MIN_IMAGES}")
