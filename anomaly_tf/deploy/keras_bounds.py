"""Memory and time of the model in a `.keras` file, from its layers built without weights.

Keras itself computes the shapes symbolically. Before that, the number of calls between layers is
counted in the description.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import tree
from keras.src.backend.common import global_state

from anomaly_tf.deploy.bounds import (
    FOR_EACH_VALUE,
    Step,
    Trace,
    contraction,
    in_shape,
    require_few_steps,
)

# Limits of integers in a description; the longest axis in the detectors of this package is a
# flattened image, of at most 1024 x 1024 x 3 values.
MAX_NUMBER = 2**31 - 1
MAX_PARTS = 4096
# Name of Keras's list of variables without a value.
WAITING = "uninitialized_variables"
ARBITRARY = ("seed", "shared_object_id")
SIZES = {"uint8": 1, "int8": 1, "bool": 1, "float16": 2, "bfloat16": 2}
SIZES |= dict.fromkeys(("float32", "int32", "uint32"), 4)


def require_few_calls(config: dict[str, Any]) -> None:
    """Refuses a description with too many calls between layers, or too large integers.

    Raises:
        ValueError: If it is refused.
    """
    _calls(config)
    for name, value in _numbers(config):
        if abs(value) > (MAX_PARTS if name == "indices_or_sections" else MAX_NUMBER):
            raise ValueError(f"{name or 'a number in it'} is {value}")


def trace_keras(config: dict[str, Any]) -> Trace:
    """Traces the operations of a described model for one image.

    Args:
        config: Content of `config.json`, checked by `origin.py` and `require_few_calls`.

    Raises:
        ValueError: If its shapes cannot be computed.
    """
    with _without_values():
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        trace = Trace()
        for variable in model.variables:
            trace.weights += math.prod(variable.shape) * _itemsize(variable.dtype)
        images = [
            keras.KerasTensor(in_shape((1, *image.shape[1:])), image.dtype)
            for image in model.inputs
        ]
        _run(model, images, trace, _Keys())
    return trace


@contextmanager
def _without_values() -> Iterator[None]:
    """Variables created in the block have a shape, but never a value."""
    before = list(global_state.get_global_attribute(WAITING) or ())
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:  # otherwise Keras would initialize them later
        global_state.set_global_attribute(WAITING, before)


class _Keys:
    """A number for each tensor; tensors are kept alive, so that no `id` is reused."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, Any]] = {}
        self._next = itertools.count()

    def of(self, tensor: Any) -> int:
        if id(tensor) not in self._kept:
            self._kept[id(tensor)] = next(self._next), tensor
        return self._kept[id(tensor)][0]


def _run(model: Any, inputs: list[Any], trace: Trace, keys: _Keys) -> Any:
    def traced(operation: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            read = [x for x in tree.flatten((arguments, keywords)) if _is_tensor(x)]
            if isinstance(operation, keras.Model):
                return _run(operation, read, trace, keys)
            keywords.pop("training", None)
            result = operation.compute_output_spec(*arguments, **keywords)
            outputs = [x for x in tree.flatten(result) if _is_tensor(x)]
            trace.add(_step(operation, read, outputs, keys))
            return result

        return call

    return model._run_through_graph(inputs, operation_fn=traced)


def _step(operation: Any, read: list[Any], written: list[Any], keys: _Keys) -> Step:
    shapes = [in_shape(x.shape) for x in written]
    values = sum(math.prod(shape) for shape in shapes)
    counts, workspace = FOR_EACH_VALUE * values, 0
    kernel = getattr(operation, "kernel", None)
    if kernel is not None and read:
        weights, source = math.prod(kernel.shape), in_shape(read[0].shape)
        if "Transpose" in type(operation).__name__:
            places = math.prod(source[1:3])
            counts += 2 * weights * places
            # The columns that are summed into the output.
            workspace = 4 * weights * places // max(source[-1], 1)
        elif hasattr(operation, "equation"):
            counts += 2 * contraction(operation.equation, [source, kernel.shape])
        elif hasattr(operation, "depth_multiplier"):
            counts += 2 * values * math.prod(kernel.shape[:2])
        else:
            counts += 2 * values * weights // max(kernel.shape[-1], 1)
    elif hasattr(operation, "pool_size"):
        counts += values * math.prod(operation.pool_size)
    counts += FOR_EACH_VALUE * sum(math.prod(in_shape(x.shape)) for x in read)
    sizes = [math.prod(s) * _itemsize(x.dtype) for s, x in zip(shapes, written, strict=True)]
    outputs = [(keys.of(x), size) for x, size in zip(written, sizes, strict=True)]
    return Step([keys.of(x) for x in read], outputs, workspace, counts)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _itemsize(dtype: Any) -> int:
    return SIZES.get(str(dtype), 8)


def _calls(config: Any) -> int:
    """The number of operations in one call of a described layer or model."""
    if not isinstance(config, dict) or "layers" not in config.get("config", {}):
        return 1
    count = 0
    for layer in config["config"]["layers"]:
        nodes = layer.get("inbound_nodes") or [None]
        count += len(nodes) * _calls(layer)
        require_few_steps(count)
    return count


def _numbers(config: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(config, dict):
        for key, part in config.items():
            yield from _numbers(part, str(key))
    elif isinstance(config, list):
        for part in config:
            yield from _numbers(part, name)
    elif isinstance(config, int) and name not in ARBITRARY:
        yield name, config
