"""Leaves out training images that may be anomalies, for `--refine`.

Each half of the normal training images is scored by a detector of half the length that was trained
on the other half, because a detector scores the images that it has learnt too low to tell anomalies
among them. Those with the highest scores are left out of the training of the run (J. Yoon et al.,
Self-supervise, Refine, Repeat: Improving Unsupervised Anomaly Detection, TMLR 2022).

Neither detector learns from the images whose gradients are least usual, as many as will be left
out: they hold most of the anomalies, and a detector that has learnt anomalies ranks others of the
kind low. These images are scored as all others are. The two trainings lie in `refinement/` of the
run until both are scored.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from anomaly_tf.config import (
    Config,
    NormalImagesConfig,
    ThresholdConfig,
    TrainingConfig,
    save_config,
)
from anomaly_tf.data.contents import digest_of_sets, facts_of, require_same_content
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.roi import RegionFolder
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_file import save_split
from anomaly_tf.data.stored import apply
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.deploy.regions import score_set
from anomaly_tf.errors import UserError
from anomaly_tf.networks.gradients import gradient_features, least_usual
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.files import write_json
from anomaly_tf.runs.refinement import (
    LeftOut,
    Refinement,
    Unusual,
    read_refinement,
    read_unusual,
)
from anomaly_tf.script import printable
from anomaly_tf.training import loop
from anomaly_tf.training.console import Console
from anomaly_tf.training.loop import Outcome
from anomaly_tf.training.setup import TrainingSetup

# Fewer images are too few to learn from a half of them.
MIN_IMAGES = 20
# Images that stand in for the validation set while a half is learnt; no choice rests on them.
MAX_VALIDATED = 200
Found = TypeVar("Found", Refinement, Unusual)


def train(
    config: Config,
    dataset: ImageDataset,
    split: Split,
    run: RunDirectory,
    command: str,
    resume: bool = False,
    console: Console = Console(),  # noqa: B008 - frozen
) -> Outcome:
    """Trains as `loop.train`, without the images that `config.refine` leaves out.

    Args:
        config: The configuration.
        dataset: The data set of the images.
        split: The three sets; the test set is not used.
        run: The folder to write, new or empty.
        command: The command line, recorded with the run.
        resume: As for `loop.train`; a refinement resumes after its last finished epoch, too.
        console: Output of messages.

    Raises:
        UserError: As `loop.train`, or if there are too few images to refine.
    """
    if not isinstance(config, NormalImagesConfig) or not config.refine:
        return loop.train(config, dataset, split, run, command, resume=resume, console=console)
    count = _count(config, split)
    if not resume:
        run.require_unused()
    # Before the folder exists: a pretrained network may be missing, or images for its options.
    half = _halves(config, split, unusual=np.flatnonzero(split.train.labels == 0)[:count])[0]
    TrainingSetup.of(_half_as_long(config), dataset, half.split).build()
    run.path.mkdir(parents=True, exist_ok=True)
    with run.locked(), loop.writing(run):
        save_config(config, run.config)
        save_split(split, dataset, run.split)
        found: Refinement | Outcome
        try:
            found = _kept(run.refinement, read_refinement, config, split) or _refine(
                config, dataset, split, run, command, console
            )
        except KeyboardInterrupt:  # outside of an epoch, where `loop.train` cannot end
            found = _ended(loop.Outcome("interrupted", None, "interrupted"), run)
        if isinstance(found, Outcome):
            return found
        refined = np.zeros(len(split.train), bool)
        refined[list(found.numbers)] = True
        split = dataclasses.replace(split, refined=refined)
        shutil.rmtree(run.halves, ignore_errors=True)
    console.say(_describe(split, found, run))
    return loop.train(
        config,
        dataset,
        split,
        run,
        command,
        resume=resume,
        console=console,
        refined_in=found.seconds,
    )


def _count(config: NormalImagesConfig, split: Split) -> int:
    """Number of images to leave out.

    Raises:
        UserError: If it is none, or there are too few images.
    """
    normal = int((split.train.labels == 0).sum())
    if normal < MIN_IMAGES:
        raise UserError(
            f"--refine needs at least {MIN_IMAGES} normal training images; there are {normal}; "
            "add images or leave it out"
        )
    count = round(config.refine * normal)
    if not count:
        raise UserError(
            f"--refine {config.refine:g} of {normal} normal training images is less than one "
            "image; give a larger share or leave it out"
        )
    return count


def _kept(
    path: Path,
    read: Callable[[Path, int], Found],
    config: NormalImagesConfig,
    split: Split,
) -> Found | None:
    """What a run that resumes has found before; None if there is nothing.

    Raises:
        UserError: If it is damaged or of other data.
    """
    if not path.is_file():
        return None
    try:
        found = read(path, len(split.train))
        if len(found.numbers) != _count(config, split):
            raise ValueError(f"it must hold {_count(config, split)} images")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({printable(str(error))}); train again") from error
    if found.sets != digest_of_sets(split):
        raise UserError(
            f"training cannot resume with {path}: the data has changed since it started; restore "
            "the data or train again"
        )
    return found


def _unusual(config: NormalImagesConfig, split: Split, run: RunDirectory) -> Unusual:
    """The images with the least usual gradients; kept for a training that resumes.

    None if each picture has its own mask: the masks would be compared, and not the pictures.
    """
    if isinstance(split.roi, RegionFolder):
        return Unusual(digest_of_sets(split), (), 0.0)
    if kept := _kept(run.unusual, read_unusual, config, split):
        return kept
    train, start = split.train, time.monotonic()
    features = apply(gradient_features(train.images.shape[1:]), train.normal)
    found = np.flatnonzero(train.labels == 0)[least_usual(features, _count(config, split))]
    seconds = round(time.monotonic() - start, 1)
    unusual = Unusual(digest_of_sets(split), tuple(found.tolist()), seconds)
    run.halves.mkdir(exist_ok=True)
    write_json(run.unusual, dataclasses.asdict(unusual))
    return unusual


def _refine(
    config: NormalImagesConfig,
    dataset: ImageDataset,
    split: Split,
    run: RunDirectory,
    command: str,
    console: Console,
) -> Refinement | Outcome:
    """Trains on each half and scores the other; the outcome of a training that did not complete."""
    train, unusual = split.train, _unusual(config, split, run)
    scores, seconds = np.full(len(train), -np.inf, np.float32), unusual.seconds
    n_normal = int((train.labels == 0).sum())
    if unusual.numbers:
        console.say(
            f"refining: {len(unusual.numbers)} of {n_normal} normal training images, whose "
            "gradients are least usual, are scored but not learnt"
        )
    for number, half in enumerate(_halves(config, split, np.array(unusual.numbers, int)), 1):
        trial = RunDirectory(run.halves / str(number))
        console.say(
            f"refining, detector {number} of 2: learns from {(half.split.train.labels == 0).sum()} "
            f"of {n_normal} normal training images and scores {len(half.scored)} others"
        )
        outcome = _train_half(config, dataset, half.split, trial, command, console)
        if outcome is not None and outcome.status != "completed":
            return _ended(outcome, run)
        detector, start = TrainedDetector.load(trial.path), time.monotonic()
        scores[half.scored] = score_set(detector, train.take(half.scored), split.roi)
        seconds += detector.info.training.train_seconds + time.monotonic() - start
    order = np.argsort(-scores, kind="stable")[: _count(config, split)]
    names = dataset.class_names
    found = Refinement(
        unusual.sets,
        n_normal,
        round(seconds, 1),
        tuple(
            LeftOut(
                int(one),
                train.files[one] if train.files else None,
                names[train.classes[one]],
                float(scores[one]),
            )
            for one in order
        ),
    )
    write_json(run.refinement, dataclasses.asdict(found))
    return found


@dataclass(frozen=True)
class _Half:
    """A training on half of the normal images.

    Attributes:
        split: Its sets, without unusual images to learn from; a few images of the other half stand
            in for the validation set.
        scored: Numbers of the images of the other half in the training set of the run, int `(N,)`.
    """

    split: Split
    scored: np.ndarray


def _halves(config: Config, split: Split, unusual: np.ndarray) -> list[_Half]:
    """Both halves, drawn by the seed; labelled anomalies are in both.

    Args:
        config: The configuration of the run.
        split: Its sets.
        unusual: Numbers of the training images that neither half learns from, int `(n,)`; each
            half scores half of them, so that both learn from as many images.
    """
    train, rng = split.train, np.random.default_rng(config.seed)
    usual = np.setdiff1d(np.flatnonzero(train.labels == 0), unusual)
    halves = []
    parts = (np.array_split(rng.permutation(part), 2) for part in (usual, unusual))
    for scored in map(np.concatenate, zip(*parts, strict=True)):
        learnt = train.take(np.setdiff1d(np.arange(len(train)), np.union1d(scored, unusual)))
        shown = train.take(scored[:MAX_VALIDATED])
        half = dataclasses.replace(split, train=learnt, validation=shown)
        halves.append(_Half(half, np.sort(scored)))
    return halves


def _half_as_long(config: NormalImagesConfig) -> NormalImagesConfig:
    """The configuration of a training on a half."""
    changes: dict[str, Any] = {"refine": 0.0, "threshold": ThresholdConfig()}
    if isinstance(config.training, TrainingConfig):
        epochs = max(1, config.training.epochs // 2)
        changes["training"] = dataclasses.replace(config.training, epochs=epochs)
    return dataclasses.replace(config, **changes)


def _train_half(
    config: NormalImagesConfig,
    dataset: ImageDataset,
    half: Split,
    trial: RunDirectory,
    command: str,
    console: Console,
) -> Outcome | None:
    """Trains on a half, or resumes; None if that is done.

    Raises:
        UserError: As `loop.train`, or if the half is finished and of other data.
    """
    if trial.is_finished:
        facts = facts_of(half, len(dataset.class_names), dataset.digests)
        require_same_content(dataset.name, open_run(trial.path)[1], facts)
        return None
    config = _half_as_long(config)
    resume = trial.path.is_dir()
    try:
        return loop.train(config, dataset, half, trial, command, resume=resume, console=console)
    except UserError as error:
        # Remedies name the run to resume.
        raise UserError(str(error).replace(str(trial.path), str(trial.path.parents[1]))) from error


def _ended(outcome: Outcome, run: RunDirectory) -> Outcome:
    """The outcome of a run that has no detector yet, because a half was not completed."""
    reason, remedy = outcome.message.partition("; ")[0], outcome.remedy
    if outcome.status == "interrupted":
        remedy = f"resume: {loop.resume_command(run)}"
    return Outcome(outcome.status, None, f"{reason} while refining: no detector yet", remedy)


def _describe(split: Split, found: Refinement, run: RunDirectory) -> str:
    """A line for the user on the images that are left out."""
    line = (
        f"refined: left out {len(found.left_out)} of {found.n_normal} normal training images with "
        f"the highest scores"
    )
    if (hidden := split.hidden).any() and split.refined is not None:
        line += (
            f", {int((hidden & split.refined).sum())} of the {int(hidden.sum())} unlabelled "
            "anomalies among them"
        )
    first = f"first: {found.left_out[0].file}; " if found.left_out[0].file else ""
    return f"{line} ({first}all are listed in {run.refinement.name} of the run)"
