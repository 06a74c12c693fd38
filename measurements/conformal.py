"""Simulations of the guarantees of thresholds: `python -m measurements.conformal`.

Scores of normal images are divided at random into calibration images and new ones, many times:

- the false-alarm rate of the conformal threshold, compared with a percentile;
- the share of false alarms among the alarms of batches that are decided together;
- how often the drift check reports drift, for clean and for shifted streams.

The scores are simulated: continuous, or rounded so that many are equal. With `--run-dir`, the
scores of a run for its normal validation and test images are divided as well. Prints JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomaly_tf.approaches.configs import load_config
from anomaly_tf.command_line import parse_options
from anomaly_tf.config import Checked, number
from anomaly_tf.data.split_file import open_split
from anomaly_tf.data.stored import apply
from anomaly_tf.detection.batches import check_drift, select_anomalies
from anomaly_tf.detection.threshold import conformal_threshold, p_values, percentile_threshold
from anomaly_tf.runs.directory import open_run
from anomaly_tf.script import import_tensorflow, run_script

RATES = (0.01, 0.05, 0.1)
SHIFTS = (0.0, 0.25, 0.5, 1.0)

Draw = Callable[[np.random.Generator, int, int], np.ndarray]
SetThreshold = Callable[[np.ndarray, float], float]


@dataclass(frozen=True)
class ConformalOptions(Checked):
    """Options of this benchmark.

    Attributes:
        calibration_size: Number of calibration images in each division.
        stream_size: Number of new images in each division.
        batch_size: Number of images in a batch.
        splits: Number of random divisions.
        seed: Seed of all random choices.
        run_dir: A run whose scores are divided, in addition to simulated ones.
        data_dir: Folder for cached data, if it is not that of the training.
    """

    calibration_size: int = number(600, 99)
    stream_size: int = number(500, 20)
    batch_size: int = number(50, 1)
    splits: int = number(1000, 2)
    seed: int = number(0, 0)
    run_dir: str | None = None
    data_dir: str | None = None


def continuous(random: np.random.Generator, splits: int, size: int) -> np.ndarray:
    """Scores like reconstruction errors, all different: float32 `(splits, size)`."""
    return random.gamma(6.0, 0.02, (splits, size)).astype(np.float32)


def tied(random: np.random.Generator, splits: int, size: int) -> np.ndarray:
    """Scores as `continuous`, rounded to about ten values: float32 `(splits, size)`."""
    return np.round(continuous(random, splits, size) / 0.03).astype(np.float32)


def divided(scores: np.ndarray) -> Draw:
    """Draws from given scores `(N,)`, each at most once in a division."""

    def draw(random: np.random.Generator, splits: int, size: int) -> np.ndarray:
        if size > len(scores):
            raise ValueError(f"expected at least {size} scores to divide; got {len(scores)}")
        return random.permuted(np.tile(scores, (splits, 1)), axis=1)[:, :size]

    return draw


def simulate(
    draw: Draw,
    calibration_size: int = 99,
    stream_size: int = 500,
    splits: int = 1000,
    seed: int = 0,
    set_threshold: SetThreshold = conformal_threshold,
) -> dict[str, dict[str, float]]:
    """False-alarm rates over random divisions into calibration images and new normal ones.

    Args:
        draw: Source of the scores.
        calibration_size: Number of scores from which the threshold is computed.
        stream_size: Number of scores to which it is applied.
        splits: Number of divisions.
        seed: Seed of the divisions.
        set_threshold: Function from scores `(n,)` and a rate to a threshold.

    Returns:
        Requested rate to the `mean` of the observed rates, its `standard_error`, and `percentile_5`
        and `percentile_95` over the divisions.
    """
    calibration, stream, _ = _divisions(draw, seed, splits, calibration_size, stream_size)
    found = {}
    for rate in RATES:
        thresholds = np.array([set_threshold(row, rate) for row in calibration], stream.dtype)
        rates = (stream >= thresholds[:, np.newaxis]).mean(axis=1)
        low, high = np.percentile(rates, (5, 95))
        found[f"{rate:g}"] = _mean(rates) | {
            "percentile_5": float(low),
            "percentile_95": float(high),
        }
    return found


def simulate_batches(
    draw: Draw,
    level: float = 0.1,
    anomaly_share: float = 0.1,
    shift: float = 4.0,
    calibration_size: int = 600,
    batch_size: int = 50,
    splits: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Results of `select_anomalies` for batches with anomalies.

    Args:
        draw: Source of the normal scores.
        level: False-discovery rate.
        anomaly_share: Share of anomalies in each batch.
        shift: Distance of their scores from normal scores, in standard deviations of the latter.
        calibration_size: Number of calibration images for the p-values.
        batch_size: Number of images in each batch.
        splits: Number of batches, each with its own calibration images.
        seed: Seed of the batches.

    Returns:
        `false_discoveries`, the share of false alarms among the alarms (0 without an alarm), and
        `detection`, the detection rate: each with `mean` and `standard_error`.
    """
    calibration, batches, spread = _divisions(draw, seed, splits, calibration_size, batch_size)
    anomalies = round(anomaly_share * batch_size)
    batches[:, :anomalies] += shift * spread
    chosen = np.stack(
        [
            select_anomalies(p_values(new, known), level)
            for new, known in zip(batches, calibration, strict=True)
        ]
    )
    false = chosen[:, anomalies:].sum(axis=1) / np.maximum(chosen.sum(axis=1), 1)
    found = {"false_discoveries": _mean(false)}
    if anomalies:
        found["detection"] = _mean(chosen[:, :anomalies].mean(axis=1))
    return found


