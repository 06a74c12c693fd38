"""Whether the promises of thresholds hold, by simulation: `python -m benchmarks.conformal`.

Scores of normal images are divided at random into calibration images and new ones, many times:

- the false-alarm rate of the conformal threshold, and of a percentile beside it;
- the share of false alarms among the alarms of batches judged together;
- how often the drift check takes a stream for another one, clean or shifted.

The scores are drawn: continuous, or rounded so that many are equal. With `--run-dir` those that a
run gives to its normal validation and test images are divided, too. Prints JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomaly_tf.approaches.configs import load_config
from anomaly_tf.cli.options import parse_options
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
        calibration_size: Normal images that set the threshold, in each division.
        stream_size: New images in each division.
        batch_size: Images that are judged together.
        splits: Number of random divisions.
        seed: Seed of all random choices.
        run_dir: A run whose scores are divided, beside drawn ones.
        data_dir: Another folder for cached data than the run was trained with.
    """

    calibration_size: int = number(600, 99)
    stream_size: int = number(500, 20)
    batch_size: int = number(50, 1)
    splits: int = number(1000, 2)
    seed: int = number(0, 0)
    run_dir: str | None = None
    data_dir: str | None = None


def continuous(random: np.random.Generator, splits: int, size: int) -> np.ndarray:
    """Scores like reconstruction errors, no two alike: float32 `(splits, size)`."""
    return random.gamma(6.0, 0.02, (splits, size)).astype(np.float32)


def tied(random: np.random.Generator, splits: int, size: int) -> np.ndarray:
    """The same, rounded to about ten values: float32 `(splits, size)`."""
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
        draw: Where scores come from.
        calibration_size: Scores that set the threshold.
        stream_size: Scores that are judged by it.
        splits: Number of divisions.
        seed: Seed of them.
        set_threshold: From scores `(n,)` and a rate to a threshold.

    Returns:
        Rate that was asked for to `mean` of the rates that came, its `standard_error`, and
        `percentile_5` and `percentile_95` over the divisions.
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
    """Batches with anomalies, judged together by `select_anomalies`.

    Args:
        draw: Where normal scores come from.
        level: False-discovery rate.
        anomaly_share: Share of anomalies in each batch.
        shift: How far they score above normal images, in standard deviations of those.
        calibration_size: Normal images that p-values come from.
        batch_size: Images in each batch.
        splits: Number of batches, each with its own calibration images.
        seed: Seed of them.

    Returns:
        `false_discoveries`, the share of false alarms among the alarms (0 without an alarm), and
        `detection`, the share of anomalies that was found: each `mean` and `standard_error`.
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
    """How often `check_drift` takes a stream of normal images for another one.

    Args:
        draw: Where scores come from.
        level: Level of the check.
        calibration_size: Scores of calibration images.
        stream_size: Images in each stream.
        splits: Number of streams, each with its own calibration images.
        seed: Seed of them.
        shifts: How far scores of a stream are moved, in their standard deviations.

    Returns:
        Shift to the share of streams that
        were told: `mean` and `standard_error`. Of shift 0 it should be at most the level.
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
    """Scores of calibration and of new images, a row per division, and the deviation of all."""
    scores = draw(np.random.default_rng(seed), splits, calibration_size + new_size)
    calibration, new = np.split(scores, [calibration_size], axis=1)
    return calibration, new, scores.std()


def _mean(values: np.ndarray) -> dict[str, float]:
    error = values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": float(values.mean()), "standard_error": float(error)}


def percentile_of_rate(scores: np.ndarray, rate: float) -> float:
    """What the percentile method makes of a rate."""
    return percentile_threshold(scores, 100 * (1 - rate))


def scores_of_run(run_dir: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores that a run gives to its normal validation and to its normal test images."""
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
    """Simulates and prints."""
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
            # Moved off their grid, rounded scores would be told by that alone.
            "drift_at_0.01": simulate_drift(
                draw, **streams, shifts=SHIFTS[: 1 if name == "tied" else None]
            ),
        }
    print(json.dumps({**streams, **batches, **results}, indent=2))


if __name__ == "__main__":
    run_script(main)
