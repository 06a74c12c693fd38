"""Arrays in `.npz` files: what a file announces is checked before anything of it is read.

Needs NumPy only. A member announces its type and shape in its first bytes; a few KB can claim
10**15 numbers, or unpack to gigabytes.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from anomaly_tf.errors import UserError
from anomaly_tf.runs.limits import require_memory

MAX_MEMBERS = 100_000
ENCRYPTED = 1  # a flag of zip
# Ways of packing in which zipfile unpacks no more at a time than it is asked for.
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAGIC = np.lib.format.MAGIC_PREFIX


@dataclass(frozen=True)
class Announced:
    """What the head of an array in a file says.

    Attributes:
        dtype: Its type.
        shape: Its shape.
    """

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes that the array takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def announced_arrays(path: Path) -> dict[str, Announced]:
    """What each array of an `.npz` file announces; nothing but the heads is read.

    Raises:
        OSError: If the file cannot be read.
        UserError: If its arrays would take more memory than `runs/limits.py` allows. What a file
            takes on the disk is allowed, because whoever gives it knows its size.
        ValueError: If it is no such file, an array is not of plain numbers or text, or a member is
            encrypted or as long as it cannot be.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise ValueError(f"{len(members)} members")
            heads = ((member, _announced(archive, member)) for member in members)
            found = {m.filename.removesuffix(".npy"): head for m, head in heads if head}
    except (UserError, OSError, ValueError):
        raise
    except Exception as error:  # of which zipfile and zlib raise many kinds on damaged bytes
        raise ValueError(f"{type(error).__name__}: {error}") from error
    size = sum(member.file_size for member in members)
    # Read, and copied once when the images are divided.
    require_memory(2 * size, f"{path}, read and divided,", 2 * path.stat().st_size)
    return found


def read_arrays(path: Path, expected: dict[str, Announced]) -> dict[str, np.ndarray]:
    """Reads arrays that must be of these types and shapes, and finite.

    Raises:
        OSError: If the file cannot be read.
        UserError: As `announced_arrays`.
        ValueError: If it is damaged or holds something else.
    """
    found = announced_arrays(path)
    for name, right in expected.items():
        if found.get(name) != right:
            raise ValueError(f"{name} must be {right}; got {found.get(name, 'nothing')}")
    values = read_members(path, expected)
    for name, value in values.items():
        require_finite(name, value)
    return values


def read_array(path: Path, expected: Announced) -> np.ndarray:
    """Reads one array, `.npy`, that must be of this type and shape, and finite.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged or holds something else.
    """
    with path.open("rb") as file:
        found = _head(file, path.name, path.stat().st_size)
        if found != expected:
            raise ValueError(f"it must be {expected}; got {found or 'no array'}")
        file.seek(0)
        value = np.load(file, allow_pickle=False)
    require_finite(path.name, value)
    return value


def read_members(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads arrays whose heads were checked.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError):
        raise
    except Exception as error:  # what zipfile, zlib and NumPy raise on damaged bytes
        raise ValueError(f"{type(error).__name__}: {error}") from error


def require_finite(name: str, value: np.ndarray) -> None:
    """Raises `ValueError` if an array of real or complex numbers holds NaN or infinity."""
    if value.dtype.kind in "fc" and not np.isfinite(value).all():
        raise ValueError(f"{name} holds numbers that are NaN or infinite")


def _announced(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Announced | None:
    """What a member announces; None if it is no array."""
    if member.flag_bits & ENCRYPTED:
        raise ValueError(f"{member.filename} is encrypted")
    if member.compress_type not in PLAIN:
        raise ValueError(f"{member.filename} is packed in another way than numpy.savez does")
    with archive.open(member) as file:
        return _head(file, member.filename, member.file_size)


def _head(file: IO[bytes], name: str, length: int) -> Announced | None:
    """What an array in a file of this name and length announces; None if it is no array."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of heads written by Python 2
        if file.read(len(MAGIC)) != MAGIC:
            return None
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"{name} is of version {version}")
        shape, _, dtype = read(file)
        head = file.tell()
    announced = Announced(dtype, shape)
    if dtype.hasobject:  # whose length is not known; NumPy refuses to read them
        return announced
    if any(side < 0 for side in shape) or head + announced.size != length:
        raise ValueError(f"{name} announces {announced}, which is not its length")
    return announced
