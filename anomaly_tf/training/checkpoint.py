"""Checkpoints: the state of a training after each epoch, from which it resumes.

Batches are a function of the seed and their number (`data/pipelines.py`); learning rate and moving
average are functions of the optimizers' step count. The variables and the number of finished epochs
are therefore the whole state. Keras's own weight files lack the states of random generators, such
as those of dropout.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from anomaly_tf.approaches.base import Approach
from anomaly_tf.errors import UserError
from anomaly_tf.runs.arrays import Announced, announced_arrays, read_arrays, read_members
from anomaly_tf.runs.checks import (
    Checks,
    are_measures,
    is_number,
    is_text,
    is_whole,
    parse_json,
    require,
)
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.script import printable

PROGRESS = "progress"
MAX_PROGRESS_BYTES, MAX_PROGRESS_VALUES = 64 * 2**20, 2_000_000
PROGRESS_CHECKS: Checks = {
    "sets": (is_text, "text"),
    "epochs": (lambda value: is_whole(value, 0, 10**6), "a whole number of at least 0"),
    "seconds": (lambda value: is_number(value, 0), "a number of at least 0"),
    "history": (
        lambda value: isinstance(value, list) and all(map(are_measures, value)),
        "metrics of each epoch, finite numbers",
    ),
}


@dataclass
class Progress:
    """Progress of a training.

    Attributes:
        sets: Digest of the training and validation set; see `data/contents.py`.
        epochs: Number of finished epochs.
        seconds: Duration of these epochs.
        history: Losses and metrics of each epoch.
    """

    sets: str
    epochs: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(path: Path, model: Approach, progress: Progress) -> None:
    """Writes the state of a training atomically; an older checkpoint is replaced.

    Args:
        path: The file, `.npz`.
        model: Model whose weights, moving averages, optimizers and random generators are written.
        progress: Progress of the training, written to the same file.
    """
    text = json.dumps(dataclasses.asdict(progress))
    arrays: dict[str, Any] = {PROGRESS: np.frombuffer(text.encode(), np.uint8)}
    for number, variable in enumerate(_variables(model)):
        arrays[str(number)] = np.array(variable)
    with atomic_path(path, durable=True) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_checkpoint(path: Path, model: Approach, sets: str) -> Progress:
    """Restores the state of a model from a checkpoint.

    Args:
        path: The file that `save_checkpoint` wrote.
        model: Compiled model of the same configuration.
        sets: Digest of the current training and validation set.

    Raises:
        UserError: If the file is damaged or belongs to another model or other data.
    """
    variables = _variables(model)
    try:
        progress, values = _read(path, variables)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({printable(str(error))}); remove it to start training again from "
            "the first epoch"
        ) from error
    if progress.sets != sets:
        raise UserError(
            f"training cannot resume from {path}: the data has changed since it started; restore "
            "the data or train again"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return progress


def _read(path: Path, variables: list[keras.Variable]) -> tuple[Progress, list[np.ndarray]]:
    """Reads and checks a checkpoint; raises `ValueError` if it is wrong."""
    found = announced_arrays(path)
    expected = {
        str(number): Announced(np.array(variable).dtype, tuple(variable.shape))
        for number, variable in enumerate(variables)
    }
    text = found.pop(PROGRESS, None)
    if found != expected:
        raise ValueError("it belongs to another model")
    if text is None or text.dtype != np.uint8 or len(text.shape) != 1:
        raise ValueError(f"{PROGRESS} must be text; got {text or 'nothing'}")
    if text.size > MAX_PROGRESS_BYTES:
        raise ValueError(f"{PROGRESS} would unpack to {text.size} bytes")
    content = read_members(path, [PROGRESS])[PROGRESS].tobytes()
    saved = parse_json(content, MAX_PROGRESS_BYTES, MAX_PROGRESS_VALUES)
    require(saved, PROGRESS_CHECKS)
    saved.pop("picture_scale", None)  # of earlier versions
    if set(saved) != set(PROGRESS_CHECKS):
        raise ValueError(f"{PROGRESS} holds other names than {', '.join(PROGRESS_CHECKS)}")
    if len(saved["history"]) != saved["epochs"]:
        raise ValueError(f"{saved['epochs']} epochs, and a history of {len(saved['history'])}")
    return Progress(**saved), [*read_arrays(path, expected).values()]


def _variables(model: Approach) -> list[keras.Variable]:
    own = [variable for optimizer in model.optimizers.values() for variable in optimizer.variables]
    return [*model.variables, *own]
