"""Checks of `split.json` and of the `scan.json` of a cache, which may be damaged or forged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from anomaly_tf.data.arrays import MAX_CLASSES
from anomaly_tf.runs.checks import (
    Checks,
    is_list,
    is_shape,
    is_text,
    is_whole,
    parse_json,
    require,
)

# The names of a million files take 100 MB.
MAX_BYTES, MAX_VALUES = 256 * 2**20, 8_000_000


def _is_count(value: Any) -> bool:
    return is_whole(value, 0, 2**53)


def _are_classes(value: Any) -> bool:
    return isinstance(value, list) and all(is_whole(one, 0, MAX_CLASSES - 1) for one in value)


def _is_inside(name: Any) -> bool:
    """True if a name is the path of a file inside a folder."""
    if not is_text(name) or not name or "\0" in name:
        return False
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def _maps(value: Any, is_key: Callable[[Any], bool], is_value: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(is_key(k) and is_value(v) for k, v in value.items())


SPLIT_CHECKS: Checks = {
    "image_shape": (is_shape, "height, width and channels, 1 or 3"),
    "class_names": (lambda value: is_list(value, is_text), "a list of names"),
    "roles": (lambda value: _maps(value, is_text, _are_classes), "lists of class numbers"),
    "masks": (
        lambda value: _maps(value, _is_inside, _is_inside),
        "paths of files inside the folder",
    ),
    **{
        name: (lambda value: isinstance(value, dict), "files and classes")
        for name in ("train", "validation", "test")
    },
}
PART_CHECKS: Checks = {
    "files": (
        lambda value: isinstance(value, list) and all(map(_is_inside, value)),
        "paths of files inside the folder",
    ),
    "classes": (_are_classes, "class numbers"),
}
# Keys that earlier versions did not write.
LATER_CHECKS: Checks = {
    "bit_depth": (lambda value: value is None or is_whole(value, 8, 16), "8 to 16 bits, or null"),
    "mask_digests": (
        lambda value: _maps(value, _is_inside, is_text),
        "paths of files, each with its digest",
    ),
}
LATER_PART_CHECKS: Checks = {"digests": (_are_texts, "a list of digests")}
ROLES = ("normal", "seen", "unseen")
SCAN_CHECKS: Checks = {
    "image_shape": (is_shape, "height, width and channels, 1 or 3"),
    "sizes": (
        lambda value: (
            isinstance(value, list)
            and all(is_list(one, _is_count) and len(one) == 3 for one in value)
        ),
        "lists of width, height and count",
    ),
    "n_grayscale": (_is_count, "a whole number of at least 0"),
    "broken": (lambda value: _maps(value, is_text, is_text), "names of files with reasons"),
    "digests": (_are_texts, "a list of digests"),
}


def read_split(path: Path) -> dict[str, Any]:
    """Reads a `split.json`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    content = _read(path)
    require(content, SPLIT_CHECKS, LATER_CHECKS)
    count = len(content["class_names"])
    _require_below(count, "roles", (one for part in content["roles"].values() for one in part))
    if not set(content["roles"]) <= set(ROLES) or not content["roles"].get("normal"):
        raise ValueError(f"roles must be {', '.join(ROLES)}, normal among them")
    for name in ("train", "validation", "test"):
        part = content[name]
        require(part, PART_CHECKS, LATER_PART_CHECKS)
        for key in ("classes", "digests"):
            if key in part and len(part["files"]) != len(part[key]):
                raise ValueError(f"{len(part['files'])} files and {len(part[key])} {key}")
        _require_below(count, f"classes of {name}", part["classes"])
    return content


def read_scan(path: Path) -> dict[str, Any]:
    """Reads the `scan.json` of a cache of decoded images.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    content = _read(path)
    require(content, SCAN_CHECKS)
    return content


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return parse_json(file.read(MAX_BYTES + 1), MAX_BYTES, MAX_VALUES)


def _require_below(count: int, name: str, classes: Iterable[int]) -> None:
    for one in classes:
        if one >= count:
            raise ValueError(f"{name} hold class {one}, and there are {count} classes")
