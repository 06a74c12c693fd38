"""Score image files.

MODEL is a run directory, the folder of an exported SavedModel or a .tflite file; the last needs
neither TensorFlow nor anything else beyond requirements-edge.txt (--false-discovery-rate and
--check-drift need scipy). For each image: its score, the verdict, and its rank, the share of normal
validation images that score as high (as small as it can be: 1 / (their number + 1)). The rank is
the conformal p-value: a new normal image has one of at most R with a probability of at most R. What
cannot be read is reported on stderr, and so is what a search of a folder leaves out; the others are
scored. With - their names are read from stdin, one a line, or separated by NUL as find -print0
writes them. Exit status, as grep's: 0 all normal, 1 an anomaly, 2 an error.
"""

from __future__ import annotations

import argparse
import codecs
import csv
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from anomaly_tf.data.images import BIT_DEPTHS
from anomaly_tf.data.search import Found, find_images, folders_of
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.file_scoring import ImageFile, score_files
from anomaly_tf.deploy.loading import is_saved_model, run_of
from anomaly_tf.errors import UserError
from anomaly_tf.program import program
from anomaly_tf.runs.directory import open_run
from anomaly_tf.runs.files import require_unlinked, require_writable
from anomaly_tf.runs.outputs import is_heat_map, require_own_place
from anomaly_tf.runs.paths import user_path
from anomaly_tf.script import (
    csv_cell,
    import_tensorflow,
    printable,
    quiet_libraries,
    show_progress,
)
from anomaly_tf.version import VERSION


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {program('predict')} --help")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    description, _, more = (__doc__ or "").partition("\n\n")
    parser = _Parser(program("predict"), description=description, epilog=more, allow_abbrev=False)
    parser.add_argument("images", nargs="+", metavar="FILES_OR_FOLDERS")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.add_argument("--model", required=True, help="a run, a SavedModel's folder or a .tflite")
    parser.add_argument(
        "--format", choices=("table", "jsonl", "csv"), default="table", help="of the output"
    )
    parser.add_argument(
        "--trust", action="store_true", help="load a model of unknown origin, which may run code"
    )
    parser.add_argument(
        *("--bit-depth", "--bit_depth"),
        type=int,
        choices=BIT_DEPTHS,
        help="bits of the grey levels in 16-bit files; by default as in training",
    )
    parser.add_argument("--heatmaps", metavar="DIR", help="write each image with its map over it")
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument(
        *("--false-alarm-rate", "--false_alarm_rate"),
        type=float,
        metavar="R",
        help="another threshold than the model's own: one that a new normal image reaches with a "
        "probability of at most R, from 0 to 1",
    )
    rates.add_argument(
        *("--false-discovery-rate", "--false_discovery_rate"),
        type=float,
        metavar="Q",
        help="judge all images of this call together, so that on average at most a share Q of the "
        "alarms is false, from 0 to 1 (Benjamini-Hochberg); needs scipy",
    )
    parser.add_argument(
        *("--check-drift", "--check_drift"),
        action="store_true",
        help="say on stderr whether the scores of these images are distributed as those of the "
        "calibration images (Kolmogorov-Smirnov); needs scipy",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Scores what the command line names; returns the exit status."""
    options = parse(arguments)
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
    batches = import_batches(options)
    detector = load_as_asked(options)
    write = WRITERS[options.format]()
    level = options.false_discovery_rate
    names: list[Path] = []
    parts, anomalies, done, failed = [np.zeros(0, np.float32)], 0, 0, 0

    def show(files: list[Path], scores: np.ndarray, verdicts: np.ndarray) -> int:
        rows = zip(files, scores, verdicts, detector.p_values(scores), strict=True)
        for file, score, verdict, rank in rows:
            write(str(file), float(f"{score:.7g}"), bool(verdict), float(f"{rank:.4g}"))
        return int(verdicts.sum())

    with closing(score_files(detector, files)) as scored_parts:
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
    if options.format == "table":
        more = f"; {unreadable} unreadable" if unreadable else ""
        print(f"{len(scores)} images, {anomalies} {limit}{more}")
    if options.check_drift:
        print(batches.check_drift(scores, detector.calibration_scores), file=sys.stderr)
    return 2 if failed or not found.is_complete else int(anomalies > 0)


def named_places(words: list[str]) -> tuple[list[Path], list[str]]:
    """The files and folders that the command line names; `-` stands for those named on stdin.

    Returns:
        The places, and what of the words names none.

    Raises:
        UserError: If there is no place, or stdin holds something else than names.
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
    content = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
    if content.startswith(PICTURE_STARTS):
        raise UserError("stdin holds a picture; - stands for a list of files' names, one a line")
    # With every other byte NUL, names would be taken apart into letters, and "." into a folder.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (
        len(content) > 4 and 2 * content.count(b"\0") >= len(content) - 1
    ):
        raise UserError("stdin holds names in UTF-16 or UTF-32; write the list in UTF-8")
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(line) for line in lines if line]


# The third of them, of WebP, has its length in between.
PICTURE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


