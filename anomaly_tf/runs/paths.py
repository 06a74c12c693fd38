"""Paths as given by users."""

from __future__ import annotations

import os
from pathlib import Path


def expand_home(path: str) -> str:
    """Expands a leading `~` or `~name` to a home folder, as a shell does.

    Shells do not expand it in `--data=~/photos`, nor in a YAML file. Other paths are unchanged, and
    so is the path of an existing file whose name begins with `~`.
    """
    head = path.split(os.sep, 1)[0]
    if head != "~" and os.path.lexists(head):
        return path
    return os.path.expanduser(path)


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path given by an option, a line of YAML or an argument of the Python API."""
    return Path(expand_home(os.fspath(path)))
