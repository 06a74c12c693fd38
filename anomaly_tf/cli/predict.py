"""Score image files.

MODEL is a run directory, the folder of an exported SavedModel, or a .tflite file. A .tflite file
needs only requirements-edge.txt, no TensorFlow (--false-discovery-rate and --check-drift need
scipy). Prints for each image its score, its verdict and its rank: the share of normal validation
images with a score at least as high, never below 1 / (their number + 1). The rank is the conformal
p-value: the probability that a new normal image has a rank of at most R is at most R. Unreadable
files and files left out of a folder are reported on stderr; the others are scored. With - the names
of the files are read from stdin, one per line, or separated by NUL as find -print0 writes them. The
exit status is that of grep: 0 if all images are normal, 1 if one is an anomaly, 2 after an error.
With --output, any number of images is scored in shards, on several processes or on a cluster; the
same command continues after a stop. FILES_OR_FOLDERS may then be lists of names, files ending in
.txt.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.cli.bulk import add_options, is_list, require_options, score_to_folder
from anomaly_tf.cli.heatmaps import with_heatmaps
from anomaly_tf.data.bit_depth import BIT_DEPTHS
from anomaly_tf.data.names import names_in
from anomaly_tf.data.search import Found, find_images
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.file_scoring import ImageFile, score_files
from anomaly_tf.deploy.loading import is_saved_model, run_of
from anomaly_tf.deploy.regions import reading_of
from anomaly_tf.errors import UserError
from anomaly_tf.program import program
from anomaly_tf.runs.directory import open_run
from anomaly_tf.runs.limits import MAX_PIXELS_ON_REQUEST
from anomaly_tf.runs.paths import user_path
from anomaly_tf.script import (
    ArgumentParser,
    csv_cell,
    import_tensorflow,
    printable,
    quiet_libraries,
    show_progress,
)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = ArgumentParser(program("predict"), __doc__ or "")
    named = "images, folders of images, or - for names on stdin"
    parser.add_argument("images", nargs="+", metavar="FILES_OR_FOLDERS", help=named)
    parser.add_argument(
        "--model",
        required=True,
        help="a run directory, the folder of a SavedModel, or a .tflite file",
    )
    parser.add_argument(
        "--format", choices=tuple(WRITERS), help="format of the output; by default a table"
    )
    add_options(parser)
    parser.add_argument(
        "--trust", action="store_true", help="load a model of unknown origin; it may run code"
    )
    parser.add_argument(
        *("--bit-depth", "--bit_depth"),
        type=int,
        choices=BIT_DEPTHS,
        help="bits of the grey levels in 16-bit files; by default those of the training images",
    )
    parser.add_argument(
        *("--max-pixels", "--max_pixels"),
        type=int,
        metavar="N",
        help="largest number of pixels of a file, up to "
        f"{MAX_PIXELS_ON_REQUEST}; by default that of the training",
    )
    parser.add_argument(
        "--roi",
        help="region that counts: a mask for all images, white inside, or a folder with a mask for "
        "each, of the same name; by default the mask of the training",
    )
    parser.add_argument(
        "--heatmaps", metavar="DIR", help="write each image with its error map drawn over it"
    )
    add_rates(parser)
    return parser.parse_args(arguments)


def add_rates(parser: argparse.ArgumentParser) -> None:
    """Adds the options on rates of alarms."""
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument(
        *("--false-alarm-rate", "--false_alarm_rate"),
        type=float,
        metavar="R",
        help="use the threshold that a new normal image reaches with a probability of at most R, "
        "between 0 and 1, instead of the model's own",
    )
    rates.add_argument(
        *("--false-discovery-rate", "--false_discovery_rate"),
        type=float,
        metavar="Q",
        help="select the anomalies among all images of this call so that on average at most a "
        "share Q of the alarms is false, between 0 and 1 (Benjamini-Hochberg); needs scipy",
    )
    parser.add_argument(
        *("--check-drift", "--check_drift"),
        action="store_true",
        help="report on stderr whether the scores of these images have the same distribution as "
        "those of the calibration images (Kolmogorov-Smirnov); needs scipy",
    )


def main(arguments: list[str]) -> int:
    """Scores the images on the command line; returns the exit status."""
    options = parse(arguments)
    require_options(options)
    if options.output is not None:
        return main_of_folder(options)
    places, problems = named_places(options.images)
    found = find_images(places)
    found.problems += problems
    report(found)
    if not found.files:
        return 2
    files = [ImageFile(path) for path, _ in found.files]
    if options.heatmaps == "":
        raise UserError("--heatmaps is empty; give a folder")
    if options.heatmaps is not None:
        files = with_heatmaps(user_path(options.heatmaps), found, places, user_path(options.model))
    require_reading(options)
    batches = import_batches(options)
    detector = load_as_asked(options)
    reading = reading_of(detector, [file.path for file in files], options.roi)
    write = WRITERS[options.format or "table"]()
    level = options.false_discovery_rate
    names: list[Path] = []
    parts, anomalies, done, failed = [np.zeros(0, np.float32)], 0, 0, 0

    def show(files: list[Path], scores: np.ndarray, verdicts: np.ndarray) -> int:
        rows = zip(files, scores, verdicts, detector.p_values(scores), strict=True)
        for file, score, verdict, rank in rows:
            write(str(file), float(f"{score:.7g}"), bool(verdict), float(f"{rank:.4g}"))
        return int(verdicts.sum())

    with closing(score_files(detector, files, reading=reading)) as scored_parts:
        for part in scored_parts:
            show_progress()
            for file in part:
                if file.error:
                    print(f"error: {printable(file.error)}", file=sys.stderr)
                    failed += 1
            scored = [file.path for file in part if file.score is not None]
            scores = np.array([file.score for file in part if file.score is not None], np.float32)
            names += scored
            parts.append(scores)
            if level is None:
                anomalies += show(scored, scores, scores >= detector.threshold)
            done += len(part)
            if done < len(files):
                show_progress(done, len(files))
    scores = np.concatenate(parts)
    limit = f"above the threshold of {detector.threshold:.4g}"
    if level is not None:
        anomalies = show(names, scores, batches.select_anomalies(detector.p_values(scores), level))
        limit = f"anomalies, at a false-discovery rate of {level:g}"
    unreadable = len(files) - len(scores)
    if options.format in (None, "table"):
        more = f"; {unreadable} unreadable" if unreadable else ""
        print(f"{len(scores)} images, {anomalies} {limit}{more}")
    if options.check_drift:
        print(batches.check_drift(scores, detector.calibration_scores), file=sys.stderr)
    return 2 if failed or not found.is_complete else int(anomalies > 0)


def main_of_folder(options: argparse.Namespace) -> int:
    """Scores the images into a folder; returns the exit status."""
    require_reading(options)
    named = [word for word in options.images if not is_list(word)]
    places, problems = named_places(named) if named else ([], [])
    if problems:
        raise UserError(problems[0])
    return score_to_folder(options, places, load_as_asked(options))


def require_reading(options: argparse.Namespace) -> None:
    """Checks the options on how files are read."""
    most = options.max_pixels
    if most is not None and not 1 <= most <= MAX_PIXELS_ON_REQUEST:
        raise UserError(f"--max-pixels must be 1 to {MAX_PIXELS_ON_REQUEST}; got {most}")
    if options.roi == "":
        raise UserError("--roi is empty; give a mask or a folder of masks")


def named_places(words: list[str]) -> tuple[list[Path], list[str]]:
    """The files and folders on the command line; `-` adds those named on stdin.

    Returns:
        The files and folders, and the problems found.

    Raises:
        UserError: If there is none, or stdin contains something other than names.
    """
    names: list[str] = []
    problems: list[str] = []
    for word in words:
        listed = names_on_stdin() if word == "-" else [word]
        if not listed:
            problems.append("stdin names no files; give their names, one a line")
        names += listed
    if "" in names:  # which would stand for the folder that the command runs in
        problems.append("a name among FILES_OR_FOLDERS is empty; leave it out")
    places = [user_path(name) for name in names if name]
    if not places:
        raise UserError(problems[0])
    if not any(map(os.path.exists, places)):
        try:
            places[0].stat()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            more = f", nor any of {len(places) - 1} others" if len(places) > 1 else ""
            raise UserError(
                f"cannot read {places[0]}: {reason}{more}; give files or folders that exist"
            ) from error
    return places, problems


def names_on_stdin() -> list[str]:
    """Names of files in UTF-8, one a line, or separated by NUL if there is one.

    Raises:
        UserError: If stdin is closed, or holds no such names.
    """
    if sys.stdin is None:
        raise UserError("stdin is closed; give the files' names on it, one a line")
    return [os.fsdecode(name) for name in names_in(sys.stdin.buffer, "stdin")]


def report(found: Found) -> None:
    """Reports on stderr the files left out, and the folders without images."""
    for problem in found.problems:
        print(f"error: {printable(problem)}", file=sys.stderr)
    for line in found.left_out.lines():
        print(printable(line), file=sys.stderr)


def import_batches(options: argparse.Namespace) -> Any:
    """The module for verdicts of a batch, if an option needs it."""
    rate = options.false_discovery_rate
    if rate is None and not options.check_drift:
        return None
    if rate is not None and not 0 < rate < 1:
        raise UserError(f"--false-discovery-rate must be above 0 and below 1; got {rate:g}")
    try:
        from anomaly_tf.detection import batches
    except ImportError as error:
        option = "--check-drift" if rate is None else "--false-discovery-rate"
        raise UserError(f"{option} needs scipy ({error}); python -m pip install scipy") from error
    return batches


def load(model: str, trust: bool = False) -> Detector:
    """The detector, loaded without the log messages of its runtime."""
    path = run_of(user_path(model))
    if path.is_dir():
        if not is_saved_model(path):
            open_run(path)  # names what is missing before TensorFlow is imported
        import_tensorflow()
    with quiet_libraries():
        return Detector.load(path, trust)


def load_as_asked(options: argparse.Namespace) -> Detector:
    """The detector, changed as the options say; checks that it has a map if needed."""
    detector = load(options.model, options.trust)
    if options.false_alarm_rate is not None:
        try:
            detector.set_false_alarm_rate(options.false_alarm_rate)
        except ValueError as error:
            raise UserError(f"--false-alarm-rate: {error}") from error
    if options.bit_depth is not None:
        detector.info.bit_depth = options.bit_depth
    if options.max_pixels is not None:
        detector.info.max_pixels = options.max_pixels
    if options.heatmaps is not None:
        require_map(detector)
    return detector


def require_map(detector: Detector) -> None:
    """Refuses `--heatmaps` for a detector without a map or without a scale for it."""
    if not detector.explains:
        raise UserError(
            f"--heatmaps: the exported approach {detector.info.approach} has no map; give "
            "the run as --model"
        )
    try:
        detector.heat_scale  # noqa: B018
    except UserError as error:
        raise UserError(f"--heatmaps: {error}") from error


def write_table() -> Callable[..., None]:
    """One line per image in aligned columns; invisible characters are escaped."""
    print(f"{'score':>10}  {'verdict':<8} {'rank':<8} file")

    def write(file: str, score: float, is_anomaly: bool, rank: float) -> None:
        verdict = "anomaly" if is_anomaly else "normal"
        print(f"{score:>10.5g}  {verdict:<8} {rank:<8.3g} {printable(file)}")

    return write


def write_jsonl() -> Callable[..., None]:
    """One JSON object per image."""

    def write(file: str, score: float, is_anomaly: bool, rank: float) -> None:
        row: dict[str, Any] = {"file": file, "score": score, "is_anomaly": is_anomaly, "rank": rank}
        print(json.dumps(row).replace("\x7f", "\\u007f"))  # the one that JSON leaves as it is

    return write


def write_csv() -> Callable[..., None]:
    """A header, then one row per image; see `csv_cell`."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("file", "score", "verdict", "rank"))

    def write(file: str, score: float, is_anomaly: bool, rank: float) -> None:
        rows.writerow((csv_cell(file), score, "anomaly" if is_anomaly else "normal", rank))

    return write


WRITERS = {"table": write_table, "jsonl": write_jsonl, "csv": write_csv}
