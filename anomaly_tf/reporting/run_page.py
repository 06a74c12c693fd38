"""The page of a run, `report.html`, from what training and evaluation keep of it."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.config import flatten, plain
from anomaly_tf.detection.metrics import auroc_confidence_interval
from anomaly_tf.reporting.doubts import Rate, detections, doubts, false_alarms, promise
from anomaly_tf.reporting.examples import MISTAKES
from anomaly_tf.reporting.figures import (
    drawings,
    duration,
    loss_drawing,
    names,
    shown_option,
)
from anomaly_tf.reporting.kept import TILES, Kept, read_kept
from anomaly_tf.reporting.page import MAX_SHADE, TableCell, drawn, shaded, write_page
from anomaly_tf.runs.directory import COMPLETED, RunDirectory
from anomaly_tf.runs.sections import LAST_EPOCH, TrainingFacts
from anomaly_tf.script import printable

# Rows of the list of mistakes; scores.csv has all.
MAX_LISTED = 50
# False-alarm rates of the table of trade-offs.
ALLOWED = (0.001, 0.01, 0.05, 0.1, 0.2)
# Most classes whose confusion matrix is shown as a whole.
MAX_MATRIX = 30
# Sides up to which pictures are enlarged without smoothing, in pixels.
SMALL = 64
# How the epoch was selected, in words.
CHOICES = {
    LAST_EPOCH: "the last one",
    "val_auroc": "the best validation AUROC",
    "val_accuracy": "the best validation accuracy",
}
Table = tuple[str, tuple[str, ...], list[Any]]


def write_report(kept: Kept, path: Path) -> list[str]:
    """Writes the page of a run.

    Args:
        kept: What is kept of the run.
        path: The file.

    Returns:
        A line for each figure that could not be drawn and is left out.
    """
    curves, failures = drawn(drawings(kept))
    losses, more = drawn(loss_drawing(kept))
    groups = kept.examples.get("groups", {})
    mistakes = [name for name in (*MISTAKES, "most_unusual") if name in groups]
    values = {
        "title": title(kept),
        "kept": kept,
        "headline": headline(kept),
        "doubts": doubts(kept),
        "promise": promise(kept),
        "curves": curves,
        "losses": losses,
        "by_class": by_class(kept),
        "by_normal_class": _by_normal_class(kept),
        "classified": _classified(kept),
        "confusion": _confusion(kept),
        "trade_offs": _trade_offs(kept),
        "mistakes": [_group(kept, groups[name]) for name in mistakes],
        "listed": _listed(kept),
        "examples": [_group(kept, groups[name]) for name in groups if name not in mistakes],
        "heat_scale": kept.info.heat_scale,
        "facts": facts(kept),
        "changed": changed_options(kept),
        "options": [(name, shown_option(value)) for name, value in kept.options.items()],
    }
    write_page("report.html.j2", values, path)
    return failures + more


def report_of(run: RunDirectory, output: RunDirectory) -> list[str]:
    """Writes the page of a run after its evaluation, whose figures it must not prevent.

    Args:
        run: The run.
        output: Folder of the evaluation.

    Returns:
        A line for the page, or for each of its figures, if it could not be drawn.
    """
    try:
        return write_report(read_kept(run.path, output), output.report)
    except Exception as error:
        return [f"{output.report} was not written ({type(error).__name__}: {error})"]


def title(kept: Kept) -> str:
    """Approach, data and, of several classes, the normal one, for a heading."""
    metrics = kept.metrics
    title = f"{metrics['approach']} on {Path(metrics['dataset']).name}"
    if len(kept.info.class_names) == 1:
        return title
    return f"{title}: {names(metrics['normal_class_name'])} normal"


def headline(kept: Kept) -> list[tuple[str, str, str]]:
    """Name, value, and count with interval, of the most important figures."""
    metrics, found, alarms = kept.metrics, detections(kept), false_alarms(kept)
    lines = []
    if metrics.get("accuracy") is not None:
        clean = int((kept.tested.labels == 0).sum())
        right = Rate(round(metrics["accuracy"] * clean), clean)
        lines.append(("Accuracy", f"{metrics['accuracy']:.2%}", str(right)))
    if metrics["auroc"] is not None and found:
        low, high = metrics["auroc_ci95"] or (None, None)
        interval = "" if low is None else f"95 % CI {low:.4f} to {high:.4f}; "
        counts = f"{alarms.total:,} normal images, {found.total:,} anomalies"
        lines.append(("AUROC", f"{metrics['auroc']:.4f}", interval + counts))
        if metrics.get("auroc_seen") is not None:
            value = f"{metrics['auroc_seen']:.4f}"
            lines.append(("AUROC, classes seen in training", value, "beside those never seen"))
        lines.append(("Anomalies found", f"{found.value:.1%}", str(found)))
    lines.append(("False alarms", f"{alarms.value:.1%}", str(alarms)))
    if metrics["auroc"] is not None and found:
        at_95 = metrics["fpr_at_95_tpr"]
        lines.append(("False alarms at 95 % found", f"{at_95:.1%}", "at another threshold"))
        precision = f"{metrics['average_precision']:.4f}"
        chance = f"chance is {found.total / (found.total + alarms.total):.4f}"
        lines.append(("Average precision", precision, chance))
    if metrics.get("pixel_auroc") is not None:
        masks = f"{metrics['n_masks']:.0f} masks"
        lines.append(("Pixel AUROC", f"{metrics['pixel_auroc']:.4f}", masks))
        overlap = "area up to 30 % false positives"
        lines.append(("Per-region overlap", f"{metrics['aupro']:.4f}", overlap))
    return lines


def by_class(kept: Kept) -> Table | None:
    """AUROC and share found of each kind of anomaly, the hardest first."""
    tested, unseen = kept.tested, kept.metrics.get("unseen_classes")
    normal, rows = tested.labels == 0, []
    for name, auroc in sorted(kept.metrics["auroc_by_class"].items(), key=lambda item: item[1]):
        ours = (tested.labels == 1) & (tested.classes == printable(name))
        if not ours.any():
            continue
        chosen = normal | ours
        interval = "too few images"
        if min(normal.sum(), ours.sum()) >= 2:
            limits = auroc_confidence_interval(tested.labels[chosen], tested.scores[chosen])
            interval = "{:.4f} to {:.4f}".format(*limits)
        found = Rate(int(tested.verdicts[ours].sum()), int(ours.sum()))
        seen = "" if unseen is None else f" ({'unseen' if name in unseen else 'seen in training'})"
        cells = [shaded(auroc), TableCell(interval), _counted(found)]
        rows.append((f"{name}{seen}", cells))
    head = "anomaly", "AUROC", "95 % CI", "found at the threshold"
    return ("AUROC by anomaly, the hardest first", head, rows) if rows else None


def _by_normal_class(kept: Kept) -> Table | None:
    """False alarms of each normal class, if there are several, the most first."""
    tested, rates = kept.tested, {}
    normal = tested.labels == 0
    for name in sorted(set(tested.classes[normal])):
        ours = normal & (tested.classes == name)
        rates[name] = Rate(int(tested.verdicts[ours].sum()), int(ours.sum()))
    if len(rates) < 2:
        return None
    ordered = sorted(rates.items(), key=lambda item: -item[1].value)
    rows = [(name, [_counted(rate), _interval(rate)]) for name, rate in ordered]
    return "False alarms by normal class, the most first", ("class", "alarms", "95 % CI"), rows


def _classified(kept: Kept) -> Table | None:
    """Recall and precision of each class of a classifier, the lowest recall first."""
    if kept.metrics["protocol"] != "classification":
        return None
    report = kept.metrics.get("classification_report", {})
    classes = [name for name in kept.info.class_names if isinstance(report.get(name), dict)]
    rows = []
    for name in sorted(classes, key=lambda name: report[name]["recall"]):
        part = report[name]
        total = round(part["support"])
        right = Rate(round(part["recall"] * total), total) if total else None
        cells = [
            shaded(part["recall"]),
            TableCell("") if right is None else _interval(right),
            shaded(part["precision"]),
            TableCell(f"{total:,}"),
        ]
        rows.append((name, cells))
    head = "class", "recall", "95 % CI", "precision", "images"
    return ("Recall and precision by class, the lowest recall first", head, rows) if rows else None


def _confusion(kept: Kept) -> Table:
    """Counts of truth against verdict, or against predicted class, shaded by row."""
    metrics = kept.metrics
    classified = metrics["protocol"] == "classification"
    kinds = kept.info.class_names if classified else ["normal", "anomaly"]
    matrix = metrics["confusion_matrix"]
    if len(kinds) > MAX_MATRIX:
        return _frequent_confusions(kinds, matrix)
    rows = []
    for name, counts in zip(kinds, matrix, strict=False):
        total = sum(counts)
        if total:
            cells = [TableCell(f"{n:,.0f}", round(MAX_SHADE * n / total)) for n in counts]
            rows.append((name, cells))
    verdict = "predicted class" if classified else "verdict"
    return f"Truth (rows) against {verdict} (columns), test images", ("truth", *kinds), rows


def _frequent_confusions(kinds: list[str], matrix: list[list[int]]) -> Table:
    """The most frequent confusions of a classifier with many classes."""
    counts = [
        (count, truth, predicted)
        for truth, row in zip(kinds, matrix, strict=False)
        for predicted, count in zip(kinds, row, strict=False)
        if count and truth != predicted
    ]
    counts.sort(key=lambda found: -found[0])
    rows = [
        (truth, [TableCell(predicted), TableCell(f"{count:,.0f}")])
        for count, truth, predicted in counts[:MAX_MATRIX]
    ]
    return "Most frequent confusions", ("truth", "predicted class", "images"), rows


def _trade_offs(kept: Kept) -> Table | None:
    """Share of anomalies found at several false-alarm rates."""
    tested = kept.tested
    normal = np.sort(tested.scores[tested.labels == 0])[::-1]
    anomalies = tested.scores[(tested.labels == 1) & kept.judged]
    if not len(anomalies):
        return None
    rows = []
    for rate in ALLOWED:
        alarms = int(rate * len(normal))
        if not alarms or alarms >= len(normal):
            continue
        found = Rate(int((anomalies > normal[alarms]).sum()), len(anomalies))
        rows.append((f"{100 * rate:g}%", f"{found.value:.1%}", _interval(found).text))
    head = "false alarms allowed", "anomalies found", "95 % CI"
    return ("Other thresholds, on the test set", head, rows) if rows else None


def _listed(kept: Kept) -> list[Table]:
    """Tables of false alarms and of missed anomalies, the most extreme first."""
    tested = kept.tested
    tables: list[Table] = []
    kind = "file" if tested.are_files else "number in the test set"
    for title, wrong, order in (
        ("Missed anomalies, lowest score first", (tested.labels == 1) & kept.judged, 1),
        ("False alarms, highest score first", tested.labels == 0, -1),
    ):
        chosen = np.flatnonzero(wrong & (tested.labels != tested.verdicts))
        chosen = chosen[np.argsort(order * tested.scores[chosen], kind="stable")]
        rows = [
            (tested.names[n], tested.classes[n], f"{tested.scores[n]:.4g}")
            for n in chosen[:MAX_LISTED]
        ]
        more = f" ({MAX_LISTED} of {len(chosen):,})" if len(chosen) > MAX_LISTED else ""
        if rows:
            tables.append((f"{title}{more}", (kind, "class", "score"), rows))
    return tables


def _group(kept: Kept, group: dict[str, Any]) -> dict[str, Any]:
    """A group of examples for the template: title, and pictures with words."""
    size = kept.examples.get("size", 0)
    shown = []
    for one in group["images"]:
        words = f"{one['name']}, {one['class']}"
        alts = {
            "original": f"Test image {words}",
            "heat_map": f"Heat map over {words}",
            "reconstruction": f"Reconstruction of {words}",
        }
        tiles = [(one[name], alts[name]) for name in TILES if name in one]
        shown.append({**one, "tiles": tiles})
    return {"title": group["title"], "images": shown, "small": size <= SMALL}


def facts(kept: Kept) -> list[tuple[str, str]]:
    """How a run was trained, a line for each fact that applies."""
    info, metrics = kept.info, kept.metrics
    training = info.training
    height, width, channels = info.image_shape
    size = f"{height} x {width} pixels (height x width), {'grey' if channels == 1 else 'colour'}"
    if info.tiling is not None:
        size += f", in tiles of {info.tiling.tile} that overlap by {info.tiling.overlap}"
    epochs = f"{training.epochs}; {training.best_epoch or 'the unfinished first one'} is kept"
    measures = ", ".join(f"{name} {value:.4g}" for name, value in training.validation.items())
    pairs = [
        ("approach", metrics["approach"]),
        ("protocol", metrics["protocol"]),
        ("data", metrics["dataset"]),
        ("normal", names(metrics["normal_class_name"])),
        (
            "images",
            f"{training.n_train:,} for training, {training.n_validation:,} for validation, "
            f"{metrics['n_test']:,} in the test",
        ),
        ("unlabelled", _unlabelled(training)),
        ("left out", _left_out(training)),
        ("read as", size),
        ("region", info.roi.source if info.roi else ""),
        ("epochs", f"{epochs}, {CHOICES.get(training.chosen_by, training.chosen_by)}"),
        ("validation", measures),
        ("training", "" if training.status == COMPLETED else training.status.replace("_", " ")),
        ("time", f"{duration(training.train_seconds)}, {training.images_per_second:,.0f} images/s"),
        ("weights", f"{training.n_weights:,}"),
        ("seed", str(metrics["seed"])),
        ("hardware", training.hardware),
        ("versions", ", ".join(f"{name} {v}" for name, v in (info.versions or {}).items())),
        ("command", training.command),
        ("again", training.reproduce or ""),
    ]
    return [(name, value) for name, value in pairs if value]


def _unlabelled(training: TrainingFacts) -> str:
    if not training.n_unlabelled:
        return ""
    total = training.n_train + (training.n_left_out or 0)
    return f"{training.n_unlabelled:,} of {total:,} images for training are unlabelled anomalies"


def _left_out(training: TrainingFacts) -> str:
    if not training.n_left_out:
        return ""
    words = f"{training.n_left_out:,} images with the highest scores, before training"
    if training.n_unlabelled_left_out is not None:
        words += f"; {training.n_unlabelled_left_out:,} of them are unlabelled anomalies"
    return words


def changed_options(kept: Kept) -> list[tuple[str, str, str]]:
    """Options that differ from the approach's defaults: name, value, default."""
    approach = kept.metrics["approach"]
    if approach not in APPROACHES:
        return []
    record = options_of(approach)
    defaults: dict[str, Any] = {}
    with suppress(ValueError):  # of an earlier version
        protocol = dataclasses.replace(record(), protocol=kept.metrics["protocol"])
        defaults = plain(flatten(protocol.for_protocol()))
    return [
        (name, shown_option(value), shown_option(defaults[name]))
        for name, value in kept.options.items()
        if name in defaults and value != plain(defaults[name])
    ]


def _counted(rate: Rate) -> TableCell:
    return TableCell(f"{rate.value:.1%} ({rate.count:,} of {rate.total:,})")


def _interval(rate: Rate) -> TableCell:
    return TableCell("{:.1%} to {:.1%}".format(*rate.interval))
