"""The one place that calls `fit`: from images to a run directory that can be used."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score
from tensorboard.plugins.hparams import api as hparams

from anomaly_tf.config import Config, flatten, save_config
from anomaly_tf.data.pipelines import anomaly_clusters, balanced_batches
from anomaly_tf.data.protocols import Split
from anomaly_tf.data.sources import ImageDataset
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.detection.scoring import Scorer
from anomaly_tf.files import uninterrupted, write_json
from anomaly_tf.models import APPROACHES
from anomaly_tf.run_directory import RunDirectory
from anomaly_tf.training.callbacks import (
    NonFiniteLoss,
    Pictures,
    StopOnNonFiniteLoss,
    Validation,
)
from anomaly_tf.training.device import Device, cpu_name, select_device

PICTURES_PER_GROUP = 8

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
    """Saves the run at every improvement, so that whatever ends training leaves its best epoch."""

    def __init__(
        self,
        config: Config,
        dataset: ImageDataset,
        split: Split,
        run: RunDirectory,
        model: keras.Model,
        device: Device,
        command: str,
    ) -> None:
        self._config, self._split, self._run, self._model = config, split, run, model
        self._start = time.monotonic()
        self.saved = False
        self.info: dict[str, Any] = {
            "approach": config.approach,
            "protocol": config.protocol,
            "dataset": dataset.name,
            "class_names": list(dataset.class_names),
            "normal_class": config.normal_class,
            "seed": config.seed,
            "image_shape": list(split.train.images.shape[1:]),
            "training": {
                "status": "running",
                "command": command,
                "hardware": hardware(device),
                "n_train": len(split.train),
                "n_validation": len(split.validation),
                "epochs": 0,
            },
            "versions": {
                name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")
            },
        }

    def save(self, epoch: int, auroc: float, scores: np.ndarray) -> None:
        """Makes the current weights the run's detector.

        Args:
            epoch: The epoch they come from, counted from 1.
            auroc: Their validation AUROC.
            scores: Scores of the validation set.
        """
        labels = self._split.validation.labels
        normal = np.sort(scores[labels == 0])
        with uninterrupted():
            self.info["training"] |= {"best_epoch": epoch, "validation_auroc": auroc}
            self.info["calibration"] = {"size": len(normal), "scores": normal.tolist()}
            self.info["score_statistics"] = {
                "normal": _statistics(normal),
                "anomaly": _statistics(scores[labels == 1]),
            }
            self._note_progress(epoch)
            detector = Detector(self._model.detector, self.info)
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
            f"(validation AUROC {training['validation_auroc']:.4f}) in {self._run.path}"
        )

    def _note_progress(self, epochs: int) -> None:
        seconds = time.monotonic() - self._start
        training = self._config.training
        images = epochs * training.steps_per_epoch * training.batch_size
        self.info["training"] |= {
            "epochs": epochs,
            "train_seconds": round(seconds, 1),
            "images_per_second": round(images / seconds, 1),
        }


def train(
    config: Config, dataset: ImageDataset, split: Split, run: RunDirectory, command: str
) -> Outcome:
    """Trains an approach and leaves a run directory.

    Args:
        config: What to train.
        dataset: Where the images came from.
        split: The three sets; the test set is not touched.
        run: The folder to write, new or empty.
        command: The command line, recorded with the run.

    Returns:
        How training ended. After Ctrl-C or a non-finite loss the run holds the best epoch so
        far; Ctrl-C within the first epoch keeps what was learnt until then.
    """
    device = select_device(config.training.jit_compile)
    print(f"device: {device.name} ({device.reason}); {config.training.precision}", flush=True)
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    batches = training_batches(config, split, device)
    model = _build(config, split.train.images.shape[1:], device)
    run.path.mkdir(parents=True, exist_ok=True)
    save_config(config, run.config)
    recorder = _Recorder(config, dataset, split, run, model, device, command)
    status: Status = "completed"
    message = ""
    try:
        model.fit(
            batches,
            epochs=config.training.epochs,
            steps_per_epoch=config.training.steps_per_epoch,
            callbacks=_callbacks(config, split, run, recorder),
            verbose=1 if sys.stdout.isatty() else 2,
            shuffle=False,
        )
    except KeyboardInterrupt:
        status = "interrupted"
        if not recorder.saved:
            scores = Scorer(model.detector)(split.validation.images)
            recorder.save(0, float(roc_auc_score(split.validation.labels, scores)), scores)
        message = f"interrupted; {recorder.kept()}"
    except NonFiniteLoss as error:
        status = "non_finite_loss"
        message = f"{error}; {recorder.kept()}; lower --training.learning-rate and train again"
    history = getattr(model, "history", None)  # which fit makes at its very beginning
    recorder.finish(status, len(history.epoch) if history else 0)
    return Outcome(status, recorder.info if recorder.saved else None, message)


def _build(config: Config, image_shape: tuple[int, ...], device: Device) -> keras.Model:
    """Makes the model in the run's precision, which its layers keep."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.training.precision)
    try:
        return APPROACHES[config.approach](config, image_shape, jit_compile=device.jit_compile)
    finally:
        keras.config.set_dtype_policy(before)


def _callbacks(
    config: Config, split: Split, run: RunDirectory, recorder: _Recorder
) -> list[keras.callbacks.Callback]:
    validation = split.validation
    kinds = np.unique(validation.classes[validation.labels == 1])
    one_of_each = [np.flatnonzero(validation.classes == kind)[0] for kind in kinds]
    pictures = {
        "normal": validation.normal[:PICTURES_PER_GROUP],
        "anomaly": validation.images[one_of_each[:PICTURES_PER_GROUP]],
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
                hparams.Metric("epoch_auroc", group="validation", display_name="validation AUROC")
            ],
        )
    # Validation comes before those that write its results.
    return [
        StopOnNonFiniteLoss(),
        Validation(validation, log_dir, recorder.save),
        Pictures(pictures, log_dir),
        keras.callbacks.CSVLogger(run.history),
        keras.callbacks.TensorBoard(run.tensorboard, write_graph=False),
        hparams.KerasCallback(str(run.tensorboard), settings),
    ]


def _statistics(scores: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(scores.mean()),
        "standard_deviation": float(scores.std()),
        "minimum": float(scores.min()),
        "maximum": float(scores.max()),
    }


def training_batches(config: Config, split: Split, device: Device) -> tf.data.Dataset:
    """The batches of a whole training, `epochs * steps_per_epoch`, prefetched to the device."""
    anomalies = split.train.anomalies
    clusters = anomaly_clusters(
        anomalies, config.sampling.anomaly_clusters, config.seed, Path(config.data_dir)
    )
    batches = balanced_batches(
        split.train.normal,
        anomalies,
        clusters,
        config.training.batch_size,
        config.training.epochs * config.training.steps_per_epoch,
        config.sampling,
        config.seed,
    )
    if device.is_gpu:
        return batches.apply(tf.data.experimental.prefetch_to_device(device.name))
    # One thread makes a batch in a fraction of a step; more would take cores from the step.
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    return batches.with_options(options)


def hardware(device: Device) -> str:
    """One line on the machine, for published numbers."""
    if device.is_gpu:
        return f"{device.name.strip('/')}: {device.reason}"
    return f"CPU: {cpu_name()}, {os.cpu_count()} threads"
