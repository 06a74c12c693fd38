"""A readable line for each epoch, and a progress bar within it."""

from __future__ import annotations

import shutil
import time
from typing import Any

import keras

from anomaly_tf.approaches.base import Approach
from anomaly_tf.script import duration
from anomaly_tf.training.console import Console
from anomaly_tf.training.notes import Notes

# Seconds between two updates of the progress bar, and its width in characters.
REFRESH, BAR = 0.2, 30
# Validation metrics, in the order in which they precede the losses.
MEASURES = ("val_auroc", "val_accuracy")


class EpochLines(keras.callbacks.Callback):
    """Prints a line after each epoch: metrics, minimised losses, duration, time left.

    Must follow all other callbacks, so that an epoch is saved before its line is printed.

    Args:
        console: Where to print.
        notes: What is said of figures that surprise, behind the line.
    """

    def __init__(self, console: Console, notes: Notes) -> None:
        super().__init__()
        self._console, self._notes = console, notes
        self._shown = 0.0
        self._compiling: float | None = None  # seconds until the end of the first step

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Records the time."""
        self._epoch, self._start = epoch, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Updates the progress bar."""
        now = time.monotonic()
        if self._compiling is None:
            self._compiling = now - self._start
        if self._console.verbose == 1 and now - self._shown > REFRESH:
            self._shown = now
            steps = self.params["steps"]
            bar = "#" * (BAR * (batch + 1) // steps)
            losses = describe_losses(self.model, logs or {})
            line = f"{self._head()}  [{bar:<{BAR}}] {batch + 1}/{steps}  {losses}"
            # A line that wraps could not be replaced by the next one.
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{line[:width]}", end="", flush=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Prints the line."""
        self.clear()
        logs = logs or {}
        seconds = time.monotonic() - self._start
        left = (self.params["epochs"] - epoch - 1) * (seconds - (self._compiling or 0.0))
        self._compiling = 0.0
        words = [
            self._head(),
            *(f"{name} {logs[name]:.4f}" for name in MEASURES if name in logs),
            describe_losses(self.model, logs),
            duration(seconds),
            f"{duration(left)} left" if left else "",
        ]
        self._console.say("  ".join(word for word in words if word))
        for line in self._notes.notes_after(epoch, logs):
            self._console.say(line)

    def clear(self) -> None:
        """Removes the progress bar, also if training ended within an epoch."""
        if self._console.verbose == 1:
            print("\r\033[K", end="", flush=True)

    def _head(self) -> str:
        epochs = str(self.params["epochs"])
        return f"epoch {self._epoch + 1:>{len(epochs)}}/{epochs}"


def describe_losses(model: Approach, logs: dict[str, Any]) -> str:
    """The losses that networks minimise, by name: `generator 0.412  discriminator 0.693`."""
    names = [name for name in model.minimised if name in logs]
    return "  ".join(f"{name.replace('_', ' ')} {float(logs[name]):#.3g}" for name in names)
