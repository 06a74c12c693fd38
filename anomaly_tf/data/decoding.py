"""Limits of decoding images: pixels at the same time, and scans of a JPEG.

Needs the standard library only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomaly_tf.errors import UserError

# A progressive JPEG has about ten scans, and each decodes all pixels.
MAX_SCANS, MAX_SCANNED_PIXELS = 100, 1_000_000_000
START_OF_SCAN = b"\xff\xda"
CHUNK = 2**20


class UnreadableImage(UserError):
    """A file is not an image, or not a supported one; the message names the file."""


class PixelBudget:
    """A limit of the pixels that all threads decode at the same time.

    Args:
        pixels: The largest number of pixels.
    """

    def __init__(self, pixels: int) -> None:
        self._all = self._left = pixels
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Waits until `pixels` are free, and reserves them during the block.

        An image larger than the budget reserves all of it.
        """
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


def require_few_scans(path: Path, pixels: int) -> None:
    """Refuses a JPEG with too many scans.

    Args:
        path: The file. In image data 0xFF is followed by 0, so that the marker is unambiguous.
        pixels: Number of its pixels.

    Raises:
        ValueError: If it has too many scans.
    """
    scans, before = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            scans += (before + chunk).count(START_OF_SCAN)
            before = chunk[-1:]
    if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
        raise ValueError(f"{scans} scans of {pixels} pixels, save it again")
