"""Tables of `make bench-photos` in Markdown, as the documentation shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Row = dict[str, Any]
# Key of the counts of a part that has no other figure.
MISSED = "no_higher_than_the_highest_good"


def _number(key: str, form: str) -> Callable[[Row], str]:
    """A column of one figure; empty where it was not measured."""
    return lambda found: "" if found.get(key) is None else format(found[key], form)


def _interval(found: Row) -> str:
    low, high = found.get("auroc_ci95") or (None, None)
    return "" if low is None else f"{low:.3f} to {high:.3f}"


def _kinds(found: Row) -> str:
    return ", ".join(f"{kind} {auroc:.3f}" for kind, auroc in found["auroc_by_class"].items())


def _missed(found: Row) -> str:
    counts = found[MISSED].items()
    return ", ".join(f"{kind} {count}" for kind, count in counts)


AUROC = {"AUROC": _number("auroc", ".3f")}
INTERVAL = {"95 % interval": _interval}
ALARMS = {"false alarms at 95 % found": _number("fpr_at_95_tpr", ".1%")}
PLACE = {
    "pixel AUROC": _number("pixel_auroc", ".3f"),
    "per-region overlap": _number("aupro", ".3f"),
}
COSTS = {"training": _number("seconds", ".0f"), "MB": _number("peak_mb", ".0f")}
KINDS = {"AUROC by kind": _kinds}
EXPORT = {
    "AUROC of the run": _number("auroc_of_run", ".4f"),
    "AUROC": _number("auroc", ".4f"),
    "file, MB": _number("megabytes", ".2f"),
    "one picture, ms": _number("milliseconds", ".1f"),
    "refused": _number("refused", ""),
}
LARGE = {
    "score of the good picture": _number("score_of_good", ".4g"),
    "with a coin": _number("score_with_coin", ".4g"),
    "predict, s": _number("predict_seconds", ".1f"),
    "predict, MB": _number("predict_peak_mb", ".0f"),
    "refused": _number("refused", ""),
}
COLUMNS: dict[str, dict[str, Callable[[Row], str]]] = {
    "elpv": AUROC | INTERVAL | ALARMS | COSTS,
    "labelled": AUROC | INTERVAL | ALARMS | COSTS,
    "cloth": AUROC | PLACE | KINDS | COSTS,
    "textures": AUROC | PLACE | KINDS | COSTS,
    "gravel": {"score no higher than the highest good crop": _missed} | COSTS,
    "exports": EXPORT,
    "tiles": LARGE | COSTS,
    "memory": COSTS,
}
TITLES = {
    "elpv": "Solar cells, functional cells only",
    "labelled": "Solar cells, with labelled defective cells",
    "cloth": "Drawn cloth",
    "textures": "Photographed textures with drawn defects",
    "gravel": "Twelve crops of gravel",
    "exports": "Exported files",
    "tiles": "A large picture in tiles",
    "memory": "Many pictures",
}


def tables(results: dict[str, Any]) -> str:
    """The table of each part that was measured, each under its title."""
    return "\n\n".join(
        f"### {TITLES[part]}\n\n{table(part, results[part])}" for part in COLUMNS if part in results
    )


def table(part: str, groups: dict[str, dict[str, Row]]) -> str:
    """One part's table: a line for each set and row; means over the draws, if there are several."""
    if part == "labelled":
        groups = groups | {f"mean of {len(groups)}": _means(groups)}
    lines = ["| set | approach | " + " | ".join(COLUMNS[part]) + " |"]
    lines.append("|" + "---|" * (len(COLUMNS[part]) + 2))
    for group, rows in groups.items():
        for row, found in rows.items():
            name = f"`{row}`"
            if row == "auto" and "approach" in found:
                name += f": `{found['approach']}`"
            cells = (column(found) for column in COLUMNS[part].values())
            lines.append(f"| {group} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _means(groups: dict[str, dict[str, Row]]) -> dict[str, Row]:
    """Means of the rows that every draw has."""
    draws = list(groups.values())
    common = [row for row in draws[0] if all(row in rows for rows in draws)]
    keys = ("auroc", "fpr_at_95_tpr", "seconds", "peak_mb")
    return {
        row: {key: float(np.mean([rows[row][key] for rows in draws])) for key in keys}
        for row in common
    }
