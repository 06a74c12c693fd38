"""What values of metadata must be, which may come from elsewhere; the standard library only."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

# What a user may ask a detector for, where its model has it.
OUTPUTS = ("score", "error_map", "reconstruction", "probabilities")
MAX_FLOAT32 = 3.4028235e38
# What a value must be: as a test and in words.
Check = tuple[Callable[[Any], bool], str]
# By the value's name.
Checks = dict[str, Check]


def finite(text: str) -> float:
    """A number in JSON; raises `ValueError` if float64 cannot hold it."""
    if math.isinf(float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return float(text)


def no_constant(name: str) -> None:
    """Raises `ValueError` for NaN and Infinity, which are no JSON."""
    raise ValueError(f"{name} is no number")


def parse_json(content: bytes, max_bytes: int, max_values: int) -> dict[str, Any]:
    """Reads a JSON object that may come from elsewhere.

    Raises:
        ValueError: If it is larger, holds more values, is nested too deeply, holds a number that is
            infinite or NaN, or is no JSON object in UTF-8.
    """
    if len(content) > max_bytes:
        raise ValueError(f"more than {max_bytes // 2**20} MB")
    # Which take longer to read, and more memory, than their bytes tell.
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
        values: What was read.
        checks: Of each name that must be there, what its value must be, as a test and in words.
        optional: Of each name that may be there the same.

    Raises:
        ValueError: If one is missing or wrong.
    """
    for name in checks:
        if name not in values:
            raise ValueError(f"no {name}")
    for name, (is_right, words) in {**checks, **(optional or {})}.items():
        if name not in values:
            continue
        if not is_right(values[name]):
            raise ValueError(f"{name} must be {words}; got {reprlib.repr(values[name])}")


def is_number(value: Any, low: float = -MAX_FLOAT32, high: float = MAX_FLOAT32) -> bool:
    """Whether it is a number that float32 holds, within both bounds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: Any, low: int, high: int) -> bool:
    """Whether it is a whole number within both bounds."""
    return isinstance(value, int) and is_number(value, low, high)


def is_text(value: Any) -> bool:
    """Whether it is text."""
    return isinstance(value, str)


def is_list(value: Any, is_right: Callable[[Any], bool]) -> bool:
    """Whether it is a list of at least one item, each of which is right."""
    return isinstance(value, list) and bool(value) and all(map(is_right, value))


def is_digest(value: Any) -> bool:
    """Whether it is a SHA-256 digest in lower-case hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_shape(value: Any) -> bool:
    """Whether it is height, width and channels of an image."""
    sides = is_list(value, lambda side: is_whole(side, 1, 2**14))
    return sides and len(value) == 3 and value[2] in (1, 3)


def are_outputs(value: Any) -> bool:
    """Whether they are names of `OUTPUTS`, each once, `score` among them."""
    known = is_list(value, lambda name: name in OUTPUTS)
    return known and "score" in value and len(set(value)) == len(value)


def are_files(value: Any) -> bool:
    """Whether they are paths inside a folder, each with its digest."""
    return isinstance(value, dict) and all(
        is_inner_path(name) and is_digest(digest) for name, digest in value.items()
    )


def are_measures(value: Any) -> bool:
    """Whether they are names, each with a number."""
    return isinstance(value, dict) and all(map(is_number, value.values()))


def is_inner_path(name: str) -> bool:
    """Whether a path with `/` stays inside the folder that it starts in, and is written plainly."""
    path = PurePosixPath(name)
    plain = name == str(path) and not re.search(r"[\\:\0]", name)
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts
