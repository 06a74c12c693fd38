"""Scores image files and draws heat maps, on all threads of the processor, in order.

Needs only the packages of the detector itself.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL.PngImagePlugin import PngInfo

from anomaly_tf.data.decoding import UnreadableImage
from anomaly_tf.data.images import Reading, open_image, read_image
from anomaly_tf.deploy.overlay import overlay
from anomaly_tf.deploy.regions import reading_of
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.files import atomic_path, uninterrupted
from anomaly_tf.runs.limits import count_within
from anomaly_tf.runs.outputs import HEAT_MAP, SOFTWARE
from anomaly_tf.runs.paths import user_path
from anomaly_tf.runs.region import Region, RegionError
from anomaly_tf.script import shortened

if TYPE_CHECKING:
    from anomaly_tf.deploy.detector import Detector

# Files that are read and scored together: at most PART, with their maps at most PART_BYTES, or a
# single larger one; and bytes of all threads together.
PART, PART_BYTES, ALL_BYTES = 64, 2**26, 2**30
# Number of files from which processes save more time than they take to start. Threads read small
# files one after the other, because most of that time is spent in Python, under the GIL.
MANY = 500
# Bytes of a map for each pixel: it, and its copy while it is drawn or joined.
MAP_BYTES = 8
SKIPPED = "; skipped"


@dataclass(frozen=True)
class ImageFile:
    """An image file to score.

    Attributes:
        path: Path of the file.
        heatmap: PNG file for its heat map; None for no heat map.
    """

    path: Path
    heatmap: Path | None = None


@dataclass(frozen=True)
class ScoredFile:
    """The result of a file.

    Attributes:
        path: Path of the file.
        score: Anomaly score; None if the file cannot be read.
        error: Reason why it cannot be read, or why its heat map was not written; else None.
    """

    path: Path
    score: float | None = None
    error: str | None = None


def scores_of(
    detector: Detector,
    files: Iterable[str | Path],
    on_error: Literal["raise", "nan"],
    roi: str | Path | None = None,
) -> np.ndarray:
    """The scores of files; see `Detector.score_files`.

    Uses threads only, because spawned processes would run the caller's script again.
    """
    if isinstance(files, (str, bytes, os.PathLike)):
        raise TypeError(f"expected a list of image files; got {files!r}; give [{files!r}]")
    if on_error not in ("raise", "nan"):
        raise ValueError(f"expected on_error to be 'raise' or 'nan'; got {on_error!r}")
    named = [ImageFile(user_path(file)) for file in files]
    reading = reading_of(detector, [file.path for file in named], roi)
    scores, errors = [], []
    with closing(score_files(detector, named, processes=False, reading=reading)) as parts:
        for file in (file for part in parts for file in part):
            if file.error and on_error == "raise":
                raise UserError(file.error.removesuffix(SKIPPED))
            errors += [file.error] if file.error else []
            scores.append(np.nan if file.score is None else file.score)
    if errors:
        shown = shortened([error.removesuffix(SKIPPED) for error in errors], 3)
        warnings.warn(f"{len(errors)} files have no score: {shown}", stacklevel=3)
    return np.array(scores, np.float32)


def score_files(
    detector: Detector,
    files: list[ImageFile],
    processes: bool = True,
    reading: Reading | None = None,
    threads: int | None = None,
) -> Generator[list[ScoredFile]]:
    """Scores image files in their order, and draws their heat maps.

    Args:
        detector: The detector. Many files are scored by several processes, and each loads its own
            detector, if loading is fast.
        files: The files.
        processes: Whether other processes may be used.
        reading: How the files are read, with the regions that count; default: as the detector says.
        threads: Number of threads or processes; default: all that this process may use.

    Yields:
        The results of each part of the files.

    Raises:
        UserError: If a scoring process was ended.
    """
    reading = reading or reading_of(detector, [file.path for file in files])
    height, width, channels = detector.image_shape
    each = height * width * (channels + MAP_BYTES)
    threads = count_within(ALL_BYTES, each, threads or available_threads())
    size = count_within(PART_BYTES, each, min(PART, -(-len(files) // threads)))
    parts = (files[start : start + size] for start in range(0, len(files), size))
    if processes and detector.loads_quickly and threads > 1 and len(files) >= MANY:
        # Spawned, because a forked process with threads may deadlock.
        context = multiprocessing.get_context("spawn")
        own = detector.single_threaded(), reading
        with ProcessPoolExecutor(threads, context, _Worker.start, own) as pool:
            try:
                yield from _in_order(pool, _Worker.score, parts, 2 * threads)
            except BrokenProcessPool as error:
                raise UserError(
                    "a process that scores images was ended, probably for lack of memory; score "
                    "fewer images at a time"
                ) from error
            except BaseException:  # including Ctrl-C, which the processes ignore
                with uninterrupted():
                    for process in multiprocessing.active_children():
                        process.kill()
                    pool.shutdown(cancel_futures=True)
                raise
    else:
        with ThreadPoolExecutor(threads) as pool:
            yield from _in_order(
                pool, lambda part: _score(detector, part, reading), parts, 2 * threads
            )


def _in_order(
    pool: Executor,
    score: Callable[[list[ImageFile]], list[ScoredFile]],
    parts: Iterator[list[ImageFile]],
    ahead: int,
) -> Iterator[list[ScoredFile]]:
    """Yields the results of each part in order; at most `ahead` parts are started in advance."""
    begun: deque[Future[list[ScoredFile]]] = deque()
    try:
        for part in parts:
            with _children_without_ctrl_c():
                begun.append(pool.submit(score, part))
            if len(begun) == ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


@contextmanager
def _children_without_ctrl_c() -> Iterator[None]:
    """Blocks Ctrl-C for child processes, which would print tracebacks."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # A process inherits the signal mask of the thread that starts it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """The state of a process that scores images."""

    detector: Detector
    reading: Reading

    @classmethod
    def start(cls, detector: Detector, reading: Reading) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        cls.detector, cls.reading = detector, reading

    @classmethod
    def score(cls, part: list[ImageFile]) -> list[ScoredFile]:
        return _score(cls.detector, part, cls.reading)


def _score(detector: Detector, part: list[ImageFile], reading: Reading) -> list[ScoredFile]:
    """The result of each file."""
    scored = {}
    readable: list[ImageFile] = []
    regions: list[Region] = []
    height, width, _ = detector.image_shape
    images = np.empty((len(part), *detector.image_shape), np.uint8)
    for file in part:
        try:
            region = reading.region_of(file.path)
            asked = dataclasses.replace(reading, roi=region)
            images[len(readable)] = read_image(file.path, detector.image_shape, asked)
            readable.append(file)
            regions += [] if region is None else [region]
        except (UnreadableImage, RegionError) as error:
            scored[file] = ScoredFile(file.path, error=f"{error}{SKIPPED}")
    if readable:
        images = images[: len(readable)]
        if regions:
            detector = detector.within(np.stack([part.at(height, width) for part in regions]))
        scores = detector.score(images)
        maps = detector.explain(images) if part[0].heatmap else [None] * len(images)
        for file, score, heat in zip(readable, scores, maps, strict=True):
            missing = None if heat is None else _draw(detector, file, heat, reading)
            scored[file] = ScoredFile(file.path, score, missing)
    return [scored[file] for file in part]


def _draw(detector: Detector, file: ImageFile, heat: np.ndarray, reading: Reading) -> str | None:
    """Writes an image with its map float32 `(H, W)` as a PNG; returns the reason if it fails."""
    assert file.heatmap
    mark = PngInfo()
    mark.add_text(SOFTWARE, HEAT_MAP)
    try:
        # With what is outside of its region, on which nothing is drawn.
        image = open_image(file.path, dataclasses.replace(reading, roi=None))
        region = reading.region_of(file.path)
        strength = detector.heat_scale.strength(heat)
        drawn = overlay(image, strength, None if region is None else region.inside)
        with atomic_path(file.heatmap) as path:
            drawn.save(path, pnginfo=mark)
    except (UnreadableImage, RegionError) as error:  # the file was changed since it was scored
        return f"{error}; no heat map"
    except OSError as error:
        reason = error.strerror or error
        return f"{file.path}: its heat map {file.heatmap} cannot be written ({reason})"
    return None