def report(found: Found) -> None:
    """Says on stderr what was left out, and which named folders hold nothing to be judged."""
    for problem in found.problems:
        print(f"error: {printable(problem)}", file=sys.stderr)
    for line in found.left_out.lines():
        print(printable(line), file=sys.stderr)


def import_batches(options: argparse.Namespace) -> Any:
    """The module that judges images together, if an option asks for it."""
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
    """The detector, loaded without the notes of the libraries that run it."""
    path = run_of(user_path(model))
    if path.is_dir():
        if not is_saved_model(path):
            open_run(path)  # names what is missing before TensorFlow is imported
        import_tensorflow()
    with quiet_libraries():
        return Detector.load(path, trust)


def load_as_asked(options: argparse.Namespace) -> Detector:
    """The detector with what the options change, and with the map that they need."""
    detector = load(options.model, options.trust)
    if options.false_alarm_rate is not None:
        try:
            detector.set_false_alarm_rate(options.false_alarm_rate)
        except ValueError as error:
            raise UserError(f"--false-alarm-rate: {error}") from error
    if options.bit_depth is not None:
        detector.info.bit_depth = options.bit_depth
    if options.heatmaps is not None:
        require_map(detector)
    return detector


def require_map(detector: Detector) -> None:
    """Refuses `--heatmaps` of a detector that has no map, or no scale for it."""
    if not detector.explains:
        raise UserError(
            f"--heatmaps: the exported approach {detector.info.approach} has no map; give "
            "the run as --model"
        )
    try:
        detector.heat_scale  # noqa: B018
    except UserError as error:
        raise UserError(f"--heatmaps: {error}") from error


# What is read of the folder of a SavedModel, or of the one above it.
MODEL_FOLDERS = tuple(
    place + name for place in ("", "1/") for name in ("", "variables", "assets", "assets.extra")
)


def with_heatmaps(
    folder: Path, found: Found, places: Iterable[Path], model: Path
) -> list[ImageFile]:
    """The files, each with the place of its heat map: under the name that it was found by.

    Raises:
        UserError: If a heat map would meet an image or the model, would replace what is none, or
            the folder cannot be written.
    """
    heatmaps = [folder / name for name in heatmap_names([name for _, name in found.files])]
    model_folders = [run_of(model) / name for name in (".", *MODEL_FOLDERS)]
    read_from = [*places, *folders_of(path for path, _ in found.files), *model_folders]
    require_own_place("--heatmaps", folder, dict.fromkeys(heatmaps, is_heat_map), read_from)
    require_unlinked(folder, heatmaps)
    for place in sorted({folder, *(heatmap.parent for heatmap in heatmaps)}):
        require_writable(place, "--heatmaps")
    files = []
    for (path, name), heatmap in zip(found.files, heatmaps, strict=True):
        files.append(ImageFile(path, heatmap))
        if heatmap not in (folder / name, folder / f"{name}.png"):
            said = f"{path}: its heat map is {heatmap}, because its own name is taken or too long"
            print(printable(said), file=sys.stderr)
    return files


def heatmap_names(names: list[Path]) -> list[Path]:
    """Names of heat maps inside their folder, each another one in every file system."""

    def folded(path: Path) -> str:
        return unicodedata.normalize("NFC", str(path)).casefold()

    used = {folded(above) for above in {above for name in names for above in name.parents}}
    numbers: dict[Path, int] = {}
    heatmaps = []
    for name in names:
        path = name if name.suffix.lower() == ".png" else name.with_name(f"{name.name}.png")
        while folded(path) in used or len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            numbers[name] = numbers.get(name, 1) + 1
            stem = os.fsdecode(os.fsencode(name.stem)[: MAX_NAME_BYTES - 20])
            path = name.with_name(f"{stem}-{numbers[name]}.png")
        used.add(folded(path))
        heatmaps.append(path)
    return heatmaps


# File systems take no longer ones.
MAX_NAME_BYTES = 255


def write_table() -> Callable[..., None]:
    """A line for each image, columns aligned; what is no visible character is escaped."""
    print(f"{'score':>10}  {'verdict':<8} {'rank':<8} file")

    def write(file: str, score: float, is_anomaly: bool, rank: float) -> None:
        verdict = "anomaly" if is_anomaly else "normal"
        print(f"{score:>10.5g}  {verdict:<8} {rank:<8.3g} {printable(file)}")

    return write


def write_jsonl() -> Callable[..., None]:
    """A JSON object for each image."""

    def write(file: str, score: float, is_anomaly: bool, rank: float) -> None:
        row: dict[str, Any] = {"file": file, "score": score, "is_anomaly": is_anomaly, "rank": rank}
        print(json.dumps(row).replace("\x7f", "\\u007f"))  # the one that JSON leaves as it is

    return write


def write_csv() -> Callable[..., None]:
    """A row for each image, after a head; see `csv_cell`."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("file", "score", "verdict", "rank"))

    def write(file: str, score: float, is_anomaly: bool, rank: float) -> None:
        rows.writerow((csv_cell(file), score, "anomaly" if is_anomaly else "normal", rank))

    return write


WRITERS = {"table": write_table, "jsonl": write_jsonl, "csv": write_csv}
