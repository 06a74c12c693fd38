"""Saves the detector of the best epoch, with the facts about its training."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import time

import numpy as np

from anomaly_tf.approaches.base import Approach
from anomaly_tf.data.contents import facts_of
from anomaly_tf.data.roi import facts_of_roi
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.detection.scoring import score_statistics
from anomaly_tf.program import command_line
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.files import uninterrupted
from anomaly_tf.runs.sections import LAST_EPOCH, Calibration, TrainingFacts
from anomaly_tf.training.callbacks import CRITERIA
from anomaly_tf.training.device import Device, describe_cpu
from anomaly_tf.training.setup import TrainingSetup


class Recorder:
    """Saves the run at every improvement, so that a training that ends early keeps its best epoch.

    When a training resumes, the best epoch so far is read from `detector.json`.

    Args:
        setup: The training.
        run: The run directory.
        model: The model in training.
        command: The command line, recorded with the run.
        seconds: Duration of training before an interruption.
    """

    def __init__(
        self, setup: TrainingSetup, run: RunDirectory, model: Approach, command: str, seconds: float
    ) -> None:
        self._setup, self._run, self._model = setup, run, model
        self._start = time.monotonic() - seconds
        self.saved = False
        self.best = -math.inf
        # One detector for the whole training: its weights change, and its graphs are reused.
        self.detector = TrainedDetector(model.detector, _first_info(setup, run, model, command))

    @property
    def info(self) -> DetectorInfo | None:
        """Content of `detector.json`; None if no epoch could be kept."""
        return self.detector.info if self.saved else None

    def resume(self) -> None:
        """Restores the best epoch of an interrupted training; only a better one replaces it."""
        run = self._run
        if not run.holds_detector:
            return
        _, info = open_run(run.path)
        if info.model_sha256 and run.model_with(info.model_sha256) is None:
            return  # the model file is missing or changed, so that there is nothing to keep
        kept = info.training
        self.best = self._value(kept.best_epoch, kept.validation, kept.steps)
        kept.status = "running"
        self.detector.info, self.saved = info, True

    def _value(self, epoch: int, measures: dict[str, float], steps: int | None) -> float:
        """Value of the criterion for a detector; for `LAST_EPOCH`, the length of its training.

        Args:
            epoch: Its epoch, from 1; 0 within the first epoch.
            measures: Name of each validation metric to its value.
            steps: Number of finished steps, for a detector from within the first epoch.
        """
        criterion = CRITERIA[self._setup.config.learns_from]
        if criterion != LAST_EPOCH:
            return measures.get(criterion, -math.inf)
        # `Validation` counts from 0; a part of the first epoch has a smaller value.
        return epoch - 1 if epoch else (steps or 0) / 1e9 - 1

    def save_unfinished(self, measures: dict[str, float], scores: np.ndarray) -> None:
        """Saves weights from within the first epoch, unless the run holds better ones.

        Args:
            measures: Name of each validation metric to its value.
            scores: Scores of the validation set.
        """
        optimizers = self._model.optimizers.values()
        steps = max((int(np.array(optimizer.iterations)) for optimizer in optimizers), default=0)
        if steps and self._value(0, measures, steps) > self.best:
            self.detector.info.training.steps = steps
            self.save(0, measures, scores)

    def save(self, epoch: int, measures: dict[str, float], scores: np.ndarray) -> None:
        """Saves the current weights as the run's detector.

        Args:
            epoch: Their epoch, from 1.
            measures: Name of each validation metric to its value.
            scores: Scores of the validation set.
        """
        labels = self._setup.split.validation.labels
        normal = np.sort(scores[labels == 0])
        kinds = {"normal": normal, "anomaly": scores[labels == 1]}
        detector, info = self.detector, self.detector.info
        with uninterrupted():
            info.training.best_epoch, info.training.validation = epoch, measures
            if epoch:
                info.training.steps = None
            info.calibration = Calibration(len(normal), normal.tolist())
            if self._setup.split.roles.seen:
                info.calibration.anomaly_scores = np.sort(kinds["anomaly"]).tolist() or None
            info.score_statistics = {
                name: score_statistics(part) for name, part in kinds.items() if len(part)
            }
            self._record_progress(epoch)
            detector.set_threshold(self._setup.config.threshold)
            unit, split = self._setup.config.score_map.unit, self._setup.split
            detector.set_heat_scale(split.validation.normal_part, unit, split.roi)
            detector.write(self._run)
            self.saved = True

    def finish(self, status: str, epochs: int) -> None:
        """Records the status of training with the best epoch."""
        if self.saved:
            self.detector.info.training.status = status
            self._record_progress(epochs)
            self.detector.save_info(self._run)

    def kept(self) -> str:
        """The weights that the run holds, for a message."""
        if not self.saved:
            return "no epoch was finished, so there is no detector to keep"
        return f"kept the weights of {self.best_weights()} in {self._run.path}"

    def best_weights(self) -> str:
        """The weights that the run holds and their metric, for a message."""
        training = self.detector.info.training
        return f"{describe_epoch(training)} ({describe_choice(training)})"

    def seconds(self) -> float:
        """Duration of training in seconds, including the time before an interruption."""
        return time.monotonic() - self._start

    def _record_progress(self, epochs: int) -> None:
        seconds = self.seconds()
        images = epochs * self._setup.n_images
        facts = self.detector.info.training
        facts.epochs, facts.train_seconds = epochs, round(seconds, 1)
        facts.images_per_second = round(images / seconds, 1)


def _first_info(
    setup: TrainingSetup, run: RunDirectory, model: Approach, command: str
) -> DetectorInfo:
    """The metadata before the first step."""
    config, split, hidden = setup.config, setup.split, setup.split.hidden
    refined = split.refined
    training = TrainingFacts(
        status="running",
        command=command,
        reproduce=command_line("train", "--config", run.config),
        hardware=hardware(setup.device),
        n_train=len(split.learnt),
        n_unlabelled=int(hidden.sum()) or None,
        n_left_out=None if refined is None else int(refined.sum()),
        n_unlabelled_left_out=int((hidden & refined).sum())
        if refined is not None and hidden.any()
        else None,
        n_validation=len(split.validation),
        n_weights=model.detector.count_params(),
        chosen_by=CRITERIA[config.learns_from],
        epochs=0,
    )
    return DetectorInfo(
        approach=config.approach,
        protocol=config.protocol,
        dataset=setup.dataset.name,
        class_names=list(setup.dataset.class_names),
        roles=dataclasses.asdict(split.roles),
        seed=config.seed,
        image_shape=list(setup.image_shape),
        tiling=config.tiling,
        bit_depth=setup.dataset.reading.bit_depth,
        max_pixels=config.max_pixels,
        roi=facts_of_roi(split.roi, config.roi, split.own_files),
        data=facts_of(split, len(setup.dataset.class_names), setup.dataset.digests),
        image_score=config.score_map.rule(setup.input_shape),
        training=training,
        versions={
            name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")
        },
    )


def describe_epoch(training: TrainingFacts) -> str:
    """The epoch of the kept weights, for a message."""
    return f"epoch {training.best_epoch}" if training.best_epoch else "the unfinished first epoch"


def describe_choice(training: TrainingFacts) -> str:
    """The validation metrics of the kept epoch, for a message."""
    measures, chosen_by = training.validation, training.chosen_by
    if chosen_by == "val_auroc":
        return f"validation AUROC {measures['val_auroc']:.4f}"
    words = ["the last one"]
    if chosen_by == "val_accuracy":
        words = [f"validation accuracy {measures['val_accuracy']:.4f}"]
    if "val_auroc" in measures:
        words.append(f"validation AUROC {measures['val_auroc']:.4f}, not used for selection")
    return "; ".join(words)


def hardware(device: Device) -> str:
    """A line on the machine, for published numbers."""
    if device.is_gpu:
        return f"{device.name.strip('/')}: {device.reason}"
    return f"CPU: {describe_cpu()}"
