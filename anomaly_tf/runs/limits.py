"""Limits of memory and time for untrusted files; the standard library only.

The size that a file's header claims is compared with these limits before the file is opened, so
that a few bytes cannot allocate all memory. Users raise the limits with environment variables.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from anomaly_tf.errors import UserError

MAX_GB, MAX_SECONDS = "ANOMALY_TF_MAX_GB", "ANOMALY_TF_MAX_SECONDS"
DEFAULTS = {MAX_GB: 2.0, MAX_SECONDS: 30.0}
GB = 10**9
# Images that a model computes together: 500, or fewer with half a million pixels, 32 of 128 x 128.
MAX_BATCH, PIXELS_AT_A_TIME = 500, 2**19
# An image of 50 million pixels takes up to a gigabyte while it is decoded; a file of a few KB can
# claim many more pixels. With `--max-pixels`, up to 134 million are read, such as 11,585 x 11,585:
# Pillow itself refuses 179 million, by a limit of the whole process that other code may rely on.
MAX_PIXELS, MAX_PIXELS_ON_REQUEST = 50_000_000, 2**27
# Lower bound for one thread of an ordinary processor, in the networks of the approaches.
OPERATIONS_A_SECOND = 20 * 10**9


def memory_limit() -> int:
    """Bytes of memory that reading a file may take."""
    return int(_setting(MAX_GB) * GB)


def operation_limit() -> int:
    """Arithmetic operations that a model may take until its first score."""
    return int(seconds_limit() * OPERATIONS_A_SECOND)


def seconds_limit() -> float:
    """Seconds of CPU that a model may take until its first score."""
    return _setting(MAX_SECONDS)


def require_memory(size: int, what: str, allowed: int = 0) -> None:
    """Refuses an input that needs more memory than the limit or than is free.

    Args:
        size: Bytes of memory.
        what: Name of the input, for the message.
        allowed: Bytes that are allowed independent of the limit, such as the length of the file.

    Raises:
        UserError: If it needs more.
    """
    if size > max(memory_limit(), allowed):
        needed = math.ceil(size / GB) if size < 10**15 else "..."
        raise UserError(
            f"{what} would take {in_gb(size)}, more than {memory_limit() / GB:g} GB; if this size "
            f"is intended, set {MAX_GB}={needed} in the environment"
        )
    free = free_memory()
    if free is not None and size > free:
        raise UserError(
            f"{what} would take {in_gb(size)}, and {in_gb(free)} of memory are free; make it "
            "smaller or use a machine with more memory"
        )


def require_operations(count: int, what: str) -> None:
    """Refuses a model that needs more operations than the limit.

    Raises:
        UserError: If it needs more.
    """
    if count > operation_limit():
        seconds = count // OPERATIONS_A_SECOND + 1
        needed = seconds if seconds < 10**6 else "..."
        raise UserError(
            f"{what} would take {count:.2g} operations for one image, more than "
            f"{operation_limit():.2g}; if this is intended, set {MAX_SECONDS}={needed} in the "
            "environment"
        )


def images_at_a_time(image_shape: tuple[int, ...]) -> int:
    """Number of images `(H, W, ...)` that a model computes together."""
    return count_within(PIXELS_AT_A_TIME, math.prod(image_shape[:2]), MAX_BATCH)


def count_within(size: int, each: int, most: int) -> int:
    """How many items of size `each` fit into `size`: at least 1, and not more than `most`."""
    return max(1, min(most, size // each))


def free_memory() -> int | None:
    """Bytes of free memory; None if the system does not report it."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None  # another system than Linux
    return None


def in_gb(size: int) -> str:
    """Formats a number of bytes for a message."""
    return f"{size / GB:.1f} GB" if size < 10**15 else "more than a million GB"


def _setting(name: str) -> float:
    text = os.environ.get(name)
    if not text:
        return DEFAULTS[name]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 10**6:
        raise UserError(
            f"{name} in the environment must be a number above 0 and below a million; got "
            f"{text[:50]!r}; correct or unset it"
        )
    return value
