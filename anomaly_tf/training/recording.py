"""What a run keeps of its training: the detector of the best epoch, and how it came to be."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import time

import numpy as np

from anomaly_tf.approaches.base import Approach
from anomaly_tf.data.contents import facts_of
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.detection.scoring import score_statistics
from anomaly_tf.program import command_line
from anomaly_tf.runs.detector_info import Calibration, DetectorInfo, TrainingFacts
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.files import uninterrupted
from anomaly_tf.training.callbacks import CRITERIA, LAST_EPOCH
from anomaly_tf.training.device import Device, describe_cpu
from anomaly_tf.training.setup import TrainingSetup


class Recorder:
    """Saves the run at every improvement, so that whatever ends training leaves its best epoch.

    Of a training that is resumed it knows the best epoch so far: what `detector.json` holds.

    Args:
        setup: The training.
        run: Where to write.
        model: The model in training.
        command: The command line, recorded with the run.
        seconds: Time that was spent on it before an interruption.
    """

    def __init__(
        self, setup: TrainingSetup, run: RunDirectory, model: Approach, command: str, seconds: float
    ) -> None:
        self._setup, self._run, self._model = setup, run, model
        self._start = time.monotonic() - seconds
        self.saved = False
        self.best = -math.inf
        # One for the whole training: its weights follow, its graphs stay.
        self._detector = TrainedDetector(model.detector, _first_info(setup, run, model, command))

    @property
    def info(self) -> DetectorInfo | None:
        """What `detector.json` holds; None if no epoch could be kept."""
        return self._detector.info if self.saved else None

    def resume(self) -> None:
        """Takes over what an interrupted training has saved, which only a better one replaces."""
        run = self._run
        if not run.holds_detector:
            return
        _, info = open_run(run.path)
        if info.model_sha256 and run.model_with(info.model_sha256) is None:
            return  # not the model that was saved: there is nothing to keep
        kept = info.training
        self.best = self._value(kept.best_epoch, kept.validation, kept.steps)
        kept.status = "running"
        self._detector.info, self.saved = info, True

    def _value(self, epoch: int, measures: dict[str, float], steps: int | None) -> float:
        """How good a detector is by the criterion; for `LAST_EPOCH`, how long it learnt.

        Args:
            epoch: The epoch that it comes from, from 1; 0 within the first.
            measures: Name to value on the validation set.
            steps: Of a detector from within the first epoch, how many it has learnt.
        """
        criterion = CRITERIA[self._setup.config.learns_from]
        if criterion != LAST_EPOCH:
            return measures.get(criterion, -math.inf)
        # As `Validation` counts, from 0; a part of the first epoch lies below.
        return epoch - 1 if epoch else (steps or 0) / 1e9 - 1

    def save_unfinished(self, measures: dict[str, float], scores: np.ndarray) -> None:
        """Keeps weights from within the first epoch, unless the run holds better ones.

        Args:
            measures: Name to value on the validation set.
            scores: Scores of the validation set.
        """
        optimizers = self._model.optimizers.values()
        steps = max(int(optimizer.iterations) for optimizer in optimizers)
        if steps and self._value(0, measures, steps) > self.best:
            self._detector.info.training.steps = steps
            self.save(0, measures, scores)

    def save(self, epoch: int, measures: dict[str, float], scores: np.ndarray) -> None:
        """Makes the current weights the run's detector.

        Args:
            epoch: The epoch they come from, counted from 1.
            measures: Name to value on the validation set.
            scores: Scores of the validation set.
        """
        labels = self._setup.split.validation.labels
        normal = np.sort(scores[labels == 0])
        kinds = {"normal": normal, "anomaly": scores[labels == 1]}
        detector, info = self._detector, self._detector.info
        with uninterrupted():
            info.training.best_epoch, info.training.validation = epoch, measures
            if epoch:
                info.training.steps = None
            info.calibration = Calibration(len(normal), normal.tolist())
            info.score_statistics = {
                name: score_statistics(part) for name, part in kinds.items() if len(part)
            }
            self._note_progress(epoch)
            detector.set_threshold(self._setup.config.threshold)
            unit = self._setup.config.score_map.unit
            detector.set_heat_scale(self._setup.split.validation.normal, unit)
            detector.write(self._run)
            self.saved = True

    def finish(self, status: str, epochs: int) -> None:
        """Records how training ended beside the best epoch."""
        if self.saved:
            self._detector.info.training.status = status
            self._note_progress(epochs)
            self._detector.save_info(self._run)

    def kept(self) -> str:
        """Which weights the run holds, for a message."""
        if not self.saved:
            return "no epoch was finished, so there is no detector to keep"
        return f"kept the weights of {self.best_weights()} in {self._run.path}"

    def best_weights(self) -> str:
        """Which weights the run holds, and how good they are, for a message."""
        training = self._detector.info.training
        return f"{describe_epoch(training)} ({describe_choice(training)})"

    def seconds(self) -> float:
        """Time spent on training, before an interruption, too."""
        return time.monotonic() - self._start

    def _note_progress(self, epochs: int) -> None:
        seconds = self.seconds()
        training = self._setup.config.training
        images = epochs * training.steps_per_epoch * (training.batch_size or 0)
        facts = self._detector.info.training
        facts.epochs, facts.train_seconds = epochs, round(seconds, 1)
        facts.images_per_second = round(images / seconds, 1)


def _first_info(
    setup: TrainingSetup, run: RunDirectory, model: Approach, command: str
) -> DetectorInfo:
    """What is known before the first step."""
    config, split = setup.config, setup.split
    training = TrainingFacts(
        status="running",
        command=command,
        reproduce=command_line("train", "--config", run.config),
        hardware=hardware(setup.device),
        n_train=len(split.train),
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
        bit_depth=setup.dataset.bit_depth,
        data=facts_of(split, len(setup.dataset.class_names), setup.dataset.digests),
        image_score=config.score_map.rule(setup.image_shape),
        training=training,
        versions={
            name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")
        },
    )


def describe_epoch(training: TrainingFacts) -> str:
    """Where the kept weights come from, for a message."""
    return f"epoch {training.best_epoch}" if training.best_epoch else "the unfinished first epoch"


def describe_choice(training: TrainingFacts) -> str:
    """What the validation set said of the kept epoch, for a message."""
    measures, chosen_by = training.validation, training.chosen_by
    if chosen_by == "val_auroc":
        return f"validation AUROC {measures['val_auroc']:.4f}"
    said = ["the last one"]
    if chosen_by == "val_accuracy":
        said = [f"validation accuracy {measures['val_accuracy']:.4f}"]
    if "val_auroc" in measures:
        said.append(f"validation AUROC {measures['val_auroc']:.4f}, which chose nothing")
    return "; ".join(said)


def hardware(device: Device) -> str:
    """One line on the machine, for published numbers."""
    if device.is_gpu:
        return f"{device.name.strip('/')}: {device.reason}"
    return f"CPU: {describe_cpu()}"
