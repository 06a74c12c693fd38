"""`predict.py --output`: scores many files in shards, on this machine or on a cluster.

The process that runs the command finds the files, hands out shards, and writes all results; the
workers read the model and the images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from anomaly_tf.cluster import cluster_of
from anomaly_tf.data.names import Spooled, named_images, shards_of, spool
from anomaly_tf.data.roi import facts_of_roi, open_roi
from anomaly_tf.data.search import CLOSED, Search
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.regions import reading_of
from anomaly_tf.deploy.shards import Shard, ShardScorer, ShardScores, keep
from anomaly_tf.errors import UserError, as_option
from anomaly_tf.jobs import Workers, available_threads, executor, run_jobs
from anomaly_tf.runs.files import PARTIAL, locked, require_writable, sha256, write_json
from anomaly_tf.runs.paths import user_path
from anomaly_tf.runs.scores import ScoresFolder, Tally
from anomaly_tf.script import duration, printable, show_progress
from anomaly_tf.version import VERSION

DEFAULT_SHARD, MAX_SHARD, MAX_JOBS = 500, 100_000, 256
# Files that are reported one by one; the parts hold all of them.
MAX_REPORTED = 10
# Seconds between two lines of progress where there is no terminal.
SECONDS_BETWEEN_LINES = 60.0
# Options for single files whose results depend on all of them, or are files of their own.
EXCLUDED = {
    "heatmaps": "writes a file for each image",
    "false_discovery_rate": "needs all scores at the same time",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this mode."""
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="write the scores of many images into a folder: a part in JSON lines for each shard, "
        "a manifest, a summary",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="with --output: number of processes; by default one for each thread of the processor "
        "for a .tflite file, else one",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="with --output: score on the Dask cluster with this scheduler, such as tcp://HOST:8786",
    )
    parser.add_argument(
        "--certificates",
        metavar="DIR",
        help="folder with ca.pem, cert.pem and key.pem for a cluster at tls://; by default as "
        "Dask's own configuration says",
    )
    parser.add_argument(
        *("--shard-size", "--shard_size"),
        type=int,
        metavar="N",
        help=f"with --output: images of a shard; by default {DEFAULT_SHARD}",
    )


def require_options(options: argparse.Namespace) -> None:
    """Checks the options of this mode, and that there are none of it without `--output`.

    Raises:
        UserError: If options exclude each other or the folder cannot be used.
    """
    if options.output is None:
        for name in ("jobs", "cluster", "certificates", "shard_size"):
            if getattr(options, name) is not None:
                raise UserError(f"{as_option(name)} is for scores in a folder; give --output, too")
        return
    if options.output == "":
        raise UserError("--output is empty; give a folder")
    for name, reason in EXCLUDED.items():
        if getattr(options, name) is not None:
            raise UserError(f"{as_option(name)} {reason}; leave it out, or --output")
    if options.format not in (None, "jsonl"):
        raise UserError(f"--output writes JSON lines; leave out --format {options.format}")
    for name, most in (("jobs", MAX_JOBS), ("shard_size", MAX_SHARD)):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= most:
            raise UserError(f"{as_option(name)} must be 1 to {most}; got {value}")
    cluster_of(options.cluster, options.certificates, options.jobs)
    folder = ScoresFolder(user_path(options.output))
    require_writable(folder.path, "--output")
    folder.require_own()


def score_to_folder(options: argparse.Namespace, places: list[Path], detector: Detector) -> int:
    """Scores files into a folder; returns the exit status.

    Args:
        options: The options, checked by `require_options`.
        places: The files and folders among `options.images`; the rest of them are lists.
        detector: The detector, changed as the options say.
    """
    set_region(detector, options.roi)
    folder, size = ScoresFolder(user_path(options.output)), options.shard_size or DEFAULT_SHARD
    scorer = ShardScorer.of(detector)
    jobs = options.jobs or (available_threads() if detector.loads_quickly else 1)
    if not detector.loads_quickly:  # with one job, this process scores, too
        keep(scorer, detector)
    cluster = cluster_of(options.cluster, options.certificates, options.jobs)
    tally, search = Tally(), Search()
    try:
        with executor(jobs, cluster, processes=True) as workers, opened(folder) as names:
            spooled = spool_names(names, options.images, places, search)
            folder.begin(facts_of(detector, options, size, spooled), names)
            score_missing(folder, detector, scorer, workers, size, spooled.count, tally)
            finish(folder, detector, tally)
    except KeyboardInterrupt:
        if not folder.manifest.exists():
            raise
        said = f"stopped; the same command continues in {folder.path}"
        print(printable(said), file=sys.stderr)
        return 130
    is_complete = not spooled.problems and not search.left_out.counts[CLOSED]
    return 2 if tally.unreadable or not is_complete else int(tally.anomalies > 0)


