"""Write the page of a run, or one that compares several.

RUN is a run directory that `evaluate` has evaluated. With one, its report.html is written again
from what the evaluation kept; with several, a page that compares them side by side. Nothing is
scored, and no data is read. A page is one file that needs no other and loads nothing. The exit
status is 3 if a figure could not be drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anomaly_tf.errors import UserError
from anomaly_tf.program import program
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import require_writable
from anomaly_tf.runs.outputs import identity, is_report, require_own_place
from anomaly_tf.runs.paths import user_path
from anomaly_tf.script import ArgumentParser, printable

# Exit status of a page with a missing figure.
PICTURE_MISSING = 3
# Page of a comparison, unless --output names another.
COMPARISON = Path("runs", "comparison.html")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = ArgumentParser(program("report"), __doc__ or "")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories that are evaluated")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"the page, an .html file; by default report.html of the run, or {COMPARISON} for "
        "several",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Writes the page that the command line asks for; returns the exit status."""
    options = parse(arguments)
    _require_distinct(options.runs)
    output = plan_output(options.output, options.runs)

    # Imported late: matplotlib takes a second, and a wrong option should answer at once.
    from anomaly_tf.reporting.kept import read_kept
    from anomaly_tf.reporting.run_page import write_report
    from anomaly_tf.reporting.runs_page import write_comparison

    kept = [read_kept(path) for path in options.runs]
    failures = write_report(kept[0], output) if len(kept) == 1 else write_comparison(kept, output)
    print(printable(f"written: {output}"))
    for failure in failures:
        print(f"error: {printable(failure)}", file=sys.stderr)
    return PICTURE_MISSING if failures else 0


def plan_output(path: str | None, runs: Sequence[str]) -> Path:
    """Chooses the file of the page; checks that it is writable and replaces no other file.

    Args:
        path: The user's choice.
        runs: The runs.

    Raises:
        UserError: If it is not an .html file, would be written into a run under another name than
            its own page, cannot be written, or would replace a file that is no page of runs.
    """
    if path == "":
        raise UserError("--output is empty; give an .html file or leave it out")
    own = RunDirectory(user_path(runs[0])).report
    if path is None:
        output = own if len(runs) == 1 else COMPARISON
    else:
        output = user_path(path)
        if output.suffix != ".html":
            raise UserError(f"--output must name an .html file; got {path}")
    is_own = len(runs) == 1 and identity(output.parent) == identity(own.parent)
    read_from = () if is_own and output.name == own.name else map(user_path, runs)
    require_own_place("--output", output.parent, {output: is_report}, read_from)
    require_writable(output.parent, "--output")
    return output


def _require_distinct(runs: Sequence[str]) -> None:
    """Refuses a run that is named twice, and an empty name."""
    known: dict[object, str] = {}
    for name in runs:
        if not name:
            raise UserError("a name among the runs is empty; leave it out")
        key = identity(user_path(name)) or name
        if key in known:
            raise UserError(f"run {name} is named twice; name each run once")
        known[key] = name
