"""Scores of image files: read, scored and drawn on all threads of the processor, in order.

Needs what the detector itself needs, and no more.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngInfo

from anomaly_tf.data.images import UnreadableImage, open_image, read_image
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.overlay import overlay
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.runs.outputs import HEAT_MAP, SOFTWARE
from anomaly_tf.script import quiet_libraries

# Files that are read and scored together.
PART = 64
# From so many files on, processes save more than their start takes. Threads read small files one
# after the other: most of that time is Python's own, and Python runs one thread at a time.
MANY = 500


@dataclass(frozen=True)
class ImageFile:
    """A file to be scored.

    Attributes:
        path: Where it is.
        heatmap: The PNG file to write its heat map to; none if None.
    """

    path: Path
    heatmap: Path | None = None


Result = float | UnreadableImage


def score_files(
    detector: Detector, model: Path, files: list[ImageFile]
) -> Iterator[list[tuple[ImageFile, Result]]]:
    """Scores image files in their order, and draws their heat maps.

    Args:
        detector: The detector. Many files are scored by processes of which each loads its own, if
            that is quick.
        model: Where it was loaded from.
        files: At least one.

    Yields:
        For each part of the files, each with its score or why it cannot be read.

    Raises:
        UserError: If a process that scores was ended.
        OSError: If a heat map cannot be written.
    """
    threads = available_threads()
    size = min(PART, -(-len(files) // threads))
    parts = (files[start : start + size] for start in range(0, len(files), size))
    if detector.loads_quickly and threads > 1 and len(files) >= MANY:
        # Spawned, because a copy of a process that has threads may lock.
        context = multiprocessing.get_context("spawn")
        settings = model, detector.threshold, detector.info.bit_depth
        with ProcessPoolExecutor(threads, context, _Worker.start, settings) as pool:
            try:
                yield from _in_order(pool, _Worker.score, parts, 2 * threads)
            except BrokenProcessPool as error:
                raise UserError(
                    "a process that scores images was ended, as for lack of memory; score fewer "
                    "images at a time"
                ) from error
    else:
        with ThreadPoolExecutor(threads) as pool:
            yield from _in_order(pool, lambda part: _score(detector, part), parts, 2 * threads)


def _in_order(
    pool: Executor,
    score: Callable[[list[ImageFile]], list[Result]],
    parts: Iterator[list[ImageFile]],
    ahead: int,
) -> Iterator[list[tuple[ImageFile, Result]]]:
    """Each part with its results; no more than `ahead` parts are begun before they are taken."""
    begun: deque[tuple[list[ImageFile], Future[list[Result]]]] = deque()
    try:
        for part in parts:
            with _children_without_ctrl_c():
                begun.append((part, pool.submit(score, part)))
            if len(begun) == ahead:
                yield _finished(*begun.popleft())
        while begun:
            yield _finished(*begun.popleft())
    finally:
        for _, future in begun:
            future.cancel()


def _finished(
    part: list[ImageFile], future: Future[list[Result]]
) -> list[tuple[ImageFile, Result]]:
    return list(zip(part, future.result(), strict=True))


@contextmanager
def _children_without_ctrl_c() -> Iterator[None]:
    """Ctrl-C is for the process that waits; its children would print where they were."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # A process begins with the mask of the thread that starts it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """What a process that scores images keeps between its parts."""

    detector: Detector

    @classmethod
    def start(cls, model: Path, threshold: float, bit_depth: int | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with quiet_libraries():
            from anomaly_tf.deploy.litert import LiteRTDetector

            cls.detector = LiteRTDetector.load(model, threads=1)
        cls.detector.info.threshold.value = threshold
        cls.detector.info.bit_depth = bit_depth

    @classmethod
    def score(cls, part: list[ImageFile]) -> list[Result]:
        return _score(cls.detector, part)


def _score(detector: Detector, part: list[ImageFile]) -> list[Result]:
    """Of each file its score, or why it cannot be read."""
    read = [_read(file, detector) for file in part]
    images = [image for image in read if isinstance(image, np.ndarray)]
    if not images:
        return [image for image in read if isinstance(image, UnreadableImage)]
    stacked = np.stack(images)
    scores = iter(detector.score(stacked))
    if part[0].heatmap:
        pairs = zip(part, read, strict=True)
        _draw(detector, [file for file, image in pairs if isinstance(image, np.ndarray)], stacked)
    return [image if isinstance(image, UnreadableImage) else next(scores) for image in read]


def _read(file: ImageFile, detector: Detector) -> np.ndarray | UnreadableImage:
    try:
        return read_image(file.path, detector.image_shape, detector.info.bit_depth)
    except UnreadableImage as error:
        return error


def _draw(detector: Detector, files: list[ImageFile], images: np.ndarray) -> None:
    """Writes for each file a PNG with the map of its image uint8 `(H, W, C)` over it."""
    scale = detector.heat_scale
    for file, heat in zip(files, detector.explain(images), strict=True):
        assert file.heatmap
        with atomic_path(file.heatmap) as path:
            mark = PngInfo()
            mark.add_text(SOFTWARE, HEAT_MAP)
            picture = open_image(file.path, detector.info.bit_depth)
            overlay(picture, scale.strength(heat)).save(path, pnginfo=mark)
