"""Memory and time of a model until its first score, computed from its description.

`keras_bounds`, `graph_bounds` and `litert_bounds` trace the three kinds of descriptions with one
image and record a `Step` for each operation; this module sums the steps. Imports no TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomaly_tf.runs.limits import require_memory, require_operations

# The largest detector of this package has 2,900 operations.
MAX_STEPS = 50_000
MAX_RANK, MAX_SIDE = 8, 2**31 - 1
# Reading or writing a value takes as long as this many multiplications of a convolution.
FOR_EACH_VALUE = 20


@dataclass(frozen=True)
class Step:
    """One operation that a model calls.

    Attributes:
        inputs: Keys of its input tensors.
        outputs: Keys and sizes in bytes of its output tensors.
        workspace: Temporary memory in bytes.
        operations: Number of arithmetic operations.
    """

    inputs: Sequence[int]
    outputs: Sequence[tuple[int, int]]
    workspace: int = 0
    operations: int = 0


@dataclass
class Trace:
    """The operations of a model for one image.

    Attributes:
        weights: Bytes of weights and constants.
        steps: Its operations, in order.
    """

    weights: int = 0
    steps: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Adds an operation.

        Raises:
            ValueError: If there are more than `MAX_STEPS`.
        """
        self.steps.append(step)
        require_few_steps(len(self.steps))

    def require_affordable(self, path: Path) -> None:
        """Refuses a model that exceeds the limits of `runs/limits.py`.

        Weights count twice: once as read, and once as used in the computation.

        Raises:
            UserError: If it exceeds them.
        """
        require_memory(2 * self.weights + peak(self.steps), f"the model in {path}")
        require_operations(sum(step.operations for step in self.steps), f"the model in {path}")


def require_few_steps(count: int) -> None:
    """Raises `ValueError` for more than `MAX_STEPS` operations."""
    if count > MAX_STEPS:
        raise ValueError(f"it calls more than {MAX_STEPS:,} operations")


def peak(steps: Sequence[Step]) -> int:
    """Peak memory of the tensors in bytes, if each is kept until its last use."""
    last = {key: number for number, step in enumerate(steps) for key in step.inputs}
    sizes: dict[int, int] = {}
    held = largest = 0
    for number, step in enumerate(steps):
        for key, size in step.outputs:
            held += size - sizes.get(key, 0)
            sizes[key] = size
        largest = max(largest, held + step.workspace)
        for key in step.inputs:
            if last[key] == number:
                held -= sizes.pop(key, 0)
    return largest


def in_shape(sides: Iterable[int | None]) -> tuple[int, ...]:
    """The sides as a shape; raises `ValueError` if one is unknown or out of range."""
    shape = tuple(sides)
    for side in shape:
        if side is None or not 0 <= side <= MAX_SIDE:
            raise ValueError(f"a tensor in it has the shape {shape}")
    if len(shape) > MAX_RANK:
        raise ValueError(f"a tensor in it has {len(shape)} dimensions")
    return tuple(int(side or 0) for side in shape)


def index_sizes(equation: str, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """The size of each index of an Einstein sum, such as of `npd,pde->npe`.

    Args:
        equation: The sum; each index is a letter.
        shapes: Shapes of its operands.

    Raises:
        ValueError: If the equation does not fit the shapes.
    """
    operands, arrow, result = equation.partition("->")
    sizes: dict[str, int] = {}
    for indices, shape in zip(operands.split(","), shapes, strict=True):
        for index, size in zip(indices, shape, strict=True):
            if not index.isalpha() or sizes.setdefault(index, size) != size:
                raise ValueError(f"an Einstein sum in it, {equation}, does not fit its shapes")
    if not arrow or not set(result) <= set(sizes):
        raise ValueError(f"an Einstein sum in it, {equation}, gives other indices than it takes")
    return sizes


def contraction(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Number of multiplications of an Einstein sum; raises `ValueError` as `index_sizes`."""
    return math.prod(index_sizes(equation, shapes).values())
