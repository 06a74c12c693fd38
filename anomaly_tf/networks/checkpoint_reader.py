"""Reads the tensors of a PyTorch checkpoint in the legacy format (before PyTorch 1.6).

Needs NumPy only, and runs no code from the file: its pickles are interpreted here, with the few
operations that dictionaries of tensors need. All other operations and names are refused.

The file is a run of pickles (magic number, version, description of the machine, dictionary of
tensors, order of the storages) and, for each storage, the number of its values as int64 and its
values. A tensor is a view of a storage: offset, shape and strides.
"""

from __future__ import annotations

import io
import math
import pickletools
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
DICTIONARY = "collections OrderedDict"
REBUILD = "torch._utils _rebuild_tensor_v2"
STORAGES: dict[str, np.dtype] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch LongStorage": np.dtype("<i8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
PLAIN = ("LONG1", "BININT", "BININT1", "BININT2", "BINUNICODE")


@dataclass(frozen=True)
class _Name:
    """A name that the pickle imports."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_checkpoint(content: bytes) -> dict[str, np.ndarray]:
    """Reads a dictionary of tensors.

    Args:
        content: Content of the file.

    Returns:
        Name to array, float32 or int64, contiguous. Together they are no larger than the file.

    Raises:
        ValueError: If it is not such a file, is truncated or longer than it should be, or contains
            anything else than tensors of these types.
    """
    file = io.BytesIO(content)
    try:
        if _unpickle(file) != MAGIC or _unpickle(file) != VERSION:
            raise ValueError("not a PyTorch checkpoint in the legacy format")
        if _unpickle(file)["little_endian"] is not True:
            raise ValueError("another byte order")
        tensors, keys = _unpickle(file), _unpickle(file)
        _require_types(tensors, dict, _Tensor)
        _require_types(keys, list, str)
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        if len({tensor.storage for tensor in tensors.values()}) > len(storages):
            raise ValueError("two storages with one key")
        if sorted(keys) != sorted(storages):
            raise ValueError("other storages than those of the tensors")
        values = _values(content, file.tell(), [storages[key] for key in keys])
    except (IndexError, KeyError, TypeError) as error:  # of operations that do not fit
        raise ValueError(f"a damaged pickle ({type(error).__name__}: {error})") from error
    if sum(_size(tensor) for tensor in tensors.values()) > len(content):
        raise ValueError("tensors larger than the file")
    return {name: _array(tensor, values[tensor.storage.key]) for name, tensor in tensors.items()}


def _require_types(found: Any, container: type, item: type) -> None:
    items = found.values() if isinstance(found, dict) else found
    if type(found) is not container or not all(type(value) is item for value in items):
        raise ValueError("another content than a dictionary of tensors")


def _unpickle(file: BinaryIO) -> Any:
    """Interprets a pickle, and leaves the file at its end."""
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks below the marks
    memo: dict[Any, Any] = {}
    for operation, argument, _ in pickletools.genops(file):
        match operation.name:
            case "PROTO":
                pass
            case "STOP":
                return stack.pop()
            case name if name in PLAIN:
                stack.append(argument)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1":
                stack.append((stack.pop(),))
            case "TUPLE2":
                last = stack.pop()
                stack.append((stack.pop(), last))
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE":
                items, stack = stack, below.pop()
                stack.append(tuple(items))
            case "APPENDS":
                items, stack = stack, below.pop()
                _of_type(list, stack[-1]).extend(items)
            case "SETITEMS":
                items, stack = stack, below.pop()
                _set_items(stack[-1], items)
            case "SETITEM":
                items = [stack.pop(-2), stack.pop()]
                _set_items(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_name(argument))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_call(stack.pop(), arguments))
            case "BUILD":  # attributes of the dictionary: versions of the layers
                stack.pop()
                _of_type(dict, stack[-1])
            case name:
                raise ValueError(f"the operation {name} of pickle is not allowed")
    raise ValueError("a pickle without an end")


def _of_type(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"expected a {kind.__name__} in the pickle; got {type(value).__name__}")
    return value


def _set_items(target: Any, items: list[Any]) -> None:
    names = [_of_type(str, name) for name in items[::2]]
    _of_type(dict, target).update(zip(names, items[1::2], strict=True))


def _name(argument: Any) -> _Name:
    if argument not in (DICTIONARY, REBUILD, *STORAGES):
        raise ValueError(f"the name {argument.replace(' ', '.')[:100]!r} is not allowed")
    return _Name(argument)


def _call(called: Any, arguments: Any) -> Any:
    """Result of the call of one of the two functions that are allowed."""
    if called == _Name(DICTIONARY) and arguments == ():
        return {}
    if called != _Name(REBUILD):
        raise ValueError("a call that is not allowed")
    storage, offset, shape, strides, *_ = _of_type(tuple, arguments)
    for number in (offset, *_of_type(tuple, shape), *_of_type(tuple, strides)):
        _of_type(int, number)
    return _Tensor(_of_type(_Storage, storage), offset, shape, strides)


def _storage(identity: Any) -> _Storage:
    word, kind, key, _, count, *_ = _of_type(tuple, identity)
    if word != "storage" or type(kind) is not _Name or kind.name not in STORAGES:
        raise ValueError("a reference to something else than a storage")
    return _Storage(_of_type(str, key), STORAGES[kind.name], _of_type(int, count))


def _values(content: bytes, start: int, storages: list[_Storage]) -> dict[str, np.ndarray]:
    """Values of the storages, which follow each other to the end of the file."""
    values = {}
    for storage in storages:
        count = int.from_bytes(content[start : start + 8], "little", signed=True)
        start, end = start + 8, start + 8 + count * storage.dtype.itemsize
        if count != storage.count or not start <= end <= len(content):
            raise ValueError("a storage of another size than the pickle says, or a truncated file")
        values[storage.key] = np.frombuffer(content[start:end], storage.dtype)
        start = end
    if start != len(content):
        raise ValueError(f"{len(content) - start} bytes after the last storage")
    return values


def _size(tensor: _Tensor) -> int:
    return math.prod(tensor.shape) * tensor.storage.dtype.itemsize


def _array(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """The view of a storage, as an array of its own.

    The order of the axes in the storage may differ from that in the shape: kernels that came from
    TensorFlow lie as (height, width, in, out) under the shape (out, in, height, width).
    """
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides) or min((tensor.offset, *strides), default=0) < 0:
        raise ValueError("a tensor with a negative offset or stride, or without strides")
    if min(shape, default=1) < 1 or max(strides, default=0) > values.size:
        raise ValueError("a tensor with an empty axis, or a stride beyond its storage")
    steps = ((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if tensor.offset + sum(steps) >= values.size:
        raise ValueError("a tensor that reaches beyond its storage")
    in_bytes = [stride * values.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], shape, in_bytes)
    return np.array(view, order="C")
