"""What a training says, and where: in a terminal, or in a Python program."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anomaly_tf.script import printable

# As `keras.Model.fit` has it: nothing, a progress bar, one line for each epoch.
Verbose = Literal["auto", 0, 1, 2]


def verbosity(verbose: Verbose = "auto") -> int:
    """0, 1 or 2; `auto` is 1, a progress bar, if stdout is a terminal, else 2.

    Raises:
        ValueError: If `verbose` is something else.
    """
    if isinstance(verbose, str) and verbose == "auto":
        return 1 if sys.stdout.isatty() else 2
    if verbose not in (0, 1, 2):
        raise ValueError(f"expected verbose to be 'auto', 0, 1 or 2; got {verbose!r}")
    return int(verbose)


@dataclass(frozen=True)
class Console:
    """The output of a command: facts and doubts on stdout, what is left out on stderr.

    Attributes:
        verbose: 0: no facts and no epochs; 1: a progress bar within each epoch, and one line for
            each; 2: the line only. What is doubtful or left out is said in any case.
    """

    verbose: int = 2

    def say(self, line: str) -> None:
        """A fact."""
        if self.verbose:
            print(printable(line), flush=True)

    def doubt(self, line: str) -> None:
        """What may be wrong with the data, or was guessed."""
        print(printable(line), flush=True)

    def leave_out(self, line: str) -> None:
        """What is not used, and why."""
        print(printable(line), file=sys.stderr)


@dataclass(frozen=True)
class ProgramConsole(Console):
    """The output inside a Python program: doubts and what is left out become warnings.

    Attributes:
        worded: How a line names options there.
    """

    worded: Callable[[str], str] = str

    def say(self, line: str) -> None:
        """A fact."""
        super().say(self.worded(line))

    def doubt(self, line: str) -> None:
        """What may be wrong with the data, as a `UserWarning`."""
        warnings.warn(self.worded(line).removeprefix("WARNING: "), stacklevel=_outside())

    def leave_out(self, line: str) -> None:
        """What is not used, as a `UserWarning`."""
        self.doubt(line)


def _outside() -> int:
    """Frames from `ProgramConsole.doubt` to the first one outside of this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("anomaly_tf."):
        frame, level = frame.f_back, level + 1
    return level
