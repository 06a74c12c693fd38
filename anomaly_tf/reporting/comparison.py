"""A benchmark's results as a table in Markdown and as one self-contained HTML page."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_tf.approaches import options_of
from anomaly_tf.reporting import comparison_plots as plots
from anomaly_tf.reporting import markdown
from anomaly_tf.reporting.page import Drawing, TableCell, drawn, shaded, write_page
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.runs.outputs import REPORTS

Results = list[dict[str, Any]]
# Beginning of the text that a failed cell has in place of its AUROC.
FAILED = "failed: "
# Most normal classes that are named in one cell.
MAX_NAMED = 3
HEAD = (
    "approach",
    "protocol",
    "normal class",
    "seeds",
    "AUROC",
    "on seen",
    "false alarms",
    "found",
    "accuracy",
    "training",
    "weights",
    "reported",
)


def write_table(results: Results, command: str, output: Path) -> str:
    """Writes `benchmark.md`.

    Args:
        results: Results of `benchmark.run_cells`.
        command: The command line of the benchmark.
        output: Output folder.

    Returns:
        The tables in Markdown.
    """
    done = _completed(results)
    table = markdown.table([HEAD, ("---",) * len(HEAD), *table_rows(results)])
    for title, lines in class_tables(done).items():
        table += f"\n\n{markdown.inert(title)}\n\n{markdown.table(lines)}"
    hardware = markdown.inert("; ".join(_machines(done)) or "none")
    with atomic_path(output / REPORTS[0]) as temporary:
        text = f"{table}\n\nCommand: {markdown.code(command)}\n\nHardware: {hardware}\n"
        temporary.write_text(text, "utf-8")
    return table


def write_benchmark(results: Results, command: str, output: Path) -> list[str]:
    """Writes `benchmark.html`, the tables and plots.

    Args:
        results: Results of `benchmark.run_cells`.
        command: The command line of the benchmark.
        output: Output folder.

    Returns:
        A line for each plot that could not be drawn and is left out.
    """
    done = _completed(results)
    names = class_names(done)
    lines = table_rows(results, names)
    failed = [line for line in lines if line[4].startswith(FAILED)]
    head, rows = _without_empty_columns(HEAD, [line for line in lines if line not in failed])
    pictures, failures = drawn(_drawings(done, names))
    versions = sorted({f"{k} {v}" for result in done for k, v in result["versions"].items()})
    values = {
        "head": head,
        "rows": rows,
        "failed": failed,
        "tables": [
            _shaded_table(grid, names) for grid in (*_grids(done), *_by_anomaly(done, names))
        ],
        "pictures": pictures,
        "words": [n for n, name in enumerate(head) if name in HEAD[:4]],
        "texts": [n for n, name in enumerate(head) if name == HEAD[-1]],
        "facts": [
            ("command", command),
            ("hardware", "; ".join(_machines(done))),
            ("versions", ", ".join(versions)),
        ],
        "datasets": sorted({result["metrics"]["dataset"] for result in done}),
    }
    write_page("comparison.html.j2", values, output / REPORTS[1])
    return failures


def class_names(done: Results) -> dict[int, str]:
    """Number of each normal class to its name; results of earlier versions have no names."""
    metrics = [result["metrics"] for result in done]
    return {
        each["normal_class"]: each["normal_class_name"]
        for each in metrics
        if isinstance(each["normal_class"], int) and isinstance(each.get("normal_class_name"), str)
    }


def _without_empty_columns(
    head: tuple[str, ...], rows: list[tuple[str, ...]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The same table without the columns in which no row has a text."""
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    return tuple(head[n] for n in kept), [tuple(row[n] for n in kept) for row in rows]


def _completed(results: Results) -> Results:
    return [result for result in results if result["status"] == "completed"]


def _machines(done: Results) -> list[str]:
    return sorted({result["metrics"]["hardware"] for result in done})


