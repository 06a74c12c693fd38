"""What a model will take until its first score, computed from its description before it is built.

`keras_bounds`, `graph_bounds` and `litert_bounds` go through the three kinds of descriptions with
one image and note a `Step` for each operation; here the steps are added up. Imports no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomaly_tf.runs.limits import require_memory, require_operations

# Operations of the largest detector of ours: 2,900.
MAX_STEPS = 50_000
MAX_RANK, MAX_SIDE = 8, 2**31 - 1
# A value that is read or made takes as long as so many multiplications of a convolution.
FOR_EACH_VALUE = 20


@dataclass(frozen=True)
class Step:
    """One operation that a model calls.

    Attributes:
        inputs: Keys of the tensors that it reads.
        outputs: Key and size in bytes of the tensors that it makes.
        workspace: Bytes that it needs meanwhile.
        operations: Arithmetic operations.
    """

    inputs: Sequence[int]
    outputs: Sequence[tuple[int, int]]
    workspace: int = 0
    operations: int = 0


@dataclass
class Trace:
    """What a model does with one image.

    Attributes:
        weights: Bytes of weights and constants.
        steps: Its operations, in order.
    """

    weights: int = 0
    steps: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Notes an operation.

        Raises:
            ValueError: If there are more than `MAX_STEPS`.
        """
        self.steps.append(step)
        require_few_steps(len(self.steps))

    def require_affordable(self, path: Path) -> None:
        """Refuses what takes more than `runs/limits.py` allows.

        Weights count twice: what is read, and what is computed with.

        Raises:
            UserError: If it is refused.
        """
        require_memory(2 * self.weights + peak(self.steps), f"the model in {path}")
        require_operations(sum(step.operations for step in self.steps), f"the model in {path}")


def require_few_steps(count: int) -> None:
    """Raises `ValueError` for more than `MAX_STEPS` operations."""
    if count > MAX_STEPS:
        raise ValueError(f"it calls more than {MAX_STEPS:,} operations")


def peak(steps: Sequence[Step]) -> int:
    """The most bytes that tensors take at a time, if each is kept until its last use."""
    last = {key: number for number, step in enumerate(steps) for key in step.inputs}
    sizes: dict[int, int] = {}
    held = most = 0
    for number, step in enumerate(steps):
        for key, size in step.outputs:
            held += size - sizes.get(key, 0)
            sizes[key] = size
        most = max(most, held + step.workspace)
        for key in step.inputs:
            if last[key] == number:
                held -= sizes.pop(key, 0)
    return most


def in_shape(sides: Iterable[int | None]) -> tuple[int, ...]:
    """A shape whose sides are all known and possible; raises `ValueError` else."""
    shape = tuple(sides)
    for side in shape:
        if side is None or not 0 <= side <= MAX_SIDE:
            raise ValueError(f"a tensor in it has the shape {shape}")
    if len(shape) > MAX_RANK:
        raise ValueError(f"a tensor in it has {len(shape)} dimensions")
    return tuple(int(side or 0) for side in shape)
