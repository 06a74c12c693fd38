"""How much memory and time a file from elsewhere may take; the standard library only.

What a file announces is compared with these limits before it is opened, so that a few bytes cannot
ask for all memory. Who knows that a large file is right raises them for a call, by the environment.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from anomaly_tf.errors import UserError

MAX_GB, MAX_SECONDS = "ANOMALY_TF_MAX_GB", "ANOMALY_TF_MAX_SECONDS"
DEFAULTS = {MAX_GB: 2.0, MAX_SECONDS: 30.0}
GB = 10**9
# What one thread of an ordinary processor computes at least, in the networks of the approaches.
OPERATIONS_A_SECOND = 20 * 10**9


def memory_limit() -> int:
    """Bytes that a file may take above what the process has."""
    return int(_setting(MAX_GB) * GB)


def operation_limit() -> int:
    """Arithmetic operations that a model may take until its first score."""
    return int(seconds_limit() * OPERATIONS_A_SECOND)


def seconds_limit() -> float:
    """Seconds of CPU that a model may take until its first score."""
    return _setting(MAX_SECONDS)


def require_memory(size: int, what: str, allowed: int = 0) -> None:
    """Refuses what would take more memory than the limit, or than there is.

    Args:
        size: Bytes.
        what: What takes them, for the message.
        allowed: Bytes that are allowed whatever the limit, as the length of the file itself.

    Raises:
        UserError: If it is refused.
    """
    if size > max(memory_limit(), allowed):
        needed = math.ceil(size / GB) if size < 10**15 else "..."
        raise UserError(
            f"{what} would take {in_gb(size)}, more than {memory_limit() / GB:g} GB; if it is "
            f"meant to be so large, set {MAX_GB}={needed} in the environment"
        )
    free = free_memory()
    if free is not None and size > free:
        raise UserError(
            f"{what} would take {in_gb(size)}, and {in_gb(free)} of memory are free; make it "
            "smaller or use a machine with more memory"
        )


def require_operations(count: int, what: str) -> None:
    """Refuses a model that would compute longer than the limit.

    Raises:
        UserError: If it is refused.
    """
    if count > operation_limit():
        seconds = count // OPERATIONS_A_SECOND + 1
        needed = seconds if seconds < 10**6 else "..."
        raise UserError(
            f"{what} would take {count:.2g} operations for one image, more than "
            f"{operation_limit():.2g}; if it is meant to, set {MAX_SECONDS}={needed} in the "
            "environment"
        )


def free_memory() -> int | None:
    """Bytes of memory that are free, or None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None  # another system than Linux
    return None


def in_gb(size: int) -> str:
    """A number of bytes for a reader."""
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
            f"{text[:50]!r}; mend or unset it"
        )
    return value
