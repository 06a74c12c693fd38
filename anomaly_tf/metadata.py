"""What lies as JSON beside a model, checked before anything is computed from it.

`detector.json` of a run and the metadata of exports may come from elsewhere, or be damaged: every
number that a verdict depends on is of its type and in its range, or the file is refused. Needs the
standard library alone.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

# The scores of a million calibration images take 20 MB.
MOST_BYTES = 64 * 2**20
# What a user may ask a detector for, where its model has it.
OUTPUTS = ("score", "error_map", "reconstruction", "probabilities")
LARGEST_FLOAT32 = 3.4028235e38
# Each method of setting a threshold, and the option that it goes by.
THRESHOLD_SETTINGS = {"percentile": "percentile", "conformal": "false_alarm_rate"}

# What a detector of each kind cannot do without; dots lead into a section.
EXPORT_FIELDS = (
    "approach",
    "image_shape",
    "outputs",
    "threshold.value",
    "calibration.scores",
)
LITERT_FIELDS = (*EXPORT_FIELDS, "batch_size", "model_bytes", "model_sha256")
RUN_FIELDS = (
    "approach",
    "dataset",
    "class_names",
    "image_shape",
    "threshold.value",
    "threshold.method",
    "calibration.scores",
    "training.status",
    "training.command",
    "training.hardware",
    "training.chosen_by",
    "training.validation",
    "training.n_train",
    "training.n_validation",
    "training.n_weights",
    "training.epochs",
    "training.best_epoch",
    "training.train_seconds",
    "training.images_per_second",
)


def read_metadata(path: Path, fields: Sequence[str]) -> dict[str, Any]:
    """Reads a file of metadata; see `parse_metadata`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: As `parse_metadata`.
    """
    with path.open("rb") as file:
        return parse_metadata(file.read(MOST_BYTES + 1), fields)


def parse_metadata(content: bytes, fields: Sequence[str]) -> dict[str, Any]:
    """Reads metadata and checks it.

    Args:
        content: JSON in UTF-8.
        fields: Names that must be there; dots lead into a section.

    Returns:
        The metadata. Each of the `CHECKS` that is there holds, and no number is infinite or NaN.

    Raises:
        ValueError: If it is larger than `MOST_BYTES`, no JSON object, or a field is missing or of
            a wrong type or range.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES // 2**20} MB")
    try:
        info = json.loads(content.decode("utf-8"), parse_float=_finite, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(info, dict):
        raise ValueError(f"expected an object; got {reprlib.repr(info)}")
    for name, (is_right, words) in CHECKS.items():
        found, value = _look_up(info, name)
        if found and not is_right(value):
            raise ValueError(f"{name} must be {words}; got {reprlib.repr(value)}")
    method = _look_up(info, "threshold.method")[1]
    if method in THRESHOLD_SETTINGS:
        fields = (*fields, f"threshold.{THRESHOLD_SETTINGS[method]}")
    for name in fields:
        if not _look_up(info, name)[0]:
            raise ValueError(f"no {name}")
    size, scores = info["calibration"].get("size"), info["calibration"]["scores"]
    if size not in (None, len(scores)):
        raise ValueError(f"calibration.size is {size}, but there are {len(scores)} scores")
    return info


def is_inner_path(name: str) -> bool:
    """Whether a path with `/` stays inside the folder that it starts in, and is written plainly."""
    path = PurePosixPath(name)
    plain = name == str(path) and not re.search(r"[\\:\0]", name)
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _look_up(info: dict[str, Any], name: str) -> tuple[bool, Any]:
    value: Any = info
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _finite(text: str) -> float:
    if math.isinf(float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return float(text)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _is_number(value: Any, low: float = -LARGEST_FLOAT32, high: float = LARGEST_FLOAT32) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and _is_number(value, low, high)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_right, value))


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_shape(value: Any) -> bool:
    sides = _is_list(value, lambda side: _is_whole(side, 1, 2**14))
    return sides and len(value) == 3 and value[2] in (1, 3)


def _are_outputs(value: Any) -> bool:
    known = _is_list(value, lambda name: name in OUTPUTS)
    return known and "score" in value and len(set(value)) == len(value)


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_inner_path(name) and _is_digest(digest) for name, digest in value.items()
    )


def _are_measures(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


_TEXT = _is_text, "text"
_SCORE = _is_number, "a finite number"
_NOT_NEGATIVE = (lambda value: _is_number(value, 0)), "a number of at least 0"
_COUNT = (lambda value: _is_whole(value, 0, 2**53)), "a whole number of at least 0"

CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "approach": _TEXT,
    "dataset": _TEXT,
    "class_names": (lambda value: _is_list(value, _is_text), "a list of names"),
    "image_shape": (_is_shape, "height, width and channels, 1 or 3"),
    "image_score": (lambda value: value in ("mean", "maximum"), "mean or maximum"),
    "threshold.value": _SCORE,
    "threshold.method": (
        (lambda value: value in tuple(THRESHOLD_SETTINGS)),
        f"one of {', '.join(THRESHOLD_SETTINGS)}",
    ),
    "threshold.percentile": (lambda value: _is_number(value, 0, 100), "a number from 0 to 100"),
    "threshold.false_alarm_rate": (lambda value: _is_number(value, 0, 1), "a number from 0 to 1"),
    "calibration.size": _COUNT,
    "calibration.scores": (
        lambda value: _is_list(value, _is_number),
        "finite numbers, at least one",
    ),
    "outputs": (_are_outputs, f"score and others of {', '.join(OUTPUTS[1:])}"),
    "batch_size": (lambda value: _is_whole(value, 1, 4096), "a whole number from 1 to 4096"),
    "model_bytes": (lambda value: _is_whole(value, 1, 2**53), "a whole number above 0"),
    "model_sha256": (_is_digest, "64 hexadecimal digits"),
    "files_sha256": (_are_files, "paths inside the folder, each with 64 hexadecimal digits"),
    "training.status": _TEXT,
    "training.command": _TEXT,
    "training.reproduce": _TEXT,
    "training.hardware": _TEXT,
    "training.chosen_by": _TEXT,
    "training.validation": (_are_measures, "names, each with a finite number"),
    "training.n_train": _COUNT,
    "training.n_validation": _COUNT,
    "training.n_weights": _COUNT,
    "training.epochs": _COUNT,
    "training.best_epoch": _COUNT,
    "training.train_seconds": _NOT_NEGATIVE,
    "training.images_per_second": _NOT_NEGATIVE,
}
