"""Reads what training and evaluation keep of a run, as a page shows it.

The files may be damaged, or of another version: values that a page computes with are checked.
"""

from __future__ import annotations

import csv
import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.config.yaml_files import dotted, read_yaml
from anomaly_tf.errors import UserError
from anomaly_tf.program import command_line
from anomaly_tf.runs.cells import METRIC_CHECKS, OPTIONAL_METRIC_CHECKS
from anomaly_tf.runs.checks import Checks, are_measures, is_number, is_text, parse_json, require
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.outputs import EXAMPLES_FORMAT, MAX_JSON, SCORES_HEAD
from anomaly_tf.runs.sections import LABELLED, THRESHOLD_SETTINGS
from anomaly_tf.script import FORMULA, printable

# A line of history.csv has some hundred bytes, one of scores.csv the name of a file.
MAX_HISTORY, MAX_SCORES = 16 * 2**20, 512 * 2**20
TILES = ("original", "heat_map", "reconstruction")

_RATES = (
    (
        lambda value: (
            isinstance(value, dict) and all(is_number(rate, 0, 1) for rate in value.values())
        )
    ),
    "names, each with a number from 0 to 1",
)
_NAMES = (
    (lambda value: isinstance(value, list) and all(map(is_text, value))),
    "a list of names",
)
_NAME_OR_NAMES = (
    (lambda value: value is None or is_text(value) or _NAMES[0](value)),
    "a name, a list of names, or null",
)
_NUMBER = is_number, "a number"
_SHARE = (lambda value: value is None or is_number(value, 0, 1)), "a number from 0 to 1, or null"


def _is_interval(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and len(value) == 2
        and all(is_number(limit, 0, 1) for limit in value)
    )


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == len(value) and all(map(is_number, row))
        for row in value
    )


def _is_method(value: Any) -> bool:
    if not is_text(value):
        return False
    method, _, setting = value.partition(" ")
    known = method in THRESHOLD_SETTINGS and bool(re.fullmatch(r"[0-9]+(\.[0-9]+)?", setting))
    return known or value == LABELLED


def _is_report(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_number(part)
        or (isinstance(part, dict) and all(is_number(part.get(name)) for name in _OF_CLASS))
        for part in value.values()
    )


_OF_CLASS = ("precision", "recall", "support")


def _is_sweep(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("auroc"), dict):
        return False
    rows = [value.get("noise"), value.get("rotation"), *value["auroc"].values()]
    return all(
        isinstance(row, list) and all(map(is_number, row)) and len(row) == len(rows[0] or ())
        for row in rows
    )


# Metrics of `metrics.json` that pages use, and may be missing.
_CHECKS: Checks = {
    name: METRIC_CHECKS[name] for name in METRIC_CHECKS if name != "normal_class"
} | {
    "approach": (is_text, "text"),
    "protocol": (is_text, "text"),
    "threshold": _NUMBER,
    "threshold_method": (_is_method, "a method with its setting, such as percentile 95"),
    "classification_report": (_is_report, "scikit-learn's report"),
    "auroc_ci95": (_is_interval, "two numbers from 0 to 1, or null"),
    "average_precision": _SHARE,
    "fpr_at_95_tpr": _SHARE,
    "auroc_by_class": _RATES,
    "normal_scores": (are_measures, "names, each with a finite number"),
    "confusion_matrix": (_is_matrix, "a square matrix of numbers"),
    "normal_class_name": _NAME_OR_NAMES,
    **{
        name: ((lambda value: is_number(value, 0)), "a number of at least 0")
        for name in ("n_train", "n_validation", "n_test", "epochs", "best_epoch")
    },
}
_OPTIONAL_CHECKS: Checks = {
    **{name: check for name, check in OPTIONAL_METRIC_CHECKS.items() if name not in _CHECKS},
    "seen_classes": _NAMES,
    "unseen_classes": _NAMES,
    "auroc_by_strength": (_is_sweep, "strengths, and as many numbers for each kind"),
    "accuracy_by_corruption": _RATES,
    "pixel_auroc": _SHARE,
    "aupro": _SHARE,
    "n_masks": _NUMBER,
}


