"""Atomic writing of files and folders, locks, and checks that a folder can be written."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anomaly_tf.errors import UserError

# Errors of a folder that is full, read-only or limited, or of a name that is too long.
FOLDER_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
)
# Beginning of the names of unfinished files and folders; those of a killed process remain.
PARTIAL = ".partial-"


@contextmanager
def atomic_path(path: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an exception.

    Args:
        path: The final path; its folder is created when needed. The temporary name has the same
            suffix, because many writers choose the format by it.
        durable: Whether the content is flushed to disk before the rename, so that the file is
            complete even after a power failure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp creates private files; a result has the permissions of the user's umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, replace: bool = True) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to it when the block ends without an exception.

    Several processes may do so at the same time: each leaves a complete folder, none fails.

    Args:
        path: The final path; the parent folder is created when needed.
        replace: Whether an existing folder is replaced at the end of the block. Otherwise it is
            kept and the new one is removed, as for a cache whose name depends on its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=PARTIAL) as name:
        new = Path(name, "new")
        new.mkdir()
        yield new
        with uninterrupted():
            for number in itertools.count():
                try:
                    new.rename(path)  # fails if there is a folder that is not empty
                    return
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                if not replace:
                    return
                with suppress(FileNotFoundError):  # another process has just moved it away
                    path.rename(Path(name, f"old-{number}"))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C until the end of the block, so that related files stay consistent.

    Only the main thread can delay it, and only if it is not ignored, as in a shell's background
    jobs; otherwise the block runs unprotected.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    received = []
    signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        before(*received[0])


@contextmanager
def locked(folder: Path, kind: str) -> Iterator[None]:
    """Locks a folder against changes by other processes; the lock ends with the process.

    Args:
        folder: An existing folder.
        kind: Kind of the folder, for the message.

    Raises:
        UserError: If another process holds the lock.
    """
    import fcntl  # not available on Windows, where runs can be read but not trained

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is working on {kind} {folder}; wait until it ends or choose "
                f"another {kind}"
            ) from error
        yield
    finally:
        os.close(handle)


def require_writable(folder: Path, option: str) -> None:
    """Checks, before starting work, that a folder can be written; it is not created.

    Args:
        folder: The folder; the last parts of its path need not exist.
        option: The option that names it, for the message.

    Raises:
        UserError: If it, or the folder in which it would be created, cannot be written or is not a
            folder, such as a broken link.
    """
    existing = folder.absolute()
    try:
        while not _is_there(existing):
            existing = existing.parent
        if os.path.isdir(existing):
            tempfile.TemporaryDirectory(dir=existing, prefix=PARTIAL).cleanup()
            return
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror} ({existing}); choose another {option}"
        ) from error
    kind = "a link to no folder" if existing.is_symlink() else "not a folder"
    raise UserError(f"cannot write to {folder}: {existing} is {kind}; choose another {option}")


def require_new_folder(folder: Path, option: str) -> None:
    """Checks that a folder is new or empty and can be written; it is not created.

    Args:
        folder: The folder.
        option: The option that chooses it, for the message.

    Raises:
        UserError: If something is there, or what `require_writable` raises.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists; choose a new or empty folder")
    require_writable(folder, option)


def _is_there(path: Path) -> bool:
    """True if a path exists; raises `OSError` for invalid names."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def require_unlinked(folder: Path, paths: Iterable[Path]) -> None:
    """Refuses links inside an output folder, because files would be written outside of it.

    Args:
        folder: The folder that the user names, which may be a link itself.
        paths: The files that will be written in it.

    Raises:
        UserError: If a folder between them is a link.
    """
    between = {above for path in paths for above in path.parents if above != folder}
    for place in sorted(place for place in between if place.is_relative_to(folder)):
        if place.is_symlink():
            raise UserError(
                f"{place} is a link, and output must stay inside {folder}; remove the link or "
                "choose another folder"
            )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` as indented JSON, atomically; raises `ValueError` for NaN."""
    with atomic_path(path, durable=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", "utf-8")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_error(error: BaseException) -> OSError | None:
    """The error of `FOLDER_ERRORS` that caused an exception, if there is one.

    TensorFlow, which writes files itself, raises exceptions of its own with the system's message
    but without its number.
    """
    if isinstance(error, OSError):
        return error if error.errno in FOLDER_ERRORS else None
    codes = (code for code in FOLDER_ERRORS if os.strerror(code) in str(error))
    return next((OSError(code, os.strerror(code)) for code in codes), None)


class OwnedFolder:
    """A new temporary folder, removed with the last reference to it or at the end of the process.

    Attributes:
        path: The folder.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="anomaly_tf-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
