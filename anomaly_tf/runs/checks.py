"""Checks of values in untrusted metadata; the standard library only."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

# Outputs that a detector may have.
OUTPUTS = ("score", "error_map", "reconstruction", "probabilities")
MAX_FLOAT32 = 3.4028235e38
# Longest side of the images of a detector.
MAX_SIDE = 2**14
# A check of a value: a predicate, and the allowed values in words.
Check = tuple[Callable[[Any], bool], str]
# Name of a value to its check.
Checks = dict[str, Check]


def finite(text: str) -> float:
    """A number in JSON; raises `ValueError` if float64 cannot hold it."""
    if math.isinf(float(text)):
        raise ValueError(f"{text[:20]} is too large")
    return float(text)


def no_constant(name: str) -> None:
    """Raises `ValueError` for NaN and Infinity, which are not JSON."""
    raise ValueError(f"{name} is not a number")


def parse_json(content: bytes, max_bytes: int, max_values: int) -> dict[str, Any]:
    """Reads an untrusted JSON object.

    Raises:
        ValueError: If it exceeds the limits, is nested too deeply, holds a number that is infinite
            or NaN, or is not a JSON object in UTF-8.
    """
    if len(content) > max_bytes:
        raise ValueError(f"more than {max_bytes // 2**20} MB")
    # Many small values take more time and memory than their bytes suggest.
    if sum(map(content.count, (b",", b"[", b"{"))) > max_values:
        raise ValueError(f"more than {max_values:,} values")
    try:
        parsed = json.loads(content.decode("utf-8"), parse_float=finite, parse_constant=no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"expected an object; got {reprlib.repr(parsed)}")
    return parsed


def require(values: dict[str, Any], checks: Checks, optional: Checks | None = None) -> None:
    """Checks values by name.

    Args:
        values: The values by name.
        checks: Checks of the required values.
        optional: Checks of the optional values.

    Raises:
        ValueError: If one is missing or wrong.
    """
    for name in checks:
        if name not in values:
            raise ValueError(f"no {name}")
    for name, (is_valid, words) in {**checks, **(optional or {})}.items():
        if name not in values:
            continue
        if not is_valid(values[name]):
            raise ValueError(f"{name} must be {words}; got {reprlib.repr(values[name])}")


def is_number(value: Any, low: float = -MAX_FLOAT32, high: float = MAX_FLOAT32) -> bool:
    """True for a number in the range of float32 and within both bounds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: Any, low: int, high: int) -> bool:
    """True for an integer within both bounds."""
    return isinstance(value, int) and is_number(value, low, high)


def is_text(value: Any) -> bool:
    """True for a string."""
    return isinstance(value, str)


def is_list(value: Any, is_valid: Callable[[Any], bool]) -> bool:
    """True for a list of at least one item whose items are all valid."""
    return isinstance(value, list) and bool(value) and all(map(is_valid, value))


def is_digest(value: Any) -> bool:
    """True for a SHA-256 digest in lower-case hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_shape(value: Any) -> bool:
    """True for the height, width and channels of an image."""
    sides = is_list(value, lambda side: is_whole(side, 1, MAX_SIDE))
    return sides and len(value) == 3 and value[2] in (1, 3)


def are_outputs(value: Any) -> bool:
    """True for a list of distinct names from `OUTPUTS` that contains `score`."""
    known = is_list(value, lambda name: name in OUTPUTS)
    return known and "score" in value and len(set(value)) == len(value)


def are_files(value: Any) -> bool:
    """True for a dictionary of paths inside a folder to digests."""
    return isinstance(value, dict) and all(
        is_inner_path(name) and is_digest(digest) for name, digest in value.items()
    )


def are_measures(value: Any) -> bool:
    """True for a dictionary of names to numbers."""
    return isinstance(value, dict) and all(map(is_number, value.values()))


def is_inner_path(name: str) -> bool:
    """True for a normalised path with `/` that stays inside its folder."""
    path = PurePosixPath(name)
    plain = name == str(path) and not re.search(r"[\\:\0]", name)
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts
