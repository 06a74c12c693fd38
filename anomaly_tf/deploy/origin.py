"""Untrusted models: their content is checked before Keras or TensorFlow opens them.

A digest beside a model detects damage, but not manipulation, because both can be changed. A model
may therefore contain only the layers and operations of this package's detectors, none of which
accesses files, the network or Python. An approach with further layers must add them here. The
memory and time that a model needs are computed from its description; see `bounds.py`.
"""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import saved_model_pb2

from anomaly_tf.deploy.graph_bounds import trace_graph
from anomaly_tf.deploy.keras_bounds import require_few_calls, trace_keras
from anomaly_tf.errors import UserError
from anomaly_tf.runs.limits import require_memory
from anomaly_tf.script import printable

# The largest config.json of this package has half a megabyte.
MAX_CONFIG_BYTES = 8 * 2**20
# Memory of a parsed graph relative to its file, whose smallest nodes take two bytes.
GRAPH_COPIES = 60
SIGNATURE = "serve"
MEMBERS = ["config.json", "metadata.json", "model.weights.h5"]
# Classes that a detector's config.json may name, by module; without module, Keras's notations.
CLASSES = {
    "": "__keras_tensor__ __slice__",
    "keras": "DTypePolicy",
    "keras.initializers": "GlorotUniform Ones Zeros",
    "keras.layers": (
        "Activation Add AveragePooling2D BatchNormalization Concatenate Conv2D Conv2DTranspose "
        "Cropping2D Dense DepthwiseConv2D Dropout EinsumDense Flatten InputLayer LeakyReLU "
        "MaxPooling2D Permute ReLU Rescaling Reshape ZeroPadding2D"
    ),
    "keras.src.models.functional": "Functional",
    "keras.src.ops.core": "Cast",
    "keras.src.ops.image": "Resize",
    "keras.src.ops.nn": "Relu Softmax",
    "keras.src.ops.numpy": (
        "Absolute Add Clip Concatenate Exp GetItem Less Log Max Maximum Mean Min Multiply Negative "
        "Pad Split Sqrt Square Stack Subtract Sum Transpose TrueDivide Where"
    ),
}
# Operations that a SavedModel's signatures may call: arithmetic on their inputs.
OPERATIONS = (
    "Abs AddV2 All AvgPool BiasAdd Cast ConcatV2 Const Conv2D Conv2DBackpropInput "
    "DepthwiseConv2dNative Einsum EnsureShape Equal Exp GreaterEqual Identity LeakyRelu Less Log "
    "MatMul Max MaxPool Maximum Mean Min Minimum MirrorPad Mul Neg NoOp Pack Pad "
    "ReadVariableOp RealDiv Relu Relu6 Reshape ResizeBilinear Round Rsqrt ScaleAndTranslate "
    "SelectV2 Shape Sigmoid Softmax Split Sqrt Square Squeeze StatefulPartitionedCall StatelessIf "
    "StridedSlice Sub Sum Tanh Transpose"
)
# Operations of the functions that TensorFlow adds to save and restore weights. They write files, so
# that no signature may call them; `tf.saved_model.load` does not run them.
SAVERS = (
    "AssignVariableOp DisableCopyOnRead MergeV2Checkpoints Placeholder RestoreV2 SaveV2 Select "
    "ShardedFilename StaticRegexFullMatch StringJoin VarHandleOp VarIsInitializedOp"
)
# Allowed objects of a SavedModel; others open files or call functions when they are loaded.
OBJECTS = ("bare_concrete_function", "function", "variable")
USER_OBJECTS = ("_generic_user_object", "signature_map", "trackable_list_wrapper")

TRUST = "if you trust its source, allow it with --trust (in Python trust=True)"


