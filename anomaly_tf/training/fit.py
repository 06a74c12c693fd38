"""The one place that calls `fit`: from images to a run directory that can be used."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from anomaly_tf.config import (
    ALL_CLASSES_NORMAL,
    BalancedSamplingConfig,
    Config,
    flatten,
    save_config,
)
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.images import UnreadableImage
from anomaly_tf.data.pipelines import (
    anomaly_clusters,
    balanced_batches,
    classified_batches,
    corrupted_batches,
    normal_batches,
)
from anomaly_tf.data.protocols import LabelledImages, Split
from anomaly_tf.data.split_file import save_split
from anomaly_tf.data.stored import StoredImages, sample
from anomaly_tf.deploy.trained import TrainedDetector
from anomaly_tf.detection.scoring import score_statistics
from anomaly_tf.errors import UserError
from anomaly_tf.files import uninterrupted, write_json
from anomaly_tf.models import APPROACHES, Approach
from anomaly_tf.models.blocks import is_large
from anomaly_tf.run_directory import RunDirectory, open_run
from anomaly_tf.script import FOLDER_ERRORS
from anomaly_tf.training.callbacks import (
    CRITERIA,
    LAST_EPOCH,
    Checkpoints,
    NonFiniteLoss,
    Pictures,
    StopOnNonFiniteLoss,
    Validation,
    write_history,
)
from anomaly_tf.training.checkpoint import Progress, digest_of_sets, load_checkpoint
from anomaly_tf.training.device import Device, describe_cpu, select_device

PICTURES_PER_GROUP = 8
# In one batch by default: 128 images of 64 x 64, 32 of 128 x 128.
MOST_PIXELS = 2**19
# How often an epoch of a small set draws each normal image.
MOST_DRAWS = 30

Status = Literal["completed", "interrupted", "non_finite_loss"]


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        status: `completed`, `interrupted` (Ctrl-C) or `non_finite_loss`.
        info: What `detector.json` tells of the best epoch, or None if no epoch could be kept.
        message: What the user should know about an early end; empty if completed.
    """

    status: Status
    info: dict[str, Any] | None
    message: str = ""


class _Recorder:
    """Saves the run at every improvement, so that whatever ends training leaves its best epoch.

    Of a training that goes on it knows the best epoch so far: what `detector.json` tells.
    """

    def __init__(
        self,
        config: Config,
        dataset: ImageDataset,
        split: Split,
        run: RunDirectory,
        model: keras.Model,
        device: Device,
        command: str,
        seconds: float,
    ) -> None:
        self._config, self._split, self._run, self._model = config, split, run, model
        self._start = time.monotonic() - seconds
        image_shape = split.train.images.shape[1:]
        self.saved = False
        self.best = -math.inf
        self.info: dict[str, Any] = {
            "approach": config.approach,
            "protocol": config.protocol,
            "dataset": dataset.name,
            "class_names": list(dataset.class_names),
            "roles": dataclasses.asdict(split.roles),
            "seed": config.seed,
            "image_shape": list(image_shape),
            "image_score": "maximum" if is_large(image_shape[:2]) else "mean",
            "training": {
                "status": "running",
                "command": command,
                "reproduce": shlex.join(["python", "train.py", "--config", str(run.config)]),
                "hardware": hardware(device),
                "n_train": len(split.train),
                "n_validation": len(split.validation),
                "n_weights": model.detector.count_params(),
                "chosen_by": CRITERIA[config.learns_from],
                "epochs": 0,
            },
            "versions": {
                name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")
            },
        }

    def take_up(self) -> None:
        """Takes over what an interrupted training has saved, unless it has finished no epoch."""
        if not self._run.detector.is_file():
            return
        _, info = open_run(self._run.path)
        kept = info["training"]
        if kept["best_epoch"] == 0:  # saved by Ctrl-C within the first epoch
            return
        by_epoch = kept["chosen_by"] == LAST_EPOCH
        self.best = kept["best_epoch"] - 1 if by_epoch else kept["validation"][kept["chosen_by"]]
        kept["status"] = "running"
        self.info, self.saved = info, True

    def save(self, epoch: int, measures: dict[str, float], scores: np.ndarray) -> None:
        """Makes the current weights the run's detector.

        Args:
            epoch: The epoch they come from, counted from 1.
            measures: Name to value on the validation set.
            scores: Scores of the validation set.
        """
        labels = self._split.validation.labels
        normal = np.sort(scores[labels == 0])
        with uninterrupted():
            self.info["training"] |= {"best_epoch": epoch, "validation": measures}
            self.info["calibration"] = {"size": len(normal), "scores": normal.tolist()}
            kinds = {"normal": normal, "anomaly": scores[labels == 1]}
            self.info["score_statistics"] = {
                name: score_statistics(part) for name, part in kinds.items() if len(part)
            }
            self._note_progress(epoch)
            detector = TrainedDetector(self._model.detector, self.info)
            detector.set_threshold(self._config.threshold)
            detector.save(self._run)
            self.saved = True

    def finish(self, status: str, epochs: int) -> None:
        """Records how training ended beside the best epoch."""
        if self.saved:
            self.info["training"]["status"] = status
            self._note_progress(epochs)
            write_json(self._run.detector, self.info)

    def kept(self) -> str:
        """Which weights the run holds, for a message."""
        if not self.saved:
            return "no epoch was finished, so there is no detector to keep"
        training = self.info["training"]
        return (
            f"kept the weights of epoch {training['best_epoch']} "
            f"({describe_choice(training)}) in {self._run.path}"
        )

    def seconds(self) -> float:
        """Time spent on training, before an interruption, too."""
        return time.monotonic() - self._start

    def _note_progress(self, epochs: int) -> None:
        seconds = self.seconds()
        training = self._config.training
        images = epochs * training.steps_per_epoch * (training.batch_size or 0)
        self.info["training"] |= {
            "epochs": epochs,
            "train_seconds": round(seconds, 1),
            "images_per_second": round(images / seconds, 1),
        }


