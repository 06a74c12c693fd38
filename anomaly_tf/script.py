"""The frame of every script: exit status, error lines, a quiet import of TensorFlow.

Needs the standard library only, because `predict.py` runs where nothing else is installed.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, NoReturn

from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import FOLDER_ERRORS
from anomaly_tf.version import VERSION

# Characters that begin a formula in spreadsheets, also after spaces.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# Exit status after writing to a closed pipe, as in shells.
CLOSED_PIPE = 141
# Log level of TensorFlow's C++ part: from 0, everything, to 3, fatal errors only.
LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Lines that TensorFlow and LiteRT log before any level takes effect.
NOTES = re.compile(
    rb"\A(WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} |INFO: |"
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |To enable the following instructions:)"
)
# File descriptors belong to the process: two threads must not redirect them at the same time.
_DESCRIPTORS = threading.RLock()


class ArgumentParser(argparse.ArgumentParser):
    """A parser for commands with arguments that follow no option; an error is a `UserError`.

    Args:
        program: Name of the command, for its help.
        text: What it does: a summary, an empty line, and more.
    """

    def __init__(self, program: str, text: str) -> None:
        summary, _, more = text.partition("\n\n")
        super().__init__(program, description=summary, epilog=more, allow_abbrev=False)
        self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`."""
        raise UserError(f"{message}; see {self.prog} --help")


def run_script(main: Callable[[list[str]], int | None]) -> None:
    """Runs a script's `main` and ends the process with its exit status.

    A `UserError` becomes one line on stderr and exit status 2, and so does one of
    `FOLDER_ERRORS`; Ctrl-C outside of training gives exit status 130; a reader that closes the
    output, as `head` does, gives exit status 141. Any other exception is a defect and keeps its
    traceback. Characters that the console's encoding lacks are escaped.
    """
    _prepare_output()
    try:
        status = _status_of(main)
        _flush()
    except BrokenPipeError:  # the reader has closed the pipe, as in `... | head`
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
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one ends the process immediately
        print("interrupted", file=sys.stderr)
        return 130


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _prepare_output() -> None:
    """Replaces closed outputs, and escapes characters that the encoding lacks."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # closed by the caller, as by `>&-`
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Discards buffered output, which Python would try to write again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
            stream.flush()


def printable(text: str) -> str:
    """Escapes invisible characters, such as line breaks in a file's name."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(names: Sequence[str], most: int, kind: str = "") -> str:
    """Names for a message: the first `most`, and how many more there are (of this `kind`)."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more{kind and f' {kind}'}" if rest > 0 else "")


def csv_cell(value: object) -> object:
    """A cell of a CSV file that a spreadsheet does not interpret.

    Text that looks like a formula is prefixed by an apostrophe, with which spreadsheets mark text;
    invisible characters are escaped. Numbers are unchanged.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.lstrip(" ")[:1] in FORMULA else text


def duration(seconds: float) -> str:
    """A duration in words: `34 s`, `5 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def show_progress(done: int | None = None, total: int = 0, what: str = "images") -> None:
    """Shows a progress bar on a terminal; without arguments, removes it."""
    if sys.stderr.isatty():
        shown = ""
        if done is not None:
            shown = f"[{'#' * (40 * done // total):<40}] {done} of {total} {what}"
        print(f"\r\033[K{shown}", end="", file=sys.stderr, flush=True)


def import_tensorflow() -> None:
    """Imports TensorFlow without the notes of its C++ part, unless it is already imported.

    The notes are irrelevant for a run, and some are printed before a log level takes effect. With
    `TF_CPP_MIN_LOG_LEVEL` from 0 to 2 they are shown.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault(LOG_LEVEL, "3")
    with without_notes():
        import tensorflow  # noqa: F401


@contextmanager
def without_notes() -> Iterator[None]:
    """Hides log lines of libraries on stderr in the block; other lines are shown at its end.

    With `TF_CPP_MIN_LOG_LEVEL` from 0 to 2 nothing is hidden.
    """
    with _redirected(2) as hidden:
        try:
            yield
        finally:
            hidden.show(line for line in hidden.lines() if not NOTES.match(line))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides the output of libraries, unless the block fails.

    That of C++ libraries, which ignore log levels, and the log of TensorFlow's Python part, which
    in a notebook does not go through the file descriptors. With `TF_CPP_MIN_LOG_LEVEL` from 0 to 2
    nothing is hidden.
    """
    with _redirected(1, 2) as hidden, errors_only():
        try:
            yield
        except UserError:  # the message is sufficient
            raise
        except BaseException:
            hidden.show(hidden.lines())
            raise


@contextmanager
def errors_only() -> Iterator[None]:
    """Hides what TensorFlow's Python part logs below errors, as on graphs that are made again."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    if not _shows_everything():
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _shows_everything() -> bool:
    return os.environ.get(LOG_LEVEL, "3") in ("0", "1", "2")


class _Hidden:
    """Output that was printed while it was redirected, and the original descriptor."""

    def __init__(self, file: IO[bytes] | None = None, shown: int = -1) -> None:
        self._file, self._shown = file, shown

    def lines(self) -> list[bytes]:
        """All lines so far."""
        if self._file is None:
            return []
        _flush()
        self._file.seek(0)
        return self._file.readlines()

    def show(self, lines: Iterable[bytes]) -> None:
        """Prints lines to the original output."""
        for line in lines:
            os.write(self._shown, line)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


@contextmanager
def _redirected(*descriptors: int) -> Iterator[_Hidden]:
    """Redirects file descriptors to a temporary file, unless the log level shows everything."""
    if _shows_everything():
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
