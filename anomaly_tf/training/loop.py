"""The training loop: calls `fit` and writes the run directory."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import keras
import tensorflow as tf

from anomaly_tf.approaches.base import Approach
from anomaly_tf.config import Config, OnePassTrainingConfig, save_config
from anomaly_tf.data.contents import digest_of_sets
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_file import save_split
from anomaly_tf.errors import UserError
from anomaly_tf.networks.replicas import vary_random_numbers
from anomaly_tf.program import command_line
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import folder_error
from anomaly_tf.runs.sections import LAST_EPOCH
from anomaly_tf.training.callbacks import (
    CRITERIA,
    Checkpoints,
    FinishEpoch,
    NonFiniteLoss,
    StopOnNonFiniteLoss,
    Validation,
    write_history,
)
from anomaly_tf.training.checkpoint import Progress, load_checkpoint
from anomaly_tf.training.console import Console
from anomaly_tf.training.device import Device
from anomaly_tf.training.notes import Notes
from anomaly_tf.training.progress import EpochLines
from anomaly_tf.training.recording import Recorder
from anomaly_tf.training.setup import TrainingSetup
from anomaly_tf.training.tensorboard import TensorBoard

Status = Literal["completed", "interrupted", "non_finite_loss"]


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        status: `completed`, `interrupted` (Ctrl-C) or `non_finite_loss`.
        info: Metadata of the best epoch; None if no epoch could be kept.
        message: Reason for an early end, and the epoch that was kept; empty if completed.
        remedy: Remedy for an early end; empty if completed.
    """

    status: Status
    info: DetectorInfo | None
    message: str = ""
    remedy: str = ""


def train(
    config: Config,
    dataset: ImageDataset,
    split: Split,
    run: RunDirectory,
    command: str,
    resume: bool = False,
    console: Console = Console(),  # noqa: B008 - frozen
    device: Device | None = None,
    refined_in: float | None = None,
) -> Outcome:
    """Trains an approach and writes a run directory.

    Args:
        config: The configuration.
        dataset: The data set of the images.
        split: The three sets; the test set is not used.
        run: The folder to write, new or empty.
        command: The command line, recorded with the run.
        console: Output of messages.
        resume: Whether the folder is that of an interrupted training with the same configuration;
            it resumes after the last finished epoch.
        device: The device or devices; None: all GPUs that can share a batch, or the CPU.
        refined_in: Seconds of a refinement that has written its files to the folder, which count as
            time of training; None if there was none.

    Returns:
        How training ended. After Ctrl-C or a non-finite loss, the run holds the best epoch so far;
        after Ctrl-C within the first epoch, it holds the current weights.

    Raises:
        UserError: If the images are too small for the networks, another process is working on the
            run, its folder is full or not empty, or its checkpoint does not match.
    """
    setup = TrainingSetup.of(config, dataset, split, device)
    console.say(_describe_training(setup))
    model = setup.build()  # before the folder exists: a pretrained network may be missing
    run.path.mkdir(parents=True, exist_ok=True)
    with run.locked():
        if not resume and refined_in is None:
            run.require_unused()
        with writing(run):
            return _train(setup, model, run, command, console, resume, refined_in or 0.0)