def check_keras_file(path: Path, trust: bool) -> None:
    """Refuses a file that is not a detector saved by `train.py`.

    The archive must hold exactly `MEMBERS`, undamaged, without compression and links, so that a
    member is no larger than the file and does not refer to another one.

    Args:
        path: A `.keras` file.
        trust: Whether other layers than `CLASSES` are allowed. Keras's safe mode refuses code in
            them in any case.

    Raises:
        UserError: If it is refused or exceeds the limits; the limits are not checked for a model
            with other layers than `CLASSES`.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sorted(member.filename for member in members) != MEMBERS:
                raise ValueError(f"it holds other files than {', '.join(MEMBERS)}")
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
                    raise ValueError(f"{member.filename} is compressed")
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise ValueError(f"{member.filename} is a link")
            if archive.getinfo("config.json").file_size > MAX_CONFIG_BYTES:
                raise ValueError(f"config.json has more than {MAX_CONFIG_BYTES // 2**20} MB")
            if archive.testzip():
                raise ValueError("a checksum in it is wrong")
            config = json.loads(archive.read("config.json"))
            foreign = sorted(set(_foreign_classes(config)))
    except Exception as error:  # zipfile and json raise many kinds on damaged or forged bytes
        raise refused(path, error) from error
    if foreign and not trust:
        raise UserError(_foreign(path, foreign))
    if not foreign:
        try:
            require_few_calls(config)
            trace = trace_keras(config)
        except Exception as error:  # Keras raises many kinds on forged descriptions
            raise refused(path, error) from error
        trace.require_affordable(path)


def check_saved_model(folder: Path, image_shape: tuple[int, int, int]) -> None:
    """Refuses a SavedModel with operations or objects that no export of this package has.

    Args:
        folder: A folder with a `saved_model.pb`.
        image_shape: Height, width and channels of the images that it scores.

    Raises:
        UserError: If it is refused or exceeds the limits.
    """
    path = folder / "saved_model.pb"
    require_memory(GRAPH_COPIES * path.stat().st_size, f"the graph in {path}")
    try:
        (graph,) = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs
        if not graph.object_graph_def.nodes:
            raise ValueError("it holds no objects")
        foreign = sorted(set(_foreign_objects(graph)) | set(_foreign_operations(graph)))
    except Exception as error:  # protobuf raises many kinds on damaged or forged bytes
        raise refused(path, error) from error
    if foreign:
        raise UserError(_foreign(path, foreign))
    try:
        trace = trace_graph(graph, image_shape, SIGNATURE)
    except Exception as error:  # many kinds are raised on shapes that do not match
        raise refused(path, error) from error
    trace.require_affordable(folder)


def refused(path: Path, error: Exception) -> UserError:
    """The error for an exception that a library raised on a file, in one line."""
    reason = printable(" ".join(str(error).split())) or type(error).__name__
    reason = reason if len(reason) <= 200 else f"{reason[:200]}..."
    return UserError(f"{path} is damaged or not an anomaly_tf detector ({reason}); create it again")


def _foreign(path: Path, foreign: list[str]) -> str:
    shown = printable(", ".join(foreign[:3]))[:200]
    return f"{path} contains parts that no anomaly_tf detector has ({shown}); {TRUST}"


def _foreign_classes(config: Any) -> Iterator[str]:
    """Classes outside of `CLASSES` that a model's configuration names at any depth."""
    if isinstance(config, dict):
        if "class_name" in config:
            module, name = config.get("module") or "", config["class_name"]
            if name not in CLASSES.get(module, "").split():
                yield f"{module}.{name}".lstrip(".")
            if config.get("registered_name") not in (None, name):
                yield str(config["registered_name"])
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _foreign_classes(part)


def _foreign_objects(graph: Any) -> Iterator[str]:
    """Kinds of objects outside of `OBJECTS` and `USER_OBJECTS` in a meta graph."""
    for node in graph.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind == "user_object" and node.user_object.identifier not in USER_OBJECTS:
            yield f"object {node.user_object.identifier}"
        elif kind not in (*OBJECTS, "user_object"):
            yield f"object of kind {kind}"
        if node.registered_name or node.registered_saver or node.saveable_objects:
            yield f"object with a custom saver {node.registered_name}".rstrip()


def _foreign_operations(graph: Any) -> Iterator[str]:
    """Operations outside of `OPERATIONS`, and `SAVERS` in functions that can be called."""
    operations, savers = set(OPERATIONS.split()), set(SAVERS.split())
    functions: dict[str, list[Any]] = {}
    for function in graph.graph_def.library.function:
        functions.setdefault(function.signature.name, []).extend(function.node_def)
        if "api_implements" in function.attr:
            yield "function that TensorFlow may replace by another"
    reached: set[str] = set()
    called = [*graph.object_graph_def.concrete_functions]
    for node in graph.object_graph_def.nodes:
        called += [node.bare_concrete_function.concrete_function_name]
        called += node.function.concrete_functions
    while called:
        name = called.pop()
        if name in functions and name not in reached:
            reached.add(name)
            for node in functions[name]:
                called += [node.op, *_called(node.attr)]
    uncalled = [nodes for name, nodes in functions.items() if name not in reached]
    for nodes, allowed in (
        *((functions[name], operations) for name in reached),
        *((nodes, operations | savers) for nodes in (graph.graph_def.node, *uncalled)),
    ):
        for node in nodes:
            if node.op not in allowed and node.op not in functions:
                yield f"operation {node.op}"


def _called(attributes: Any) -> Iterator[str]:
    """Names of the functions in the attributes of a node."""
    for attribute in attributes.values():
        for function in (attribute.func, *attribute.list.func):
            yield function.name
            yield from _called(function.attr)