@contextmanager
def opened(folder: ScoresFolder) -> Iterator[Path]:
    """Creates and locks the folder; yields a path for a new list of names.

    The list is removed if it is not moved, and so is a new folder in which nothing was begun.
    """
    is_new = not folder.path.exists()
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder.path, "--output"):
            folder.clear_unfinished()
            try:
                yield folder.path / f"{PARTIAL}names"
            finally:
                folder.clear_unfinished()
    finally:
        if is_new:
            with suppress(OSError):  # it holds the manifest
                folder.path.rmdir()


def is_list(word: str) -> bool:
    """True if an argument stands for a list of names: `-`, or a text file."""
    return word == "-" or (word.lower().endswith(".txt") and not os.path.isdir(user_path(word)))


def spool_names(path: Path, words: list[str], places: list[Path], search: Search) -> Spooled:
    """Writes the names of all files to a list, and reports what is left out.

    Raises:
        UserError: If there is no file, or a list cannot be read.
    """
    with ExitStack() as stack:
        lists = [opened_list(word, stack) for word in words if is_list(word)]
        names, problems = named_images(places, lists, search)
        spooled = spool(names, path)
    spooled.problems += problems
    for problem in problems:
        print(f"error: {printable(problem)}", file=sys.stderr)
    for line in search.left_out.lines():
        print(printable(line), file=sys.stderr)
    if spooled.repeated:
        print(f"left out: {spooled.repeated} names that are given twice", file=sys.stderr)
    if not spooled.count:
        raise UserError("there is no file to score; give files, folders or lists that name some")
    return spooled


def opened_list(word: str, stack: ExitStack) -> tuple[BinaryIO, str]:
    """A list of names, and what it is."""
    if word == "-":
        if sys.stdin is None:
            raise UserError("stdin is closed; give the files' names on it, one a line")
        return sys.stdin.buffer, "stdin"
    path = user_path(word)
    try:
        return stack.enter_context(path.open("rb")), f"the list {path}"
    except OSError as error:
        raise UserError(
            f"cannot read the list {path}: {error.strerror}; give one that exists"
        ) from error


def set_region(detector: Detector, roi: str | None) -> None:
    """Sets the region that counts in all images; it travels with the detector.

    Raises:
        UserError: If each image has its own mask.
    """
    if roi is None:
        reading_of(detector, [])  # refuses a detector that needs a mask for each image
        return
    if user_path(roi).is_dir():
        raise UserError(f"--roi {roi} is a folder; with --output, give one mask for all images")
    detector.info.roi = facts_of_roi(open_roi(roi, Path(), [], detector.reading), roi, [])


def facts_of(
    detector: Detector, options: argparse.Namespace, size: int, spooled: Spooled
) -> dict[str, Any]:
    """The manifest."""
    info = detector.info
    return {
        "anomaly_tf": VERSION,
        "model": os.path.abspath(user_path(options.model)),
        "model_sha256": digest_of_model(detector, user_path(options.model)),
        "approach": info.approach,
        "threshold": detector.threshold,
        "threshold_method": detector.threshold_method,
        "bit_depth": info.bit_depth,
        "max_pixels": info.max_pixels,
        "roi_sha256": info.roi and info.roi.sha256,
        "shard_size": size,
        "files": spooled.count,
        "files_sha256": spooled.digest,
    }


def digest_of_model(detector: Detector, path: Path) -> str:
    """The recorded digest of a model, or of its files; of one without a record, it is computed."""
    info = detector.info
    if info.model_sha256 is not None:
        return info.model_sha256
    recorded = info.files_sha256
    if recorded is None:
        files = [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())
        recorded = {str(file.relative_to(path)): sha256(file) for file in files}
    return hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()


