"""Write protection of cache folders: only folders that the user names are written.

A run's configuration may be untrusted. Caches in the folder that it names are read, but nothing is
written there unless the user names that folder as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_ONLY_READ: ContextVar[Path | None] = ContextVar("only_read", default=None)


@contextmanager
def only_read(folder: Path | None) -> Iterator[None]:
    """During the block, no cache is written into this folder; None allows all folders."""
    token = _ONLY_READ.set(folder.absolute() if folder else None)
    try:
        yield
    finally:
        _ONLY_READ.reset(token)


def may_write(path: Path) -> bool:
    """True if a cache may be written to this path."""
    folder = _ONLY_READ.get()
    return folder is None or not path.absolute().is_relative_to(folder)


def user_caches() -> Path:
    """The user's cache folder of this package; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomaly_tf"
