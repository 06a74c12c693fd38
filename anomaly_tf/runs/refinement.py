"""The training images that `--refine` left out, `refinement.json` of a run. Needs no NumPy.

While they are looked for, `refinement/unusual.json` holds those that neither half learns from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_tf.runs.checks import Checks, is_number, is_text, is_whole, parse_json, require

# The names of a million files take 100 MB.
MAX_BYTES, MAX_VALUES = 256 * 2**20, 8_000_000


@dataclass(frozen=True)
class LeftOut:
    """An image that was left out.

    Attributes:
        number: Its number in the training set of the run.
        file: Its path inside the folder; None if the images are not files.
        class_name: Name of its class.
        score: Its anomaly score, by the detector that was trained on the other half.
    """

    number: int
    file: str | None
    class_name: str
    score: float


@dataclass(frozen=True)
class Refinement:
    """The images that were left out of a training.

    Attributes:
        sets: Digest of the training and validation set; see `data/contents.py`.
        n_normal: Number of normal training images before.
        seconds: Duration of finding them.
        left_out: The images, the highest score first.
    """

    sets: str
    n_normal: int
    seconds: float
    left_out: tuple[LeftOut, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the images in the training set of the run."""
        return tuple(one.number for one in self.left_out)


@dataclass(frozen=True)
class Unusual:
    """The images that neither half learns from.

    Attributes:
        sets: As in `Refinement`.
        numbers: Their numbers in the training set of the run.
        seconds: Duration of finding them.
    """

    sets: str
    numbers: tuple[int, ...]
    seconds: float


UNUSUAL_CHECKS: Checks = {
    "sets": (is_text, "text"),
    "numbers": (lambda value: isinstance(value, list) and bool(value), "a list of numbers"),
    "seconds": (lambda value: is_number(value, 0), "a number of at least 0"),
}
CHECKS: Checks = {
    "sets": (is_text, "text"),
    "n_normal": (lambda value: is_whole(value, 1, 2**53), "a whole number above 0"),
    "seconds": (lambda value: is_number(value, 0), "a number of at least 0"),
    "left_out": (lambda value: isinstance(value, list) and bool(value), "a list of images"),
}
IMAGE_CHECKS: Checks = {
    "number": (lambda value: is_whole(value, 0, 2**53), "a whole number of at least 0"),
    "file": (lambda value: value is None or is_text(value), "the path of a file, or null"),
    "class_name": (is_text, "text"),
    "score": (is_number, "a finite number"),
}


def read_refinement(path: Path, n_train: int) -> Refinement:
    """Reads a `refinement.json`.

    Args:
        path: The file.
        n_train: Number of training images of the run.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    content = _content(path, CHECKS)
    for one in content["left_out"]:
        if not isinstance(one, dict):
            raise ValueError("left_out must hold images")
        require(one, IMAGE_CHECKS)
    numbers = {one["number"] for one in content["left_out"]}
    if len(numbers) < len(content["left_out"]) or max(numbers) >= n_train:
        raise ValueError(f"left_out must hold different numbers below {n_train}")
    left_out = tuple(
        LeftOut(**{key: one[key] for key in IMAGE_CHECKS}) for one in content["left_out"]
    )
    return Refinement(content["sets"], content["n_normal"], content["seconds"], left_out)


def read_unusual(path: Path, n_train: int) -> Unusual:
    """Reads an `unusual.json`; arguments and errors as `read_refinement`."""
    content = _content(path, UNUSUAL_CHECKS)
    numbers = tuple(content["numbers"])
    if not all(is_whole(one, 0, n_train - 1) for one in numbers) or len(set(numbers)) < len(
        numbers
    ):
        raise ValueError(f"numbers must hold different whole numbers below {n_train}")
    return Unusual(content["sets"], numbers, content["seconds"])


def _content(path: Path, checks: Checks) -> dict[str, Any]:
    with path.open("rb") as file:
        content = parse_json(file.read(MAX_BYTES + 1), MAX_BYTES, MAX_VALUES)
    require(content, checks)
    return content