def score_missing(
    folder: ScoresFolder,
    detector: Detector,
    scorer: ShardScorer,
    workers: Workers,
    size: int,
    total: int,
    tally: Tally,
) -> None:
    """Scores the shards that have no part, and counts all of them in `tally`."""

    def count(rows: list[dict[str, Any]]) -> None:
        errors = [row["error"] for row in rows if "error" in row]
        for error in errors[: max(0, MAX_REPORTED - tally.unreadable)]:
            show_progress()
            print(f"error: {printable(error)}", file=sys.stderr)
        tally.add(rows)

    def missing() -> Iterator[Shard]:
        for number, names in enumerate(shards_of(folder.names, size)):
            rows = folder.kept(number, names)
            if rows is None:
                yield Shard(number, names)
            else:
                count(rows)
                progress.kept += len(rows)

    progress = Progress(total)
    for shard, result in run_jobs(scorer, missing(), workers):
        require_seen(shard, result)
        rows = rows_of(detector, shard, result)
        folder.write(shard.number, rows)
        count(rows)
        progress.show(tally.files)
    show_progress()
    if tally.unreadable > MAX_REPORTED:
        more = tally.unreadable - MAX_REPORTED
        print(f"error: {more} more files cannot be judged; see {folder.path}", file=sys.stderr)


def require_seen(shard: Shard, result: ShardScores) -> None:
    """Refuses results of a machine that lacks files which this machine can read.

    Raises:
        UserError: Naming the machine and the first such file.
    """
    for number in result.unseen:
        name = shard.names[number]
        if os.access(name, os.R_OK):
            raise UserError(
                f"worker on {result.machine} cannot read {printable(name)}, which can be read "
                "here; mount its folder there at the same path"
            )


def rows_of(detector: Detector, shard: Shard, result: ShardScores) -> list[dict[str, Any]]:
    """The rows of a part, in the order of its files."""
    judged = np.array([score for score in result.scores if score is not None], np.float32)
    verdicts = iter(
        zip(judged, judged >= detector.threshold, detector.p_values(judged), strict=True)
    )
    rows = []
    for number, name in enumerate(shard.names):
        row: dict[str, Any] = {"file": name}
        if number in result.errors:
            row["error"] = result.errors[number]
        else:
            score, verdict, rank = next(verdicts)
            row["score"], row["is_anomaly"] = float(f"{score:.7g}"), bool(verdict)
            row["rank"] = float(f"{rank:.4g}")
        rows.append(row)
    return rows


class Progress:
    """Shows how many images are scored, and the time left.

    Attributes:
        kept: Number of images that were scored by an earlier call.
    """

    def __init__(self, total: int) -> None:
        self.kept = 0
        self._total = total
        self._start = self._said = time.monotonic()

    def show(self, done: int) -> None:
        """Shows a bar on a terminal, else a line from time to time."""
        now, new = time.monotonic(), done - self.kept
        left = (self._total - done) * (now - self._start) / max(1, new)
        what = f"images, about {duration(left)} left"
        if sys.stderr.isatty():
            show_progress(done, self._total, what)
        elif now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            print(f"{done} of {self._total} {what}", file=sys.stderr, flush=True)


def finish(folder: ScoresFolder, detector: Detector, tally: Tally) -> None:
    """Writes and prints the summary."""
    scores = np.frombuffer(tally.scores, np.float32) if tally.scores else np.zeros(0, np.float32)
    try:
        from anomaly_tf.detection.batches import check_drift
    except ImportError:  # where only what exported files need is installed
        drift, shown = None, "drift: not tested; python -m pip install scipy"
    else:
        drift = check_drift(scores, detector.calibration_scores)
        shown = str(drift)
    tested = drift is not None and drift.drifted is not None
    write_json(
        folder.summary,
        {
            "files": tally.files,
            "scored": len(scores),
            "anomalies": tally.anomalies,
            "unreadable": tally.unreadable,
            "threshold": detector.threshold,
            "drift": vars(drift) if drift is not None and tested else None,
        },
    )
    more = f"; {tally.unreadable} unreadable" if tally.unreadable else ""
    limit = f"above the threshold of {detector.threshold:.4g}"
    print(f"{len(scores)} images, {tally.anomalies} {limit}{more}")
    print(shown)
    print(f"written: {printable(str(folder.path))}")