def train(
    config: Config,
    dataset: ImageDataset,
    split: Split,
    run: RunDirectory,
    command: str,
    resume: bool = False,
) -> Outcome:
    """Trains an approach and leaves a run directory.

    Args:
        config: What to train.
        dataset: Where the images came from.
        split: The three sets; the test set is not touched.
        run: The folder to write, new or empty.
        command: The command line, recorded with the run.
        resume: Whether the folder is that of a training of the same configuration that was
            interrupted; it goes on from its last finished epoch.

    Returns:
        How training ended. After Ctrl-C or a non-finite loss the run holds the best epoch so
        far; Ctrl-C within the first epoch keeps what was learnt until then.

    Raises:
        UserError: If the networks do not fit the images, another process works on the run, its
            folder is full or not empty, or its checkpoint does not fit.
    """
    config = resolve(config, split)
    run.path.mkdir(parents=True, exist_ok=True)
    with run.locked():
        if not resume:
            run.require_unused()
        try:
            return _train(config, dataset, split, run, command)
        except (OSError, tf.errors.OpError) as error:
            if not (reason := _reason_of_folder(error)):
                raise
            raise UserError(
                f"cannot write to {run.path}: {reason}; make room there, then go on from the last "
                f"finished epoch: {resume_command(run)}"
            ) from error


def resume_command(run: RunDirectory) -> str:
    """What continues an interrupted training."""
    return shlex.join(["python", "train.py", "--resume", str(run.path)])


def _reason_of_folder(error: OSError | tf.errors.OpError) -> str | None:
    """Why a folder takes no file, if that is what the error says."""
    if isinstance(error, OSError) and error.errno in FOLDER_ERRORS:
        return error.strerror
    # TensorBoard's files are written by TensorFlow, and it has no number for that.
    known = (os.strerror(number) for number in FOLDER_ERRORS)
    return next((reason for reason in known if reason in str(error)), None)