@dataclass(frozen=True)
class Scored:
    """The test images of `scores.csv`; arrays and tuples of the same length.

    Attributes:
        names: Name of each file, or number of each image.
        labels: int `(N,)`, 1 = anomaly, 0 = normal.
        classes: Name of each image's class, its invisible characters escaped.
        scores: float64 `(N,)`.
        verdicts: int `(N,)`, 1 = anomaly, 0 = normal.
        are_files: Whether the images are files.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    verdicts: np.ndarray
    are_files: bool


@dataclass(frozen=True)
class Kept:
    """What is kept of a run and its evaluation.

    Attributes:
        run: The run.
        info: Content of its `detector.json`.
        options: Dotted name of each option of its training to the value.
        metrics: Content of `metrics.json`.
        tested: The test images with their scores.
        history: Column of `history.csv` to its values, one per epoch; empty if there is none.
        examples: Groups of test images with their maps, as `tiles.py` writes them.
    """

    run: RunDirectory
    info: DetectorInfo
    options: dict[str, Any]
    metrics: dict[str, Any]
    tested: Scored
    history: dict[str, np.ndarray] = field(default_factory=dict)
    examples: dict[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> np.ndarray:
        """Test images that the protocol judges, bool `(N,)`: not those of seen classes."""
        seen = [*map(printable, self.metrics.get("seen_classes", []))]
        return ~((self.tested.labels == 1) & np.isin(self.tested.classes, seen))


def read_kept(path: str | Path, output: RunDirectory | None = None) -> Kept:
    """Reads a run and its evaluation.

    Args:
        path: The run.
        output: Folder of the evaluation, if it is not the run's own.

    Raises:
        UserError: If it is no run, is not evaluated, or a file is damaged.
    """
    run, info = open_run(path)
    output = output or run
    again = f"evaluate it: {command_line('evaluate', '--run-dir', path)}"
    for file in (output.metrics, output.scores):
        if not file.is_file():
            raise UserError(f"run {path} is not evaluated (no {file.name}); {again}")
    try:
        file = output.metrics
        metrics = _object(file)
        require(metrics, _CHECKS, _OPTIONAL_CHECKS)
        if metrics["auroc"] is not None:
            require(metrics, dict.fromkeys(("average_precision", "fpr_at_95_tpr"), _NUMBER))
        if metrics.get("pixel_auroc") is not None:
            require(metrics, dict.fromkeys(("aupro", "n_masks"), _NUMBER))
        file = output.scores
        tested = _read_scores(file)
        if len(tested.labels) < metrics["n_test"]:  # which are the judged ones
            file = output.metrics
            raise ValueError(
                f"it counts {metrics['n_test']:.0f} test images, and {output.scores.name} holds "
                f"{len(tested.labels)}"
            )
        file = output.examples
        examples = _read_examples(file) if file.is_file() else {}
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file} is damaged ({error}); {again}") from error
    try:
        history = read_history(run.history) if run.history.is_file() else {}
    except ValueError:
        history = {}  # said by the plot of the losses, whose file it is
    return Kept(run, info, dotted(read_yaml(run.config)), metrics, tested, history, examples)


def _object(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return parse_json(file.read(MAX_JSON + 1), MAX_JSON, MAX_JSON)


def _read_scores(path: Path) -> Scored:
    if path.stat().st_size > MAX_SCORES:
        raise ValueError(f"more than {MAX_SCORES // 2**20} MB")
    kinds = {"normal": 0, "anomaly": 1}
    known: dict[str, str] = {}  # one text for each class, of possibly a million images
    names, labels, classes, scores, verdicts = [], bytearray(), [], array("d"), bytearray()
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        head = next(rows, [])
        if head[1:] != SCORES_HEAD.split(",") or head[0] not in ("file", "number"):
            raise ValueError("it is no table of scores")
        for row in rows:
            if len(row) != len(head) or row[1] not in kinds or row[4] not in kinds:
                raise ValueError(f"line {rows.line_num}")
            names.append(_without_mark(row[0]))
            labels.append(kinds[row[1]])
            classes.append(known.setdefault(row[2], _without_mark(row[2])))
            scores.append(float(row[3]))
            verdicts.append(kinds[row[4]])
    values = np.array(scores)
    if all(labels) or not np.isfinite(values).all():
        raise ValueError("expected finite scores, and at least one normal image")
    return Scored(
        tuple(names),
        np.array(labels, int),
        np.array(classes, object),
        values,
        np.array(verdicts, int),
        head[0] == "file",
    )


def _without_mark(text: str) -> str:
    """A cell without the apostrophe that keeps spreadsheets from reading it as a formula."""
    rest = text[1:]
    return rest if text[:1] == "'" and rest.lstrip(" ")[:1] in FORMULA else text


def read_history(path: Path) -> dict[str, np.ndarray]:
    """Reads the columns of `history.csv`, each with a value per epoch.

    Raises:
        ValueError: If it is damaged.
    """
    if path.stat().st_size > MAX_HISTORY:
        raise ValueError(f"{path} has more than {MAX_HISTORY // 2**20} MB")
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    if not rows:  # no epoch was finished
        return {}
    if "epoch" not in head or any(len(row) != len(head) for row in rows):
        raise ValueError(f"{path} is damaged; train again for this plot")
    columns = zip(*rows, strict=True)
    return {
        name: np.array([float(value or "nan") for value in column])
        for name, column in zip(head, columns, strict=True)
    }


def _read_examples(path: Path) -> dict[str, Any]:
    """The groups of `examples.json`, whose pictures are base64 only."""
    content = _object(path)
    if content.get("format") != EXAMPLES_FORMAT or not isinstance(content.get("groups"), dict):
        raise ValueError("it holds no examples")
    require(content, {"size": _NUMBER})
    for group in content["groups"].values():
        require(group, {"title": (is_text, "text"), "images": _LISTED})
        for one in group["images"]:
            require(
                one,
                {
                    **dict.fromkeys(("name", "class"), (is_text, "text")),
                    "score": _NUMBER,
                    **dict.fromkeys(TILES[:2], _PICTURE),
                },
                {"predicted": (is_text, "text"), TILES[2]: _PICTURE},
            )
    return content


_LISTED = (
    (lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value)),
    "a list of objects",
)
_PICTURE = (
    (lambda value: is_text(value) and bool(re.fullmatch("[A-Za-z0-9+/]+={0,2}", value))),
    "a picture in base64",
)