def table_rows(results: Results, names: dict[int, str] | None = None) -> list[tuple[str, ...]]:
    """One row per approach and protocol, and per failed cell; texts in the order of `HEAD`.

    Args:
        results: Results of `benchmark.run_cells`.
        names: Number of each class to its name; without it, normal classes are numbers.

    AUROC and accuracy are means over the normal classes; with several seeds, mean and standard
    deviation of these means over the seeds. Under protocol unseen, AUROC is measured on anomaly
    classes that are not in the training set, and column `on seen` on those that are. The training
    time is that of the first seed, because further seeds may have been trained in parallel.
    """
    rows: list[tuple[str, ...]] = []
    for (approach, protocol), cells in _by(results, "approach", "protocol").items():
        reported = options_of(approach).reported.get(protocol, "")
        done = [cell["metrics"] for cell in cells if cell["status"] == "completed"]
        if done:
            classes = sorted({m["normal_class"] for m in done if m["normal_class"] is not None})
            seeds = sorted({m["seed"] for m in done})
            rows.append(
                (
                    approach,
                    protocol,
                    _classes(classes, names or {}) or "all",
                    _numbers(seeds),
                    _over_seeds(done, "auroc"),
                    _over_seeds(done, "auroc_seen"),
                    _mean(done, "test_false_alarm_rate", "{:.1%}"),
                    _mean(done, "test_detection_rate", "{:.1%}"),
                    _over_seeds(done, "accuracy"),
                    _mean([m for m in done if m["seed"] == seeds[0]], "train_seconds", "{:.0f} s"),
                    _mean(done, "n_weights", "{:,.0f}"),
                    reported,
                )
            )
        for cell in cells:
            if cell["status"] == "failed":
                normal = cell["cell"]["normal_class"]
                rows.append(
                    (
                        approach,
                        protocol,
                        "all" if normal is None else _classes([normal], names or {}),
                        str(cell["cell"]["seed"]),
                        f"{FAILED}{cell['reason']}".replace("|", "/"),
                        *("",) * (len(HEAD) - 6),
                        reported,
                    )
                )
    return rows


class Grid(NamedTuple):
    """AUROC of several detectors (rows) on several problems (columns).

    Attributes:
        title: Title of the table.
        columns: Names of the problems; a normal class is its number.
        rows: Detector to the AUROC of each column, which may be missing, and the last one as text.
        last: Name of the last column: their mean, or the AUROC of all of them together.
    """

    title: str
    columns: list[str]
    rows: dict[str, tuple[list[float | None], str]]
    last: str = "mean"


def _grids(done: Results) -> list[Grid]:
    """Tables of each approach by normal class or corruption, one per protocol.

    Values are means over the seeds. The mean over the columns has its standard deviation over the
    seeds, if there are several.
    """
    grids = []
    scored = [result for result in done if result["metrics"]["auroc"] is not None]
    for (protocol,), cells in _by(scored, "protocol").items():
        rows = {}
        for (approach,), group in _by(cells, "approach").items():
            rows[f"`{approach}`"] = group, "auroc"
            if group[0]["metrics"].get("auroc_seen") is not None:
                rows[f"`{approach}`, on classes seen in training"] = group, "auroc_seen"
        columns = {name: _columns(*row) for name, row in rows.items()}
        head = list(dict.fromkeys(one for values in columns.values() for one in values))
        if len(head) < 2:
            continue
        lines = {}
        for name, (group, key) in rows.items():
            found = [columns[name].get(one) for one in head]
            values = [statistics.mean(one) if one else None for one in found]
            lines[name] = values, _over_seeds([cell["metrics"] for cell in group], key)
        what = "corruption" if cells[0]["cell"]["normal_class"] is None else "normal class"
        grids.append(Grid(f"AUROC by {what}, {protocol}", head, lines))
    return grids


def class_tables(done: Results) -> dict[str, list[tuple[str, ...]]]:
    """Tables by title in Markdown, as `_grids`; the first two rows are the head."""
    tables = {}
    for grid in _grids(done):
        head = [("", *grid.columns, "mean"), ("---",) * (len(grid.columns) + 2)]
        tables[grid.title] = head + [
            (name, *("" if one is None else f"{one:.3f}".lstrip("0") for one in values), mean)
            for name, (values, mean) in grid.rows.items()
        ]
    return tables


def _by_anomaly(done: Results, names: dict[int, str]) -> list[Grid]:
    """AUROC of each approach by anomaly, for the first normal class and seed of each protocol."""
    grids = []
    for protocol, which, curves in _first_cells(done, names):
        found = {name: metrics["auroc_by_class"] for name, metrics in curves.items()}
        head = list(dict.fromkeys(one for values in found.values() for one in values))
        rows = {
            f"`{name}`": ([values.get(one) for one in head], f"{curves[name]['auroc']:.4f}")
            for name, values in found.items()
        }
        if which and len(head) > 1:
            grids.append(Grid(f"AUROC by anomaly, {protocol}, {which}", head, rows, "all"))
    return grids