def simulate_drift(
    draw: Draw,
    level: float = 0.01,
    calibration_size: int = 600,
    stream_size: int = 200,
    splits: int = 1000,
    seed: int = 0,
    shifts: tuple[float, ...] = SHIFTS,
) -> dict[str, dict[str, float]]:
    """How often `check_drift` reports drift for streams of normal images.

    Args:
        draw: Source of the scores.
        level: Level of the check.
        calibration_size: Number of scores of calibration images.
        stream_size: Number of images in each stream.
        splits: Number of streams, each with its own calibration images.
        seed: Seed of the streams.
        shifts: Shifts of the scores of a stream, in their standard deviations.

    Returns:
        Shift to the share of streams reported as drifted: `mean` and `standard_error`. For shift 0
        it should be at most the level.
    """
    calibration, stream, spread = _divisions(draw, seed, splits, calibration_size, stream_size)
    return {
        f"{shift:g}": _mean(
            np.array(
                [
                    check_drift(new + shift * spread, known, level).drifted
                    for new, known in zip(stream, calibration, strict=True)
                ]
            )
        )
        for shift in shifts
    }


def _divisions(
    draw: Draw, seed: int, splits: int, calibration_size: int, new_size: int
) -> tuple[np.ndarray, np.ndarray, np.floating]:
    """Scores of calibration and new images, a row per division, and their standard deviation."""
    scores = draw(np.random.default_rng(seed), splits, calibration_size + new_size)
    calibration, new = np.split(scores, [calibration_size], axis=1)
    return calibration, new, scores.std()


def _mean(values: np.ndarray) -> dict[str, float]:
    error = values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": float(values.mean()), "standard_error": float(error)}


def percentile_of_rate(scores: np.ndarray, rate: float) -> float:
    """The threshold of the percentile method for a rate."""
    return percentile_threshold(scores, 100 * (1 - rate))


def scores_of_run(run_dir: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a run for its normal validation and normal test images."""
    run, info = open_run(run_dir)
    config = load_config(run.config, data_dir=data_dir)
    split = open_split(config, run.split, info=info)
    import_tensorflow()
    from anomaly_tf.deploy.keras_run import TrainedDetector

    detector = TrainedDetector.load(run_dir)
    validation, test = (
        apply(detector.score, part.normal) for part in (split.validation, split.test)
    )
    return validation, test


def main(arguments: list[str]) -> None:
    """Runs the simulations and prints the results."""
    options = parse_options(ConformalOptions, "conformal.py", __doc__ or "", arguments)
    sources: dict[str, Draw] = {"continuous": continuous, "tied": tied}
    results: dict[str, Any] = {}
    common: dict[str, Any] = {
        name: getattr(options, name) for name in ("calibration_size", "splits", "seed")
    }
    streams = {**common, "stream_size": options.stream_size}
    batches = {**common, "batch_size": options.batch_size}
    if options.run_dir:
        validation, test = scores_of_run(options.run_dir, options.data_dir)
        sources["run"] = divided(np.concatenate([validation, test]))
        results["run_on_its_test_set"] = {
            f"{rate:g}": float((test >= conformal_threshold(validation, rate)).mean())
            for rate in RATES
            if rate * (len(validation) + 1) >= 1
        }
    for name, draw in sources.items():
        results[name] = {
            "false_alarm_rate": simulate(draw, **streams),
            "false_alarm_rate_of_percentile": simulate(
                draw, **streams, set_threshold=percentile_of_rate
            ),
            "batches_at_0.1": simulate_batches(draw, **batches),
            "batches_without_anomalies_at_0.1": simulate_batches(draw, **batches, anomaly_share=0),
            # Shifted off their grid, rounded scores would always be reported.
            "drift_at_0.01": simulate_drift(
                draw, **streams, shifts=SHIFTS[: 1 if name == "tied" else None]
            ),
        }
    print(json.dumps({**streams, **batches, **results}, indent=2))


if __name__ == "__main__":
    run_script(main)