def _train(
    config: Config, dataset: ImageDataset, split: Split, run: RunDirectory, command: str
) -> Outcome:
    device = select_device(config.training.jit_compile)
    training = config.training
    print(
        f"device: {device.name} ({device.reason}); {training.precision}, "
        f"{training.epochs} epochs of {training.steps_per_epoch} batches of {training.batch_size}",
        flush=True,
    )
    model = build(config, dataset, split, device)
    progress = Progress(digest_of_sets(split))
    if run.checkpoint.is_file():
        progress = load_checkpoint(run.checkpoint, model, progress.sets)
        print(f"going on after epoch {progress.epochs}, the last that was finished", flush=True)
    run.clear_unfinished()
    save_config(config, run.config)
    save_split(split, dataset, run.split)
    recorder = _Recorder(config, dataset, split, run, model, device, command, progress.seconds)
    if progress.epochs:
        recorder.take_up()
        write_history(run.history, progress.history)
    validation = Validation(
        model.detector,
        split.validation,
        CRITERIA[config.learns_from],
        run.tensorboard / "validation",
        recorder.save,
        recorder.best,
    )
    status: Status = "completed"
    message = ""
    try:
        model.fit(
            training_batches(config, split, device, progress.epochs * training.steps_per_epoch),
            initial_epoch=progress.epochs,
            epochs=training.epochs,
            steps_per_epoch=training.steps_per_epoch,
            callbacks=[
                *_callbacks(config, split, run, validation, progress),
                Checkpoints(run, progress, recorder.seconds),
            ],
            verbose=1 if sys.stdout.isatty() else 2,
            shuffle=False,
        )
    except KeyboardInterrupt:
        status = "interrupted"
        if not recorder.saved:
            recorder.save(0, *validation.measure())
        message = f"interrupted; {recorder.kept()}; go on with it: {resume_command(run)}"
    except NonFiniteLoss as error:
        status = "non_finite_loss"
        message = f"{error}; {recorder.kept()}; lower --training.learning-rate and train again"
    except tf.errors.OpError as error:
        # A file that went away or was damaged while it was read for training.
        unreadable = re.search(rf"{UnreadableImage.__name__}: (.*)", str(error))
        if not unreadable:
            raise
        raise UserError(f"{unreadable[1]}; {recorder.kept()}") from error
    recorder.finish(status, progress.epochs)
    if status == "completed":
        run.checkpoint.unlink(missing_ok=True)
    return Outcome(status, recorder.info if recorder.saved else None, message)


def resolve(config: Config, split: Split) -> Config:
    """The configuration with what depends on data and protocol: classes, batches, networks.

    Args:
        config: As the user gave it.
        split: The sets that it makes.

    Raises:
        UserError: If the networks do not fit the images.
    """
    names = None
    if config.protocol not in ALL_CLASSES_NORMAL:
        names = tuple(split.class_names[number] for number in split.roles.normal)
    image_shape = split.train.images.shape[1:]
    training = config.training
    batch_size = training.batch_size or default_batch_size(len(split.train), image_shape)
    normal = int((split.train.labels == 0).sum())
    share = 0.5 if config.learns_from == "normal and anomalous images" else 1.0
    steps = min(training.steps_per_epoch, math.ceil(MOST_DRAWS * normal / (share * batch_size)))
    try:
        networks = config.networks.for_image(image_shape)  # type: ignore[attr-defined]
    except ValueError as error:  # more layers than pixels to halve
        name, reason = str(error).split(" ", 1)
        raise UserError(f"option --{name.replace('_', '-')} {reason}") from error
    changes: dict[str, Any] = {
        "normal_class": config.normal_class or names,
        "training": dataclasses.replace(training, batch_size=batch_size, steps_per_epoch=steps),
        "networks": networks,
    }
    return dataclasses.replace(config.for_protocol(), **changes)


