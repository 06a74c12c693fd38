"""Runs commands of anomaly_tf in processes of their own, here or on a worker of a cluster.

A worker needs no shared disk for the results: it trains in a temporary folder, and the run
directory comes back with the result.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from anomaly_tf.cluster import machine, scratch_folder
from anomaly_tf.data.contents import digest_of_source
from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import atomic_folder

# How a process of its own runs a command.
STARTED = ("-m", "anomaly_tf")
# On Linux, a process that is started by this one ends with the process that started it.
BOUND = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(parent):
    os.execv(sys.executable, [sys.executable, *command])
"""
# Processes under way.
_UNDER_WAY: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class Commands:
    """Commands that write one run directory.

    Attributes:
        commands: Each command with its arguments; the first failure ends them.
        run: The run directory that they name, relative to where they run, or absolute.
        data: The user's data, as an absolute path, if it is no data set known by its name.
        content: Digest of this data.
        without: Folders in it that do not belong to it.
    """

    commands: list[list[str]]
    run: Path
    data: str | None = None
    content: str | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """The end of commands.

    Attributes:
        seconds: Their duration.
        reason: The reason if one failed; else None.
        failed: The command that failed.
        status: Its exit status.
        archive: The run directory as a tar archive, if it was written elsewhere.
    """

    seconds: float
    reason: str | None = None
    failed: list[str] | None = None
    status: int = 0
    archive: bytes | None = None

    def keep_run(self, run: Path) -> None:
        """Writes a run directory that comes from elsewhere; an existing one is replaced."""
        if self.archive is None:
            return
        with atomic_folder(run) as folder, tarfile.open(fileobj=io.BytesIO(self.archive)) as tar:
            tar.extractall(folder, filter="data")


def run_here(work: Commands, folder: Path | None = None) -> Ended:
    """Runs commands one after the other.

    Args:
        work: The commands.
        folder: The folder in which they run; default: the current one.

    Raises:
        KeyboardInterrupt: If one was ended by Ctrl-C.
    """
    start = time.monotonic()
    metrics = (folder or Path()) / work.run / "metrics.json"
    for command in work.commands:
        status, errors = _ended(command, folder)
        if status == 130:
            raise KeyboardInterrupt
        if status and not metrics.is_file():  # a picture is no figure
            said = [line for line in errors.splitlines() if line.strip()]
            reason = said[-1] if said else f"ended with status {status}"
            reason = reason.removeprefix("error: ")
            return Ended(time.monotonic() - start, reason, command, status)
    return Ended(time.monotonic() - start)


def run_elsewhere(work: Commands) -> Ended:
    """Runs commands in a temporary folder of a worker; the run directory is in the result.

    Raises:
        UserError: If the worker has other data.
    """
    if work.data is not None and _content(work.data, work.without) != work.content:
        raise UserError(
            f"{work.data} cannot be read there or has other content than here; mount or copy the "
            "same folder at the same path"
        )
    with tempfile.TemporaryDirectory(prefix="anomaly_tf-", dir=scratch_folder()) as name:
        try:
            ended = run_here(work, Path(name))
        except KeyboardInterrupt as error:
            raise UserError("a training was stopped there by Ctrl-C") from error
        if ended.reason is not None:
            return replace(ended, reason=f"worker on {machine()}: {ended.reason}")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(Path(name, work.run), ".")
        return replace(ended, archive=packed.getvalue())


@cache
def _content(data: str, without: tuple[str, ...]) -> str | None:
    return digest_of_source(data, without)


def _ended(command: list[str], folder: Path | None) -> tuple[int, str]:
    """Runs a command to its end; returns its exit status and its stderr."""
    bound = ["-c", BOUND, str(os.getpid())] if sys.platform == "linux" else []
    places = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(filter(None, places))  # found from every folder
    with subprocess.Popen(
        [sys.executable, *bound, *STARTED, *command],
        cwd=folder,
        env=os.environ if folder is None else {**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="backslashreplace",
    ) as process:
        _UNDER_WAY.add(process)
        try:
            _, errors = process.communicate()
        except BaseException:
            process.kill()
            raise
        finally:
            _UNDER_WAY.discard(process)
    return process.returncode, errors


@contextmanager
def ending_by_sigterm() -> Iterator[None]:
    """During the block, a SIGTERM also ends the commands that were started."""

    def end(number: int, frame: object) -> None:
        for process in list(_UNDER_WAY):
            process.terminate()
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
