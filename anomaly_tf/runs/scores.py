"""The folder that `predict.py --output` fills: a manifest, the names, one part for each shard.

Each file is written whole or not at all, and the manifest before the first part, so that a command
that was stopped continues with the parts that are missing. Needs NumPy only.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomaly_tf.errors import UserError
from anomaly_tf.runs.checks import is_number, parse_json
from anomaly_tf.runs.files import PARTIAL, atomic_path, sha256, write_json
from anomaly_tf.runs.outputs import MAX_JSON, json_with, require_own_place

FORMAT = "anomaly_tf scores"
# Facts of a manifest that the scores and verdicts depend on, and what they are in a message.
COMPARED = {
    "anomaly_tf": "version of anomaly_tf",
    "model_sha256": "model",
    "threshold": "threshold",
    "bit_depth": "--bit-depth",
    "max_pixels": "--max-pixels",
    "roi_sha256": "--roi",
    "shard_size": "--shard-size",
    "files": "number of files",
    "files_sha256": "list of files",
}
# Keys of a summary.
SUMMARY = ("files", "scored", "anomalies", "unreadable", "threshold", "drift")
# Rows of a file that cannot be judged have `file` and `error`, the others these.
KEYS = {"file", "score", "is_anomaly", "rank"}


@dataclass
class Tally:
    """Counts of what was scored.

    Attributes:
        files: Number of files.
        anomalies: Number of anomalies.
        unreadable: Number of files that could not be judged.
        scores: The scores of the others, float32.
    """

    files: int = 0
    anomalies: int = 0
    unreadable: int = 0
    scores: array[float] = field(default_factory=lambda: array("f"))

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Counts the rows of a part."""
        self.files += len(rows)
        for row in rows:
            if "error" in row:
                self.unreadable += 1
            else:
                self.anomalies += row["is_anomaly"]
                self.scores.append(row["score"])


class ScoresFolder:
    """The folder and its files.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest, self.names = path / "manifest.json", path / "names.txt"
        self.summary = path / "summary.json"

    def part(self, number: int) -> Path:
        """The file of a shard, of which the first has the number 0."""
        return self.path / f"part-{number:06}.jsonl"

    def require_own(self) -> None:
        """Checks that the folder is new, empty, or one that this command began.

        Raises:
            UserError: If it holds something else.
        """
        own = {self.manifest: json_with("format", *COMPARED), self.summary: json_with(*SUMMARY)}
        require_own_place("--output", self.path, own)
        if not self.path.is_dir() or self.manifest.exists():
            return
        # Before the manifest there can only be the names.
        others = sorted(name for name in os.listdir(self.path) if not name.startswith(PARTIAL))
        if others and others != [self.names.name]:
            raise UserError(
                f"{self.path} holds files that were not written by this command (first: "
                f"{others[0]}); choose a new or empty folder as --output"
            )

    def clear_unfinished(self) -> None:
        """Removes what a process that was killed left unfinished; the folder must be locked."""
        for path in self.path.glob(f"{PARTIAL}*"):
            with suppress(OSError):
                path.unlink()

    def begin(self, facts: dict[str, Any], names: Path) -> None:
        """Compares the manifest with what is asked for now, or writes it with the list of names.

        Args:
            facts: Content of the manifest.
            names: The list, in this folder; it is moved to its place.

        Raises:
            UserError: If the folder was begun with another model, other files or other options.
        """
        if not self.manifest.exists():
            # A process that was killed may have left the list without its manifest.
            if self.names.exists() and sha256(self.names) != facts["files_sha256"]:
                raise UserError(
                    f"{self.names} was not written by this command; move it away or choose another "
                    "--output"
                )
            names.replace(self.names)
            write_json(self.manifest, {"format": FORMAT, **facts})
            return
        try:
            before = parse_json(self.manifest.read_bytes(), MAX_JSON, MAX_JSON)
        except ValueError as error:
            raise UserError(
                f"{self.manifest} is damaged ({error}); choose another --output"
            ) from error
        for key, what in COMPARED.items():
            if before.get(key) != facts[key]:
                then, now = (
                    str(value)[:12] if key.endswith("sha256") else value
                    for value in (before.get(key), facts[key])
                )
                raise UserError(
                    f"{self.path} was begun with another {what} ({then}; now {now}); give the same "
                    "command again to continue, or choose another --output"
                )
        if not self.names.is_file():
            names.replace(self.names)

    def kept(self, number: int, names: Sequence[str]) -> list[dict[str, Any]] | None:
        """The rows of a part; None if there is none.

        Args:
            number: The number of the shard.
            names: The names of its files.

        Raises:
            UserError: If the part is damaged or holds other files.
        """
        path = self.part(number)
        if not path.exists():
            return None
        try:
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            if [row["file"] for row in rows] != names or not all(map(_is_row, rows)):
                raise ValueError("it holds other rows")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged ({error}); remove it to score its files again"
            ) from error
        return rows

    def write(self, number: int, rows: Sequence[dict[str, Any]]) -> None:
        """Writes a part."""
        text = "".join(f"{row_text(row)}\n" for row in rows)
        with atomic_path(self.part(number), durable=True) as path:
            path.write_text(text, "utf-8")


def _is_row(row: dict[str, Any]) -> bool:
    if set(row) == {"file", "error"}:
        return isinstance(row["error"], str)
    numbers = (row.get("score"), row.get("rank"))
    return set(row) == KEYS and all(map(is_number, numbers)) and isinstance(row["is_anomaly"], bool)


def row_text(row: dict[str, Any]) -> str:
    """A row as a line of JSON."""
    return json.dumps(row).replace("\x7f", "\\u007f")  # the one that JSON leaves as it is
