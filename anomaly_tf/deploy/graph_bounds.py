"""Memory and time of a SavedModel, from the shapes in its functions for one image.

TensorFlow's shape inference also computes constants, which may take gigabytes; the rules here
compute only small integers, such as sizes and axes. An operation without a rule is refused, so that
every new entry in `origin.OPERATIONS` needs one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import dtypes, tensor_util

from anomaly_tf.deploy.bounds import FOR_EACH_VALUE, Step, Trace, contraction, in_shape
from anomaly_tf.deploy.graph_shapes import MAX_KNOWN, RULES, VALUES, Call, Tensor


def trace_graph(graph: Any, image_shape: tuple[int, int, int], signature: str) -> Trace:
    """Traces the operations of a signature for one image.

    Args:
        graph: A meta graph that `origin.py` has checked.
        image_shape: Height, width and channels of the image.
        signature: Name of the signature.

    Raises:
        ValueError: If its shapes cannot be computed, there are too many calls between functions, or
            the signature does not exist.
    """
    trace = Trace()
    nodes = graph.object_graph_def.nodes
    for node in nodes:
        if node.HasField("variable"):
            trace.weights += _variable(node.variable).count * _size(node.variable.dtype)
    functions = {one.signature.name: one for one in graph.graph_def.library.function}
    for one in (graph.graph_def.node, *(function.node_def for function in functions.values())):
        for node in one:
            if node.op == "Const":
                trace.weights += _constant(node.attr).count * _size(node.attr["dtype"].type)
    name = _signature_function(nodes, signature)
    bound = graph.object_graph_def.concrete_functions[name].bound_inputs
    captured = [_variable(nodes[number].variable) for number in bound]
    function = functions[name]
    own = len(function.signature.input_arg) - len(captured)
    if own != 1 or function.signature.input_arg[0].type != types_pb2.DT_UINT8:
        raise ValueError(f"signature {signature} takes other inputs than images")
    image = Tensor(in_shape((1, *image_shape)), 1)
    _run(function, [image, *captured], functions, trace, depth=0)
    return trace


def _signature_function(nodes: Any, signature: str) -> str:
    """The name of a signature's function."""
    number = 0
    for name in ("signatures", signature):
        children = {child.local_name: child.node_id for child in nodes[number].children}
        if name not in children:
            raise ValueError(f"it has no signature {signature}")
        number = children[name]
    node = nodes[number]
    if node.HasField("bare_concrete_function"):
        return node.bare_concrete_function.concrete_function_name
    (name,) = node.function.concrete_functions
    return name


def _variable(variable: Any) -> Tensor:
    return Tensor(in_shape(side.size for side in variable.shape.dim), _size(variable.dtype))


def _run(
    function: Any, inputs: Sequence[Tensor], functions: dict[str, Any], trace: Trace, depth: int
) -> list[Tensor]:
    """Traces a function; returns its outputs."""
    if depth > 50:
        raise ValueError("its functions call each other too deeply")
    names = [argument.name for argument in function.signature.input_arg]
    found = {name: [tensor] for name, tensor in zip(names, inputs, strict=True)}
    nodes = {node.name: node for node in function.node_def}
    for node in _in_order(nodes):
        given = [_look_up(found, name) for name in node.input if not name.startswith("^")]
        found[node.name] = _outputs(node, given, functions, trace, depth)
    return [_look_up(found, function.ret[one.name]) for one in function.signature.output_arg]


def _look_up(found: dict[str, list[Tensor]], name: str) -> Tensor:
    node, _, rest = name.partition(":")
    place = int(rest.rpartition(":")[2] or 0)
    return found[node][place]


