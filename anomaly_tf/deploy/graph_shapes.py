"""Rules for the operations of a SavedModel: the shapes of their outputs, and small integers.

Nothing else is computed; `graph_bounds.py` applies the rules to a graph.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anomaly_tf.deploy.bounds import index_sizes

# Largest number of values that are computed; sizes, axes and paddings have few.
MAX_KNOWN = 64
_KEYS = itertools.count()


@dataclass(frozen=True)
class Tensor:
    """A tensor with its shape, and its value if known.

    Attributes:
        shape: Its shape.
        size: Bytes per value.
        value: Its content, if it consists of a few integers.
        key: A unique number.
    """

    shape: tuple[int, ...]
    size: int = 4
    value: np.ndarray | None = None
    key: int = field(default_factory=lambda: next(_KEYS))

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    def known(self) -> list[int]:
        """Its content as integers; raises `ValueError` if it is unknown."""
        if self.value is None:
            raise ValueError("a shape in it depends on unknown values")
        return [int(one) for one in self.value.ravel().tolist()]


@dataclass(frozen=True)
class Call:
    """A call of an operation.

    Attributes:
        attributes: Its attributes in the graph.
        inputs: Its inputs.
    """

    attributes: Any
    inputs: Sequence[Tensor]

    def numbers(self, name: str) -> list[int]:
        """An attribute that is a list of integers."""
        return list(self.attributes[name].list.i)

    def flag(self, name: str) -> bool:
        """An attribute that is true or false."""
        return bool(self.attributes[name].b)

    def number(self, name: str) -> int:
        """An attribute that is an integer."""
        return int(self.attributes[name].i)

    def text(self, name: str) -> str:
        """An attribute that is text."""
        return self.attributes[name].s.decode()


Rule = Callable[[Call], tuple[int, ...]]


# Rules for shapes.


def _same(call: Call) -> tuple[int, ...]:
    return call.inputs[0].shape


def _broadcast(call: Call) -> tuple[int, ...]:
    return np.broadcast_shapes(*(one.shape for one in call.inputs))


def _axes(call: Call) -> list[int]:
    rank = len(call.inputs[0].shape)
    return [axis % rank if rank else 0 for axis in call.inputs[1].known()]


def _reduced(call: Call) -> tuple[int, ...]:
    axes, shape = _axes(call), call.inputs[0].shape
    if call.flag("keep_dims"):
        return tuple(1 if axis in axes else side for axis, side in enumerate(shape))
    return tuple(side for axis, side in enumerate(shape) if axis not in axes)


def _require_channels_last(call: Call) -> None:
    if call.text("data_format") not in ("", "NHWC"):
        raise ValueError("its channels are not last")


def _places(call: Call, kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Height and width of the output of a window that slides over the first input."""
    _require_channels_last(call)
    strides, padding = call.numbers("strides"), call.text("padding")
    around = call.numbers("explicit_paddings") or [0] * 8
    sides = []
    for axis in (1, 2):
        side, window = call.inputs[0].shape[axis], dilations[axis] * (kernel[axis - 1] - 1) + 1
        if padding != "SAME":
            side += sum(around[2 * axis : 2 * axis + 2]) - window + 1
        sides.append(-(-side // strides[axis]))
    return sides


def _convolved(call: Call) -> tuple[int, ...]:
    kernel = call.inputs[1].shape
    sides = _places(call, kernel[:2], call.numbers("dilations") or [1] * 4)
    return (call.inputs[0].shape[0], *sides, kernel[3])


def _convolved_by_channel(call: Call) -> tuple[int, ...]:
    kernel = call.inputs[1].shape
    sides = _places(call, kernel[:2], call.numbers("dilations") or [1] * 4)
    return (call.inputs[0].shape[0], *sides, kernel[2] * kernel[3])


def _contracted(call: Call) -> tuple[int, ...]:
    equation = call.text("equation")
    sides = index_sizes(equation, [one.shape for one in call.inputs])
    return tuple(sides[letter] for letter in equation.partition("->")[2])


def _pooled(call: Call) -> tuple[int, ...]:
    batch, _, _, channels = call.inputs[0].shape
    return (batch, *_places(call, call.numbers("ksize")[1:3], [1] * 4), channels)


def _spread(call: Call) -> tuple[int, ...]:
    _require_channels_last(call)
    return tuple(call.inputs[0].known())


def _joined(call: Call) -> tuple[int, ...]:
    *parts, axis = call.inputs
    place = axis.known()[0] % len(parts[0].shape)
    sides = list(parts[0].shape)
    sides[place] = sum(part.shape[place] for part in parts)
    return tuple(sides)


def _multiplied(call: Call) -> tuple[int, ...]:
    left, right = (one.shape for one in call.inputs)
    rows, columns = (
        left[1 if call.flag("transpose_a") else 0],
        right[0 if call.flag("transpose_b") else 1],
    )
    return rows, columns


def _packed(call: Call) -> tuple[int, ...]:
    shape = call.inputs[0].shape
    place = call.number("axis") % (len(shape) + 1)
    return (*shape[:place], len(call.inputs), *shape[place:])


def _padded(call: Call) -> tuple[int, ...]:
    around = call.inputs[1].known()
    sides = call.inputs[0].shape
    pairs = zip(sides, around[::2], around[1::2], strict=True)
    return tuple(before + side + after for side, before, after in pairs)


def _reshaped(call: Call) -> tuple[int, ...]:
    sides = call.inputs[1].known()
    rest = math.prod(side for side in sides if side != -1)
    count = call.inputs[0].count
    shape = tuple(count // max(rest, 1) if side == -1 else side for side in sides)
    if math.prod(shape) != count:
        raise ValueError(f"{count} values in it become {shape}")
    return shape


def _resized(call: Call) -> tuple[int, ...]:
    batch, _, _, channels = call.inputs[0].shape
    return (batch, *call.inputs[1].known(), channels)


def _split(call: Call) -> tuple[int, ...]:
    parts, shape = call.number("num_split"), list(call.inputs[1].shape)
    place = call.inputs[0].known()[0] % len(shape)
    if not 0 < parts <= shape[place]:
        raise ValueError(f"something in it is split into {parts} parts")
    shape[place] //= parts
    return tuple(shape)


def _squeezed(call: Call) -> tuple[int, ...]:
    shape = call.inputs[0].shape
    axes = [axis % len(shape) for axis in call.numbers("squeeze_dims")]
    axes = axes or [axis for axis, side in enumerate(shape) if side == 1]
    return tuple(side for axis, side in enumerate(shape) if axis not in axes)


def _slices(call: Call) -> tuple[Any, ...]:
    """A strided slice as a NumPy index."""
    begin, end, step = (one.known() for one in call.inputs[1:4])
    masks = {
        name: call.number(f"{name}_mask")
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    taken: list[Any] = []
    for place, (first, last, stride) in enumerate(zip(begin, end, step, strict=True)):
        bit = 1 << place
        if masks["ellipsis"] & bit:
            taken.append(...)
        elif masks["new_axis"] & bit:
            taken.append(None)
        elif masks["shrink_axis"] & bit:
            taken.append(first)
        else:
            taken.append(
                slice(
                    None if masks["begin"] & bit else first,
                    None if masks["end"] & bit else last,
                    stride,
                )
            )
    return tuple(taken)


def _sliced(call: Call) -> tuple[int, ...]:
    # A broadcast array of a single value takes no memory.
    return np.broadcast_to(np.int8(0), call.inputs[0].shape)[_slices(call)].shape


def _transposed(call: Call) -> tuple[int, ...]:
    return tuple(call.inputs[0].shape[axis] for axis in call.inputs[1].known())


SAME = (
    "Abs BiasAdd Cast EnsureShape Exp Identity LeakyRelu Log Neg ReadVariableOp Relu Relu6 Round "
    "Rsqrt Sigmoid Softmax Sqrt Square Tanh"
)
BROADCAST = "AddV2 Equal GreaterEqual Less Maximum Minimum Mul RealDiv SelectV2 Sub"
RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME.split(), _same),
    **dict.fromkeys(BROADCAST.split(), _broadcast),
    **dict.fromkeys(("All", "Max", "Mean", "Min", "Sum"), _reduced),
    **dict.fromkeys(("AvgPool", "MaxPool"), _pooled),
    **dict.fromkeys(("MirrorPad", "Pad"), _padded),
    **dict.fromkeys(("ResizeBilinear", "ScaleAndTranslate"), _resized),
    "ConcatV2": _joined,
    "Conv2D": _convolved,
    "Conv2DBackpropInput": _spread,
    "DepthwiseConv2dNative": _convolved_by_channel,
    "Einsum": _contracted,
    "MatMul": _multiplied,
    "Pack": _packed,
    "Reshape": _reshaped,
    "Shape": lambda call: (len(call.inputs[0].shape),),
    "Split": _split,
    "Squeeze": _squeezed,
    "StridedSlice": _sliced,
    "Transpose": _transposed,
}


# Rules for small integers.


def _computed(compute: Callable[..., np.ndarray]) -> Callable[[Call], np.ndarray | None]:
    def value(call: Call) -> np.ndarray | None:
        values = [one.value for one in call.inputs]
        if any(one is None for one in values):
            return None
        with np.errstate(all="ignore"):
            return np.asarray(compute(call, *values))

    return value


VALUES: dict[str, Callable[[Call], np.ndarray | None]] = {
    "Shape": lambda call: np.array(call.inputs[0].shape, np.int64),
    "Cast": _computed(lambda call, value: value),
    "Identity": _computed(lambda call, value: value),
    "AddV2": _computed(lambda call, left, right: left + right),
    "Mul": _computed(lambda call, left, right: left * right),
    "Sub": _computed(lambda call, left, right: left - right),
    "Maximum": _computed(lambda call, left, right: np.maximum(left, right)),
    "Minimum": _computed(lambda call, left, right: np.minimum(left, right)),
    "Pack": _computed(lambda call, *values: np.stack(values, call.number("axis"))),
    "ConcatV2": _computed(lambda call, *values: np.concatenate(values[:-1], int(values[-1]))),
    "Reshape": _computed(lambda call, value, shape: value.reshape(shape)),
    "StridedSlice": _computed(lambda call, value, *rest: value[_slices(call)]),
}