def _first_cells(done: Results, names: dict[int, str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Protocol, normal class in words, and approach to metrics: of its first class and seed."""
    scored = [result for result in done if result["metrics"]["auroc"] is not None]
    found = []
    for (protocol,), cells in _by(scored, "protocol").items():
        first = cells[0]["cell"]
        curves = {
            cell["cell"]["approach"]: cell["metrics"]
            for cell in cells
            if (cell["cell"]["normal_class"], cell["cell"]["seed"])
            == (first["normal_class"], first["seed"])
        }
        normal = first["normal_class"]
        which = "" if normal is None else f"normal class {_classes([normal], names)}"
        found.append((protocol, which, curves))
    return found


def _shaded_table(grid: Grid, names: dict[int, str]) -> tuple[str, tuple[str, ...], list[Any]]:
    """A grid for the page: class names, shaded cells."""
    known = {str(number): name for number, name in names.items()}
    head = "approach", *(known.get(column, column) for column in grid.columns), grid.last
    rows = [
        (name.replace("`", ""), [*(shaded(value, digits=3) for value in values), TableCell(mean)])
        for name, (values, mean) in grid.rows.items()
    ]
    return grid.title, head, rows


def _columns(cells: Results, key: str) -> dict[str, list[float]]:
    """Values of the seeds by normal class or, if all classes are normal, by kind of anomaly."""
    columns: dict[str, list[float]] = {}
    for cell in cells:
        normal, metrics = cell["cell"]["normal_class"], cell["metrics"]
        found = metrics["auroc_by_class"] if normal is None else {str(normal): metrics[key]}
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
    return columns


def _by(results: Results, *keys: str) -> dict[tuple, Results]:
    groups: dict[tuple, Results] = {}
    for result in results:
        groups.setdefault(tuple(result["cell"][key] for key in keys), []).append(result)
    return groups


def _classes(numbers: list[int], names: dict[int, str]) -> str:
    """Normal classes in words: names of a few, the number of many; numbers without names."""
    if not all(number in names for number in numbers):
        return _numbers(numbers)
    if len(numbers) > MAX_NAMED:
        return f"{len(numbers)} classes"
    return ", ".join(names[number] for number in numbers)


def _numbers(values: list[int]) -> str:
    """Formats numbers, `0, 1, 2` as `0-2`."""
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]}"
    return ", ".join(map(str, values))


def _mean(metrics: list[dict[str, Any]], key: str, form: str) -> str:
    values = [each[key] for each in metrics if each.get(key) is not None]
    return form.format(statistics.mean(values)) if values else ""


def _over_seeds(metrics: list[dict[str, Any]], key: str) -> str:
    """Mean and standard deviation over the seeds that have results for all classes."""
    by_seed: dict[int, list[float]] = {}
    for each in metrics:
        if each.get(key) is not None:
            by_seed.setdefault(each["seed"], []).append(each[key])
    if not by_seed:
        return ""
    complete = max(map(len, by_seed.values()))
    means = [statistics.mean(values) for values in by_seed.values() if len(values) == complete]
    spread = f" ± {statistics.stdev(means):.4f}" if len(means) > 1 else ""
    return f"{statistics.mean(means):.4f}{spread}"


def _drawings(done: Results, names: dict[int, str]) -> list[Drawing]:
    """The plots that the results allow."""
    drawings = []
    for protocol, which, curves in _first_cells(done, names):
        areas = ", ".join(f"{name} {metrics['auroc']:.4f}" for name, metrics in curves.items())
        drawings.append(
            Drawing(
                f"ROC, {protocol}, {which or 'all classes normal'}",
                f"Detection rate against false-alarm rate of each approach; areas: {areas}.",
                partial(plots.roc_overlay, curves),
            )
        )
    scored = [result for result in done if result["metrics"]["auroc"] is not None]
    points = {
        key: (
            statistics.mean(
                cell["metrics"]["train_seconds"]
                for cell in cells
                if cell["cell"]["seed"] == cells[0]["cell"]["seed"]
            ),
            statistics.mean(cell["metrics"]["auroc"] for cell in cells),
        )
        for key, cells in _by(scored, "approach", "protocol").items()
    }
    if points:
        words = "; ".join(
            f"{approach}, {protocol}: {auroc:.4f} in {seconds:.0f} s"
            for (approach, protocol), (seconds, auroc) in points.items()
        )
        drawings.append(
            Drawing(
                "AUROC against training time",
                f"Mean AUROC and training time of each approach: {words}.",
                partial(plots.auroc_against_time, points),
            )
        )
    return drawings