def _in_order(nodes: dict[str, Any]) -> list[Any]:
    """The nodes in topological order; raises `ValueError` if they form a cycle."""
    ordered: list[Any] = []
    state: dict[str, str] = {}
    for start in nodes:
        waiting = [start]
        while waiting:
            name = waiting[-1]
            if state.get(name) == "done":
                waiting.pop()
                continue
            before = [one.lstrip("^").partition(":")[0] for one in nodes[name].input]
            before = [one for one in before if one in nodes and state.get(one) != "done"]
            if not before:
                state[name] = "done"
                ordered.append(nodes[waiting.pop()])
                continue
            if state.get(name) == "waiting":
                raise ValueError("its nodes form a cycle")
            state[name] = "waiting"
            waiting += before
    return ordered


def _outputs(
    node: Any, inputs: list[Tensor], functions: dict[str, Any], trace: Trace, depth: int
) -> list[Tensor]:
    called = [node.op] if node.op in functions else []
    called += [
        node.attr[name].func.name
        for name in ("f", "then_branch", "else_branch")
        if name in node.attr
    ]
    if called:
        trace.add(Step([], []))
        given = inputs[1:] if node.op.endswith("If") else inputs
        return [_run(functions[name], given, functions, trace, depth + 1) for name in called][-1]
    call = Call(node.attr, inputs)
    if node.op in ("NoOp", "Const"):
        trace.add(Step([], []))
        return [] if node.op == "NoOp" else [_constant(node.attr)]
    if node.op not in RULES:
        raise ValueError(f"operation {node.op} has no rule for its shape")
    shape = in_shape(RULES[node.op](call))
    value = VALUES[node.op](call) if node.op in VALUES else None
    if value is not None and (value.size > MAX_KNOWN or value.dtype.kind not in "iu"):
        value = None
    size = _output_size(call)
    copies = call.number("num_split") if node.op == "Split" else 1
    outputs = [Tensor(shape, size, value) for _ in range(copies)]
    _add_step(node.op, call, outputs, trace)
    return outputs


def _add_step(operation: str, call: Call, outputs: list[Tensor], trace: Trace) -> None:
    values = sum(one.count for one in outputs)
    counts = FOR_EACH_VALUE * (values + sum(one.count for one in call.inputs))
    workspace = 0
    if operation == "Conv2D":
        kernel = call.inputs[1]
        counts += 2 * values * kernel.count // max(kernel.shape[-1], 1)
        places = values // max(kernel.shape[-1], 1)
        workspace = 8 * places * math.prod(kernel.shape[:2])
    elif operation == "DepthwiseConv2dNative":
        counts += 2 * values * math.prod(call.inputs[1].shape[:2])
    elif operation == "Einsum":
        counts += 2 * contraction(call.text("equation"), [one.shape for one in call.inputs])
        workspace = 4 * sum(one.count for one in call.inputs)
    elif operation == "Conv2DBackpropInput":
        kernel, source = call.inputs[1], call.inputs[2]
        places = math.prod(source.shape[:3])
        counts += 2 * kernel.count * places
        # The columns that are summed into the output.
        workspace = 4 * places * math.prod(kernel.shape[:3])
    elif operation == "MatMul":
        counts += 2 * values * max(call.inputs[0].shape)
    elif operation in ("AvgPool", "MaxPool"):
        counts += values * math.prod(call.numbers("ksize"))
    elif operation in ("ResizeBilinear", "ScaleAndTranslate"):
        workspace = 4 * values
    keys = [one.key for one in call.inputs]
    trace.add(Step(keys, [(one.key, one.count * one.size) for one in outputs], workspace, counts))


def _output_size(call: Call) -> int:
    for name in ("DstT", "dtype", "out_type", "T"):
        if name in call.attributes:
            return _size(call.attributes[name].type)
    return 8


def _size(dtype: int) -> int:
    return max(dtypes.as_dtype(dtype).size or 8, 1)


def _constant(attributes: Any) -> Tensor:
    proto = attributes["value"].tensor
    shape = in_shape(side.size for side in proto.tensor_shape.dim)
    kind = dtypes.as_dtype(proto.dtype)
    value = None
    if math.prod(shape) <= MAX_KNOWN and kind.is_integer:
        value = tensor_util.MakeNdarray(proto)
    return Tensor(shape, _size(proto.dtype), value)
