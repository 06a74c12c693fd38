"""Output of a training in a terminal or in a Python program."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anomaly_tf.script import printable

# As in `keras.Model.fit`: 0 silent, 1 progress bar, 2 one line per epoch.
Verbose = Literal["auto", 0, 1, 2]


def verbosity(verbose: Verbose = "auto") -> int:
    """0, 1 or 2; `auto` is 1, a progress bar, if stdout is a terminal, else 2.

    Raises:
        ValueError: If `verbose` has another value.
    """
    if isinstance(verbose, str) and verbose == "auto":
        return 1 if sys.stdout.isatty() else 2
    if verbose not in (0, 1, 2):
        raise ValueError(f"expected verbose to be 'auto', 0, 1 or 2; got {verbose!r}")
    return int(verbose)


@dataclass(frozen=True)
class Console:
    """The output of a command: messages and warnings on stdout, left-out files on stderr.

    Attributes:
        verbose: 0: no messages and no epochs; 1: a progress bar within each epoch and a line for
            each epoch; 2: the lines only. Warnings and left-out files are always reported.
    """

    verbose: int = 2

    def say(self, line: str) -> None:
        """Prints a message."""
        if self.verbose:
            print(printable(line), flush=True)

    def doubt(self, line: str) -> None:
        """Prints a warning about the data, or about a guess."""
        print(printable(line), flush=True)

    def leave_out(self, line: str) -> None:
        """Prints a line on data that is not used."""
        print(printable(line), file=sys.stderr)


@dataclass(frozen=True)
class ProgramConsole(Console):
    """The output in a Python program: lines on doubtful and left-out data become warnings.

    Attributes:
        worded: Function that changes the form of option names in a line.
    """

    worded: Callable[[str], str] = str

    def say(self, line: str) -> None:
        """Prints a message."""
        super().say(self.worded(line))

    def doubt(self, line: str) -> None:
        """Issues a `UserWarning` about the data."""
        warnings.warn(self.worded(line).removeprefix("WARNING: "), stacklevel=_outside())

    def leave_out(self, line: str) -> None:
        """Issues a `UserWarning` on data that is not used."""
        self.doubt(line)


def _outside() -> int:
    """Number of frames from `ProgramConsole.doubt` to the first one outside of this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("anomaly_tf."):
        frame, level = frame.f_back, level + 1
    return level
