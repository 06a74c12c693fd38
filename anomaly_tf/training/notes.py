"""Explains surprising losses and metrics of an epoch, each once per training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

# Epochs in which a loss should move.
PATIENCE = 10
# A loss moves if these epochs lower it by this share of its value, or of its earlier decrease.
MOVED = 0.01
# Number of consecutive epochs, up to the current one, in which a metric must be below its best.
WORSE_EPOCHS = 3
# Required decrease of the validation AUROC from its best value, and required ratio of the mean
# score of normal validation images to its lowest value.
AUROC_FALL, SCORE_RISE = 0.01, 1.5
# An AUROC above this value is never reported as chance, even with few images.
NEAR_CHANCE = 0.6
# Losses of networks that compete with each other, and other values that need not decrease.
OPPOSED = ("adversarial", "discriminator", "generator", "kl", "accuracy", "epoch", "learning_rate")


class Notes:
    """Follows the losses and metrics of a training, and explains surprising ones.

    Args:
        epochs: Number of epochs of the training.
        n_normal: Number of normal validation images.
        n_anomalies: Number of anomalies among the validation images.
        keeps_last: Whether the last epoch is kept, not the one with the best validation metric.

    Example:
        >>> notes = Notes(epochs=8, n_normal=20, n_anomalies=5, keeps_last=True)
        >>> notes.notes_after(0, {"loss": 0.5, "val_auroc": 0.9})
        []
    """

    def __init__(self, epochs: int, n_normal: int, n_anomalies: int, keeps_last: bool) -> None:
        self._epochs, self._keeps_last = epochs, keeps_last
        self._n_normal, self._n_anomalies = n_normal, n_anomalies
        self._history: dict[str, list[float]] = {}
        self._reported: set[str] = set()

    def notes_after(self, epoch: int, logs: Mapping[str, float]) -> list[str]:
        """Lines to print after an epoch, usually none.

        Must be called for every epoch; after resuming, first for the epochs of the history.

        Args:
            epoch: The finished epoch, from 0 as in Keras.
            logs: Its losses and metrics by name, as in `history.csv`.
        """
        self.record(logs)
        checks = [self._standing_loss, self._falling_auroc, self._rising_score]
        if epoch + 1 == self._epochs:
            checks.append(self._chance)
        lines = []
        for check in checks:
            if check.__name__ not in self._reported and (line := check()):
                self._reported.add(check.__name__)
                lines.append(f"note: {line}")
        return lines

    def record(self, logs: Mapping[str, float]) -> None:
        """Adds an epoch on which nothing is to be said, as `notes_after`."""
        for name, value in logs.items():
            self._history.setdefault(name, []).append(float(value))

    def _losses(self) -> dict[str, np.ndarray]:
        """Each loss that should decrease, with its values so far."""
        return {
            name: np.array(values)
            for name, values in self._history.items()
            if not name.startswith("val_") and not name.endswith(OPPOSED)
        }

    def _standing_loss(self) -> str:
        losses = self._losses()
        if not losses or any(_moves(loss) for loss in losses.values()):
            return ""
        name = "loss" if "loss" in losses else next(iter(losses))
        span = f"{name} {losses[name][-PATIENCE - 1]:.4g}, now {losses[name][-1]:.4g}"
        stands = f"no loss has fallen for {PATIENCE} epochs ({span})"
        if any(_has_fallen(loss) for loss in losses.values()):
            return f"{stands}: training has settled, and more epochs would change little"
        return (
            f"{stands}: nothing has been learnt so far; try a ten times higher or lower "
            "--training.learning-rate, and check the images"
        )

    def _falling_auroc(self) -> str:
        values = self._history.get("val_auroc", [])
        if len(values) <= WORSE_EPOCHS:
            return ""
        best = int(np.argmax(values))
        margin = max(AUROC_FALL, self._error_of(values[best]))
        if max(values[-WORSE_EPOCHS:]) > values[best] - margin or not self._falls_since(best):
            return ""
        kept = f"epoch {best + 1} is kept so far"
        if self._keeps_last:
            kept = "the last epoch is kept, so fewer --training.epochs may be better"
        return (
            f"val_auroc fell from {values[best]:.4f} (epoch {best + 1}) to {values[-1]:.4f} while "
            f"the loss falls: overfitting, or anomalies are reconstructed as well by now; {kept}"
        )

    def _error_of(self, auroc: float) -> float:
        """Standard error of an AUROC by Hanley and McNeil 1982, of at most 0.95: it is 0 at 1."""
        n, m, a = self._n_normal, self._n_anomalies, min(auroc, 0.95)
        normal, anomaly = 2 * a**2 / (1 + a) - a**2, a / (2 - a) - a**2
        variance = (a * (1 - a) + (m - 1) * anomaly + (n - 1) * normal) / max(1, n * m)
        return math.sqrt(max(0.0, variance))

    def _rising_score(self) -> str:
        values = self._history.get("val_normal_score", [])
        if len(values) <= WORSE_EPOCHS:
            return ""
        lowest = int(np.argmin(values))
        if min(values[-WORSE_EPOCHS:]) < values[lowest] * SCORE_RISE:
            return ""
        if not self._falls_since(lowest):
            return ""
        return (
            f"new normal images score higher (val_normal_score {values[lowest]:.4g} in epoch "
            f"{lowest + 1}, now {values[-1]:.4g}) while the loss falls: the training images are "
            "fitted better than new ones; the threshold, computed from new ones, accounts for it; "
            "more images help"
        )

    def _falls_since(self, epoch: int) -> bool:
        """True if most of the losses that should decrease have done so since an epoch."""
        falls = [
            loss[epoch] - loss[-1] > MOVED * abs(loss[epoch]) for loss in self._losses().values()
        ]
        return sum(falls) * 2 > len(falls)

    def _chance(self) -> str:
        values = self._history.get("val_auroc")
        if not values or not self._n_normal or not self._n_anomalies:
            return ""
        value = values[-1] if self._keeps_last else max(values)
        error = self._error_of(0.5)
        if value < 0.5 - 2 * error:
            return (
                f"val_auroc is {value:.4f}, below 0.5: anomalies score lower than normal images; "
                "either the labels are swapped (see --normal-class), or the anomalies are the "
                "simpler images and need another approach"
            )
        if value < min(0.5 + 2 * error, NEAR_CHANCE):
            return (
                f"val_auroc is {value:.4f}, where 0.5 is chance: this detector does not separate "
                "the anomalies from normal images; try another approach or a larger --image-size"
            )
        return ""


def _moves(loss: np.ndarray) -> bool:
    """True if the last `PATIENCE` epochs lowered a loss."""
    if len(loss) <= PATIENCE:
        return True
    before, now = loss[:-PATIENCE].min(), loss[-PATIENCE:].min()
    # The first value is no suitable scale: some losses fall to a fiftieth of it within ten epochs.
    wanted = min(abs(before), loss[0] - before) if _has_fallen(loss) else abs(before)
    return bool(before - now > MOVED * wanted)


def _has_fallen(loss: np.ndarray) -> bool:
    """True if a loss was ever clearly below its first value."""
    return bool(loss[0] - loss.min() > MOVED * abs(loss[0]))
