"""TensorBoard: one event file per training, in the order in which a person looks at it.

TensorBoard sorts its cards by name and groups them by the part in front of the slash. It opens the
first two groups, and does not let the writer of the events choose another order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams_summary
from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG

from anomaly_tf.config import Config, flatten
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.roi import Roi
from anomaly_tf.deploy.explained import Explained, explained
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.deploy.overlay import overlay
from anomaly_tf.runs.directory import COMPLETED
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.training.callbacks import Validation

VALIDATION, LOSSES, RATES, PICTURES, SCORES, DETAILS = (
    *("1 validation", "2 losses", "3 learning rates"),
    *("4 pictures", "5 validation scores", "6 training details"),
)
RATE = "_learning_rate"
KINDS = "normal", "anomaly"
# Options that every run shows; of the others those that differ from the approach's defaults.
ALWAYS = (
    *("approach", "protocol", "data", "normal_class", "seed"),
    *("training.epochs", "training.steps_per_epoch", "training.batch_size"),
    *("training.learning_rate",),
)
# Options that cannot change the result.
NEVER = ("data_dir",)
# Largest number of epochs after which TensorBoard gets images and histograms; numbers are written
# after every epoch.
MAX_PICTURES = 30
# Images of one group, their longest side, and the height to which small ones are enlarged.
PICTURES_PER_GROUP, LONGEST, SMALL = 8, 256, 84


class TensorBoard(keras.callbacks.Callback):
    """Writes options, metrics, losses, score histograms and pictures of a training.

    The step of an event is the epoch, counted from 1 as in messages; that of the options is 0.
    Must follow `Validation`, whose metrics and scores it writes, and precede `Checkpoints`, so that
    the events of a finished epoch are complete.

    Args:
        folder: The folder of the event file; TensorBoard shows it as one run.
        config: The resolved configuration.
        detector: The detector in training.
        validation: The callback that computes the scores.
        images: The validation set.
        epochs: Number of epochs that are finished, if the training resumes. Their events are kept,
            those of an unfinished one are removed.
        roi: The regions of the images that count; None: everything.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        detector: TrainedDetector,
        validation: Validation,
        images: LabelledImages,
        epochs: int = 0,
        roi: Roi | None = None,
    ) -> None:
        super().__init__()
        self._detector, self._validation, self._roi = detector, validation, roi
        self._labels = images.labels
        self._groups = {
            name: _examples(images, label)
            for label, name in enumerate(KINDS)
            if label in images.labels
        }
        is_new = not keep_events(folder, epochs)
        self._writer = tf.summary.create_file_writer(str(folder))
        if is_new:
            with self._writer.as_default(step=0):
                # Without a name of its own, the trial has that of the run.
                hparams.hparams(chosen_options(config), trial_id="")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the events of an epoch."""
        with self._writer.as_default(step=epoch + 1):
            for name, value in (logs or {}).items():
                tf.summary.scalar(tag_of(name, self.model.minimised), value)
            if has_pictures(epoch, self.params["epochs"]):
                self._write_scores()
                self._write_pictures()
        self._writer.flush()

    def close(self, status: str) -> None:
        """Ends the event file, and the trial unless it was interrupted and may resume.

        A TensorBoard that is running keeps the first end of a trial that it reads.

        Args:
            status: How training ended; see `Outcome`.
        """
        if status != "interrupted":
            kind = api_pb2.STATUS_SUCCESS if status == COMPLETED else api_pb2.STATUS_FAILURE
            end = hparams_summary.session_end_pb(kind).SerializeToString()
            with self._writer.as_default():
                tf.summary.experimental.write_raw_pb(end, step=0)
        self._writer.close()

    def _write_scores(self) -> None:
        for label, name in enumerate(KINDS):
            if name in self._groups:
                chosen = self._validation.scores[self._labels == label]
                tf.summary.histogram(f"{SCORES}/{name}", chosen)

    def _write_pictures(self) -> None:
        shown = {
            name: explained(self._detector, images, LONGEST, self._roi)
            for name, images in self._groups.items()
        }
        # Errors fall by orders of magnitude in training: a scale for all epochs would saturate, or
        # be dark in the end. All pictures of an epoch have the same one.
        largest = max(float(part.maps.max()) for part in shown.values())
        map_name = "error" if "error_map" in self._detector.outputs else "Grad-CAM"
        for name, part in shown.items():
            tf.summary.image(
                f"{PICTURES}/{name}",
                draw(part, map_name, largest)[np.newaxis],
                description=f"validation images, original, reconstruction if there is one, and "
                f"{map_name}; full red is the largest value of this epoch",
            )


def tag_of(name: str, minimised: tuple[str, ...]) -> str:
    """The tag of a loss or metric, whose first part is the heading in TensorBoard.

    Args:
        name: Its name in `history.csv`.
        minimised: Names of the losses that networks minimise.

    >>> tag_of("val_auroc", ("loss",)), tag_of("generator_learning_rate", ("generator",))
    ('1 validation/AUROC', '3 learning rates/generator')
    """
    heading, label = DETAILS, name
    if name.startswith("val_"):
        heading, label = VALIDATION, name.removeprefix("val_")
    elif name.endswith(RATE):
        heading, label = RATES, name.removesuffix(RATE)
    elif name in minimised:
        heading = LOSSES
    # Capitals come first.
    return f"{heading}/{label.replace('_', ' ').replace('auroc', 'AUROC')}"


def chosen_options(config: Config) -> dict[str, bool | int | float | str]:
    """Options of a training for the tab HParams, by their names on the command line.

    Args:
        config: The resolved configuration.

    Returns:
        Options in `ALWAYS` that are set, and those that differ from the defaults of the approach.
    """
    defaults = flatten(type(config)(protocol=config.protocol).for_protocol())
    return {
        name.replace("_", "-"): _plain(value)
        for name, value in flatten(config).items()
        if value is not None
        and name not in NEVER
        and (name in ALWAYS or value != defaults.get(name))
    }


def _plain(value: Any) -> bool | int | float | str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, (bool, int, float)) else str(value)


def has_pictures(epoch: int, epochs: int) -> bool:
    """True if TensorBoard gets images after an epoch (from 0); always for the first and last."""
    return epoch % math.ceil(epochs / MAX_PICTURES) == 0 or epoch == epochs - 1


def draw(shown: Explained, map_name: str, largest: float) -> np.ndarray:
    """Draws images, their reconstructions if there are any, and their maps in rows.

    Args:
        shown: The images, all of one size.
        map_name: Label of the maps.
        largest: The largest value of all maps that are shown, which is full red; 0 is white.

    Returns:
        uint8 `(height, width, 3)`.
    """
    rows = {"original": _in_a_row(shown.images)}
    if shown.rebuilt is not None:
        rows["reconstruction"] = _in_a_row(shown.rebuilt)
    strength = [overlay(_white(image), image) for image in shown.maps / (largest or 1.0)]
    rows[f"{map_name}, from 0 (white) to {largest:.3g} (red)"] = _in_a_row(np.array(strength))
    zoom = max(1, SMALL // shown.images.shape[1])
    width, height = (zoom * side for side in rows["original"].size)
    size = max(14, width // 32)
    font, line = ImageFont.load_default(size), math.ceil(1.3 * size)
    whole = max(width, *(math.ceil(font.getlength(name)) + 4 for name in rows))
    picture = Image.new("RGB", (whole, len(rows) * (height + line)), "white")
    for number, (name, row) in enumerate(rows.items()):
        top = number * (height + line)
        ImageDraw.Draw(picture).text((2, top), name, "black", font)
        picture.paste(row.resize((width, height), Image.Resampling.NEAREST), (0, top + line))
    return np.asarray(picture)


def _white(pixels: np.ndarray) -> Image.Image:
    return Image.new("RGB", pixels.shape[::-1], "white")


def _in_a_row(images: np.ndarray) -> Image.Image:
    """Images `(N, H, W, C)` side by side, with a white line between them."""
    gap = max(1, images.shape[2] // 28)
    framed = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    row = np.concatenate(framed, axis=1)[:, :-gap]
    return Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row).convert("RGB")


def _examples(images: LabelledImages, label: int) -> LabelledImages:
    """A few images with a label: one of each class, or several of a single class."""
    numbers = np.flatnonzero(images.labels == label)
    _, one_of_each = np.unique(images.classes[numbers], return_index=True)
    chosen = numbers[one_of_each] if len(one_of_each) > 1 else numbers
    return images.take(chosen[:PICTURES_PER_GROUP])


def keep_events(folder: Path, epochs: int) -> bool:
    """Leaves the events of the finished epochs in a folder, in one file.

    Args:
        folder: The folder of the event files.
        epochs: Number of finished epochs; if it is 0, nothing is kept.

    Returns:
        Whether events were kept.
    """
    files = sorted(folder.glob("events.out.tfevents.*"))
    kept = files[: min(epochs, 1)]
    for first in kept:
        with atomic_path(first) as path, tf.io.TFRecordWriter(str(path)) as writer:
            for record in itertools.chain.from_iterable(map(_records, files)):
                event = tf.compat.v1.Event.FromString(record)
                tags = {value.tag for value in event.summary.value}
                if event.step <= epochs and SESSION_END_INFO_TAG not in tags:
                    writer.write(record)
    for file in files[len(kept) :]:
        file.unlink()
    return bool(kept)


def _records(file: Path) -> Iterator[bytes]:
    """The records of an event file, without one that a killed process left incomplete."""
    with suppress(tf.errors.DataLossError):
        yield from tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
