"""Arrays in `.npz` files, whose headers are checked before the arrays are read.

Needs NumPy only. The header of an array holds its type and shape; a few KB can claim 10**15
numbers, or unpack to gigabytes.
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
# Compression methods for which zipfile unpacks no more than requested at a time.
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAGIC = np.lib.format.MAGIC_PREFIX


@dataclass(frozen=True)
class Announced:
    """Type and shape in the header of an array.

    Attributes:
        dtype: Its type.
        shape: Its shape.
    """

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def announced_arrays(path: Path) -> dict[str, Announced]:
    """Reads the headers of the arrays in an `.npz` file.

    Raises:
        OSError: If the file cannot be read.
        UserError: If its arrays would take more memory than `runs/limits.py` allows. The size of
            the file on disk is always allowed, because the user knows it.
        ValueError: If it is not such a file, an array does not hold plain numbers or text, or a
            member is encrypted or has a wrong length.
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
    except Exception as error:  # zipfile and zlib raise many kinds on damaged bytes
        raise ValueError(f"{type(error).__name__}: {error}") from error
    size = sum(member.file_size for member in members)
    # Twice the size: the images are read, and copied once when they are divided.
    require_memory(2 * size, f"{path}, read and divided,", 2 * path.stat().st_size)
    return found


def read_arrays(path: Path, expected: dict[str, Announced]) -> dict[str, np.ndarray]:
    """Reads arrays that must have the expected types and shapes and be finite.

    Raises:
        OSError: If the file cannot be read.
        UserError: As `announced_arrays`.
        ValueError: If it is damaged or has other content.
    """
    found = announced_arrays(path)
    for name, wanted in expected.items():
        if found.get(name) != wanted:
            raise ValueError(f"{name} must be {wanted}; got {found.get(name, 'nothing')}")
    values = read_members(path, expected)
    for name, value in values.items():
        require_finite(name, value)
    return values


def read_array(path: Path, expected: Announced) -> np.ndarray:
    """Reads an `.npy` array that must have the expected type and shape and be finite.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged or has other content.
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
    """Reads arrays whose headers were checked.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds on damaged bytes
        raise ValueError(f"{type(error).__name__}: {error}") from error


def require_finite(name: str, value: np.ndarray) -> None:
    """Raises `ValueError` if an array of real or complex numbers holds NaN or infinity."""
    if value.dtype.kind in "fc" and not np.isfinite(value).all():
        raise ValueError(f"{name} holds numbers that are NaN or infinite")


def _announced(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Announced | None:
    """Reads the header of a member; None if it is not an array."""
    if member.flag_bits & ENCRYPTED:
        raise ValueError(f"{member.filename} is encrypted")
    if member.compress_type not in PLAIN:
        raise ValueError(f"{member.filename} has a compression that numpy.savez does not use")
    with archive.open(member) as file:
        return _head(file, member.filename, member.file_size)


def _head(file: IO[bytes], name: str, length: int) -> Announced | None:
    """Reads the header of an array in a file of this name and length; None if it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers written by Python 2
        if file.read(len(MAGIC)) != MAGIC:
            return None
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"{name} has version {version}")
        shape, _, dtype = read(file)
        head = file.tell()
    announced = Announced(dtype, shape)
    if dtype.hasobject:  # of unknown length; NumPy refuses to read it
        return announced
    if any(side < 0 for side in shape) or head + announced.size != length:
        raise ValueError(f"{name} claims to be {announced}, which does not match its length")
    return announced
