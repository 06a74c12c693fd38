"""Search for better options of an approach.

Trains an approach with various values of some options, which the YAML file of --space names, and
compares the trainings on validation images; the test set is not used. The first trial has the
default options. All options of `train` but --run-dir and --resume hold for every trial. The same
command resumes a search that was stopped; with more --trials it continues. Writes best.yaml, which
`train --config` takes, a table and a picture of what mattered, and keeps the run of the best trial.
The exit status is 2 if a training failed.
"""

from __future__ import annotations

import sys

from anomaly_tf.approaches.auto.options import AutoConfig
from anomaly_tf.cluster import cluster_of
from anomaly_tf.command_line import parse_with_training
from anomaly_tf.commands import ending_by_sigterm
from anomaly_tf.errors import UserError
from anomaly_tf.program import command_line
from anomaly_tf.runs.paths import user_path
from anomaly_tf.script import printable
from anomaly_tf.tuning.search import Search, SearchOptions
from anomaly_tf.tuning.space import read_space
from anomaly_tf.tuning.study import require_optuna


def main(arguments: list[str]) -> int:
    """Searches by the options on the command line; returns the exit status."""
    options, config, given = parse_with_training(SearchOptions, "search", __doc__ or "", arguments)
    if isinstance(config, AutoConfig):
        raise UserError(
            "--approach auto chooses by the data, and each approach has options of its own; name "
            "the approach to search"
        )
    # Refuses what cannot be one before the data is read.
    cluster_of(options.cluster, options.certificates, options.jobs)
    if options.space is None:
        raise UserError("option --space is missing; give a YAML file of the options to search")
    space = read_space(user_path(options.space), config, given)
    require_optuna()
    search = Search(options, config, space)
    print(printable(f"{search.measure.words} on {search.measure.images}"), flush=True)
    try:
        with ending_by_sigterm():
            for line in search.run():
                print(printable(line), flush=True)
    except KeyboardInterrupt:
        where = printable(options.output)
        print(f"stopped; the same command continues in {where}", file=sys.stderr)
        return 130
    return _report(search, command_line("search", *arguments), options.output)


def _report(search: Search, command: str, output: str) -> int:
    """Writes and prints what was found; returns the exit status."""
    if search.best is None:
        reasons = [trial.reason for trial in search.trials if trial.reason]
        last = [*reasons, *search.failures.values()][-1]
        raise UserError(f"none of {len(search.trials)} trials has a result; the last one: {last}")

    # Imported late: matplotlib takes a second, and a wrong option should answer at once.
    from anomaly_tf.tuning.results import next_steps, write_results

    shown, problems = write_results(search, command)
    print(f"\n{shown}\n\nwritten: {printable(output)}/best.yaml, search.md and search.png")
    for line in next_steps(search):
        print(printable(line))
    for problem in problems:
        print(f"error: {printable(problem)}", file=sys.stderr)
    if search.failures:
        failed, total = len(search.failures), len(search.trials)
        print(f"error: {failed} of {total} trainings failed", file=sys.stderr)
        return 2
    return 3 if problems else 0
