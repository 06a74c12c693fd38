"""Names of millions of image files: found, read from lists and sorted without keeping them.

Names are bytes, as the system has them. A list holds one name a line, or names separated by NUL as
`find -print0` writes them; the lists that are written here are separated by NUL.
"""

from __future__ import annotations

import codecs
import hashlib
import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from anomaly_tf.data.formats import SUFFIXES
from anomaly_tf.data.search import CLOSED, TWICE, Search, no_images
from anomaly_tf.errors import UserError
from anomaly_tf.runs.paths import user_path

# Bytes that are read at a time, of a list and of each sorted part of the names.
BLOCK, PART_BLOCK = 2**16, 2**14
# Names that are sorted in memory.
MAX_SORTED = 50_000
# No file system takes a longer path.
MAX_NAME_BYTES = 2**16
# How pictures begin; in WebP, the length lies between the two parts.
PICTURE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


def names_in(file: BinaryIO, what: str) -> Iterator[bytes]:
    """Yields the names in a list.

    Args:
        file: The list, in UTF-8 or as the system encodes names.
        what: What it is, for messages.

    Raises:
        UserError: If it holds something other than names.
    """
    block = file.read(BLOCK).removeprefix(codecs.BOM_UTF8)
    if block.startswith(PICTURE_STARTS):
        raise UserError(f"{what} holds a picture; give a list of files' names, one a line")
    # With every other byte NUL, names would be taken apart into letters, and "." into a folder.
    if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (
        len(block) > 4 and 2 * block.count(b"\0") >= len(block) - 1
    ):
        raise UserError(f"{what} holds names in UTF-16 or UTF-32; write the list in UTF-8")
    by_nul, rest = b"\0" in block, b""
    while block:
        block = rest + block
        lines = block.split(b"\0") if by_nul else block.splitlines(keepends=True)
        rest = lines.pop()
        if len(rest) > MAX_NAME_BYTES:
            raise UserError(f"{what} holds a name that no file can have; write one name a line")
        names = lines if by_nul else [line.rstrip(b"\r\n") for line in lines]
        yield from filter(None, names)
        block = file.read(BLOCK)
    if last := (rest if by_nul else rest.rstrip(b"\r\n")):
        yield last


@dataclass
class Spooled:
    """Names that were written to a file.

    Attributes:
        count: Number of names.
        digest: SHA-256 of the file.
        repeated: Number of names that were found again, and left out.
        problems: The reason for each named folder that holds no image.
    """

    count: int
    digest: str
    repeated: int
    problems: list[str]


def named_images(
    places: Iterable[Path], lists: Iterable[tuple[BinaryIO, str]], search: Search
) -> tuple[Iterator[bytes], list[str]]:
    """The absolute names of image files, as `find_images` finds them, in no particular order.

    Args:
        places: Files and folders.
        lists: Lists with names of files and folders, and what each of them is.
        search: A new search, which counts the files that are left out.

    Returns:
        The names, and the problems, which are complete when the names were read.
    """
    problems: list[str] = []
    here = os.fsencode(os.getcwd())

    def below(folder: Path) -> Iterator[bytes]:
        before, count = search.left_out.counts.copy(), 0
        prefix = os.path.join(here, os.fsencode(folder)) if folder != Path() else here
        for name in search.walk(folder):
            count += 1
            yield os.path.join(prefix, os.fsencode(name))
        skipped = search.left_out.counts - before
        if not count and not skipped[TWICE]:
            closed = f"folder {folder} cannot be read; change its permissions"
            problems.append(closed if skipped[CLOSED] else str(no_images(folder)))

    def names() -> Iterator[bytes]:
        for place in places:
            if os.path.isdir(place):
                yield from below(place)
            else:
                yield os.path.join(here, os.fsencode(place))
        for file, what in lists:
            for name in names_in(file, what):
                # A picture by its name is not looked at, which takes long for millions.
                is_image = os.path.splitext(name)[1].lower().decode("latin-1") in SUFFIXES
                if not is_image and os.path.isdir(place := user_path(os.fsdecode(name))):
                    yield from below(place)
                else:
                    yield os.path.join(here, name)

    return names(), problems


def spool(names: Iterable[bytes], path: Path) -> Spooled:
    """Writes names to a file, sorted, each once, and ended by NUL.

    Args:
        names: The names, in any order.
        path: The file, in a folder that has place for the names twice.
    """
    digest, count, repeated, before = hashlib.sha256(), 0, 0, None
    with path.open("wb") as file:
        for name in _sorted(names, path.parent):
            if name == before:
                repeated += 1
                continue
            before, count = name, count + 1
            line = name + b"\0"
            digest.update(line)
            file.write(line)
    return Spooled(count, digest.hexdigest(), repeated, [])


def _sorted(names: Iterable[bytes], folder: Path) -> Iterator[bytes]:
    """Sorts names by parts: each is sorted in memory and written, then all are merged."""
    with tempfile.TemporaryFile(dir=folder) as file:
        ends, part = [0], []
        for name in names:
            part.append(name)
            if len(part) == MAX_SORTED:
                ends.append(ends[-1] + file.write(b"".join(n + b"\0" for n in sorted(part))))
                part.clear()
        file.flush()
        written = [_part(file.fileno(), start, end) for start, end in pairwise(ends)]
        yield from heapq.merge(*written, sorted(part))


def _part(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    """The names between two places of a file, which several readers read."""
    rest = b""
    while start < end:
        block = os.pread(descriptor, min(PART_BLOCK, end - start), start)
        start += len(block)
        *whole, rest = (rest + block).split(b"\0")
        yield from whole


def shards_of(path: Path, size: int) -> Iterator[list[str]]:
    """Yields the names in a file that `spool` wrote, `size` at a time."""
    shard: list[str] = []
    with path.open("rb") as file:
        for name in names_in(file, str(path)):
            shard.append(os.fsdecode(name))
            if len(shard) == size:
                yield shard
                shard = []
    if shard:
        yield shard
