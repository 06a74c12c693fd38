"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expand_home(path: str) -> str:
    """A path whose leading `~` or `~name` stands for a home folder, as in a shell.

    Shells leave `--data=~/photos` and what stands in a YAML file to the program. A path that begins
    otherwise stays as it is, and so does that of a file whose own name begins with `~`.
    """
    head = path.split(os.sep, 1)[0]
    if head != "~" and os.path.lexists(head):
        return path
    return os.path.expanduser(path)


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path that a user means by an option, a line of YAML or an argument of the Python API."""
    return Path(expand_home(os.fspath(path)))
