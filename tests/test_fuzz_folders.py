"""Folders as users have them: every file is used, or counted with its reason.

`make test` draws a few, always the same; `make fuzz` draws thousands.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
from damage import CASES, cases
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.config import FolderConfig
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.search import is_system_name
from anomaly_tf.errors import UserError

FOLDERS = (
    *("", "good", "good/deep", "defect", "cracks $x^2$", "2024-01-01", "ä ö", "a\tb"),
    *("train/good", "train/defect", "test/good", "test/bad", "ground_truth/defect"),
    *("mask", "mask/defect", "labels", "@eaDir", ".hidden", "__MACOSX", "good/.git"),
)
# How each kind of file is written; a number is the largest value of a 16-bit picture.
KINDS = (
    *("png", "jpg", "jpeg", "JFIF", "gif", "bmp", "tif", "webp"),
    *("colour", "clear", "10 bits", "12 bits", "16 bits", "float", "mask", "copy"),
    *("broken", "empty", "heic", "jp2", "text", "no ending"),
)
LINKS = ("", "twice", "outside", "loop")


def write(path: Path, kind: str, seed: int) -> None:
    """Writes a file of a kind; `path` has no ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0 if kind == "copy" else seed)
    grey = random.integers(0, 256, (12, 14)).astype(np.uint8)
    grey[0, :2] = 0, 255
    if kind.endswith(" bits"):
        white = 2 ** int(kind.split()[0]) - 1
        deep = (grey.astype(np.uint32) * white // 255).astype(np.uint16)
        Image.fromarray(deep).save(path.with_name(f"{path.name}.png"))
    elif kind == "float":
        Image.fromarray(grey.astype(np.float32)).save(path.with_name(f"{path.name}.tif"))
    elif kind == "mask":
        marked = np.zeros_like(grey)
        marked[2:5, 3:8] = 255
        Image.fromarray(marked).save(path.with_name(f"{path.name}.png"))
    elif kind in ("colour", "clear"):
        parts = random.integers(0, 256, (12, 14, 3 if kind == "colour" else 4)).astype(np.uint8)
        Image.fromarray(parts).save(path.with_name(f"{path.name}.png"))
    elif kind in ("broken", "empty", "heic", "jp2", "text", "no ending"):
        ending = {"broken": ".png", "empty": ".jpg", "text": ".txt", "no ending": ""}
        content = b"" if kind == "empty" else b"\0\0\0\x18ftypheic" + bytes([seed])
        path.with_name(path.name + ending.get(kind, f".{kind}")).write_bytes(content)
    else:
        ending = "png" if kind == "copy" else kind
        place = path.with_name(f"{path.name}.{ending}")
        with place.open("wb") as file:
            Image.fromarray(grey).save(
                file, {"jpg": "jpeg", "JFIF": "jpeg", "tif": "tiff"}.get(ending, ending)
            )


@st.composite
def files(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Folder and kind of each file, few folders and kinds at a time."""
    folders = draw(st.lists(st.sampled_from(FOLDERS), min_size=1, max_size=4, unique=True))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4, unique=True))
    pairs = st.tuples(st.sampled_from(folders), st.sampled_from([*kinds, "png"]))
    return draw(st.lists(pairs, min_size=1, max_size=25))


@cases(60, 2000)
@given(
    files(), st.sampled_from(("memory", "disk")), st.sampled_from(("", "twice", "outside", "loop"))
)
def test_every_file_of_a_folder_is_used_or_counted(tmp_path_factory, drawn, storage, link):
    place = tmp_path_factory.mktemp("folder")
    photos = place / "photos"
    photos.mkdir()
    for number, (folder, kind) in enumerate(drawn):
        write(photos / folder / f"{number:03}", kind, number)
    if link == "outside":
        write(place / "store" / "900", "png", 900)
        (photos / "good").mkdir(exist_ok=True)
        (photos / "good" / "linked").symlink_to(place / "store")
    elif link:
        is_shown = not any(map(is_system_name, Path(drawn[0][0]).parts))
        target = photos / drawn[0][0] if link == "twice" and is_shown else photos
        (photos / "again").symlink_to(target)
    shown = [not any(map(is_system_name, Path(folder).parts)) for folder, _ in drawn]
    visible = sum(shown) + (link == "outside")
    config = AutoencoderConfig(
        data=str(photos),
        data_dir=str(place / "cache"),
        max_broken=1.0,
        folder=FolderConfig(storage=storage),
    )
    dataset, said = None, ""
    try:
        dataset = load_folder(photos, config)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    if dataset is not None:
        counted = sum(
            int(found[1])
            for line in dataset.left_out
            if (found := re.match(r"(?:left out|skipped): (\d+) (?!folder|link)", line))
        )
        pictures = len(dataset.train) + len(dataset.test)
        masks = len(set(dataset.masks.values()))
        assert pictures + masks + counted == visible, dataset.report
        kinds = {f"{number:03}": kind for number, (_, kind) in enumerate(drawn)}
        deep = [
            number
            for number, file in enumerate(dataset.train.files)
            if kinds.get(Path(file).stem, "").endswith(" bits")
        ]
        if len({kind for kind in kinds.values() if kind.endswith(" bits")}) == 1 and deep:
            assert (dataset.train.images[np.array(deep)].max(axis=(1, 2, 3)) > 200).all()
        CASES["folders"] += 1
    shutil.rmtree(place)
