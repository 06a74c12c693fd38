"""Generated inputs: every input gives a correct result or a one-line error.

`make fuzz` draws thousands of new inputs; here a few are drawn, always the same.
"""

from __future__ import annotations

import io
import json
import math
import resource
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from damage import (
    CASES,
    NUMBERS,
    VALUES,
    FileContent,
    cases,
    changed,
    damaged,
    is_fuzzing,
    with_checksums,
)
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from anomaly_tf import Detector
from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.approaches.configs import load_config
from anomaly_tf.command_line import parse_train_options
from anomaly_tf.config import Config, flatten, save_config
from anomaly_tf.data.images import UnreadableImage, open_image, read_header, read_image
from anomaly_tf.deploy.litert import METADATA_NAME
from anomaly_tf.deploy.saved_model import METADATA
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import EXPORT_FIELDS, LITERT_FIELDS, RUN_FIELDS, DetectorInfo
from anomaly_tf.runs.files import sha256
from anomaly_tf.script import printable

KINDS = ("run", "saved_model", "tflite")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder for the files of one case after the other."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def bounded_memory() -> Iterator[None]:
    """At most 2 GB more than now: an allocation that a few bytes ask for fails as MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + 2 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def assert_one_line(error: BaseException, said: str = "", names: object = "") -> None:
    """The message is one line, but for what the user wrote himself, and names the thing."""
    message = str(error)
    assert message.strip()
    assert str(names) in message
    assert message.isprintable() or not said.isprintable()
    assert printable(message).isprintable()


# Images.


@pytest.fixture(scope="module")
def detectors(deployed) -> dict[str, Detector]:
    return {kind: Detector.load(deployed[kind]) for kind in KINDS}


DTYPES = (
    *("int8", "uint16", "int64", "float16", "float32", "float64", "longdouble", "complex64"),
    *("complex128", "bool", "U3", "S3", "datetime64[s]", "timedelta64[s]", "V4", ">u2", "object"),
)
LAYOUTS = ("plain", "Fortran", "strided", "reversed", "read-only", "unaligned", "broadcast")
RIGHT_SHAPES = st.tuples(st.integers(0, 5), st.sampled_from(((28, 28, 1), (28, 28)))).map(
    lambda parts: (parts[0], *parts[1])
)
SHAPES = st.lists(st.sampled_from((0, 1, 2, 3, 4, 27, 28, 29)), max_size=5).map(tuple)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array of any type and shape; half of them are right."""
    if draw(st.booleans()):
        dtype, shape = np.dtype("uint8"), draw(RIGHT_SHAPES)
    else:
        dtype = np.dtype(draw(st.sampled_from(("uint8", *DTYPES))))
        shape = draw(st.one_of(RIGHT_SHAPES, SHAPES))
    if dtype.kind == "O":
        return np.full(shape, draw(st.one_of(st.none(), NUMBERS, st.text(max_size=3))), object)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind in "US":
        return random.integers(0, 255, shape).astype(dtype)
    if dtype.kind == "b" or draw(st.booleans()):
        return np.full(shape, draw(st.integers(0, 255))).astype(dtype)
    # Any bits: of floats, infinities and NaN as well.
    content = random.bytes(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape)


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same values, otherwise in memory."""
    if layout == "Fortran":
        return np.asfortranarray(array)
    if layout == "strided" and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "reversed" and array.ndim:
        return array[::-1].copy()[::-1]
    if layout == "unaligned":
        shifted = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        shifted[...] = array
        return shifted
    if layout == "broadcast":
        return np.broadcast_to(array, array.shape)
    copy = array.copy()
    copy.flags.writeable = layout != "read-only"
    return copy


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the numbers in the message
@cases(60, 1500)
@given(array=arrays(), layout=st.sampled_from(LAYOUTS))
@example(array=np.zeros((1, 28, 28, 1), "timedelta64[s]"), layout="plain")
def test_any_array(array, layout, detectors):
    right = array.dtype == np.uint8 and array.shape[1:] in ((28, 28, 1), (28, 28)) and array.ndim
    if array.dtype != object:
        array = laid_out(array, layout)
    for kind, detector in detectors.items():
        if not right:
            for method in (detector.score, detector.predict, detector.explain):
                with pytest.raises(ValueError, match="expected uint8 images") as refused:
                    method(array)
                assert_one_line(refused.value, str(array.flat[:1]))
            continue
        scores = detector.score(array)
        assert (scores.dtype, scores.shape) == (np.float32, array.shape[:1])
        assert np.isfinite(scores).all()
        np.testing.assert_array_equal(scores, detector.score(array.copy()))
        verdicts = detector.predict(array)
        assert verdicts.dtype == np.int8
        np.testing.assert_array_equal(verdicts, scores >= detector.threshold)
        maps = detector.explain(array)
        assert (maps.dtype, maps.shape) == (np.float32, (len(array), 28, 28))
        assert np.isfinite(maps).all(), kind
        assert (maps >= 0).all()
    CASES["arrays"] += 1


@cases(20, 300)
@given(
    thing=st.one_of(
        VALUES,
        st.binary(max_size=20),
        st.binary(max_size=20).map(memoryview),
        st.lists(st.lists(st.integers(0, 255), max_size=3), max_size=3),
        st.sampled_from((Ellipsis, object, np.uint8(3), range(3), np.float32("nan"))),
    )
)
def test_objects_that_are_not_arrays(thing, detectors):
    for detector in detectors.values():
        for method in (detector.score, detector.predict, detector.explain):
            with pytest.raises(ValueError, match="not a numpy array"):
                method(thing)
    CASES["other objects"] += 1


# Options and configuration files.

NAMES = sorted({"resume", *(name for one in APPROACHES for name in flatten(options_of(one)()))})
SECTIONS = sorted({name.split(".")[0] for name in NAMES if "." in name})
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
WORDS = st.one_of(
    TEXTS,
    NUMBERS.map(str),
    st.lists(NUMBERS, max_size=3).map(str),
    VALUES.map(json.dumps),
    st.sampled_from(
        ("nan", "inf", "-inf", "1e999", "true", "null", "[]", "{}", "28x28", "1_000", "0x10", "1,2",
         "sota", "vae", "cnn", "one_class", "corruption", "classification", "both", ".", "/", "=")
    ),
)  # fmt: skip


@st.composite
def options(draw: st.DrawFn) -> list[str]:
    """A command line of known and unknown options."""
    arguments = []
    if draw(st.booleans()):
        arguments += ["--approach", draw(st.sampled_from(sorted(APPROACHES)))]
    for _ in range(draw(st.integers(0, 4))):
        name = draw(
            st.one_of(st.sampled_from(NAMES), st.sampled_from([*SECTIONS, "config"]), TEXTS)
        )
        name = name.replace("_", "-") if draw(st.booleans()) else name
        value = draw(WORDS)
        arguments += draw(
            st.sampled_from(([f"--{name}", value], [f"--{name}={value}"], [f"--{name}"], [value]))
        )
    return [word for word in arguments if not word.startswith(("-h", "--help"))]


def assert_right_or_told(arguments: list[str], place: Path, said: str) -> None:
    try:
        options = parse_train_options(arguments)
    except UserError as error:
        assert_one_line(error, said)
        return
    config = options.config
    assert isinstance(config, Config)
    assert options.run_dir is None or isinstance(options.run_dir, str)
    numbers = [value for value in flatten(config).values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    save_config(config, place / "config.yaml")
    assert load_config(place / "config.yaml") == config


@cases(60, 1200)
@given(options())
def test_any_options(place, arguments):
    assert_right_or_told(arguments, place, "".join(arguments))
    CASES["options"] += 1


@st.composite
def settings_of_files(draw: st.DrawFn) -> dict[str, Any]:
    """Content of YAML files: known and unknown names, valid and invalid values."""
    content: dict[Any, Any] = {}
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.one_of(st.sampled_from(NAMES), TEXTS))
        *sections, last = name.split(".")
        section = content
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                break
        else:
            section[last] = draw(VALUES)
    return content


CONFIG_FILES = [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml"))]
YAML_FILES = st.one_of(
    settings_of_files().map(lambda content: yaml.safe_dump(content).encode()),
    damaged(CONFIG_FILES),
    TEXTS.map(str.encode),
    st.binary(max_size=50),
    st.lists(
        st.sampled_from(
            ("seed", "approach", "training", "losses", ": ", "\n", "  ", "- ", "[", "]", "{", "}",
             "&a", "*a", "<<", "!!", "!!python/object:os.system", "!!binary", "!!int", "!!float",
             "!!set", "?", "|", ">", "%", "1:30", "2001-99-99", "0b", "0o9", ".nan", ".inf", "~",
             "1" * 5000, "'", '"', "#", "---", "...", "\t", "\0", "\ufeff", "sota")
        ),
        max_size=8,
    ).map(lambda words: "".join(words).encode()),
)  # fmt: skip
LAUGHS = "\n".join(
    ["a0: &a0 {lol: 1}"]
    + [f"a{n}: &a{n} {{{', '.join(f'b{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 12)]
)


@pytest.mark.usefixtures("bounded_memory")
@cases(60, 1200)
@given(YAML_FILES)
@example(LAUGHS.encode())
@example(b"losses: &a {b: *a}")
@example(b"a: " + b"[" * 20_000)
@example(b"approach: [sota]")
@example(b"seed: " + b"1" * 5000)
@example(b"seed: 2001-99-99")
@example(b"seed: !!int five")
def test_any_configuration_file(place, content):
    (place / "any.yaml").write_bytes(content)
    # Quotes and blocks can say a control character or a line break in plain letters.
    plain = content.isascii() and not set(b"\\|>\"'?").intersection(content)
    said = content.replace(b"\n", b"").decode() if plain else "\0"
    assert_right_or_told(["--config", str(place / "any.yaml")], place, said)
    CASES["configuration files"] += 1


# Image files.


def encoded(image: Image.Image, kind: str, **keywords: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **keywords)
    return content.getvalue()


def image_files(kind: str) -> list[bytes]:
    """Small images in every mode that a format has, with what it can hold beside."""
    random = np.random.default_rng(0)
    colour = Image.fromarray(random.integers(0, 256, (24, 20, 3), np.uint8))
    grey = colour.convert("L")
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(random.integers(0, 2**16, (24, 20), np.uint16))
    modes = [colour, grey]
    if kind == "JPEG":
        return [
            *(encoded(image, kind, exif=turned) for image in (*modes, colour.convert("CMYK"))),
            encoded(colour, kind, progressive=True, icc_profile=b"profile" * 30),
        ]
    if kind == "PNG":
        modes += [colour.quantize(16), colour.convert("RGBA"), grey.convert("LA"), deep]
        moving = {"save_all": True, "append_images": [grey]}
        files = [*(encoded(image, kind, exif=turned) for image in modes)]
        return [
            *files,
            encoded(grey, kind, **moving),
            encoded(colour.quantize(4), kind, transparency=1),
        ]
    if kind == "BMP":
        return [encoded(image, kind) for image in (*modes, colour.quantize(16), grey.convert("1"))]
    if kind == "WEBP":
        files = [encoded(image, kind, lossless=lossless) for image in modes for lossless in (0, 1)]
        moving = {"save_all": True, "append_images": [grey.convert("RGB")]}
        return [*files, encoded(colour, kind, exif=turned, **moving)]
    packings = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    files = [encoded(colour, kind, compression=packing) for packing in packings]
    more = (grey.convert("1"), colour.convert("RGBA"), colour.convert("CMYK"), deep)
    return [*files, *(encoded(image, kind) for image in more)]


IMAGE_KINDS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_any_image_file(kind, place):
    file = place / "image"

    @cases(150, 2500)
    @given(damaged(image_files(kind)), st.booleans(), st.sampled_from((1, 3)))
    def check(content, repair, channels):
        file.write_bytes(with_checksums(content) if repair and kind == "PNG" else content)
        shape = (8, 6, channels)
        try:
            width, height, grey, _ = read_header(file)
            assert min(width, height) > 0
            assert isinstance(grey, bool)
        except UnreadableImage as error:
            assert_one_line(error)
            width = height = None
        try:
            array = read_image(file, shape)
        except UnreadableImage as error:
            assert_one_line(error, names=file)
        else:
            assert (array.shape, array.dtype) == (shape, np.uint8)
            image = open_image(file)
            assert image.size == (width, height)
            assert image.mode in ("L", "RGB")
        CASES[f"{kind} files"] += 1

    check()


# Detectors.


def assert_sound(detector: Detector, images: np.ndarray) -> None:
    """Every number that the detector gives is one."""
    scores = detector.score(images)
    assert (scores.dtype, scores.shape) == (np.float32, (len(images),))
    assert np.isfinite(scores).all()
    assert math.isfinite(detector.threshold)
    assert set(detector.predict(images)) <= {0, 1}
    p_values = detector.p_values(scores)
    assert ((p_values > 0) & (p_values <= 1)).all()


@pytest.fixture(scope="module")
def images(small_arrays) -> np.ndarray:
    return small_arrays[2][:3]


@pytest.fixture(scope="module")
def tflite(deployed) -> tuple[bytes, dict[str, Any], bytes]:
    """The model's bytes, its metadata, and the whole file."""
    content = deployed["tflite"].read_bytes()
    info = json.loads(deployed["tflite"].with_suffix(".json").read_text())
    return content[: info["model_bytes"]], info, content


