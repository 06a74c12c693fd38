"""What a search found: a summary, a table, a YAML file for `train`, and a picture."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

from anomaly_tf.config import plain, with_options
from anomaly_tf.detection.metrics import accuracy_limits, auroc_limits, preferred
from anomaly_tf.program import command_line
from anomaly_tf.reporting import markdown, plots, search_plots
from anomaly_tf.reporting.text import Figure
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.runs.outputs import SEARCH
from anomaly_tf.script import duration, printable
from anomaly_tf.tuning.search import Search, changes
from anomaly_tf.tuning.space import Choices, as_text
from anomaly_tf.tuning.study import MIN_TRIALS, Trial

# Trials that are printed; the file has all of them.
SHOWN = 5


def write_results(search: Search, command: str) -> tuple[str, list[str]]:
    """Writes `search.md`, `search.png` and `best.yaml`.

    Args:
        search: A search with at least one result.
        command: Its command line.

    Returns:
        The summary for the terminal, and a line for a picture that could not be drawn.
    """
    summary = summary_of(search)
    _write_best(search)
    text = "\n".join(f"- {markdown.inert(line)}" for line in summary)
    text = f"# {SEARCH}: {search.config.approach}\n\n{text}\n\n{_table(search, len(search.trials))}"
    text += f"\n\n![What mattered](search.png)\n\nCommand: {markdown.code(command)}\n"
    with atomic_path(search.output / "search.md") as path:
        path.write_text(text, "utf-8")
    shown = "\n".join([_table(search, SHOWN), "", *map(printable, summary)])
    try:
        plots.save(_picture(search), search.output / "search.png")
    except Exception as error:  # a picture must not cost the figures
        reason = f"{type(error).__name__}: {error}"
        return shown, [f"plot 'what mattered' was not drawn ({reason})"]
    return shown, []


def summary_of(search: Search) -> list[str]:
    """The best trial, what it gained, and how far that can be trusted, in lines."""
    measure, best, first = search.measure, search.best, search.trials[0]
    assert best
    assert best.measure is not None
    done = [trial for trial in search.trials if trial.measure is not None]
    lines = [
        f"best: trial {best.number} of {len(search.trials)}, {measure.words} {best.measure:.4f} on "
        f"{measure.images}"
    ]
    if first.measure is None:
        lines.append("defaults: trial 0 has no result, so that nothing can be said on a gain")
    else:
        upper = upper_limit(search, first.measure)
        lines.append(f"defaults: trial 0, {first.measure:.4f}; plus a standard error {upper:.4f}")
        measures = {"trial 0": first.measure, f"trial {best.number}": best.measure}
        kept, reason = preferred(measures, upper, measure.words)
        gain = f"gain: {best.measure - first.measure:+.4f}, more than a standard error"
        if kept == "trial 0":
            gain = f"nothing was gained: {kept} {reason}; keep the defaults"
        lines.append(gain)
    lines.append(
        f"the largest of {len(done)} is optimistic, because these images chose it; measure on the "
        "test set for an honest figure"
    )
    lines += _without_result(search)
    if search.importances:
        shares = (f"{name} {share:.0%}" for name, share in search.importances.items())
        lines.append(f"what mattered: {', '.join(shares)}")
    elif len(done) < MIN_TRIALS:
        lines.append(f"what mattered: {MIN_TRIALS} results are needed, with more --trials")
    return lines


def upper_limit(search: Search, value: float) -> float:
    """A value of the measure plus its standard error."""
    measure = search.measure
    if measure.is_accuracy:
        return accuracy_limits(value, measure.n_normal)[1]
    return auroc_limits(value, measure.n_anomalies, measure.n_normal)[1]


def _without_result(search: Search) -> list[str]:
    """Numbers of trials without a result, with the most frequent reason."""
    lines = []
    refused = [trial.reason for trial in search.trials if trial.reason is not None]
    for what, reasons in (("refused", refused), ("failed", [*search.failures.values()])):
        if reasons:
            reason, count = Counter(reasons).most_common(1)[0]
            often = f" ({count} times)" if count > 1 else ""
            lines.append(f"{what}: {len(reasons)} of {len(search.trials)} trials: {reason}{often}")
    return lines


def _table(search: Search, most: int) -> str:
    """The best trials and the defaults, or all, in Markdown; those without a result last."""
    rows = sorted(search.trials, key=lambda one: (one.measure is None, -(one.measure or 0.0)))
    head = ("trial", search.measure.words, "duration", *search.space)
    lines = [head, ("---",) * len(head)]
    first = [] if search.trials[0] in rows[:most] else search.trials[:1]
    lines += [_row(search, trial) for trial in rows[:most] + first]
    return markdown.table(lines)


def _row(search: Search, trial: Trial) -> tuple[str, ...]:
    result = "under way"
    if trial.measure is not None:
        result = f"{trial.measure:.4f}"
    elif reason := trial.reason or search.failures.get(trial.number):
        result = f"{'refused' if trial.reason else 'failed'}: {reason}"
    seconds = trial.facts.get("seconds")
    name = f"{trial.number} (defaults)" if not trial.number else str(trial.number)
    values = (_shown(trial.values[name]) for name in search.space)
    return name, result, duration(seconds) if seconds else "", *values


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def _write_best(search: Search) -> None:
    """Writes the options of the best trial, those that differ from the defaults of the approach."""
    best, path = search.best, search.output / "best.yaml"
    assert best
    config = with_options(search.config, best.values)
    nested: dict[str, Any] = {"approach": config.approach}
    for name, value in changes(config, type(config)()).items():
        *section, option = name.split(".")
        place = nested.setdefault(section[0], {}) if section else nested
        place[option] = plain(value)
    head = [
        f"# {SEARCH}: trial {best.number} of {len(search.trials)}, {search.measure.words} "
        f"{best.measure:.4f} on {search.measure.images},",
        "# which chose it, so that this figure is optimistic.",
        f"# {printable(command_line('train', '--config', path))}",
    ]
    text = "\n".join([*head, yaml.safe_dump(nested, sort_keys=False)])
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")


def _picture(search: Search) -> Figure:
    options = []
    for name, values in search.space.items():
        is_choice = isinstance(values, Choices)
        tried = [trial.values[name] for trial in search.trials]
        options.append(
            search_plots.Searched(
                name,
                [*map(as_text, tried)] if is_choice else tried,
                list(values.values) if isinstance(values, Choices) else None,
                not isinstance(values, Choices) and values.log,
            )
        )
    measures = [trial.measure for trial in search.trials]
    return search_plots.what_mattered(options, measures, search.measure.words, search.importances)


def next_steps(search: Search) -> list[str]:
    """The run of the best trial, unless it was removed, and what to do next, in lines."""
    assert search.best
    run, again = search.run_folder(search.best), search.output / "best.yaml"
    train = command_line("train", "--config", again)
    if not run.is_dir():
        return [f"next: {train}"]
    return [f"run: {run}", f"next: {command_line('evaluate', '--run-dir', run)} or {train}"]
