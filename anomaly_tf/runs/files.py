"""Files that are whole or absent, and folders that hold files which belong together."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anomaly_tf.errors import UserError

# A folder that is full, closed or limited, or a name that is longer than it takes.
FOLDER_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
)
# Names of unfinished files and folders begin so; those of a process that was killed stay.
PARTIAL = ".partial-"


@contextmanager
def atomic_path(path: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an exception.

    Args:
        path: The final path; its folder is created when needed. The temporary name keeps the
            suffix, because many writers choose the format by it.
        durable: Whether the content is on the disk before the rename, so that a loss of power
            leaves a whole file, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a result is as readable as the user's umask allows.
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

    Several processes may do so at once: each leaves a whole folder, none fails.

    Args:
        path: The final path; the folder above is created when needed.
        replace: Whether a folder that is there by then is replaced; it stays as it was until then.
            Else it is kept and the new one is dropped, as of a cache whose name says its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=PARTIAL) as name:
        new = Path(name, "new")
        new.mkdir()
        yield new
        with uninterrupted():
            for number in itertools.count():
                try:
                    new.rename(path)  # which fails where a folder with content is
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
    """Lets Ctrl-C wait until the block has ended, so that files which belong together are whole.

    Only the main thread can hold it back, and only where it is not ignored anyway, as in a
    shell's background jobs; else the block runs as it is.
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
    """Keeps other processes from changing a folder; ends with the process, however that ends.

    Args:
        folder: It must exist.
        kind: What it is, for the message.

    Raises:
        UserError: If another one holds it.
    """
    import fcntl  # which is not on Windows, where a run can be read and not be trained

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is working on {kind} {folder}; wait for its end or choose "
                f"another {kind}"
            ) from error
        yield
    finally:
        os.close(handle)


def require_writable(folder: Path, option: str) -> None:
    """Makes sure, before work is done for it, that a folder can be written; it is not created.

    Args:
        folder: The folder, of which the last parts may not exist yet.
        option: The option that chooses it, for the message.

    Raises:
        UserError: If it, or the folder that it would be made in, takes no new files or is none, as
            a link that leads nowhere.
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
    kind = "a link to no folder" if existing.is_symlink() else "no folder"
    raise UserError(f"cannot write to {folder}: {existing} is {kind}; choose another {option}")


def _is_there(path: Path) -> bool:
    """Whether a path leads to anything; raises `OSError` for names that no folder takes."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def require_unlinked(folder: Path, paths: Iterable[Path]) -> None:
    """Refuses links inside an output folder, through which files would be written elsewhere.

    Args:
        folder: What the user named, which may be a link itself.
        paths: The files to be written in it.

    Raises:
        UserError: If a folder between is a link.
    """
    between = {above for path in paths for above in path.parents if above != folder}
    for place in sorted(place for place in between if place.is_relative_to(folder)):
        if place.is_symlink():
            raise UserError(
                f"{place} is a link, and what is written to {folder} must stay inside it; remove "
                "the link or choose another folder"
            )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` as indented JSON, whole or not at all; NaN is refused (`ValueError`)."""
    with atomic_path(path, durable=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", "utf-8")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_error(error: BaseException) -> OSError | None:
    """The one of `FOLDER_ERRORS` behind an error, if one is.

    TensorFlow, which writes files itself, reports them as errors of its own that hold the system's
    words and no number.
    """
    if isinstance(error, OSError):
        return error if error.errno in FOLDER_ERRORS else None
    codes = (code for code in FOLDER_ERRORS if os.strerror(code) in str(error))
    return next((OSError(code, os.strerror(code)) for code in codes), None)
