"""Small files that claim large sizes, for the tests of `runs/limits.py` and `deploy/bounds.py`."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from anomaly_tf.deploy.litert import METADATA_NAME
from anomaly_tf.deploy.saved_model import METADATA
from anomaly_tf.runs.files import sha256

# Replacement of a layer or an operation: from float32 images to float32 images.
Act = Callable[[Any], Any]


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def keras_model(act: Act) -> keras.Model:
    images = keras.Input((28, 28, 1), dtype="uint8")
    pixels = act(keras.layers.Rescaling(1 / 255)(images))
    return keras.Model(images, {"score": keras.ops.mean(pixels, axis=(1, 2, 3))})


def doubled(levels: int) -> keras.Model:
    """Each level calls the next one twice."""
    images = keras.Input((28, 28, 1))
    inner = keras.Model(images, keras.layers.ReLU()(images))
    for _ in range(levels):
        images = keras.Input((28, 28, 1))
        inner = keras.Model(images, inner(inner(images)))
    return inner


def hostile_run(run: Path, act: Act, change: Callable[[str], str] = str) -> None:
    """Puts a model into a run, its description changed and its digest made to fit."""
    keras_model(act).save(run / "model.keras")
    with zipfile.ZipFile(run / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = change(members["config.json"].decode()).encode()
    with zipfile.ZipFile(run / "model.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    digest = sha256(run / "model.keras")
    change_json(run / "detector.json", lambda info: info.update(model_sha256=digest))


class Served(tf.Module):
    """A SavedModel's content."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self._act = act

    @tf.function(input_signature=[tf.TensorSpec([None] * 3 + [1], tf.uint8, name="images")])
    def serve(self, images):
        return {"score": tf.reduce_mean(self._act(tf.cast(images, tf.float32)), axis=(1, 2, 3))}


def hostile_saved_model(folder: Path, act: Act) -> None:
    """Puts another graph into the folder of a SavedModel, metadata and digests made to fit."""
    metadata = (folder / METADATA).read_bytes()
    shutil.rmtree(folder)
    module = Served(act)
    tf.saved_model.save(module, str(folder), signatures={"serve": module.serve})
    (folder / METADATA).parent.mkdir()
    (folder / METADATA).write_bytes(metadata)
    change_graph(folder, lambda graph: None)


def change_graph(folder: Path, change: Callable[[Any], object]) -> None:
    """Changes the graph of a SavedModel and makes its digests fit."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (graph,) = model.meta_graphs
    bodies = [function.node_def for function in graph.graph_def.library.function]
    for node in itertools.chain(graph.graph_def.node, *bodies):
        if node.op == "PartitionedCall":  # which exports do not have, because of their weights
            node.op = "StatefulPartitionedCall"
    change(graph)
    file.write_bytes(model.SerializeToString())
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != METADATA.name]
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    change_json(
        folder / METADATA, lambda info: info.update(files_sha256=digests, outputs=["score"])
    )


def enlarge_constant(graph: Any, count: int) -> None:
    """A single value is broadcast to many."""
    for function in graph.graph_def.library.function:
        for node in function.node_def:
            if node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum:
                tensor = node.attr["value"].tensor
                tensor.Clear()
                tensor.dtype = tf.float32.as_datatype_enum
                tensor.tensor_shape.dim.add().size = count
                tensor.float_val.append(1.0)
                return
    raise AssertionError("no constant")


def _twice(inner: Act) -> Act:
    return lambda images: inner(inner(images))


def calls_twice(levels: int) -> Act:
    """Each function calls the next one twice."""
    signature = [tf.TensorSpec([None] * 3 + [1], tf.float32)]
    inner = tf.function(tf.nn.relu, input_signature=signature)
    for _ in range(levels):
        inner = tf.function(_twice(inner), input_signature=signature)
    return inner


def hostile_tflite(file: Path, info: dict[str, Any], act: Act, more: str = "") -> None:
    """A .tflite file with another graph, its metadata made to fit."""
    signature = [tf.TensorSpec((1, 28, 28, 1), tf.uint8, name="images")]

    @tf.function(input_signature=signature)
    def serve(images):
        return {"score": tf.reduce_mean(act(tf.cast(images, tf.float32)), axis=(1, 2, 3))}

    module = tf.Module()
    module.serve = serve
    folder = file.with_suffix("")
    tf.saved_model.save(module, str(folder), signatures={"serve": serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serve"])
    model = converter.convert()
    file.write_bytes(model)
    info = info | {"model_sha256": sha256(file), "model_bytes": len(model), "outputs": ["score"]}
    text = json.dumps(info)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(METADATA_NAME, text.replace('"scores": [', f'"scores": [{more}'))


def npz_of_zeros(path: Path, count: int) -> None:
    """Images of one pixel, packed to a thousandth."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": (count, 1, 1)}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            file.write(head.getvalue())
            _write_zeros(file, count)
        labels = io.BytesIO()
        np.save(labels, np.zeros(2, np.int64))
        archive.writestr("labels.npy", labels.getvalue())


def idx_of_zeros(folder: Path, count: int) -> None:
    """Four gzipped IDX files; the training images are many."""
    for name, shape in (
        ("train-images-idx3-ubyte", (count, 1, 1)),
        ("train-labels-idx1-ubyte", (2,)),
        ("t10k-images-idx3-ubyte", (2, 1, 1)),
        ("t10k-labels-idx1-ubyte", (2,)),
    ):
        with gzip.open(folder / f"{name}.gz", "wb") as file:
            file.write(bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes())
            _write_zeros(file, math.prod(shape))


def _write_zeros(file: Any, count: int) -> None:
    for start in range(0, count, 2**20):
        file.write(bytes(min(2**20, count - start)))


def claiming(array: np.ndarray, shape: tuple[int, ...]) -> bytes:
    """An array in `.npy` whose head claims another shape."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    )
    return head.getvalue() + array.tobytes()


def scanned_often(path: Path, side: int, scans: int) -> None:
    """A progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (side // 8, side // 8), np.uint8)
    Image.fromarray(noise).resize((side, side)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:-2] + content[last:-2] * scans + content[-2:])
