"""Names of the commands: `python train.py` if that script runs, else `anomaly-tf train`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

# Each command and its summary, in the order in which a user needs them.
COMMANDS = {
    "train": "Train a detector and write its run directory.",
    "evaluate": "Score the test set of a run; write its page, metrics, scores and plots.",
    "report": "Write the page of a run, or one that compares several.",
    "export": "Export a run as a SavedModel, a .tflite file or a page for the browser.",
    "predict": "Score image files.",
    "search": "Search for better options of an approach.",
    "benchmark": "Train and evaluate several approaches and compare them.",
}
NAME = "anomaly-tf"


def program(command: str) -> str:
    """Name of a command in its help: `train.py` if that script runs, else `anomaly-tf train`."""
    return f"{command}.py" if _is_script() else f"{NAME} {command}"


def command_line(command: str, *arguments: object) -> str:
    """A command with its arguments, quoted for a shell, as the user would give it.

    >>> command_line("evaluate", "--run-dir", "runs/my parts")
    "anomaly-tf evaluate --run-dir 'runs/my parts'"
    """
    words = ["python", f"{command}.py"] if _is_script() else [NAME, command]
    return shlex.join([*words, *map(str, arguments)])


def _is_script() -> bool:
    started = Path(sys.argv[0] if sys.argv else "")
    return started.suffix == ".py" and started.stem in COMMANDS
