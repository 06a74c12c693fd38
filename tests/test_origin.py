"""Untrusted models: malicious files with forged digests run no code."""

from __future__ import annotations

import ast
import json
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from anomaly_tf import Detector
from anomaly_tf.approaches import APPROACHES, build_model, options_of
from anomaly_tf.cli import evaluate, export, predict
from anomaly_tf.deploy import origin
from anomaly_tf.deploy.exporters import export_saved_model
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.deploy.litert import METADATA_NAME
from anomaly_tf.deploy.saved_model import METADATA
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import sha256
from anomaly_tf.runs.sections import Threshold, TrainingFacts


@pytest.fixture(scope="module")
def images(small_arrays) -> np.ndarray:
    return small_arrays[2][:20]


@pytest.fixture
def saved_copy(deployed, tmp_path) -> Path:
    """A copy of the SavedModel, to be changed."""
    return Path(shutil.copytree(deployed["saved_model"], tmp_path / "saved"))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def forge(path: Path) -> None:
    """Makes the digests of a changed run or SavedModel fit."""
    run = RunDirectory(path)
    if run.detector.is_file():
        change_json(run.detector, lambda info: info.update(model_sha256=sha256(run.model)))
        return
    files = [file for file in path.rglob("*") if file.is_file() and file.name != METADATA.name]
    digests = {file.relative_to(path).as_posix(): sha256(file) for file in files}
    change_json(path / METADATA, lambda info: info.update(files_sha256=digests))


