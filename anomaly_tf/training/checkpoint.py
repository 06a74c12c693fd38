"""The state of a training after each epoch, from which it goes on when it was interrupted.

Batches are a function of the seed and their number (`data/pipelines.py`), learning rate and moving
average of the optimizers' step count, so that the variables and the number of finished epochs are
the whole state. Keras's own weight files leave out the states of random generators, as of dropout.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from anomaly_tf.approaches.base import Approach
from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import atomic_path

PROGRESS = "progress"


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        sets: Digest of the training and validation set; see `data/contents.py`.
        epochs: Finished epochs.
        seconds: Time spent on them.
        picture_scale: What is white in TensorBoard's maps; 0 before the first.
        history: Losses and measures of each epoch.
    """

    sets: str
    epochs: int = 0
    seconds: float = 0.0
    picture_scale: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(path: Path, model: Approach, progress: Progress) -> None:
    """Writes the state of a training, whole or not at all, in place of an older one.

    Args:
        path: The file, `.npz`.
        model: Its weights, moving averages, optimizers and random generators are written.
        progress: Written beside them.
    """
    text = json.dumps(dataclasses.asdict(progress))
    arrays: dict[str, Any] = {PROGRESS: np.frombuffer(text.encode(), np.uint8)}
    for number, variable in enumerate(_variables(model)):
        arrays[str(number)] = np.array(variable)
    with atomic_path(path, durable=True) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_checkpoint(path: Path, model: Approach, sets: str) -> Progress:
    """Brings a model to the state that was saved.

    Args:
        path: What `save_checkpoint` wrote.
        model: Built from the same configuration, compiled.
        sets: Digest of the sets that training goes on with.

    Raises:
        UserError: If the file is damaged or belongs to another model or other data.
    """
    variables = _variables(model)
    expected = [tuple(variable.shape) for variable in variables]
    try:
        _refuse_inflated(path, sum(int(np.prod(shape)) for shape in expected))
        with np.load(path, allow_pickle=False) as arrays:
            progress = Progress(**json.loads(arrays[PROGRESS].tobytes()))
            values = [arrays[name] for name in arrays.files if name != PROGRESS]
        if [value.shape for value in values] != expected:
            raise ValueError("it belongs to another model")
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it, and training begins again from the first "
            "epoch"
        ) from error
    if progress.sets != sets:
        raise UserError(
            f"training cannot go on from {path}: the data is no longer what it began with; bring "
            "it back or train anew"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return progress


def _variables(model: Approach) -> list[keras.Variable]:
    own = [variable for optimizer in model.optimizers.values() for variable in optimizer.variables]
    return [*model.variables, *own]


def _refuse_inflated(path: Path, numbers: int) -> None:
    """Refuses an archive that would unpack to more than the model can need."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > 16 * numbers + 2**26:
        raise ValueError(f"it would unpack to {size} bytes")