def default_batch_size(images: int, image_shape: tuple[int, ...]) -> int:
    """128; of larger images so many that they hold no more than `MOST_PIXELS`; even.

    Args:
        images: How many there are to learn from; no more make a batch.
        image_shape: Height, width, channels.
    """
    fitting = max(MOST_PIXELS // (image_shape[0] * image_shape[1]), 16)
    return max(2, min(128, fitting, images) // 2 * 2)


def build(config: Config, dataset: ImageDataset, split: Split, device: Device) -> Approach:
    """An untrained model from the configuration's seed, adapted to the images where it asks for it.

    Args:
        config: What `resolve` gave.
        dataset: Where the images came from.
        split: Its sets.
        device: Where the model will learn.

    Returns:
        A compiled model in the precision of the configuration, which its layers keep.
    """
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.training.precision)
    shape, classes = split.train.images.shape[1:], len(dataset.class_names)
    try:
        model = APPROACHES[config.approach](config, shape, classes, device.jit_compile)
    finally:
        keras.config.set_dtype_policy(before)
    if model.adapts_to:
        model.adapt(sample(split.train.normal, model.adapts_to, config.seed)[:])
    return model


def describe_choice(training: dict[str, Any]) -> str:
    """What the validation set said of the kept epoch, for a message."""
    measures, chosen_by = training["validation"], training["chosen_by"]
    if chosen_by == "val_auroc":
        return f"validation AUROC {measures['val_auroc']:.4f}"
    said = ["the last one"]
    if chosen_by == "val_accuracy":
        said = [f"validation accuracy {measures['val_accuracy']:.4f}"]
    if "val_auroc" in measures:
        said.append(f"validation AUROC {measures['val_auroc']:.4f}, which chose nothing")
    return "; ".join(said)


def _callbacks(
    config: Config, split: Split, run: RunDirectory, validation: Validation, progress: Progress
) -> list[keras.callbacks.Callback]:
    groups = {
        name: _examples(split.validation, label)
        for label, name in enumerate(("normal", "anomaly"))
        if label in split.validation.labels
    }
    log_dir = run.tensorboard / "validation"
    settings = {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in flatten(config).items()
    }
    with tf.summary.create_file_writer(str(run.tensorboard)).as_default():
        hparams.hparams_config(
            hparams=[hparams.HParam(name) for name in settings],
            metrics=[
                hparams.Metric(f"epoch_{name}", group="validation", display_name=f"val_{name}")
                for name in ("auroc", "accuracy", "normal_score")
            ],
        )
    # Validation comes before those that write its results.
    return [
        StopOnNonFiniteLoss(),
        validation,
        Pictures(groups, log_dir, progress),
        keras.callbacks.TensorBoard(run.tensorboard, write_graph=False),
        hparams.KerasCallback(str(run.tensorboard), settings),
    ]


def _examples(images: LabelledImages, label: int) -> np.ndarray:
    """A few images with a label: one of each class, or several if there is one class."""
    numbers = np.flatnonzero(images.labels == label)
    _, one_of_each = np.unique(images.classes[numbers], return_index=True)
    chosen = numbers[one_of_each] if len(one_of_each) > 1 else numbers
    return images.images[chosen[:PICTURES_PER_GROUP]]


def training_batches(
    config: Config, split: Split, device: Device, first_step: int = 0
) -> tf.data.Dataset:
    """The batches of a training, `epochs * steps_per_epoch` from the first step on, prefetched."""
    training, train, sampling = config.training, split.train, config.sampling
    size = training.batch_size or default_batch_size(len(train), train.images.shape[1:])
    length = size, training.epochs * training.steps_per_epoch - first_step
    order = config.seed, first_step
    if config.learns_from == "classes":
        batches = classified_batches(train.images, train.classes, *length, sampling, *order)
    elif not isinstance(sampling, BalancedSamplingConfig):
        batches = normal_batches(train.normal, *length, sampling, *order)
    elif config.protocol == "corruption":
        batches = corrupted_batches(train.normal, config.corruption, *length, sampling, *order)
    else:
        anomalies, cache = train.anomalies, Path(config.data_dir)
        clusters = anomaly_clusters(anomalies, sampling.anomaly_clusters, config.seed, cache)
        batches = balanced_batches(train.normal, anomalies, clusters, *length, sampling, *order)
    if device.is_gpu:
        return batches.apply(tf.data.experimental.prefetch_to_device(device.name))
    if isinstance(train.images, StoredImages):
        return batches
    # One thread makes a batch in a fraction of a step; more would take cores from the step.
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    return batches.with_options(options)


def hardware(device: Device) -> str:
    """One line on the machine, for published numbers."""
    if device.is_gpu:
        return f"{device.name.strip('/')}: {device.reason}"
    return f"CPU: {describe_cpu()}"
