"""Memory and time of the model in a .tflite file, from the sizes of its tensors.

LiteRT itself computes the shapes; memory that it allocates takes no space until it is written.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from anomaly_tf.deploy.bounds import FOR_EACH_VALUE, Step, Trace, in_shape, require_few_steps

POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Tensors of strings and nested graphs are not measured; no export has them.
MAX_VALUE = 2**34


def trace_litert(model: bytes) -> Trace:
    """Traces the operations of a model for one batch.

    Raises:
        ValueError: If it has several graphs, tensors of strings, or too many operations.
        RuntimeError: If LiteRT refuses it.
    """
    interpreter = Interpreter(
        model_content=model,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    if interpreter.num_subgraphs() != 1:
        raise ValueError(f"it holds {interpreter.num_subgraphs()} graphs")
    operations = interpreter._get_ops_details()
    require_few_steps(len(operations))
    _require_possible(interpreter)  # the shapes in the file
    interpreter.allocate_tensors()
    _require_possible(interpreter)  # the actual shapes
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    computed = {int(key) for operation in operations for key in operation["outputs"]}
    computed |= {tensor["index"] for tensor in interpreter.get_input_details()}
    for tensor in tensors.values():
        if np.dtype(tensor["dtype"]).kind not in "iufb":
            raise ValueError(f"a tensor in it has type {np.dtype(tensor['dtype'])}")
    trace = Trace()
    for operation, window in zip(operations, _windows(model), strict=True):
        inputs = [int(key) for key in operation["inputs"] if key >= 0]
        # Each operation may copy its constants into another memory layout.
        trace.weights += sum(_size(tensors[key]) for key in inputs if key not in computed)
        trace.add(_step(operation, inputs, tensors, window))
    return trace


def _require_possible(interpreter: Interpreter) -> None:
    for tensor in interpreter.get_tensor_details():
        shape = in_shape(tensor["shape"].tolist())
        if math.prod(shape) > MAX_VALUE:
            raise ValueError(f"a tensor in it has the shape {shape}")


def _windows(model: bytes) -> list[int]:
    """For each operation, the number of pixels in its pooling window; 1 for other operations."""
    graph = schema.Model.GetRootAs(model).Subgraphs(0)
    windows = []
    for number in range(graph.OperatorsLength()):
        operation, options = graph.Operators(number), schema.Pool2DOptions()
        window = 1
        if operation.BuiltinOptionsType() == schema.BuiltinOptions.Pool2DOptions:
            table = operation.BuiltinOptions()
            options.Init(table.Bytes, table.Pos)
            window = abs(options.FilterHeight() * options.FilterWidth())
        windows.append(window)
    return windows


def _step(
    operation: dict[str, Any], inputs: list[int], tensors: dict[int, Any], window: int
) -> Step:
    name = operation["op_name"]
    outputs = [(int(key), _size(tensors[int(key)])) for key in operation["outputs"]]
    shapes = [tensors[key]["shape"].tolist() for key in inputs]
    values = math.prod(tensors[outputs[0][0]]["shape"].tolist()) if outputs else 0
    counts = FOR_EACH_VALUE * (values + sum(map(math.prod, shapes)))
    workspace = 0
    if name in CONVOLUTIONS and len(shapes) > 1:
        kernel = shapes[1]
        # Number of weights for each value of the output.
        weights = math.prod(kernel[1:3]) if name[0] == "D" else math.prod(kernel[1:])
        counts += 2 * values * weights
        # An address for each pixel under the kernel.
        places = values // max(kernel[-1 if name[0] == "D" else 0], 1)
        workspace = 8 * places * math.prod(kernel[1:3])
    elif name == "BATCH_MATMUL":
        counts += 2 * values * max(shapes[0][-2:], default=0)
    elif name in POOLS:
        counts += values * window
    elif name == "TRANSPOSE_CONV" and len(shapes) > 2:
        kernel, source = shapes[1], shapes[2]
        counts += 2 * math.prod(kernel) * math.prod(source[:3])
        workspace = 4 * math.prod(kernel[:3]) * math.prod(source[:3])
    return Step(inputs, outputs, workspace, counts)


def _size(tensor: dict[str, Any]) -> int:
    return math.prod(tensor["shape"].tolist()) * np.dtype(tensor["dtype"]).itemsize
