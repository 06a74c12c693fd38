"""The folder that holds a run: what is in it, and whether it is whole.

| file or folder | written by | holds |
|---|---|---|
| `config.yaml` | train | the resolved configuration |
| `split.json` | train | of a folder of pictures: which file is in which set |
| `model.keras` | train | the detector: uint8 images to score, error map, reconstruction |
| `detector.json` | train | threshold, calibration scores, training facts, digest of the model |
| `history.csv` | train | losses and validation AUROC of every epoch |
| `tensorboard/` | train | event files |
| `checkpoint.npz` | train | the state after the last epoch, to go on from; gone at the end |
| `metrics.json`, `scores.csv`, `plots/` | evaluate | test metrics, each score, pictures |

The run is saved at every improvement, so a training that was killed leaves its best epoch. The
model is first written as `model-new.keras`; it becomes the run's with the `detector.json` that
names its digest, whichever of the two names it then has.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import RUN_FIELDS, DetectorInfo
from anomaly_tf.runs.files import PARTIAL, require_writable, sha256
from anomaly_tf.runs.outputs import require_own_place
from anomaly_tf.runs.paths import user_path

# Status in `detector.json` of a training that came to its end.
COMPLETED = "completed"


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
    def new_model(self) -> Path:
        """A detector that was saved and is not yet called `model.keras`."""
        return self.path / "model-new.keras"

    def model_with(self, digest: str) -> Path | None:
        """The model's file with this SHA-256 digest, if there is one."""
        for file in (self.model, self.new_model):
            if file.is_file() and sha256(file) == digest:
                return file
        return None

    @property
    def checkpoint(self) -> Path:
        """State of the training after its last epoch."""
        return self.path / "checkpoint.npz"

    @property
    def is_finished(self) -> bool:
        """Whether training has come to its end."""
        return self.holds_detector and open_run(self.path)[1].training.status == COMPLETED

    @property
    def holds_detector(self) -> bool:
        """Whether a detector was saved: its model and `detector.json` are there."""
        return self.detector.is_file() and (self.model.is_file() or self.new_model.is_file())

    def require_unused(self) -> None:
        """Refuses a folder that holds more than unfinished files of a process that was killed.

        Raises:
            UserError: If it does, or is a file.
        """
        if not self.path.exists():
            return
        if self.path.is_dir() and all(
            path.name.startswith(PARTIAL) for path in self.path.iterdir()
        ):
            return
        more = f", or go on with it by --resume {self.path}" if self.checkpoint.is_file() else ""
        raise UserError(f"run directory {self.path} already exists; choose a new --run-dir{more}")

    def require_apart(self, read_from: Iterable[Path]) -> None:
        """Makes sure that an evaluation will not be written among what it reads.

        Args:
            read_from: Folders of images.

        Raises:
            UserError: If it would, or would be written behind a link.
        """
        outputs = {self.metrics: Path.is_file, self.plots / "any.png": Path.is_file}
        require_own_place("--run-dir", self.path, outputs, read_from)

    def require_unlinked(self) -> None:
        """Refuses a run with links to folders, through which it would be written elsewhere.

        Raises:
            UserError: If it holds one.
        """
        for path in self.path.rglob("*"):
            if path.is_symlink() and path.is_dir():
                raise UserError(
                    f"{path} is a link, and what is written to a run must stay inside it; remove "
                    "the link or put the folder itself in its place"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from changing the run; ends with the process, however that ends.

        Raises:
            UserError: If another one holds it.
        """
        import fcntl  # which is not on Windows, where a run can be read and not be trained

        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another process is working on run {self.path}; wait for its end or choose "
                    "another run"
                ) from error
            yield
        finally:
            os.close(handle)

    def clear_unfinished(self) -> None:
        """Removes the unfinished files that a killed process left; the run must be locked."""
        for path in self.path.rglob(f"{PARTIAL}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

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
    def scores(self) -> Path:
        """Score and verdict of each test image."""
        return self.path / "scores.csv"

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
    folder = user_path(path) if path else _unused(Path("runs") / approach)
    run = RunDirectory(folder)
    run.require_unused()
    require_writable(folder, "--run-dir")
    return run


def open_run(path: str | Path) -> tuple[RunDirectory, DetectorInfo]:
    """Opens a trained run.

    Returns:
        Its paths and what `detector.json` holds, checked.

    Raises:
        UserError: If the folder is not a run, is incomplete, or `detector.json` is damaged.
    """
    run = RunDirectory(user_path(path))
    if not run.path.is_dir():
        raise UserError(f"run directory {path} does not exist; give the folder that train.py made")
    if not run.config.is_file():
        raise UserError(
            f"{path} is not a run directory (no {run.config.name}); "
            "give the folder that train.py made"
        )
    for found, name in (
        (run.detector.is_file(), run.detector.name),
        (run.model.is_file() or run.new_model.is_file(), run.model.name),
    ):
        if not found:
            raise UserError(
                f"run {path} is incomplete (no {name}): its training did not finish an epoch; "
                f"go on with it: python train.py --resume {path}"
            )
    try:
        return run, DetectorInfo.read(run.detector, RUN_FIELDS)
    except ValueError as error:
        raise UserError(f"{run.detector} is damaged ({error}); train again") from error


def unfinished_training(run: RunDirectory, info: DetectorInfo) -> str | None:
    """What the user of a run should know if its training has not come to its end."""
    training = info.training
    if training.status == COMPLETED:
        return None
    how = {
        "interrupted": "was interrupted",
        "non_finite_loss": "ended with a loss that is no number",
    }
    kept = f"epoch {training.best_epoch}" if training.best_epoch else "its unfinished first epoch"
    said = f"the training of {run.path} {how.get(training.status, 'is unfinished')}"
    said += f" after epoch {training.epochs}; this is the detector of {kept}"
    if training.status == "non_finite_loss":
        return said
    return (
        f"{said}; {shlex.join(['python', 'train.py', '--resume', str(run.path)])} goes on with it"
    )


def _unused(folder: Path) -> Path:
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    candidates = (folder / f"{name}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 100))))
    return next(path for path in candidates if not path.exists())
