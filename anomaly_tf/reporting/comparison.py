"""A benchmark's results as a table in Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

from anomaly_tf.approaches import options_of
from anomaly_tf.reporting import comparison_plots as plots
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.runs.outputs import REPORTS
from anomaly_tf.script import printable

Results = list[dict[str, Any]]
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
    table = _markdown([HEAD, ("---",) * len(HEAD), *table_rows(results)])
    for title, lines in class_tables(done).items():
        table += f"\n\n{_inert(title)}\n\n{_markdown(lines)}"
    hardware = _inert("; ".join(_machines(done)) or "none")
    with atomic_path(output / REPORTS[0]) as temporary:
        text = f"{table}\n\nCommand: {_code(command)}\n\nHardware: {hardware}\n"
        temporary.write_text(text, "utf-8")
    return table


def write_page(results: Results, command: str, output: Path) -> list[str]:
    """Writes `benchmark.html`, the table and plots.

    Args:
        results: Results of `benchmark.run_cells`.
        command: The command line of the benchmark.
        output: Output folder.

    Returns:
        A line for each plot that could not be drawn and is left out.
    """
    done = _completed(results)
    figures, failures = {}, []
    for title, figure in _figures(done).items():
        try:
            figures[title] = _embedded(figure())
        except Exception as error:  # must not prevent the page
            failures.append(f"plot {title!r} was not drawn ({type(error).__name__}: {error})")
    page = Environment(
        loader=PackageLoader("anomaly_tf.reporting", "."),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("comparison.html.j2")
    rendered = page.render(
        head=HEAD,
        rows=table_rows(results),
        failed=[result for result in results if result["status"] == "failed"],
        figures=figures,
        command=command,
        machines=_machines(done),
        versions=sorted({f"{k} {v}" for result in done for k, v in result["versions"].items()}),
        datasets=sorted({result["metrics"]["dataset"] for result in done}),
    )
    with atomic_path(output / REPORTS[1]) as temporary:
        temporary.write_text(rendered, "utf-8")
    return failures


def _completed(results: Results) -> Results:
    return [result for result in results if result["status"] == "completed"]


def _machines(done: Results) -> list[str]:
    return sorted({result["metrics"]["hardware"] for result in done})


def table_rows(results: Results) -> list[tuple[str, ...]]:
    """One row per approach and protocol, and per failed cell; texts in the order of `HEAD`.

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
                    _numbers(classes) or "all",
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
                        "all" if normal is None else str(normal),
                        str(cell["cell"]["seed"]),
                        f"failed: {cell['reason']}".replace("|", "/"),
                        *("",) * (len(HEAD) - 6),
                        reported,
                    )
                )
    return rows


def _markdown(rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(map(_inert, row)) + " |" for row in rows)


def _code(text: str) -> str:
    """Formats text as code in Markdown, also if it contains backticks."""
    text = printable(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{space}{text}{space}{fence}"


def _inert(text: str) -> str:
    """Escapes HTML, links, images and column separators in Markdown, except in code."""
    if re.fullmatch(r"`[^`<>|]*`(, on classes seen in training)?", text):
        return text
    shown = html.escape(printable(text), quote=False)
    return re.sub(r"([\\`\[\]|!])", r"\\\1", shown)


def class_tables(done: Results) -> dict[str, list[tuple[str, ...]]]:
    """Tables by title, one per protocol: AUROC of each approach by normal class or corruption.

    Values are means over the seeds. The last column is the mean over the other columns, with its
    standard deviation over the seeds, if there are several. The first two rows are the head.
    """
    tables = {}
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
        lines: list[tuple[str, ...]] = [("", *head, "mean"), ("---",) * (len(head) + 2)]
        for name, (group, key) in rows.items():
            values = [columns[name].get(one, ()) for one in head]
            shown = [f"{statistics.mean(one):.3f}".lstrip("0") if one else "" for one in values]
            lines.append((name, *shown, _over_seeds([cell["metrics"] for cell in group], key)))
        what = "corruption" if cells[0]["cell"]["normal_class"] is None else "normal class"
        tables[f"AUROC by {what}, {protocol}"] = lines
    return tables


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


def _figures(done: Results) -> dict[str, Callable[[], Figure]]:
    """Title of each plot that the results allow to the function that draws it."""
    scored = [result for result in done if result["metrics"]["auroc"] is not None]
    figures: dict[str, Callable[[], Figure]] = {}
    for (protocol,), cells in _by(scored, "protocol").items():
        first = cells[0]["cell"]
        curves = {
            cell["cell"]["approach"]: cell["metrics"]
            for cell in cells
            if (cell["cell"]["normal_class"], cell["cell"]["seed"])
            == (first["normal_class"], first["seed"])
        }
        normal = first["normal_class"]
        which = "all classes normal" if normal is None else f"normal class {normal}"
        figures[f"ROC, {protocol}, {which}"] = partial(plots.roc_overlay, curves)
        by_anomaly = {name: metrics["auroc_by_class"] for name, metrics in curves.items()}
        title = f"AUROC by anomaly, {protocol}, {which}"
        figures[title] = partial(plots.auroc_heat_map, by_anomaly, "anomaly")
        by_normal: dict[str, dict[str, float]] = {}
        for (approach, number), group in _by(cells, "approach", "normal_class").items():
            values = [cell["metrics"]["auroc"] for cell in group]
            by_normal.setdefault(approach, {})[str(number)] = statistics.mean(values)
        if max(map(len, by_normal.values())) > 1:
            title = f"AUROC by normal class, {protocol}"
            figures[title] = partial(plots.auroc_heat_map, by_normal, "normal class")
    if scored:
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
        figures["AUROC against training time"] = partial(plots.auroc_against_time, points)
    return figures


def _embedded(figure: Figure) -> str:
    """Converts a figure to a data URL, so that the page needs no other file."""
    buffer = io.BytesIO()
    # Text is stored as text in the reader's font; as outlines it would be most of the page.
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
