"""Finished cells of a benchmark, `cells/*.json`, which may be damaged or from another source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomaly_tf.errors import UserError
from anomaly_tf.runs.checks import Checks, is_number, is_text, is_whole, parse_json, require
from anomaly_tf.runs.outputs import MAX_JSON


def _is_rate(value: Any) -> bool:
    return value is None or is_number(value, 0, 1)


def _are_rates(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_rate, value.values()))


def _is_curve(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(part, list) and all(map(is_number, part)) for part in value.values()
    )


_NOT_NEGATIVE = (lambda value: is_number(value, 0)), "a number of at least 0"
_OBJECT = (lambda value: isinstance(value, dict)), "an object"
_RATE = _is_rate, "a number from 0 to 1, or null"
RESULT_CHECKS: Checks = {"wall_seconds": _NOT_NEGATIVE, "versions": _OBJECT, "metrics": _OBJECT}
# Metrics that tables and pages show.
METRIC_CHECKS: Checks = {
    "dataset": (is_text, "text"),
    "hardware": (is_text, "text"),
    "auroc": _RATE,
    "test_false_alarm_rate": _RATE,
    "test_detection_rate": _RATE,
    "train_seconds": _NOT_NEGATIVE,
    "n_weights": _NOT_NEGATIVE,
    "seed": ((lambda value: is_whole(value, 0, 2**53)), "a whole number"),
    "normal_class": (
        (lambda value: value is None or is_whole(value, 0, 2**15)),
        "the number of a class, or null",
    ),
}
OPTIONAL_METRIC_CHECKS: Checks = {
    "accuracy": _RATE,
    "auroc_seen": _RATE,
    "auroc_by_class": (
        (lambda value: value is None or _are_rates(value)),
        "names, each with a number from 0 to 1",
    ),
    "roc_curve": ((lambda value: value is None or _is_curve(value)), "lists of numbers"),
}


def read_cell(path: Path, cell: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any] | None:
    """Reads the result of a cell; None if there is none, it failed, or its settings differ.

    Args:
        path: The file, which need not exist.
        cell: The cell that the result must be of.
        settings: The settings that the result must have.

    Raises:
        UserError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            result = parse_json(file.read(MAX_JSON + 1), MAX_JSON, MAX_JSON)
        if result["status"] != "completed" or result["settings"] != settings:
            return None
        if result["cell"] != cell:
            raise ValueError("it is the result of another cell")
        require(result, RESULT_CHECKS)
        require(result["metrics"], METRIC_CHECKS, OPTIONAL_METRIC_CHECKS)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it to run its cell again") from error
    return result
