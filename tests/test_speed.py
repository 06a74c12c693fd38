"""The counts and the output of `make bench`, without the measured values."""

from __future__ import annotations

import itertools

import pytest

from anomaly_tf.errors import UserError
from measurements import training


def test_the_operations_of_a_step_are_those_counted_by_hand(fashion):
    found = training.step_speed(training.prepared("autoencoder", fashion, training.STEPS))
    # Batches of 128 through dense layers, forwards, and backwards to weights and to inputs, of
    # which the first layer has none to learn; a multiplication and an addition for each weight.
    sizes = (784, 512, 256, 128, 64, 64)
    half = sum(one * other for one, other in itertools.pairwise(sizes))
    operations = 2 * 128 * (3 * 2 * half - sizes[0] * sizes[1])
    assert found["gflop"] == pytest.approx(operations / 1e9, rel=0.05)
    assert found["gflop_per_second"] == pytest.approx(
        1e3 * found["gflop"] / found["milliseconds"], rel=0.05
    )
    assert found["images_per_second"] == pytest.approx(128e3 / found["milliseconds"], rel=0.01)
    assert set(found["time"]) == {*training.KINDS, "other"} - {"normalisation"}
    assert sum(found["time"].values()) == pytest.approx(1.0, abs=0.01)
    assert found["time"]["convolutions, products"] > 0.2


def test_the_table_and_the_comparison():
    step = {"gflop": 2.0, "milliseconds": 10.0, "gflop_per_second": 200, "share": 0.5}
    results = {
        "steps": {"vae": {**step, "time": {"convolutions, products": 0.75, "other": 0.25}}},
        "fit": {
            "images_per_second": 1000,
            "over_bare_loop": 1.02,
            "over_bare_loop_least": 1.0,
            "over_bare_loop_most": 1.05,
        },
        "peak_memory_gb": 1.2,
        "target": {"reached": True, "auroc": 0.975, "seconds": 5.0},
        "peer": {"reached": False, "auroc": 0.97, "seconds": 150.0, "images_per_second": 900.0},
    }
    row = training.table(results).splitlines()[-1]
    assert row == "| `vae` | 2.0 | 10.0 | 200 | 50% | 75% | 0% | 0% | 25% |"
    said = training.summary(results)
    assert "sota, test AUROC 0.9727 reached: 0.9750 after 5.0 s" in said
    assert "peer, test AUROC 0.9727 not reached: 0.9700 after 150.0 s" in said
    assert "1 / 30.0" in said


def test_an_unknown_approach_is_named(tmp_path):
    options = ["--approaches", "vae,sofa", "--output", str(tmp_path / "results.json")]
    with pytest.raises(UserError, match="sofa"):
        training.main(options)
