"""Creates or updates a virtual environment with locked packages and, in `.venv`, this project.

environment.sh has chosen the Python that runs this: the environment's own, which is updated, or
another one, with which it is created anew. Nothing is done if nothing has changed since then.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
# Files that an update depends on, beside the requirements.
PROJECT = ("pyproject.toml", "setup.py")
# These two stay when everything else in the folder is removed.
LOCK, UNFINISHED = "setup.lock", "unfinished"
DISK_FULL = ("No space left on device", "Disk quota exceeded")
MB, GB = 1e6, 1e9
# Downloaded packages, as a share of the installed ones; both are on the disk until the end.
DOWNLOADS = 0.3
SECONDS_BETWEEN_REPORTS = 5


class SetupError(Exception):
    """Ends the setup with one line."""


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


class Environment:
    """A virtual environment to be created or updated."""

    def __init__(self, mode: str, name: str, requirements: str, gigabytes: str) -> None:
        self.is_new = mode == "create"
        self.name = name
        self.folder = Path(name).resolve()  # venv does not write through a link
        self.requirements = Path(requirements)
        self.gigabytes = float(gigabytes)
        self.has_project = name == ".venv"
        self.packages = self.folder / "lib" / f"python{VERSION}" / "site-packages"
        self.downloads = self.folder / "tmp"
        self.ready = self.folder / f"ready-{self.requirements.stem}"
        self.is_update = not self.is_new and self.ready.exists()
        self.unfinished = self.folder / UNFINISHED

    def state(self) -> str:
        """What `ready` contains if nothing has changed since."""
        paths = [self.requirements, *(Path(name) for name in PROJECT if self.has_project)]
        contents = b"".join(path.read_bytes() for path in paths if path.is_file())
        return f"Python {VERSION}\n{Path.cwd()}\n{hashlib.sha256(contents).hexdigest()}\n"

    def is_ready(self) -> bool:
        """Whether the last setup was finished and is up to date."""
        finished = self.ready.is_file() and not self.unfinished.exists()
        return finished and self.ready.read_text("utf-8") == self.state()

    def space(self) -> tuple[float, float]:
        """Needed and available gigabytes; what is in the folder now will be replaced."""
        disk = self.folder
        while not disk.exists():
            disk = disk.parent
        free = shutil.disk_usage(disk).free + size_of(self.folder)
        return self.gigabytes * (1 + DOWNLOADS), free / GB

    def check(self) -> None:
        """Checks what can be known before anything is created."""
        contents = {*os.listdir(self.folder)} - {LOCK} if self.folder.is_dir() else set()
        if contents and not contents & {"pyvenv.cfg", UNFINISHED}:
            raise SetupError(f"{self.folder} is not a virtual environment; move it away")
        needed, free = self.space()
        if free < needed and not self.is_update:
            figures = f"{needed:.1f} GB needed, {free:.1f} GB free"
            raise SetupError(f"not enough disk space for {self.folder}: {figures}")

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Waits for other setups of the folder, and for a pip that a killed one left behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / LOCK, "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"Waiting for another setup of {self.name}", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock.fileno()

    def set_up(self, lock: int) -> None:
        """Creates or updates the environment."""
        begun = time.monotonic()
        self.announce()
        self.unfinished.touch()
        if self.is_new:
            self.clear()
        self.downloads.mkdir(exist_ok=True)
        if self.is_new:
            # The Python that an active environment was created with, not that environment.
            base = getattr(sys, "_base_executable", sys.executable)
            self.run(lock, base, "-m", "venv", self.folder)
        hashes = ["--require-hashes"] if self.requirements.suffix == ".lock" else []
        self.pip_install(lock, *hashes, "-r", self.requirements)
        if self.has_project:
            # Without isolation: setuptools is one of the locked packages.
            self.pip_install(lock, "--no-deps", "--no-build-isolation", "--editable", ".")
        shutil.rmtree(self.downloads)
        self.ready.write_text(self.state(), "utf-8")
        self.unfinished.unlink()
        print(f"{self.name} is ready after {time.monotonic() - begun:.0f} s", flush=True)

    def announce(self) -> None:
        """Says what is going to be done, and what it takes."""
        text = f"Updating {self.name} (Python {VERSION})"
        if not self.is_update:
            replaced = self.is_new and (self.folder / "pyvenv.cfg").exists()
            text = (
                f"{'Replacing' if replaced else 'Setting up'} {self.name} (Python {VERSION}): "
                f"{self.gigabytes:g} GB on disk, a minute or several"
            )
        print(text, flush=True)

    def clear(self) -> None:
        """Removes everything but the two notes of a setup."""
        for entry in [*os.scandir(self.folder)]:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name not in (LOCK, UNFINISHED):
                os.unlink(entry.path)

    def pip_install(self, lock: int, *arguments: object) -> None:
        """Installs with the pip of the environment."""
        options = ("--quiet", "--disable-pip-version-check", "--no-input")
        self.run(lock, self.folder / "bin" / "python", "-m", "pip", "install", *options, *arguments)

    def run(self, lock: int, *command: object) -> None:
        """Runs a command and reports what it downloads and installs.

        The command inherits the lock, so that nothing else works in the folder while it lives.
        """
        with subprocess.Popen(
            [*map(str, command)],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "TMPDIR": str(self.downloads)},
            pass_fds=[lock],
        ) as process:
            try:
                errors = self.watch(process)
            except BaseException:
                process.terminate()
                raise
        if process.returncode and any(words in errors for words in DISK_FULL):
            raise SetupError(f"the disk is full; {self.folder} needs {self.space()[0]:.1f} GB")
        if process.returncode:
            print(errors, end="", file=sys.stderr)
            raise SetupError(f"{self.name} could not be set up, see above")

    def watch(self, process: subprocess.Popen[str]) -> str:
        """Reports every few seconds what a command has done so far; returns what it wrote."""
        before, downloaded = self.installed(), 0
        end = "\r" if sys.stdout.isatty() else "\n"
        while True:
            try:
                _, errors = process.communicate(timeout=SECONDS_BETWEEN_REPORTS)
                return str(errors)
            except subprocess.TimeoutExpired:
                count = self.installed() - before
                downloaded = max(downloaded, size_of(self.downloads))  # pip moves files meanwhile
                if not before:
                    text = "creating the environment"
                elif count:
                    text = f"packages installed: {count}"
                elif downloaded:
                    text = f"downloaded: {downloaded / MB:.0f} MB"
                else:
                    text = "comparing versions"
                print(f"  {text:<30}", end=end, flush=True)

    def installed(self) -> int:
        """How many packages are in the environment."""
        return len([*self.packages.glob("*.dist-info")])


def main(mode: str, name: str, requirements: str, gigabytes: str) -> None:
    """Creates or updates the environment, if needed."""
    environment = Environment(mode, name, requirements, gigabytes)
    if environment.is_ready():
        return
    environment.check()
    with environment.locked() as lock:
        if not environment.is_ready():  # another process may have finished it
            environment.set_up(lock)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted; the next make starts the setup again", file=sys.stderr)
        sys.exit(130)
    except (SetupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