def test_any_tflite_file(tflite, images, place, deployed):
    model, _, content = tflite
    behind = content[len(model) :]
    expected = Detector.load(deployed["tflite"]).score(images)

    @cases(100, 1500)
    @given(
        st.one_of(damaged([content]), damaged([behind]).map(lambda tail: FileContent(model + tail)))
    )
    def check(changed_content):
        (place / "any.tflite").write_bytes(changed_content)
        try:
            detector = Detector.load(place / "any.tflite")
        except UserError as error:
            assert_one_line(error)
        else:  # the model itself is whole
            np.testing.assert_array_equal(detector.score(images), expected)
            assert_sound(detector, images)
        CASES["tflite files"] += 1

    check()


@pytest.mark.parametrize("inside", [True, False])
def test_any_metadata_of_a_tflite_file(inside, tflite, images, place):
    model, info, _ = tflite
    text = json.dumps(info).encode()

    @cases(100, 1500)
    @given(st.one_of(changed(info), damaged([text])))
    def check(content):
        file = place / "plain.tflite"
        file.write_bytes(model)
        file.with_suffix(".json").unlink(missing_ok=True)
        if inside:
            with zipfile.ZipFile(file, "a") as archive:
                archive.writestr(METADATA_NAME, content)
        else:
            file.with_suffix(".json").write_bytes(content)
        try:
            detector = Detector.load(file)
        except UserError as error:
            assert_one_line(error)
        else:
            assert_sound(detector, images)
        CASES["tflite metadata"] += 1

    check()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("run", RUN_FIELDS), ("saved_model", EXPORT_FIELDS), ("tflite", LITERT_FIELDS)],
)
def test_metadata_is_right_or_refused(kind, fields, deployed):
    files = {"run": "detector.json", "saved_model": METADATA, "tflite": "../sota.json"}
    path = deployed[kind] / files[kind] if kind != "tflite" else deployed[kind].with_suffix(".json")
    info = json.loads(path.read_text())

    @cases(150, 3000)
    @given(st.one_of(changed(info), damaged([path.read_bytes()])))
    def check(content):
        try:
            given_back = DetectorInfo.parse(content, fields)
        except ValueError as error:
            assert_one_line(error, said=str(content))
        else:
            scores = np.array(given_back.calibration.scores, np.float32)
            threshold = np.float32(given_back.threshold.value)
            assert np.isfinite(scores).all()
            assert np.isfinite(threshold)
            height, width, channels = given_back.image_shape
            assert np.zeros((0, height, width, channels), np.uint8).ndim == 4
            json.dumps(given_back.to_json(), allow_nan=False)
        CASES["metadata"] += 1

    check()