def assert_refused(path: Path, *words: str, trust: bool = False) -> None:
    with pytest.raises(UserError) as refused:
        Detector.load(path, trust)
    message = str(refused.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message


# The parts of this package's detectors.

SHAPES = {"float32": (9, 9, 1), "mixed_bfloat16": (49, 53, 3)}


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Every approach as a `.keras` file and as a SavedModel, small and large, in both precisions.

    The large pictures' odd sides need every layer that pads and cuts, the small ones' equal
    sides those that turn by a quarter.
    """
    made = {}
    for name in APPROACHES:
        for precision, shape in SHAPES.items():
            keras.config.set_dtype_policy(precision)
            model = build_model(options_of(name)(), shape, 5, jit_compile=False).detector
            keras.config.set_dtype_policy("float32")
            folder = tmp_path_factory.mktemp("form")
            model.save(folder / "model.keras")
            info = DetectorInfo(threshold=Threshold(1.0), training=TrainingFacts(command=""))
            export_saved_model(TrainedDetector(model, info), folder / "saved")
            made[f"{name} {precision}"] = folder / "model.keras", folder / "saved"
    return made


def test_every_approach_passes(forms):
    assert len(forms) == 2 * len(APPROACHES)
    for name, (file, folder) in forms.items():
        origin.check_keras_file(file, trust=False)
        origin.check_saved_model(folder, SHAPES[name.split()[1]])


def test_the_lists_hold_nothing_that_no_approach_has(forms, monkeypatch):
    assert "" in origin.CLASSES
    for module, names in origin.CLASSES.items():
        for name in names.split():
            fewer = " ".join(other for other in names.split() if other != name)
            with monkeypatch.context() as patch:
                patch.setitem(origin.CLASSES, module, fewer)
                assert any(
                    refuses(origin.check_keras_file, file, False) for file, _ in forms.values()
                )
    for listed in ("OPERATIONS", "SAVERS"):
        names = getattr(origin, listed).split()
        for name in names:
            with monkeypatch.context() as patch:
                patch.setattr(origin, listed, " ".join(other for other in names if other != name))
                assert any(
                    refuses(origin.check_saved_model, saved, SHAPES[form.split()[1]])
                    for form, (_, saved) in forms.items()
                )


def refuses(check: Callable[..., None], *arguments: object) -> bool:
    try:
        check(*arguments)
    except UserError:
        return True
    return False


# Runs and their .keras files.


def archive_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(
    path: Path, members: dict[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def test_the_model_file_of_a_run_loads_the_run(trained_run, images, tmp_path):
    detector = Detector.load(trained_run / "model.keras")
    np.testing.assert_array_equal(detector.score(images), Detector.load(trained_run).score(images))
    alone = shutil.copy(trained_run / "model.keras", tmp_path / "model.keras")
    assert_refused(
        Path(alone), "has no threshold and is not a detector", "give the run's folder", trust=True
    )
    beside = shutil.copy(trained_run / "model.keras", tmp_path / "other.keras")
    shutil.copy(trained_run / "detector.json", tmp_path / "detector.json")
    assert_refused(Path(beside), "has no threshold and is not a detector", trust=True)


@pytest.mark.parametrize("trust", [False, True])
def test_a_changed_byte_is_refused_even_with_trust(trust, run_copy, saved_copy):
    for path, file in ((run_copy, run_copy / "model.keras"), (saved_copy, saved_copy)):
        files = [file] if file.is_file() else [*saved_copy.glob("variables/*"), *file.glob("*.pb")]
        for file in files:
            content = file.read_bytes()
            middle = len(content) // 2
            changed = bytes([content[middle] ^ 1])
            file.write_bytes(content[:middle] + changed + content[middle + 1 :])
            with pytest.raises(UserError, match=r"(not the file that|missing or was changed)"):
                Detector.load(path, trust)
            file.write_bytes(content)
        Detector.load(path)


def test_a_run_of_unknown_origin_needs_trust(run_copy, images):
    scores = Detector.load(run_copy).score(images)
    change_json(run_copy / "detector.json", lambda info: info.pop("model_sha256"))
    assert_refused(run_copy, "no digest", "--trust", "trust=True")
    np.testing.assert_array_equal(Detector.load(run_copy, trust=True).score(images), scores)
    assert_refused(run_copy, "no digest")  # trust is not kept


def test_a_lambda_layer_runs_no_code(run_copy, tmp_path, monkeypatch):
    file = tmp_path / "written by the model"
    monkeypatch.setenv("WRITTEN", str(file))
    image = keras.Input((28, 28, 1), dtype="uint8")
    layer = keras.layers.Lambda(
        lambda x: (__import__("os").mknod(__import__("os").environ["WRITTEN"]), x[:, 0, 0, 0])[1]
    )
    keras.Model(image, {"score": layer(image)}).save(run_copy / "model.keras")
    file.unlink()
    keras.models.load_model(run_copy / "model.keras", safe_mode=False)
    assert file.is_file()  # so the danger is real
    file.unlink()
    forge(run_copy)
    assert_refused(run_copy, "keras.layers.Lambda", "--trust")
    assert_refused(run_copy, "arbitrary code", trust=True)  # Keras's safe mode
    assert not file.exists()


@pytest.mark.parametrize(
    ("where", "named", "words"),
    [
        (("layers", 0), {"module": "keras.layers", "class_name": "TFSMLayer"}, "TFSMLayer"),
        (("layers", 0), {"module": "builtins", "class_name": "exec"}, "builtins.exec"),
        (("layers", 0), {"module": None, "class_name": "__lambda__"}, "__lambda__"),
        (
            ("layers", 0, "config"),
            {"class_name": "function", "module": "os", "config": "system"},
            "os.function",
        ),
        (("layers", 0), {"class_name": ["InputLayer"]}, "['InputLayer']"),
        (("layers", 0), {"registered_name": "elsewhere>InputLayer"}, "elsewhere>"),
        (("layers", 0), {"class_name": "\x1b[31m"}, r"\x1b[31m"),
    ],
)
def test_classes_that_no_approach_has(where, named, words, run_copy):
    members = archive_of(run_copy / "model.keras")
    config = json.loads(members["config.json"])
    part = config["config"]
    for key in where:
        part = part[key]
    part |= named
    members["config.json"] = json.dumps(config).encode()
    write_archive(run_copy / "model.keras", members)
    forge(run_copy)
    assert_refused(run_copy, "contains parts that no anomaly_tf detector has", words)


def link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("model.weights.h5")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda members: members | {"../../climbed": b""}, "other files"),
        (lambda members: members | {"/tmp/climbed": b""}, "other files"),
        (lambda members: members | {"assets/climbed": b""}, "other files"),
        (lambda members: {"config.json": members["config.json"]}, "other files"),
        (lambda members: _without(members) | {link(): b"/etc/passwd"}, "a link"),
        (lambda members: members | {"config.json": b"[" * 10**5}, "damaged"),
        (lambda members: members | {"config.json": b"{}"}, "damaged"),
        (lambda members: members | {"model.weights.h5": b""}, "damaged"),
        (lambda members: members | {"model.weights.h5": b"\x89HDF\r\n\x1a\n" * 99}, "damaged"),
    ],
)
def test_archives_that_training_never_wrote(change, words, trust, run_copy):
    write_archive(run_copy / "model.keras", change(archive_of(run_copy / "model.keras")))
    forge(run_copy)
    before = {*run_copy.parent.rglob("*")}
    assert_refused(run_copy, "model.keras", words, trust=trust)
    assert {*run_copy.parent.rglob("*")} == before
    assert not Path("/tmp/climbed").exists()


def test_an_archive_written_anew_is_as_good_as_before(run_copy):
    write_archive(run_copy / "model.keras", archive_of(run_copy / "model.keras"))
    forge(run_copy)
    Detector.load(run_copy)


def _without(members: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in members.items() if name != "model.weights.h5"}


def test_a_zip_bomb_is_not_unpacked(run_copy):
    members = archive_of(run_copy / "model.keras") | {"config.json": b" " * 2**28}
    write_archive(run_copy / "model.keras", members, zipfile.ZIP_DEFLATED)
    assert (run_copy / "model.keras").stat().st_size < 2**22
    forge(run_copy)
    assert_refused(run_copy, "compressed", trust=True)
    write_archive(
        run_copy / "model.keras", members | {"config.json": b" " * (origin.MAX_CONFIG_BYTES + 1)}
    )
    forge(run_copy)
    assert_refused(run_copy, "more than 8 MB", trust=True)


def test_bytes_that_are_no_archive(run_copy):
    for content in (b"", b"PK\x03\x04", (run_copy / "model.keras").read_bytes()[:-30]):
        (run_copy / "model.keras").write_bytes(content)
        forge(run_copy)
        assert_refused(run_copy, "model.keras", "damaged", trust=True)


def test_a_checksum_inside_the_archive_that_is_wrong(run_copy):
    file = run_copy / "model.keras"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # a weight, which would be another number
    file.write_bytes(content)
    forge(run_copy)
    assert_refused(run_copy, "a checksum in it is wrong", trust=True)


def test_weights_that_are_no_numbers_give_no_verdict(run_copy, images):
    model = keras.models.load_model(run_copy / "model.keras", compile=False)
    model.weights[-1].assign(np.full(model.weights[-1].shape, np.nan))
    model.save(run_copy / "model.keras")
    forge(run_copy)
    detector = Detector.load(run_copy)
    for method in (detector.score, detector.predict):
        with pytest.raises(UserError, match="is not finite"):
            method(images)


# SavedModels.


class Module(tf.Module):
    """A SavedModel's content that does something beside its score when it is served."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act = act

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 1), tf.uint8, name="images")])
    def serve(self, images):
        done = self._act()
        with tf.control_dependencies([done] if isinstance(done, tf.Operation) else []):
            return {"score": tf.reduce_mean(tf.cast(images, tf.float32), axis=(1, 2, 3))}


