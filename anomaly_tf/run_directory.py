"""The folder that holds a run: what is in it, and whether it is whole.

| file or folder | written by | holds |
|---|---|---|
| `config.yaml` | train | the resolved configuration |
| `split.json` | train | of a folder of pictures: which file is in which set |
| `model.keras` | train | the detector: uint8 images to score, error map, reconstruction |
| `detector.json` | train | threshold, calibration scores, training facts, digest of the model |
| `history.csv` | train | losses and validation AUROC of every epoch |
| `tensorboard/` | train | event files |
| `metrics.json`, `plots/` | evaluate | test metrics and pictures |

The run is saved at every improvement, so a training that was killed leaves its best epoch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from anomaly_tf.errors import UserError
from anomaly_tf.metadata import RUN_FIELDS, read_metadata


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """The detector, a Keras file."""
        return self.path / "model.keras"

    @property
    def split(self) -> Path:
        """Which file is in which set; there if the data is a folder of pictures."""
        return self.path / "split.json"

    @property
    def detector(self) -> Path:
        """What the detector needs beside its weights."""
        return self.path / "detector.json"

    @property
    def history(self) -> Path:
        """Losses and validation AUROC per epoch."""
        return self.path / "history.csv"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        """Test metrics."""
        return self.path / "metrics.json"

    @property
    def plots(self) -> Path:
        """Pictures of the evaluation."""
        return self.path / "plots"


def plan_run(path: str | None, approach: str) -> RunDirectory:
    """Chooses a new run's folder and makes sure, without creating it, that it can be written.

    Args:
        path: The user's choice, which must not exist or be empty; else
            `runs/<approach>/<date-time>`.
        approach: Name of the approach.

    Raises:
        UserError: If the folder holds something or cannot be written.
    """
    folder = Path(path) if path else _unused(Path("runs") / approach)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"run directory {folder} already exists; choose a new --run-dir")
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(
            f"cannot write to {folder}: {parent} is not a writable folder; choose another --run-dir"
        )
    return RunDirectory(folder)


def open_run(path: str | Path) -> tuple[RunDirectory, dict[str, Any]]:
    """Opens a trained run.

    Returns:
        Its paths and the content of `detector.json`; see `metadata.py` for what of it is checked.

    Raises:
        UserError: If the folder is not a run, is incomplete, or `detector.json` is damaged.
    """
    run = RunDirectory(Path(path))
    if not run.path.is_dir():
        raise UserError(f"run directory {path} does not exist; give the folder that train.py made")
    if not run.config.is_file():
        raise UserError(
            f"{path} is not a run directory (no {run.config.name}); "
            "give the folder that train.py made"
        )
    for file in (run.detector, run.model):
        if not file.is_file():
            raise UserError(
                f"run {path} is incomplete (no {file.name}): its training did not "
                "finish an epoch; train again"
            )
    try:
        return run, read_metadata(run.detector, RUN_FIELDS)
    except ValueError as error:
        raise UserError(f"{run.detector} is damaged ({error}); train again") from error


def _unused(folder: Path) -> Path:
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    candidates = (folder / f"{name}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 100))))
    return next(path for path in candidates if not path.exists())