@pytest.mark.parametrize(
    ("kind", "name"), [("run", "detector.json"), ("saved_model", str(METADATA))]
)
@pytest.mark.parametrize("trust", [False, True])
def test_any_metadata_of_models_that_tensorflow_runs(kind, name, trust, deployed, images, place):
    folder = place / f"{kind} {trust}"
    shutil.copytree(deployed[kind], folder)
    content = (folder / name).read_bytes()

    @cases(10, 100)
    @given(st.one_of(changed(json.loads(content)), damaged([content])))
    def check(changed_content):
        (folder / name).write_bytes(changed_content)
        try:
            detector = Detector.load(folder, trust)
        except UserError as error:
            assert_one_line(error)
        else:
            assert_sound(detector, images)
        CASES[f"{kind} metadata"] += 1

    check()


def test_any_keras_file(deployed, images, place):
    run = Path(shutil.copytree(deployed["run"], place / "any run"))
    content, info = (
        (run / "model.keras").read_bytes(),
        json.loads((run / "detector.json").read_text()),
    )
    with zipfile.ZipFile(run / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    values = st.one_of(st.none(), st.booleans(), st.integers(-2, 100), st.text(max_size=5))

    def repacked(text: bytes) -> FileContent:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, member in {**members, "config.json": text}.items():
                archive.writestr(name, member)
        return FileContent(file.getvalue())

    @cases(15, 250)
    @given(st.one_of(damaged([content]), changed(config, values).map(repacked)), st.booleans())
    def check(changed_content, trust):
        (run / "model.keras").write_bytes(changed_content)
        # The digest is adapted, because it would be refused otherwise.
        forged = info | {"model_sha256": sha256(run / "model.keras")}
        (run / "detector.json").write_text(json.dumps(forged))
        try:
            detector = Detector.load(run, trust)
            assert_sound(detector, images)
        except UserError as error:
            assert_one_line(error)
        CASES["keras files"] += 1

    check()


def test_the_cases_are_counted(capsys):
    with capsys.disabled():
        print(f"\n{sum(CASES.values())} generated cases:")
        for name, count in sorted(CASES.items()):
            print(f"{count:>8} {name}")
    if is_fuzzing():
        assert sum(CASES.values()) >= 2000
