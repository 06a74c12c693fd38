"""What every script does around its work: exit status, error lines, a quiet import of TensorFlow.

Needs the standard library alone, because `predict.py` runs where nothing else is installed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import FOLDER_ERRORS

# What a spreadsheet takes for the beginning of a formula; spaces in front do not change that.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def run_script(main: Callable[[list[str]], int | None]) -> None:
    """Runs a script's `main` and ends the process with its exit status.

    A `UserError` becomes one line on stderr and exit status 2, and so does one of
    `FOLDER_ERRORS`; Ctrl-C outside of training exit status 130. Any other exception is a defect and
    keeps its traceback.
    """
    try:
        status = main(sys.argv[1:]) or 0
        sys.stdout.flush()  # here, where it is noticed that nobody reads it
        sys.exit(status)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # who reads the output has seen enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except OSError as error:
        if error.errno not in FOLDER_ERRORS:
            raise
        place = f"{printable(str(error.filename))}: " if error.filename else ""
        print(f"error: {place}{error.strerror}; free or choose another folder", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def printable(text: str) -> str:
    """What is no visible character, as in a file's name, escaped: one line stays one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


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
    """Imports TensorFlow without the notes that its C++ part prints while it is loaded.

    They say nothing about the run, and come before any logging level takes effect. With
    `TF_CPP_MIN_LOG_LEVEL` set in the environment everything is shown as it asks.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with quiet_libraries():
        import tensorflow  # noqa: F401


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides what C++ libraries print, which no logging level stops, unless the block fails.

    With `TF_CPP_MIN_LOG_LEVEL` at 0 to 2 nothing is hidden.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") < "3":
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    shown = [os.dup(stream) for stream in (1, 2)]
    with tempfile.TemporaryFile() as hidden:
        for stream in (1, 2):
            os.dup2(hidden.fileno(), stream)
        try:
            yield
        except UserError:  # which says all that is to be said
            raise
        except BaseException:
            sys.stdout.flush()
            sys.stderr.flush()
            hidden.seek(0)
            os.write(shown[1], hidden.read())
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in zip((1, 2), shown, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