@contextmanager
def writing(run: RunDirectory) -> Iterator[None]:
    """Reports a folder that cannot be written, with the command that resumes.

    Args:
        run: The run that the block writes.

    Raises:
        UserError: If it is full or cannot be written.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if (cause := folder_error(error)) is None:
            raise
        raise UserError(
            f"cannot write to {run.path}: {cause.strerror}; make room there, then "
            f"resume after the last finished epoch: {resume_command(run)}"
        ) from error


def resume_command(run: RunDirectory) -> str:
    """The command that resumes an interrupted training."""
    return command_line("train", "--resume", run.path)


def _describe_resuming(recorder: Recorder, progress: Progress) -> str:
    """A line for the user on the state from which training resumes."""
    line = "no epoch was finished: training starts again"
    if recorder.info and recorder.info.training.epochs and not progress.epochs:
        line = "there is no checkpoint of the last epoch: training starts again"
    if progress.epochs:
        line = f"resuming after epoch {progress.epochs}, the last finished one"
    if recorder.saved:
        line += f"; the run keeps the weights of {recorder.best_weights()} until others are better"
    return line


def _describe_training(setup: TrainingSetup) -> str:
    """A line for the user on the device and the length of training."""
    device, training = setup.device, setup.config.training
    length = f"{training.epochs} epochs of {setup.n_steps} batches of {setup.batch_size}"
    if isinstance(training, OnePassTrainingConfig):
        length = f"one pass over {setup.n_images} images in batches of {setup.batch_size}"
    return f"device: {device.name} ({device.reason}); {training.precision}, {length}"


def _train(
    setup: TrainingSetup,
    model: Approach,
    run: RunDirectory,
    command: str,
    console: Console,
    resumed: bool,
    seconds: float,
) -> Outcome:
    config = setup.config
    progress = Progress(digest_of_sets(setup.split), seconds=seconds)
    if run.checkpoint.is_file():
        progress = load_checkpoint(run.checkpoint, model, progress.sets)
    run.clear_unfinished()
    save_config(config, run.config)
    save_split(setup.split, setup.dataset, run.split)
    recorder = Recorder(setup, run, model, command, progress.seconds)
    recorder.resume()
    if resumed:
        console.say(_describe_resuming(recorder, progress))
    if progress.epochs:
        write_history(run.history, progress.history)
    validation = Validation(
        recorder.detector,
        setup.split.validation,
        CRITERIA[config.learns_from],
        recorder.save,
        recorder.best,
        setup.split.roi,
    )
    board = TensorBoard(
        run.tensorboard,
        config,
        recorder.detector,
        validation,
        setup.split.validation,
        progress.epochs,
        setup.split.roi,
    )
    status, *said = _fit(setup, run, model, recorder, validation, board, progress, console)
    board.close(status)
    recorder.finish(status, progress.epochs)
    if status == "completed":
        run.checkpoint.unlink(missing_ok=True)
    return Outcome(status, recorder.info, *said)


@contextmanager
def _iterators_freed() -> Iterator[None]:
    """Frees the iterator of the batches, which the frames of an exception or a cycle may hold.

    Otherwise the garbage collector could free it in one of the threads that read images for it,
    which then waits for itself for ever.
    """
    try:
        yield
    except BaseException as error:
        each: BaseException | None = error
        while each is not None:
            for frame, _ in traceback.walk_tb(each.__traceback__):
                _clear(frame)
            each = each.__context__
        raise
    finally:
        gc.collect()


def _clear(frame: FrameType | None) -> None:
    """Clears a frame and its callers, which Keras removes from the traceback."""
    while frame is not None:
        try:
            frame.clear()
        except RuntimeError:  # it still runs, and so do its callers
            return
        frame = frame.f_back


def _fit(
    setup: TrainingSetup,
    run: RunDirectory,
    model: keras.Model,
    recorder: Recorder,
    validation: Validation,
    board: TensorBoard,
    progress: Progress,
    console: Console,
) -> tuple[Status, str, str]:
    """Runs the remaining epochs; returns the status, a message and the remedy."""
    training = setup.config.training
    lines = EpochLines(console, _notes(setup, progress))
    vary_random_numbers(model)
    try:
        with _iterators_freed():
            model.fit(
                setup.batches(progress.epochs * setup.n_steps),
                initial_epoch=progress.epochs,
                epochs=training.epochs,
                steps_per_epoch=setup.n_steps,
                # The model is finished before validation, which precedes what writes its results.
                callbacks=[
                    StopOnNonFiniteLoss(),
                    FinishEpoch(),
                    validation,
                    board,
                    Checkpoints(run, progress, recorder.seconds),
                    lines,
                ],
                verbose=0,
                shuffle=False,
            )
    except KeyboardInterrupt:
        if not progress.epochs:
            recorder.save_unfinished(*validation.measure())
        return "interrupted", f"interrupted; {recorder.kept()}", f"resume: {resume_command(run)}"
    except NonFiniteLoss as error:
        remedy = "lower --training.learning-rate and train again"
        return "non_finite_loss", f"{error}; {recorder.kept()}", remedy
    except tf.errors.OpError as error:
        # A file was removed or damaged during training.
        if (unreadable := setup.unreadable()) is None:
            raise
        raise UserError(f"{unreadable}; {recorder.kept()}") from error
    finally:
        lines.clear()
    return "completed", "", ""


def _notes(setup: TrainingSetup, progress: Progress) -> Notes:
    """What explains the epochs to come, and knows those that were."""
    labels = setup.split.validation.labels
    keeps_last = CRITERIA[setup.config.learns_from] == LAST_EPOCH
    n_normal, n_anomalies = (int((labels == label).sum()) for label in (0, 1))
    notes = Notes(setup.config.training.epochs, n_normal, n_anomalies, keeps_last)
    for epoch, row in enumerate(progress.history):
        notes.notes_after(epoch, row)
    return notes
