"""Compares an exported detector with the trained detector."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.data.roi import RegionFolder
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import apply, subset
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.regions import score_set
from anomaly_tf.detection.metrics import detection_metrics
from anomaly_tf.runs.limits import count_within

# Largest allowed loss of an export in AUROC, or in the accuracy of a classifier.
ALLOWED_LOSS = 0.002
# Largest number of timed calls, and their approximate total time.
TIMED_CALLS, TIMED_SECONDS = 100, 0.5
TIMED_IMAGES, TIMED_BYTES = 2000, 2**29


def compare(trained: Detector, exported: Detector, split: Split, path: Path) -> dict[str, Any]:
    """Scores the test set with both detectors, and measures their speed.

    Args:
        trained: The detector of the run.
        exported: The exported detector.
        split: The sets of the run's protocol.
        path: The exported file or folder, for its size.

    Returns:
        `trained` and `exported`, each with `auroc` (None without anomalies), `accuracy` (None if it
        is not a classifier), `threshold`, `false_alarm_rate`, `size_bytes`, `latency_ms` (median of
        one image, or of one batch of an exported file with a fixed batch size) and
        `images_per_second` (up to `TIMED_IMAGES`, or `TIMED_BYTES`, in one call); `n_test`, the
        number of test images that the metrics use; `score_difference_largest` and
        `score_difference_mean`; `verdicts_changed` among these images; `lost`, the largest loss of
        AUROC or accuracy.
    """
    test, judged = split.test, split.judged
    report: dict[str, Any] = {"path": str(path), "n_test": int(judged.sum())}
    scores, verdicts = {}, {}
    timed = count_within(TIMED_BYTES, math.prod(test.images.shape[1:]), TIMED_IMAGES)
    many, rest = test.images[:timed], subset(test.images, slice(timed, None))
    batch = exported.info.batch_size or 1
    few = test.images[: batch if exported.info.tiling is None else 1]  # a batch of tiles is in one
    for name, detector in (("trained", trained), ("exported", exported)):
        latency = median_seconds(detector.score, few)
        start = time.perf_counter()
        first = detector.score(many)
        seconds = time.perf_counter() - start
        if isinstance(split.roi, RegionFolder):
            scores[name] = score_set(detector, test, split.roi)
        else:
            scores[name] = np.concatenate([first, apply(detector.score, rest)])
        metrics = detection_metrics(test.labels[judged], scores[name][judged], detector.threshold)
        verdicts[name] = scores[name][judged] >= detector.threshold
        report[name] = {
            "auroc": metrics["auroc"],
            "accuracy": _accuracy(detector, split),
            "threshold": detector.threshold,
            "false_alarm_rate": metrics["test_false_alarm_rate"],
            "latency_ms": 1000 * latency,
            "images_per_second": len(many) / seconds,
        }
    report["exported"]["size_bytes"] = _size(path)
    differences = np.abs(scores["exported"] - scores["trained"])
    falls = [
        report["trained"][measure] - report["exported"][measure]
        for measure in ("auroc", "accuracy")
        if report["trained"][measure] is not None
    ]
    return report | {
        "score_difference_largest": float(differences.max()),
        "score_difference_mean": float(differences.mean()),
        "verdicts_changed": int((verdicts["exported"] != verdicts["trained"]).sum()),
        "lost": max(falls, default=0.0),
    }


def parity_table(report: dict[str, Any]) -> str:
    """The table of the comparison for the terminal."""
    trained, exported = report["trained"], report["exported"]

    def both(key: str, form: str) -> str:
        return f"{trained[key]:{form}} before, {exported[key]:{form}} exported"

    rows = [
        (name, both(key, form))
        for name, key, form in (
            ("AUROC", "auroc", ".4f"),
            ("accuracy", "accuracy", ".2%"),
            ("threshold", "threshold", ".4g"),
            ("false-alarm rate", "false_alarm_rate", ".1%"),
        )
        if trained[key] is not None
    ]
    rows += [
        (
            "score difference",
            f"{report['score_difference_largest']:.2g} largest, "
            f"{report['score_difference_mean']:.2g} mean",
        ),
        ("verdicts changed", f"{report['verdicts_changed']} of {report['n_test']}"),
        ("size", f"{exported['size_bytes'] / 1e6:.2f} MB"),
        ("median latency", both("latency_ms", ".3g") + " (ms)"),
        ("images/s in batch", both("images_per_second", ".0f")),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def median_seconds(call: Callable[[np.ndarray], object], images: np.ndarray) -> float:
    """Median duration of up to `TIMED_CALLS` calls, after three warm-up calls."""
    seconds: list[float] = []
    for number in range(-3, TIMED_CALLS):
        start = time.perf_counter()
        call(images)
        if number >= 0:
            seconds.append(time.perf_counter() - start)
        if sum(seconds) > TIMED_SECONDS:
            break
    return float(np.median(seconds))


def _accuracy(detector: Detector, split: Split) -> float | None:
    if not detector.classifies:
        return None
    normal = split.test.labels == 0
    predicted = apply(detector.probabilities, split.test.normal).argmax(axis=1)
    return float((predicted == split.test.classes[normal]).mean())


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
