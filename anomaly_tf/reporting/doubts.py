"""What limits the figures of a run: the promise of its threshold, and reasons for doubt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, betabinom, binomtest

from anomaly_tf.data.advice import ENOUGH_CALIBRATION, few_calibration_images
from anomaly_tf.reporting.kept import Kept
from anomaly_tf.runs.directory import unfinished_training
from anomaly_tf.runs.sections import LABELLED, LAST_EPOCH
from anomaly_tf.training.notes import Notes

# As many false alarms, or more, have a smaller probability than this one if the test images are
# like the calibration images.
SURPRISING = 0.01


@dataclass(frozen=True)
class Rate:
    """A share of images.

    Attributes:
        count: Images counted.
        total: All images; at least one.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, from 0 to 1."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Its exact 95 % confidence interval (C. Clopper, E. Pearson, Biometrika 1934)."""
        found = binomtest(self.count, self.total).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        """Count, total and interval, in words."""
        low, high = self.interval
        return f"{self.count:,} of {self.total:,}; 95 % CI {low:.1%} to {high:.1%}"


def false_alarms(kept: Kept) -> Rate:
    """Normal test images that are alarms."""
    normal = kept.tested.labels == 0
    return Rate(int(kept.tested.verdicts[normal].sum()), int(normal.sum()))


def detections(kept: Kept) -> Rate | None:
    """Anomalies that the protocol judges and that are alarms; None if there are none."""
    anomalies = (kept.tested.labels == 1) & kept.judged
    if not anomalies.any():
        return None
    return Rate(int(kept.tested.verdicts[anomalies].sum()), int(anomalies.sum()))


def promised_rate(kept: Kept) -> float | None:
    """The false-alarm rate that the threshold was computed for; None for method `labelled`."""
    method, _, setting = kept.metrics["threshold_method"].partition(" ")
    if method == LABELLED or not setting:
        return None
    return 1 - float(setting) / 100 if method == "percentile" else float(setting)


def promise(kept: Kept) -> list[str]:
    """What the threshold promises, and what it did on the test set, a sentence each."""
    size, threshold = len(kept.info.calibration.scores), kept.metrics["threshold"]
    method, rate = kept.metrics["threshold_method"], promised_rate(kept)
    images = f"{size:,} normal validation image{'s' * (size > 1)}"
    lines = [f"An image is an anomaly when its score is at least {threshold:.4g} ({method})."]
    if rate is None:
        lines.append(
            f"This threshold separates {images} and the labelled anomalies of the validation set "
            "best; it promises no false-alarm rate."
        )
    elif method.startswith("conformal"):
        lines.append(
            f"Computed from {images}: the probability that a new normal image from the same source "
            f"is an alarm is at most {rate:.3g}, over the choice of these images and the new one."
        )
    else:
        lines.append(
            f"It is the {100 * (1 - rate):g}th percentile of the scores of {images}: about "
            f"{rate:.1%} of new normal images from the same source are false alarms."
        )
    low, high = beta.ppf((0.05, 0.95), *_alarm_distribution(kept))
    if rate is not None and np.isfinite((low, high)).all():
        lines.append(
            f"With {images}, the false-alarm rate in the long run is between {low:.1%} and "
            f"{high:.1%} for 90 of 100 such sets of images."
        )
    found = false_alarms(kept)
    lines.append(f"On the test set, {found.value:.1%} of the normal images are alarms ({found}).")
    return lines


def _alarm_distribution(kept: Kept) -> tuple[int, int]:
    """Parameters of the beta distribution of the rate at which new normal images are alarms.

    With m of n exchangeable calibration scores at or above the threshold, the rate is at most
    Beta(m + 1, n - m) (S. Wilks, Determination of sample sizes for setting tolerance limits, 1941).
    """
    scores = np.array(kept.info.calibration.scores)
    above = int((scores >= kept.metrics["threshold"]).sum())
    return above + 1, len(scores) - above


def doubts(kept: Kept) -> list[str]:
    """Reasons to doubt the figures of a run, the gravest first; a sentence each, often none."""
    lines = (line.removeprefix("note: ") for line in _doubts(kept))
    # A sentence, unless it begins with a name such as `val_auroc`.
    return [re.sub(r"^[a-z](?=[a-z]* )", lambda first: first[0].upper(), line) for line in lines]


def _doubts(kept: Kept) -> Iterator[str]:
    metrics, info = kept.metrics, kept.info
    if note := unfinished_training(kept.run, info):
        yield note
    if (metrics["epochs"], metrics["best_epoch"]) != (
        info.training.epochs,
        info.training.best_epoch,
    ):
        yield "the run was trained further after this evaluation; evaluate it again"
    if not kept.examples:
        yield "the evaluation kept no pictures for this page; evaluate the run again to see some"
    yield from _on_ranking(kept)
    yield from _on_false_alarms(kept)
    yield from _on_training(kept)


def _on_ranking(kept: Kept) -> Iterator[str]:
    auroc, interval = kept.metrics["auroc"], kept.metrics["auroc_ci95"]
    if kept.metrics["protocol"] == "classification":
        return
    if auroc is None:
        yield (
            "the test set has no anomalies: whether they are found is not measured; test with "
            "known defects"
        )
    elif interval is None:
        yield "fewer than two normal images or anomalies: the AUROC has no confidence interval"
    elif interval[1] < 0.5:
        yield (
            f"the AUROC is {auroc:.4f}, below 0.5: anomalies score lower than normal images; "
            "either the labels are swapped, or the anomalies are the simpler images"
        )
    elif interval[0] <= 0.5:
        yield (
            f"the AUROC of {auroc:.4f} is not distinguishable from chance: its interval contains "
            "0.5"
        )
    if kept.metrics["protocol"] == "corruption":
        yield "the anomalies are synthetic: noise and rotations of the normal test images"


def _on_false_alarms(kept: Kept) -> Iterator[str]:
    rate, found, size = promised_rate(kept), false_alarms(kept), len(kept.info.calibration.scores)
    method, _, setting = kept.metrics["threshold_method"].partition(" ")
    if method == "percentile" and size < ENOUGH_CALIBRATION:
        yield few_calibration_images(size, float(setting))
    above, below = _alarm_distribution(kept)
    if rate is None or not below or not found.count:
        return
    if betabinom.sf(found.count - 1, found.total, above, below) < SURPRISING:
        yield (
            f"{found.value:.1%} of the normal test images are false alarms ({found}), and the "
            f"threshold was computed for {rate:.1%}: more than chance explains; the normal test "
            "images differ from the validation images"
        )


def _on_training(kept: Kept) -> Iterator[str]:
    """What the notes of the training say of its losses and scores after the last epoch."""
    passed = kept.history.get("epoch", np.zeros(0))
    if not len(passed):
        return
    n_normal = len(kept.info.calibration.scores)
    n_anomalies = kept.info.training.n_validation - n_normal
    epochs = kept.options.get("training.epochs", len(passed))
    keeps_last = kept.info.training.chosen_by == LAST_EPOCH
    notes = Notes(epochs, n_normal, n_anomalies, keeps_last)
    columns = [name for name in kept.history if name != "epoch"]
    rows = [{name: kept.history[name][n] for name in columns} for n in range(len(passed))]
    for row in rows[:-1]:
        notes.record(row)
    yield from notes.notes_after(int(passed[-1]), rows[-1])
