"""Models from elsewhere: what they hold, checked before Keras or TensorFlow open them.

A digest that lies beside a model tells damage, not malice: who changes the one can change the
other. So a model may hold only what the detectors of this package are made of, none of which
touches a file, the network or Python. An approach with further layers adds them here. How much it
may take is computed from its description; see `bounds.py`.
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

# The largest of ours has half a megabyte.
MAX_CONFIG_BYTES = 8 * 2**20
# A graph is read, and its smallest nodes take two bytes in the file.
GRAPH_COPIES = 60
SIGNATURE = "serve"
MEMBERS = ["config.json", "metadata.json", "model.weights.h5"]
# Classes that a detector's config.json may name, by module; in none, Keras's own notations.
CLASSES = {
    "": "__keras_tensor__ __slice__",
    "keras": "DTypePolicy",
    "keras.initializers": "GlorotUniform Ones Zeros",
    "keras.layers": (
        "Activation AveragePooling2D BatchNormalization Concatenate Conv2D Conv2DTranspose "
        "Cropping2D Dense Dropout Flatten InputLayer LeakyReLU MaxPooling2D Permute ReLU Rescaling "
        "Reshape ZeroPadding2D"
    ),
    "keras.src.models.functional": "Functional",
    "keras.src.ops.core": "Cast",
    "keras.src.ops.image": "Resize",
    "keras.src.ops.nn": "Relu Softmax",
    "keras.src.ops.numpy": (
        "Absolute Add Clip Concatenate Exp GetItem Less Log Max Maximum Mean Multiply "
        "Negative Pad Split Sqrt Square Stack Subtract Sum Transpose TrueDivide Where"
    ),
}
# Operations that a SavedModel's signatures may lead to: arithmetic on what is handed in.
OPERATIONS = (
    "Abs AddV2 All AvgPool BiasAdd Cast ConcatV2 Const Conv2D Conv2DBackpropInput EnsureShape "
    "Equal Exp GreaterEqual Identity LeakyRelu Less Log MatMul Max MaxPool Maximum Mean "
    "Minimum Mul Neg NoOp Pack Pad PadV2 ReadVariableOp RealDiv Relu Reshape ResizeBilinear Round "
    "Rsqrt ScaleAndTranslate SelectV2 Shape Sigmoid Softmax Split Sqrt Square Squeeze "
    "StatefulPartitionedCall StatelessIf StridedSlice Sub Sum Tanh Transpose"
)
# Operations of the functions that TensorFlow adds to save and restore weights. Those write files,
# so no signature may lead to them; `tf.saved_model.load` does not run them.
SAVERS = (
    "AssignVariableOp DisableCopyOnRead MergeV2Checkpoints Placeholder RestoreV2 SaveV2 Select "
    "ShardedFilename StaticRegexFullMatch StringJoin VarHandleOp VarIsInitializedOp"
)
# What a SavedModel's objects may be; others open files or call functions as they are loaded.
OBJECTS = ("bare_concrete_function", "function", "variable")
USER_OBJECTS = ("_generic_user_object", "signature_map", "trackable_list_wrapper")

TRUST = "if you know where it comes from, allow it by --trust (in Python trust=True)"


def check_keras_file(path: Path, trust: bool) -> None:
    """Refuses what is no detector saved by `train.py`.

    The archive must hold `MEMBERS` and nothing else, neither compressed nor a link, and undamaged:
    a member then takes no more room than the file, and leads nowhere.

    Args:
        path: A `.keras` file.
        trust: Whether its layers may be others than `CLASSES`. Keras's safe mode refuses code in
            them all the same.

    Raises:
        UserError: If it is refused, or would take too much; a model of other layers than `CLASSES`
            is not measured.
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
    except Exception as error:  # what zipfile and json raise on bytes that anybody may have made
        raise refused(path, error) from error
    if foreign and not trust:
        raise UserError(_foreign(path, foreign))
    if not foreign:
        try:
            require_few_calls(config)
            trace = trace_keras(config)
        except Exception as error:  # what Keras raises on what anybody may have made
            raise refused(path, error) from error
        trace.require_affordable(path)


def check_saved_model(folder: Path, image_shape: tuple[int, int, int]) -> None:
    """Refuses a SavedModel with operations or objects that no export of this package has.

    Args:
        folder: A folder with a `saved_model.pb`.
        image_shape: Height, width and channels of the images that it is to score.

    Raises:
        UserError: If it is refused, or would take too much.
    """
    path = folder / "saved_model.pb"
    require_memory(GRAPH_COPIES * path.stat().st_size, f"the graph in {path}")
    try:
        (graph,) = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs
        if not graph.object_graph_def.nodes:
            raise ValueError("it holds no objects")
        foreign = sorted(set(_foreign_objects(graph)) | set(_foreign_operations(graph)))
    except Exception as error:  # what protobuf raises on bytes that anybody may have made
        raise refused(path, error) from error
    if foreign:
        raise UserError(_foreign(path, foreign))
    try:
        trace = trace_graph(graph, image_shape, SIGNATURE)
    except Exception as error:  # what is raised on shapes that do not fit each other
        raise refused(path, error) from error
    trace.require_affordable(folder)


def refused(path: Path, error: Exception) -> UserError:
    """One line about what a library raised on a file."""
    reason = printable(" ".join(str(error).split())) or type(error).__name__
    reason = reason if len(reason) <= 200 else f"{reason[:200]}..."
    return UserError(f"{path} is damaged or no detector of ours ({reason}); make it again")


def _foreign(path: Path, foreign: list[str]) -> str:
    shown = printable(", ".join(foreign[:3]))[:200]
    return f"{path} holds what no detector of ours is made of ({shown}); {TRUST}"


def _foreign_classes(config: Any) -> Iterator[str]:
    """Classes beside `CLASSES`, wherever they are named in a model's configuration."""
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
    """Kinds of objects beside `OBJECTS` and `USER_OBJECTS` in a meta graph."""
    for node in graph.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind == "user_object" and node.user_object.identifier not in USER_OBJECTS:
            yield f"object {node.user_object.identifier}"
        elif kind not in (*OBJECTS, "user_object"):
            yield f"object of kind {kind}"
        if node.registered_name or node.registered_saver or node.saveable_objects:
            yield f"object with a saver of its own {node.registered_name}".rstrip()


def _foreign_operations(graph: Any) -> Iterator[str]:
    """Operations beside `OPERATIONS`, and `SAVERS` where a function that can be called has them."""
    operations, savers = set(OPERATIONS.split()), set(SAVERS.split())
    functions: dict[str, list[Any]] = {}
    for function in graph.graph_def.library.function:
        functions.setdefault(function.signature.name, []).extend(function.node_def)
        if "api_implements" in function.attr:
            yield "function that TensorFlow may exchange for another"
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
    """Names of the functions that the attributes of a node hold."""
    for attribute in attributes.values():
        for function in (attribute.func, *attribute.list.func):
            yield function.name
            yield from _called(function.attr)
