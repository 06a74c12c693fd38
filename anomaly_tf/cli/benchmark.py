"""Compare approaches.

Trains and evaluates every combination of approach, protocol, normal class and seed with the
commands `train` and `evaluate`. Finished combinations are kept: the same command resumes a
benchmark that was stopped. Writes a table in Markdown and a page in HTML. The exit status is 2 if a
training failed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from anomaly_tf.benchmark import (
    BenchmarkOptions,
    Cell,
    cells_of,
    run_cells,
)
from anomaly_tf.cluster import cluster_of
from anomaly_tf.command_line import parse_options
from anomaly_tf.commands import ending_by_sigterm
from anomaly_tf.program import command_line, program
from anomaly_tf.script import printable


def main(arguments: list[str]) -> int:
    """Runs the benchmark by the options on the command line; returns the exit status."""
    options = parse_options(
        BenchmarkOptions, program("benchmark"), __doc__ or "", arguments, takes_file=True
    )
    # Refuses what cannot be one before the data is read.
    cluster_of(options.cluster, options.certificates, options.jobs)
    results: dict[Cell, dict[str, Any]] = {}
    try:
        with ending_by_sigterm():
            for cell, result, progress in run_cells(options):
                results[cell] = result
                print(printable(progress), flush=True)
    except KeyboardInterrupt:
        where = printable(options.output)
        print(f"stopped; the same command continues in {where}", file=sys.stderr)
        return 130

    # Imported late: matplotlib takes a second, and a wrong option should answer at once.
    from anomaly_tf.reporting.comparison import write_benchmark, write_table

    command = command_line("benchmark", *arguments)
    # In the order of the options, whichever ended first.
    ordered = [results[cell] for cell in cells_of(options)]
    table = write_table(ordered, command, Path(options.output))
    print(f"\n{table}", flush=True)
    failures = write_benchmark(ordered, command, Path(options.output))
    print(f"written: {printable(options.output)}/benchmark.md and benchmark.html")
    for failure in failures:
        print(f"error: {printable(failure)}", file=sys.stderr)
    failed = sum(result["status"] != "completed" for result in results.values())
    if failed:
        print(f"error: {failed} of {len(results)} trainings failed", file=sys.stderr)
        return 2
    return 3 if failures else 0
