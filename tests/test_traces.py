"""Costs of models compared with hand-computed counts, and refused descriptions of models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from keras import layers
from tensorflow.core.framework import function_pb2, node_def_pb2, types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from anomaly_tf.deploy import litert_bounds, origin
from anomaly_tf.deploy.bounds import MAX_STEPS, Step, Trace, in_shape
from anomaly_tf.deploy.graph_bounds import _outputs, _run, trace_graph
from anomaly_tf.deploy.graph_shapes import RULES, Tensor
from anomaly_tf.deploy.keras_bounds import require_few_calls, trace_keras
from anomaly_tf.deploy.litert_bounds import trace_litert
from anomaly_tf.errors import UserError
from anomaly_tf.runs.limits import MAX_GB, OPERATIONS_A_SECOND, require_operations

# Of an image (8, 8, 3).
READ = 8 * 8 * 3


def test_a_model_may_compute_for_half_a_minute():
    require_operations(30 * OPERATIONS_A_SECOND, "it")
    with pytest.raises(UserError, match="operations for one image"):
        require_operations(30 * OPERATIONS_A_SECOND + 1, "it")


def test_weights_count_twice(tmp_path, monkeypatch):
    monkeypatch.setenv(MAX_GB, "0.002")
    Trace(weights=10**6).require_affordable(tmp_path)
    with pytest.raises(UserError, match=r"more than 0\.002 GB"):
        Trace(weights=10**6 + 1).require_affordable(tmp_path)


@pytest.mark.parametrize("shape", [(-1,), (2**31,), (None, 1), (1,) * 9])
def test_shapes_that_no_tensor_has(shape):
    assert in_shape((0, 1, 2**31 - 1)) == (0, 1, 2**31 - 1)
    assert in_shape((1,) * 8) == (1,) * 8
    with pytest.raises(ValueError, match=r"has the shape|has 9 dimensions"):
        in_shape(shape)


# Keras.


def test_numbers_that_no_layer_has():
    require_few_calls({"units": 2**31 - 1, "seed": 10**10})
    for config in ({"units": 10**10}, {"config": [{"units": [3, -(10**10)]}]}):
        with pytest.raises(ValueError, match=r"units is -?10000000000"):
            require_few_calls(config)


@pytest.mark.parametrize(
    ("layer", "made", "operations", "workspace"),
    [
        (layers.ReLU(), READ, 0, 0),
        (layers.Conv2D(5, 3), 6 * 6 * 5, 2 * (6 * 6 * 5) * (3 * 3 * 3), 0),
        (layers.Dense(5), 8 * 8 * 5, 2 * (8 * 8 * 5) * 3, 0),
        (layers.MaxPooling2D(4), 2 * 2 * 3, (2 * 2 * 3) * (4 * 4), 0),
        (
            layers.Conv2DTranspose(5, 3, strides=2),
            17 * 17 * 5,
            2 * (8 * 8 * 3) * (3 * 3 * 5),
            4 * (8 * 8) * (3 * 3 * 5),
        ),
    ],
)
def test_the_cost_of_a_layer(layer, made, operations, workspace):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layer(image))
    trace = trace_keras(keras.saving.serialize_keras_object(model))
    (step,) = trace.steps
    assert step.operations == 20 * (READ + made) + operations
    assert step.workspace == workspace
    assert [size for _, size in step.outputs] == [4 * made]
    assert trace.weights == 4 * sum(weight.size for weight in model.get_weights())


# TensorFlow's graphs.


@pytest.fixture
def graph(deployed) -> Any:
    """The graph of an export."""
    content = (deployed["saved_model"] / "saved_model.pb").read_bytes()
    (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    return graph


def weights_of(graph: Any) -> int:
    return trace_graph(graph, (28, 28, 1), "serve").weights


def test_constants_and_variables_that_nothing_reads_are_weights(graph):
    before = weights_of(graph)
    node = graph.graph_def.node.add(name="unused", op="Const")
    node.attr["dtype"].type = node.attr["value"].tensor.dtype = types_pb2.DT_FLOAT
    node.attr["value"].tensor.tensor_shape.dim.add().size = 10**9
    node.attr["value"].tensor.float_val.append(1.0)
    assert weights_of(graph) == before + 4 * 10**9
    variable = graph.object_graph_def.nodes.add().variable
    variable.dtype = types_pb2.DT_HALF
    variable.shape.dim.add().size = 10**8
    assert weights_of(graph) == before + 4 * 10**9 + 2 * 10**8


def test_a_signature_takes_one_image(graph):
    assert weights_of(graph) > 0
    for change in (
        lambda argument: argument.add(name="more", type=types_pb2.DT_UINT8),
        lambda argument: setattr(argument[0], "type", types_pb2.DT_FLOAT),
    ):
        changed = copy.deepcopy(graph)
        for function in changed.graph_def.library.function:
            change(function.signature.input_arg or function.signature.input_arg.add())
        with pytest.raises(ValueError, match="takes other inputs than images"):
            weights_of(changed)


def chain(count: int, calls: int) -> dict[str, Any]:
    """Functions that each call the next one several times; the last one calls nothing."""
    functions = {}
    for number in range(count + 1):
        function = functions[f"f{number}"] = function_pb2.FunctionDef()
        for call in range(calls if number < count else 0):
            function.node_def.add(name=f"call{call}", op=f"f{number + 1}")
    return functions


def test_functions_that_call_each_other(graph):
    for functions, words in (
        (chain(60, 1), "call each other too deeply"),
        (chain(5, 10), f"more than {MAX_STEPS:,} operations"),
    ):
        with pytest.raises(ValueError, match=words):
            _run(functions["f0"], [], functions, Trace(), depth=0)
    functions = chain(40, 1)
    trace = Trace()
    _run(functions["f0"], [], functions, trace, depth=0)
    assert len(trace.steps) == 40


def test_nodes_that_read_each_other():
    function = function_pb2.FunctionDef()
    function.node_def.add(name="one", op="NoOp", input=["^two"])
    function.node_def.add(name="two", op="NoOp", input=["^one"])
    with pytest.raises(ValueError, match="form a cycle"):
        _run(function, [], {}, Trace(), depth=0)


def node_of(operation: str, **attributes: Any) -> Any:
    node = node_def_pb2.NodeDef(op=operation)
    for name, value in attributes.items():
        if isinstance(value, list):
            node.attr[name].list.i.extend(value)
        elif isinstance(value, int):
            node.attr[name].i = value
        else:
            node.attr[name].s = value.encode()
    node.attr["T"].type = types_pb2.DT_FLOAT
    return node


IMAGE = Tensor((1, 8, 8, 3))
WINDOW = {"strides": [1, 4, 4, 1], "ksize": [1, 4, 4, 1], "padding": "VALID"}


@pytest.mark.parametrize(
    ("node", "inputs", "shape", "operations", "workspace"),
    [
        (node_of("Relu"), [IMAGE], (1, 8, 8, 3), 0, 0),
        (
            node_of("Conv2D", strides=[1] * 4, padding="VALID"),
            [IMAGE, Tensor((3, 3, 3, 5))],
            (1, 6, 6, 5),
            2 * (6 * 6 * 5) * (3 * 3 * 3),
            8 * (6 * 6) * (3 * 3),
        ),
        (
            node_of("Conv2DBackpropInput"),
            [Tensor((4,), 4, np.array([1, 17, 17, 5])), Tensor((3, 3, 5, 3)), IMAGE],
            (1, 17, 17, 5),
            2 * (8 * 8 * 3) * (3 * 3 * 5),
            4 * (8 * 8) * (3 * 3 * 5),
        ),
        (node_of("MatMul"), [Tensor((1, 12)), Tensor((12, 5))], (1, 5), 2 * 5 * 12, 0),
        (node_of("MaxPool", **WINDOW), [IMAGE], (1, 2, 2, 3), (2 * 2 * 3) * (4 * 4), 0),
        (node_of("AvgPool", **WINDOW), [IMAGE], (1, 2, 2, 3), (2 * 2 * 3) * (4 * 4), 0),
    ],
    ids=lambda value: getattr(value, "op", ""),
)
def test_the_cost_of_an_operation(node, inputs, shape, operations, workspace):
    trace = Trace()
    (made,) = _outputs(node, inputs, {}, trace, 0)
    assert made.shape == shape
    values = made.count + sum(tensor.count for tensor in inputs)
    read = [tensor.key for tensor in inputs]
    expected = Step(read, [(made.key, 4 * made.count)], workspace, 20 * values + operations)
    assert trace.steps == [expected]


def test_every_operation_has_a_rule():
    calls = {"Const", "NoOp", "StatefulPartitionedCall", "StatelessIf"}
    assert set(RULES) == set(origin.OPERATIONS.split()) - calls
    with pytest.raises(ValueError, match="operation Fill has no rule"):
        _outputs(node_of("Fill"), [IMAGE], {}, Trace(), 0)


@pytest.mark.parametrize("parts", [0, -1, 9, 10**5])
def test_more_parts_than_there_are(parts):
    axis = Tensor((), 4, np.array(2))
    assert len(_outputs(node_of("Split", num_split=4), [axis, IMAGE], {}, Trace(), 0)) == 4
    with pytest.raises(ValueError, match=f"split into {parts} parts"):
        _outputs(node_of("Split", num_split=parts), [axis, IMAGE], {}, Trace(), 0)


# .tflite files.


def tflite_of(act: Callable[[Any], Any]) -> bytes:
    call = tf.function(act, input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32)])
    function = call.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([function], call).convert()


def filled(*shape: int) -> Any:
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


@pytest.mark.parametrize(
    ("act", "made", "constants", "operations", "workspace"),
    [
        (tf.nn.relu, READ, 0, 0, 0),
        (
            lambda x: tf.nn.conv2d(x, filled(3, 3, 3, 5), 1, "VALID"),
            6 * 6 * 5,
            3 * 3 * 3 * 5 + 5,
            2 * (6 * 6 * 5) * (3 * 3 * 3),
            8 * (6 * 6) * (3 * 3),
        ),
        (
            lambda x: tf.nn.depthwise_conv2d(x, filled(3, 3, 3, 2), [1] * 4, "VALID"),
            6 * 6 * 6,
            3 * 3 * 6 + 6,
            2 * (6 * 6 * 6) * (3 * 3),
            8 * (6 * 6) * (3 * 3),
        ),
        (lambda x: tf.nn.max_pool2d(x, 4, 4, "VALID"), 12, 0, 12 * 16, 0),
        (lambda x: tf.nn.avg_pool2d(x, 4, 4, "VALID"), 12, 0, 12 * 16, 0),
        (
            lambda x: tf.nn.conv2d_transpose(x, filled(3, 3, 5, 3), (1, 16, 16, 5), 2),
            16 * 16 * 5,
            4 + 3 * 3 * 5 * 3,
            2 * (8 * 8 * 3) * (3 * 3 * 5),
            4 * (8 * 8) * (3 * 3 * 5),
        ),
    ],
    ids=["relu", "convolution", "depthwise", "maximum", "mean", "transposed"],
)
def test_the_cost_of_an_operation_of_litert(act, made, constants, operations, workspace):
    trace = trace_litert(tflite_of(act))
    step = trace.steps[-1]
    assert [size for _, size in step.outputs] == [4 * made]
    assert step.operations == 20 * (READ + made + constants) + operations
    assert step.workspace == workspace
    assert trace.weights == 4 * constants


PADDED = tflite_of(lambda x: tf.pad(tf.nn.relu(x), [[0, 0], [0, 90], [0, 90], [0, 0]]))


def forged(change: Callable[[Any], object]) -> bytes:
    """A model that pads an image to 98 x 98 pixels, changed."""
    model = schema.ModelT.InitFromPackedBuf(PADDED, 0)
    change(model)
    builder = flatbuffers.Builder(len(PADDED))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def add_graph(model: Any) -> None:
    model.subgraphs.append(copy.deepcopy(model.subgraphs[0]))
    model.signatureDefs = None


def add_tensor(kind: int, *shape: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = copy.deepcopy(model.subgraphs[0].tensors[model.subgraphs[0].outputs[0]])
        tensor.type, tensor.shape = kind, list(shape)
        tensor.name = b"unused"
        model.subgraphs[0].tensors.append(tensor)

    return change


def add_calls(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.operators = graph.operators[:1] * (MAX_STEPS + 1)
    add_tensor(schema.TensorType.FLOAT32, 2**31 - 1, 2**31 - 1)(model)


def announce(*shape: int) -> Callable[[Any], None]:
    """Another shape of the result, which LiteRT computes itself."""

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        graph.tensors[graph.outputs[0]].shape = list(shape)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add_graph, "it holds 2 graphs"),
        (add_tensor(schema.TensorType.STRING, 1), "a tensor in it has type"),
        (add_calls, f"more than {MAX_STEPS:,} operations"),
        (announce(1, 2**20, 2**20, 3), r"has the shape \(1, 1048576, 1048576, 3\)"),
        (announce(1, 1, 1, 1), r"has the shape \(1, 98, 98, 3\)"),
    ],
    ids=["graphs", "strings", "calls", "announced", "made"],
)
def test_tflite_files_that_are_refused(change, words, monkeypatch):
    assert len(trace_litert(forged(lambda model: None)).steps) == 2
    if "98" in words:  # or LiteRT would have to make gigabytes
        monkeypatch.setattr(litert_bounds, "MAX_VALUE", 20_000)
    with pytest.raises(ValueError, match=words):
        trace_litert(forged(change))
