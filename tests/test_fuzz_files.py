"""Files that claim random sizes and counts: each is accepted or refused in one line, within limits.

Memory is bounded by the system for the whole module; `make fuzz` draws hundreds of each kind.
"""

from __future__ import annotations

import json
import resource
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hostile
import keras
import numpy as np
import pytest
from damage import CASES, cases, changed
from hypothesis import given
from hypothesis import strategies as st

from anomaly_tf.data.images import UnreadableImage, open_image
from anomaly_tf.data.npz import load_npz
from anomaly_tf.data.split_checks import read_scan, read_split
from anomaly_tf.deploy.origin import check_keras_file
from anomaly_tf.errors import UserError

MAX_CPU_SECONDS = 30
MAX_BYTES = 2 * 2**30


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """More than 2 GB above now ends in a MemoryError, which no test takes for a refusal."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def taken_or_refused(kind: str) -> Iterator[None]:
    """The block must end within the limits, without error or with a one-line error."""
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    CASES[kind] += 1
    message = ""
    try:
        yield
    except (UserError, ValueError) as error:
        message = str(error)
    assert "\n" not in message
    assert "MemoryError" not in message
    assert "Unable to allocate" not in message
    assert time.process_time() - begin < MAX_CPU_SECONDS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MAX_BYTES


SIZES = st.one_of(st.integers(1, 64), st.sampled_from([10**power for power in range(2, 19)]))


@pytest.fixture(scope="module")
def description(place) -> tuple[str, dict[str, bytes]]:
    """A model's `config.json` with sizes to be filled in, and the other members."""
    layers = keras.layers
    model = hostile.keras_model(
        lambda x: layers.Conv2DTranspose(11, 13, strides=3)(layers.Conv2D(7, 5)(x))
    )
    model.save(place / "model.keras")
    with zipfile.ZipFile(place / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return members.pop("config.json").decode(), members


def test_models_of_any_size(description, place):
    text, members = description

    @cases(12, 400)
    @given(st.lists(SIZES, min_size=5, max_size=5))
    def check(sizes):
        changed_text = text
        for old, new in zip(
            ('"filters": 7', '"filters": 11', "[5, 5]", "[13, 13]", "[3, 3]"), sizes, strict=True
        ):
            number = "".join(filter(str.isdigit, old.split(",")[0]))
            changed_text = changed_text.replace(old, old.replace(number, str(new)))
        with zipfile.ZipFile(place / "model.keras", "w") as archive:
            for name, content in {**members, "config.json": changed_text.encode()}.items():
                archive.writestr(name, content)
        with taken_or_refused("keras files by size"):
            check_keras_file(place / "model.keras", trust=False)

    check()


def test_arrays_of_any_size(place):
    @cases(30, 1000)
    @given(st.lists(SIZES, min_size=1, max_size=4), st.sampled_from(["u1", "f8", "U9", "c16", "O"]))
    def check(shape, kind):
        images = hostile.claiming(np.zeros(4, np.uint8), tuple(shape))
        images = images.replace(b"'|u1'", repr(np.dtype(kind).str).encode())
        with zipfile.ZipFile(place / "x.npz", "w") as archive:
            archive.writestr("images.npy", images)
            archive.writestr("labels.npy", images)
        with taken_or_refused("arrays by size"):
            load_npz(place / "x.npz")

    check()


def test_packed_arrays_of_any_length(place):
    @cases(3, 30)
    @given(st.sampled_from([10**power for power in (3, 5, 7, 8)]))
    def check(count):
        hostile.npz_of_zeros(place / "x.npz", count)
        with taken_or_refused("packed arrays"):
            load_npz(place / "x.npz")

    check()


def test_jpegs_of_any_number_of_scans(place):
    @cases(6, 60)
    @given(st.sampled_from((16, 256, 2048)), st.integers(0, 400))
    def check(side, scans):
        hostile.scanned_often(place / "x.jpg", side, scans)
        with taken_or_refused("scans"):
            if scans > 100:
                with pytest.raises(UnreadableImage, match="scans"):
                    open_image(place / "x.jpg")
            else:
                open_image(place / "x.jpg")

    check()


PART = {"files": ["a.png", "b/c.png"], "classes": [0, 1]}
SIDE_FILES: dict[str, tuple[Any, dict[str, Any]]] = {
    "split.json": (
        read_split,
        {
            "image_shape": [8, 8, 1],
            "class_names": ["good", "bad"],
            "roles": {"normal": [0], "seen": [], "unseen": [1]},
            "masks": {"a.png": "b.png"},
            **dict.fromkeys(("train", "validation", "test"), PART),
        },
    ),
    "scan.json": (
        read_scan,
        {
            "image_shape": [8, 8, 1],
            "sizes": [[8, 8, 2]],
            "n_grayscale": 2,
            "broken": {"x.png": "damaged"},
            "digests": ["00", "11"],
        },
    ),
}


@pytest.mark.parametrize("name", SIDE_FILES)
def test_any_side_file(name, place):
    read, right = SIDE_FILES[name]

    @cases(40, 1500)
    @given(changed(right))
    def check(content):
        (place / name).write_bytes(content)
        with taken_or_refused(f"{name} by value"):
            found = read(place / name)
            assert all(isinstance(side, int) and side > 0 for side in found["image_shape"])
            json.dumps(found, allow_nan=False)

    check()
