"""Trains several approaches on the same data and keeps the best, for `--approach auto`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.protocols import make_split
from anomaly_tf.detection.metrics import (
    ONE_STANDARD_ERROR,
    auroc_confidence_interval,
    preferred,
)
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import OwnedFolder
from anomaly_tf.runs.sections import Calibration
from anomaly_tf.training import loop, refinement
from anomaly_tf.training.console import Console


def train_best(
    candidates: Sequence[Config],
    dataset: ImageDataset,
    run: RunDirectory,
    command: str,
    console: Console,
) -> loop.Outcome:
    """Trains each candidate, and keeps the run with the largest AUROC on its validation images.

    A few anomalies rank approaches at random: the first candidate is kept unless the AUROC of
    another is more than a standard error above its own.

    Args:
        candidates: Configurations under a protocol whose validation set has anomalies; the first
            choice before the others.
        dataset: The data set.
        run: The folder of the run to keep, new or empty.
        command: The command that repeats the training, recorded with the run.
        console: Output of messages.

    Returns:
        How the training of the best one ended. The first that does not complete ends the
        comparison; its run is kept if none was completed before.

    Raises:
        UserError: As `refinement.train`.
    """
    folder = OwnedFolder()
    outcomes: dict[str, loop.Outcome] = {}
    aurocs: dict[str, float] = {}
    first: Calibration | None = None
    for config in candidates:
        console.say(f"candidate: {config.approach}")
        trial = RunDirectory(folder.path / config.approach)
        split = make_split(config, dataset)
        outcome = refinement.train(config, dataset, split, trial, command, console=console)
        outcomes[config.approach] = outcome
        if outcome.status != "completed" or outcome.info is None:
            break
        first = first or outcome.info.calibration
        aurocs[config.approach] = outcome.info.training.validation["val_auroc"]
    last = next(reversed(outcomes))
    best = last
    if aurocs and first:
        best, reason = preferred(aurocs, upper_limit(first))
        found = ", ".join(f"{name} {value:.4f}" for name, value in aurocs.items())
        console.say(f"approach: {best} {reason} ({found})")
    if (folder.path / best).is_dir():
        if run.path.is_dir():
            run.path.rmdir()  # it is empty
        run.path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder.path / best, run.path)
    kept = dataclasses.replace(outcomes[best], status=outcomes[last].status)
    if best == last or kept.status == "completed":
        moved = str(folder.path / best), str(run.path)
        return dataclasses.replace(
            kept, message=kept.message.replace(*moved), remedy=kept.remedy.replace(*moved)
        )
    message = f"{last} was not compared ({outcomes[last].status}); kept {best} in {run.path}"
    remedy = "train again into a new folder to compare all candidates"
    return dataclasses.replace(kept, message=message, remedy=remedy)


def upper_limit(calibration: Calibration) -> float:
    """The validation AUROC plus its standard error; 1 for a single normal image or anomaly."""
    parts = [calibration.scores, calibration.anomaly_scores or []]
    if min(map(len, parts)) < 2:
        return 1.0
    labels = np.repeat([0, 1], [len(part) for part in parts])
    return auroc_confidence_interval(labels, np.concatenate(parts), ONE_STANDARD_ERROR)[1]
