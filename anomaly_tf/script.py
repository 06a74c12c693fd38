"""What every script does around its work: exit status, error lines, a quiet import of TensorFlow.

Needs the standard library alone, because `predict.py` runs where nothing else is installed.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import FOLDER_ERRORS

# What a spreadsheet takes for the beginning of a formula; spaces in front do not change that.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# Exit status of a process that wrote into a closed pipe, as a shell gives it.
CLOSED_PIPE = 141
# How TensorFlow's C++ part chooses what it logs: from 0, everything, to 3, fatal errors only.
LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Lines that TensorFlow and LiteRT log before any level takes effect.
NOTES = re.compile(
    rb"\A(WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} |INFO: |"
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |To enable the following instructions:)"
)
# File descriptors are the whole process's: two threads must not put them aside at the same time.
_DESCRIPTORS = threading.RLock()


def run_script(main: Callable[[list[str]], int | None]) -> None:
    """Runs a script's `main` and ends the process with its exit status.

    A `UserError` becomes one line on stderr and exit status 2, and so does one of
    `FOLDER_ERRORS`; Ctrl-C outside of training exit status 130; a reader that closes the output,
    as `head` does, exit status 141. Any other exception is a defect and keeps its traceback.
    What a console's encoding cannot show is escaped.
    """
    _prepare_output()
    try:
        status = _status_of(main)
        _flush()
    except BrokenPipeError:  # who reads the output has seen enough, as in `... | head`
        _drop_output()
        status = CLOSED_PIPE
    except OSError as error:
        if error.errno not in FOLDER_ERRORS:
            raise
        _drop_output()
        with suppress(OSError):
            print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        status = 2
    sys.exit(status)


def _status_of(main: Callable[[list[str]], int | None]) -> int | str:
    """The exit status of a script, after the line that explains it."""
    try:
        if not _has_current_folder():
            raise UserError("the current folder is gone; change to one that exists")
        return main(sys.argv[1:]) or 0
    except SystemExit as end:  # --help and --version
        return end.code or 0
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in FOLDER_ERRORS:
            raise
        place = f"{printable(str(error.filename))}: " if error.filename else "cannot write: "
        print(f"error: {place}{error.strerror}; free or choose another folder", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one ends the process at once
        print("interrupted", file=sys.stderr)
        return 130


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _prepare_output() -> None:
    """Output that is always there, and escapes what its encoding has no character for."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # closed by the caller, as by `>&-`
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Sends what waits to be written nowhere, or Python would try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
            stream.flush()


def printable(text: str) -> str:
    """What is no visible character, as in a file's name, escaped: one line stays one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(names: Sequence[str], most: int, kind: str = "") -> str:
    """Names for a message: the first `most`, and how many more there are (of this `kind`)."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more{kind and f' {kind}'}" if rest > 0 else "")


def csv_cell(value: object) -> object:
    """A cell of a CSV file that a spreadsheet takes as it is.

    Text that it would take for a formula begins with an apostrophe, by which spreadsheets mark
    text; what is no visible character is escaped. Numbers stay numbers.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.lstrip(" ")[:1] in FORMULA else text


def show_progress(done: int | None = None, total: int = 0, what: str = "images") -> None:
    """On a terminal, a bar of how far long work is; without arguments wipes it away."""
    if sys.stderr.isatty():
        shown = ""
        if done is not None:
            shown = f"[{'#' * (40 * done // total):<40}] {done} of {total} {what}"
        print(f"\r\033[K{shown}", end="", file=sys.stderr, flush=True)


def import_tensorflow() -> None:
    """Imports TensorFlow without the notes that its C++ part prints, unless it is imported already.

    They say nothing about the run, and some come before any logging level takes effect. With
    `TF_CPP_MIN_LOG_LEVEL` at 0 to 2 everything is shown as it asks.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault(LOG_LEVEL, "3")
    with without_notes():
        import tensorflow  # noqa: F401


@contextmanager
def without_notes() -> Iterator[None]:
    """Hides what libraries log on stderr in the block; every other line is shown at its end.

    With `TF_CPP_MIN_LOG_LEVEL` at 0 to 2 nothing is hidden.
    """
    with _put_aside(2) as hidden:
        try:
            yield
        finally:
            hidden.show(line for line in hidden.lines() if not NOTES.match(line))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides what C++ libraries print, which no logging level stops, unless the block fails.

    With `TF_CPP_MIN_LOG_LEVEL` at 0 to 2 nothing is hidden.
    """
    with _put_aside(1, 2) as hidden:
        try:
            yield
        except UserError:  # which says all that is to be said
            raise
        except BaseException:
            hidden.show(hidden.lines())
            raise


class _Hidden:
    """What was printed while the output was put aside, and where it would have gone."""

    def __init__(self, file: IO[bytes] | None = None, shown: int = -1) -> None:
        self._file, self._shown = file, shown

    def lines(self) -> list[bytes]:
        """All of it so far."""
        if self._file is None:
            return []
        _flush()
        self._file.seek(0)
        return self._file.readlines()

    def show(self, lines: Iterable[bytes]) -> None:
        """Prints lines after all."""
        for line in lines:
            os.write(self._shown, line)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


@contextmanager
def _put_aside(*descriptors: int) -> Iterator[_Hidden]:
    """Sends what is written to file descriptors elsewhere, unless a log level asks to see it."""
    if os.environ.get(LOG_LEVEL, "3") in ("0", "1", "2"):
        yield _Hidden()
        return
    with _DESCRIPTORS, tempfile.TemporaryFile() as file:
        _flush()
        try:
            shown = [os.dup(number) for number in descriptors]
        except OSError:  # a process without output, where nobody would see anything
            yield _Hidden()
            return
        try:
            for number in descriptors:
                os.dup2(file.fileno(), number)
            yield _Hidden(file, shown[-1])
        finally:
            _flush()
            for number, copy in zip(descriptors, shown, strict=True):
                os.dup2(copy, number)
                os.close(copy)