class Resource(tf.saved_model.experimental.TrackableResource):
    """Writes a file when it is loaded, because TensorFlow calls this function."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = str(file)

    def _create_resource(self):
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=())

    def _initialize(self):
        tf.io.write_file(self._file, "loaded")


def in_a_branch(file: Path) -> None:
    tf.cond(tf.random.uniform(()) < 2, lambda: tf.io.write_file(str(file), ""), tf.no_op)


def in_a_loop(file: Path) -> None:
    def body(value):
        tf.io.write_file(str(file), "")
        return value + 1

    tf.while_loop(lambda value: value < 1, body, [0])


def in_python(file: Path) -> None:
    tf.py_function(lambda: file.write_text("written"), [], tf.int32)


def restored() -> list[tf.Tensor]:
    """Operations that functions beside the signatures may use, and signatures may not."""
    return tf.raw_ops.RestoreV2(
        prefix="/x", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
    )


def restored_in_a_branch() -> tf.Tensor:
    return tf.cond(tf.random.uniform(()) < 2, lambda: restored()[0], lambda: 0.0)


def malicious(saved_copy: Path, module: tf.Module) -> None:
    """Puts another graph into the folder of a SavedModel, its metadata and digests made to fit."""
    metadata = (saved_copy / METADATA).read_bytes()
    shutil.rmtree(saved_copy)
    tf.saved_model.save(module, str(saved_copy), signatures={"serve": module.serve})
    (saved_copy / METADATA).parent.mkdir()
    (saved_copy / METADATA).write_bytes(metadata)
    change_json(saved_copy / METADATA, lambda info: info.update(outputs=["score"]))
    forge(saved_copy)


@pytest.mark.parametrize(
    ("act", "operation"),
    [
        (lambda file: tf.io.write_file(str(file), ""), "WriteFile"),
        (in_a_branch, "WriteFile"),
        (in_a_loop, "WriteFile"),
        (in_python, "EagerPyFunc"),
    ],
)
def test_a_graph_that_writes_files_is_refused(act, operation, saved_copy, images, tmp_path):
    file = tmp_path / "written by the model"
    malicious(saved_copy, Module(lambda: act(file)))
    message = refusal(saved_copy)
    assert f"operation {operation}" in message
    assert "--trust" in message
    assert not file.exists()
    Detector.load(saved_copy, trust=True).score(images)
    assert file.is_file()  # so the danger is real


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        Detector.load(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("act", "operation"),
    [
        (lambda: tf.io.read_file("/etc/passwd"), "ReadFile"),
        (lambda: tf.print("hello"), "PrintV2"),
        (lambda: tf.io.matching_files("/*"), "MatchingFiles"),
        (restored, "RestoreV2"),
        (restored_in_a_branch, "RestoreV2"),
    ],
)
def test_operations_that_no_export_has(act, operation, saved_copy):
    malicious(saved_copy, Module(act))
    assert f"operation {operation}" in refusal(saved_copy)


def graph_of(functions: dict[str, str]) -> meta_graph_pb2.MetaGraphDef:
    """A graph of functions that call one operation each and are not named anywhere."""
    graph = meta_graph_pb2.MetaGraphDef()
    for name, operation in functions.items():
        function = graph.graph_def.library.function.add()
        function.signature.name = name
        function.node_def.add(name="node", op=operation)
    return graph


def name_bare(graph: Any) -> None:
    graph.object_graph_def.nodes.add().bare_concrete_function.concrete_function_name = "first"


@pytest.mark.parametrize(
    "name_it",
    [
        lambda graph: graph.object_graph_def.concrete_functions["first"],
        lambda graph: graph.object_graph_def.nodes.add().function.concrete_functions.append(
            "first"
        ),
        name_bare,
    ],
    ids=["in the list of functions", "by a function", "by a bare function"],
)
def test_functions_that_save_weights_cannot_be_called_by_any_name(name_it):
    graph = graph_of({"first": "SaveV2", "other": "Relu"})
    assert list(origin._foreign_operations(graph)) == []
    name_it(graph)
    assert list(origin._foreign_operations(graph)) == ["operation SaveV2"]


@pytest.mark.parametrize(
    "call",
    [
        lambda attributes: attributes["f"].func,
        lambda attributes: attributes["branches"].list.func.add(),
        lambda attributes: attributes["f"].func.attr["inner"].func,
        lambda attributes: attributes["f"].func.attr["inner"].list.func.add().attr["f"].func,
    ],
    ids=["an attribute", "a list", "an attribute of a function", "deeper"],
)
def test_functions_are_found_in_every_attribute(call):
    graph = graph_of({"first": "Relu", "second": "SaveV2"})
    name_bare(graph)
    assert list(origin._foreign_operations(graph)) == []
    call(graph.graph_def.library.function[0].node_def[0].attr).name = "second"
    assert list(origin._foreign_operations(graph)) == ["operation SaveV2"]


def test_the_message_of_a_library_becomes_one_printable_line():
    said = str(origin.refused(Path("model"), ValueError("two\n  lines\r\x1b[31m\u202e")))
    assert said.startswith(
        r"model is damaged or not an anomaly_tf detector (two lines \x1b[31m\u202e)"
    )
    assert len(str(origin.refused(Path("model"), ValueError("x" * 10**5)))) < 300
    assert "(KeyError)" in str(origin.refused(Path("model"), KeyError()))


def user_object(graph: Any) -> Any:
    nodes = graph.object_graph_def.nodes
    return next(node.user_object for node in nodes if node.HasField("user_object"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda graph: setattr(graph.object_graph_def.nodes[0], "registered_name", "x"), "saver"),
        (lambda graph: graph.object_graph_def.nodes[0].saveable_objects["x"], "saver"),
        (lambda graph: setattr(user_object(graph), "identifier", "_table"), "object _table"),
        (lambda graph: graph.ClearField("object_graph_def"), "it holds no objects"),
        (lambda graph: setattr(graph.object_graph_def.nodes[0], "registered_saver", "x"), "saver"),
        (
            lambda graph: graph.graph_def.library.function[0].attr["api_implements"],
            "may replace by another",
        ),
    ],
)
def test_functions_that_tensorflow_calls_itself(change, words, saved_copy):
    model = saved_model_pb2.SavedModel.FromString((saved_copy / "saved_model.pb").read_bytes())
    change(model.meta_graphs[0])
    (saved_copy / "saved_model.pb").write_bytes(model.SerializeToString())
    forge(saved_copy)
    assert words in refusal(saved_copy)


def test_objects_that_run_code_on_loading_are_refused(saved_copy, tmp_path):
    file = tmp_path / "written by the model"
    module = Module(tf.no_op)
    module.resource = Resource(file)
    malicious(saved_copy, module)
    file.unlink(missing_ok=True)
    assert "object of kind resource" in refusal(saved_copy)
    assert not file.exists()
    Detector.load(saved_copy, trust=True)
    assert file.is_file()  # so the danger is real


def test_a_file_that_a_table_reads_is_refused(saved_copy, tmp_path):
    (tmp_path / "words.txt").write_text("one\n")
    module = Module(tf.no_op)
    module.asset = tf.saved_model.Asset(str(tmp_path / "words.txt"))
    malicious(saved_copy, module)
    assert "object of kind asset" in refusal(saved_copy)


def test_a_saved_model_of_unknown_origin_needs_trust(saved_copy, images):
    scores = Detector.load(saved_copy).score(images)
    change_json(saved_copy / METADATA, lambda info: info.pop("files_sha256"))
    assert_refused(saved_copy, "no digests", "--trust", "trust=True")
    np.testing.assert_array_equal(Detector.load(saved_copy, trust=True).score(images), scores)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    "name", ["variables/more", "assets/words.txt", "saved_model.pbtxt", "debug/more.pb"]
)
def test_a_file_that_the_manifest_does_not_list(name, trust, saved_copy):
    (saved_copy / "README").write_text("what TensorFlow does not read does no harm")
    Detector.load(saved_copy)
    (saved_copy / name).parent.mkdir(exist_ok=True)
    (saved_copy / name).write_text("")
    assert_refused(saved_copy, name, "not one of the exported files", trust=trust)


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b"no protocol buffer"])
def test_a_graph_that_is_none(content, saved_copy):
    (saved_copy / "saved_model.pb").write_bytes(content)
    forge(saved_copy)
    for trust in (False, True):
        assert_refused(saved_copy, "damaged", trust=trust)


# .tflite files.


def test_a_tflite_file_runs_built_in_operations_only(deployed, tmp_path):
    written = tmp_path / "written by the model"
    signature = [tf.TensorSpec((1, 28, 28, 1), tf.uint8, name="images")]

    @tf.function(input_signature=signature)
    def serve(images):
        tf.io.write_file(str(written), "")
        return {"score": tf.reduce_mean(tf.cast(images, tf.float32), axis=(1, 2, 3))}

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"serve": serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "saved"), signature_keys=["serve"]
    )
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    model = converter.convert()
    assert b"FlexWriteFile" in model
    info = json.loads(deployed["tflite"].with_suffix(".json").read_text())
    file = tmp_path / "forged.tflite"
    file.write_bytes(model)
    info |= {"model_sha256": sha256(file), "model_bytes": len(model), "outputs": ["score"]}
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(METADATA_NAME, json.dumps(info))
    for trust in (False, True):
        assert_refused(file, "FlexWriteFile", trust=trust)
    assert not written.exists()


# The scripts, and the package itself.


def test_the_scripts_take_trust(run_copy, images, capsys):
    change_json(run_copy / "detector.json", lambda info: info.pop("model_sha256"))
    Image.fromarray(images[0, ..., 0]).save(run_copy / "picture.png")
    arguments = ["--model", str(run_copy), str(run_copy / "picture.png")]
    with pytest.raises(UserError, match=r"no digest.*--trust"):
        predict.main(arguments)
    assert predict.main([*arguments, "--trust"]) in (0, 1)
    options = ["--run-dir", str(run_copy)]
    for script, more in ((evaluate, []), (export, ["--format", "saved_model"])):
        with pytest.raises(UserError, match="--trust"):
            script.main([*options, *more])
        assert script.main([*options, *more, "--trust"]) in (None, 0, 3)
    assert (run_copy / "metrics.json").is_file()
    assert "model_sha256" not in json.loads((run_copy / "detector.json").read_text())
    capsys.readouterr()


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "unsafe_load", "enable_unsafe_deserialization"}
FORBIDDEN_OPTIONS = {("allow_pickle", True), ("safe_mode", False)}


def dangers(tree: ast.AST) -> Iterator[str]:
    """The forbidden names above that occur in the source of a module."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
        yield from FORBIDDEN_MODULES.intersection(names)
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            yield from FORBIDDEN_CALLS.intersection([called])
            for option in node.keywords:
                value = getattr(option.value, "value", None)
                if any(option.arg == name and value is wrong for name, wrong in FORBIDDEN_OPTIONS):
                    yield str(option.arg)


def test_nothing_unpickles_or_evaluates():
    files = [*ROOT.glob("*.py"), *ROOT.glob("anomaly_tf/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    assert len(files) > 40
    for file in files:
        assert list(dangers(ast.parse(file.read_text()))) == [], file


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "np.load(file, allow_pickle=True)",
        "keras.models.load_model(file, safe_mode=False)",
        "eval(text)",
        "yaml.unsafe_load(text)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_code_that_unpickles_would_be_found(source):
    assert list(dangers(ast.parse(source)))
