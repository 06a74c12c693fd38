"""Run directories: their files, and checks that they are complete.

| file or folder | written by | content |
|---|---|---|
| `config.yaml` | train | the resolved configuration |
| `split.json` | train | for a folder of images: the files of each set |
| `validation.npz` | train | for arrays given in Python: the validation set |
| `refinement.json` | train | with `--refine`: the training images that were left out |
| `refinement/` | train | the trainings that find them and `unusual.json`; removed after them |
| `model.keras` | train | the detector: uint8 images to score, error map, reconstruction |
| `detector.json` | train | threshold, calibration scores, training facts, digest of the model |
| `history.csv` | train | losses and validation AUROC of every epoch |
| `tensorboard/` | train | event files |
| `checkpoint.npz` | train | the state after the last epoch, to resume from; removed at the end |
| `metrics.json`, `scores.csv`, `plots/` | evaluate | test metrics, each score, plots |
| `report.html`, `examples.json` | evaluate | the page of the run, and the pictures on it |

The run is saved at every improvement, so that a killed training leaves its best epoch. The model is
first written as `model-new.keras`. The `detector.json` with its digest makes it the model of the
run, under either name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from anomaly_tf.errors import UserError
from anomaly_tf.program import command_line
from anomaly_tf.runs.detector_info import RUN_FIELDS, DetectorInfo
from anomaly_tf.runs.files import PARTIAL, locked, require_writable, sha256
from anomaly_tf.runs.outputs import (
    IsOwn,
    is_examples,
    is_plot,
    is_report,
    is_scores,
    json_with,
    require_own_place,
)
from anomaly_tf.runs.paths import user_path

# Status of a finished training in `detector.json`.
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
        """A saved detector that is not yet renamed to `model.keras`."""
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
        """True if training is finished."""
        return self.holds_detector and open_run(self.path)[1].training.status == COMPLETED

    @property
    def holds_detector(self) -> bool:
        """True if a detector was saved: its model and `detector.json` exist."""
        return self.detector.is_file() and (self.model.is_file() or self.new_model.is_file())

    def require_unused(self) -> None:
        """Refuses a folder with other content than unfinished files of a killed process.

        Raises:
            UserError: If there is other content, or the path is a file.
        """
        if not self.path.exists():
            return
        if self.path.is_dir() and all(
            path.name.startswith(PARTIAL) for path in self.path.iterdir()
        ):
            return
        more = f", or resume it with --resume {self.path}" if self.checkpoint.is_file() else ""
        raise UserError(f"run directory {self.path} already exists; choose a new --run-dir{more}")

    def require_resumable(self) -> None:
        """Refuses a run that has lost its detector and has no checkpoint to resume from.

        Raises:
            UserError: If the run cannot be resumed. A run with a checkpoint, or one without a
                finished epoch, can.
        """
        if self.checkpoint.is_file() or self.holds_detector:
            return
        for there, lost in ((self.detector, self.model), (self.model, self.detector)):
            if there.is_file():
                raise UserError(
                    f"run {self.path} has lost its {lost.name}, and there is no checkpoint to "
                    "resume from; restore the file, or train again in a new --run-dir"
                )

    def require_own_evaluation(self, option: str, read_from: Iterable[Path]) -> None:
        """Checks that an evaluation replaces only an earlier one, and nothing that it reads.

        Args:
            option: The option that names the folder, for messages.
            read_from: Folders that are read.

        Raises:
            UserError: If it would replace other files, or be written through a link.
        """
        outputs: dict[Path, IsOwn] = {
            self.metrics: json_with("approach", "auroc", "threshold_method"),
            self.scores: is_scores,
            self.examples: is_examples,
            self.report: is_report,
            self.plots / "any.png": is_plot,  # checks the folder even without plots
            **dict.fromkeys(self.plots.glob("*.png"), is_plot),
        }
        require_own_place(option, self.path, outputs, read_from)

    def require_unlinked(self) -> None:
        """Refuses a run with links to folders, because files would be written outside of it.

        Raises:
            UserError: If it contains one.
        """
        for path in self.path.rglob("*"):
            if path.is_symlink() and path.is_dir():
                raise UserError(
                    f"{path} is a link, and the files of a run must stay inside it; remove the "
                    "link or replace it by the folder itself"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the run against changes by other processes; the lock ends with the process.

        Raises:
            UserError: If another process holds the lock.
        """
        with locked(self.path, "run"):
            yield

    def clear_unfinished(self) -> None:
        """Removes unfinished files of a killed process; the run must be locked."""
        for path in self.path.rglob(f"{PARTIAL}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    @property
    def split(self) -> Path:
        """The files of each set; exists if the data is a folder of images."""
        return self.path / "split.json"

    @property
    def refinement(self) -> Path:
        """The training images that `--refine` left out."""
        return self.path / "refinement.json"

    @property
    def halves(self) -> Path:
        """The trainings on each half of the images, by which `--refine` scores the other."""
        return self.path / "refinement"

    @property
    def unusual(self) -> Path:
        """The training images that neither half learns from."""
        return self.halves / "unusual.json"

    @property
    def validation(self) -> Path:
        """The validation set; exists if the data was arrays of a Python program."""
        return self.path / "validation.npz"

    @property
    def detector(self) -> Path:
        """Metadata of the detector."""
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
        """Plots of the evaluation."""
        return self.path / "plots"

    @property
    def examples(self) -> Path:
        """Test images with their maps, as the page of the run shows them."""
        return self.path / "examples.json"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"


def plan_run(path: str | None, approach: str) -> RunDirectory:
    """Chooses the folder of a new run and checks that it can be written, without creating it.

    Args:
        path: The folder, which must not exist or be empty. Default:
            `runs/<approach>/<date-time>`.
        approach: Name of the approach.

    Raises:
        UserError: If the folder is not empty or cannot be written.
    """
    folder = user_path(path) if path else _unused(Path("runs") / approach)
    run = RunDirectory(folder)
    run.require_unused()
    require_writable(folder, "--run-dir")
    return run


def open_run(path: str | Path) -> tuple[RunDirectory, DetectorInfo]:
    """Opens a trained run.

    Returns:
        Its paths and the checked content of `detector.json`.

    Raises:
        UserError: If the folder is not a run, is incomplete, or `detector.json` is damaged.
    """
    run = RunDirectory(user_path(path))
    if not run.path.is_dir():
        raise UserError(f"run directory {path} does not exist; give a run directory")
    if not run.config.is_file():
        raise UserError(
            f"{path} is not a run directory (no {run.config.name}); give a run directory"
        )
    there = {
        run.detector.name: run.detector.is_file(),
        run.model.name: run.model.is_file() or run.new_model.is_file(),
    }
    missing = [name for name, found in there.items() if not found]
    if len(missing) == 1:
        raise UserError(f"run {path} has lost its {missing[0]}; restore the file or train again")
    if missing:
        raise UserError(
            f"run {path} is incomplete (no {missing[0]}): its training did not finish an epoch; "
            f"resume it: {command_line('train', '--resume', path)}"
        )
    try:
        return run, DetectorInfo.read(run.detector, RUN_FIELDS)
    except ValueError as error:
        raise UserError(f"{run.detector} is damaged ({error}); train again") from error


def unfinished_training(run: RunDirectory, info: DetectorInfo) -> str | None:
    """A line for the user if the training of a run is not finished."""
    training = info.training
    if training.status == COMPLETED:
        return None
    how = {
        "interrupted": "was interrupted",
        "non_finite_loss": "ended with a loss that is not finite",
    }
    kept = f"epoch {training.best_epoch}" if training.best_epoch else "its unfinished first epoch"
    line = f"the training of {run.path} {how.get(training.status, 'is unfinished')}"
    line += f" after epoch {training.epochs}; this is the detector of {kept}"
    if training.status == "non_finite_loss":
        return line
    return f"{line}; resume it: {command_line('train', '--resume', run.path)}"


def _unused(folder: Path) -> Path:
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    candidates = (folder / f"{name}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 100))))
    return next(path for path in candidates if not path.exists())
