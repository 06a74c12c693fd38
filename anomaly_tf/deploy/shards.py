"""Scores a shard of image files in whichever process or machine it is sent to.

The detector is sent as the path of its model and the digest that it must have there; a process
loads it once and keeps it.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_tf.deploy.file_scoring import SKIPPED, ImageFile, score_files
from anomaly_tf.script import quiet_libraries

if TYPE_CHECKING:
    from anomaly_tf.deploy.detector import Detector


@dataclass(frozen=True)
class Shard:
    """Files that are scored together.

    Attributes:
        number: Its number, from 0.
        names: Absolute paths of the files.
    """

    number: int
    names: list[str]


@dataclass(frozen=True)
class ShardScores:
    """The result of a shard.

    Attributes:
        scores: The score of each file; None if it cannot be judged.
        errors: Number of a file in the shard to the reason why it cannot be judged.
        unseen: Numbers of those that this process cannot open.
        machine: Name of the machine.
    """

    scores: list[float | None]
    errors: dict[int, str]
    unseen: list[int]
    machine: str


@dataclass(frozen=True)
class ShardScorer:
    """A function that scores a shard with one thread.

    Attributes:
        load: Function that loads the detector, `pickling.load_again`.
        arguments: Its arguments.
    """

    load: Callable[..., Detector]
    arguments: tuple[Any, ...] = field(repr=False)

    @classmethod
    def of(cls, detector: Detector) -> ShardScorer:
        """The function for a detector that was loaded from a path."""
        return cls(*detector.single_threaded().__reduce__())

    @property
    def key(self) -> str:
        """Identifies the detector: path, digests and settings."""
        return repr(self.arguments)

    def __call__(self, shard: Shard) -> ShardScores:
        """Scores the files.

        Raises:
            UserError: If the model cannot be read here, or is another one.
        """
        detector = _loaded(self)
        files = [ImageFile(Path(name)) for name in shard.names]
        with closing(score_files(detector, files, processes=False, threads=1)) as parts:
            scored = [file for part in parts for file in part]
        errors = {
            number: file.error.removesuffix(SKIPPED)
            for number, file in enumerate(scored)
            if file.error
        }
        return ShardScores(
            [None if file.score is None else float(file.score) for file in scored],
            errors,
            [number for number in errors if not os.access(shard.names[number], os.R_OK)],
            socket.gethostname(),
        )


# The detector that was used last, by its key, and the lock for loading it.
_KEPT: dict[str, Detector] = {}
_LOADING = threading.Lock()


def keep(scorer: ShardScorer, detector: Detector) -> None:
    """Lets this process use a detector that it has loaded already."""
    _KEPT.clear()
    _KEPT[scorer.key] = detector


def _loaded(scorer: ShardScorer) -> Detector:
    with _LOADING:
        if scorer.key not in _KEPT:
            with quiet_libraries():
                detector = scorer.load(*scorer.arguments)
            keep(scorer, detector)
        return _KEPT[scorer.key]
