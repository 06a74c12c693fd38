"""The search for images: files that are found and files that are left out."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from anomaly_tf.data.folder_layout import recognise
from anomaly_tf.data.search import SYSTEM_NAMES, Search, find_images, folders_of
from anomaly_tf.reporting import plots
from anomaly_tf.runs.outputs import HEAT_MAP


def picture(path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path, **options)
    return path


def heat_map(path: Path) -> Path:
    mark = PngInfo()
    mark.add_text("Software", HEAT_MAP)
    return picture(path, pnginfo=mark)


def run_folder(path: Path) -> Path:
    picture(path / "plots" / "roc.png")  # not marked, as by earlier versions
    for name in ("config.yaml", "detector.json"):
        (path / name).write_text("{}")
    return path


@pytest.fixture
def without_root() -> None:
    """Tests of permissions say nothing where they do not hold."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def search(folder: Path) -> tuple[list[str], list[str]]:
    """Files and lines."""
    searched = Search()
    return searched.images_below(folder), searched.left_out.lines()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    picture(tmp_path / "photos" / "a.png")
    return tmp_path / "photos"


def test_folders_are_searched_in_order_of_name(photos):
    for name in ("c.png", "a.JPEG", "b/with a space.webp", "b/new\nline.bmp", "b.d/x.jfif"):
        picture(photos / name, format="JPEG" if "jfif" in name else None)
    (photos / "notes.txt").write_text("no picture")
    found = find_images([photos, photos / "notes.txt"])
    names = ["a.JPEG", "a.png", "c.png", "b/new\nline.bmp", "b/with a space.webp", "b.d/x.jfif"]
    assert [file for file, _ in found.files] == [photos / name for name in [*names, "notes.txt"]]
    assert [name for _, name in found.files] == [
        *(Path("photos", name) for name in names),
        Path("notes.txt"),
    ]
    assert found.problems == []


def test_a_folder_without_images_is_no_hindrance(photos, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no picture")
    found = find_images([tmp_path / "none", photos])
    assert [file for file, _ in found.files] == [photos / "a.png"]
    (problem,) = found.problems
    assert problem.startswith(f"folder {tmp_path / 'none'} holds no images; give one with .bmp")
    assert found.left_out.lines() == [
        "left out: 1 other file, no image by the name (1 .txt)",
    ]


def test_other_formats_and_other_files_are_counted(photos):
    for name in ("1.HEIC", "b/2.heic", "3.jp2", "notes.txt", "README", "x.PNG.txt"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"content")
    found, lines = search(photos)
    assert found == ["a.png"]
    assert sorted(lines) == [
        "left out: 3 images in formats that are not supported; convert them to PNG or JPEG "
        "(2 .heic, 1 .jp2)",
        "left out: 3 other files, no image by the name (2 .txt, 1 no ending)",
    ]


def test_system_files_are_neither_searched_nor_counted(photos):
    for name in SYSTEM_NAMES | {"__MACOSX", "@eaDir", "Thumbs.db", "$RECYCLE.BIN", ".hidden"}:
        picture(photos / name / "x.png")
    for name in (".DS_Store", "._a.png"):
        (photos / name).write_bytes(b"content")
    assert search(photos) == (["a.png"], [])
    assert recognise(photos).class_names == ("normal",)


def test_linked_folders_are_followed_once(photos, tmp_path):
    picture(tmp_path / "store" / "far.png")
    for name in ("anomaly", "z again"):
        (photos / name).symlink_to(tmp_path / "store")
    picture(photos / "real" / "deep" / "b.png")
    # By its name the link comes first, and yet the folder keeps its own place.
    (photos / "a link").symlink_to(photos / "real")
    (photos / "real" / "loop").symlink_to(photos)
    (photos / "self").symlink_to(photos / "self")
    found, lines = search(photos)
    assert found == ["a.png", "anomaly/far.png", "real/deep/b.png"]
    assert lines == [
        f"left out: 1 broken link ({photos / 'self'})",
        f"left out: 3 folders reached twice; read once (first: {photos / 'a link'})",
    ]


def test_places_that_hold_each_other_are_read_once(photos):
    picture(photos / "more" / "b.png")
    found = find_images([photos / "more", photos, photos])
    assert [file for file, _ in found.files] == [photos / "more" / "b.png", photos / "a.png"]
    assert found.problems == []
    assert "2 folders reached twice" in found.left_out.lines()[0]


def test_pipes_and_links_without_target_are_not_opened(photos):
    os.mkfifo(photos / "pipe.bmp")  # which would wait for a writer
    (photos / "gone").symlink_to("nowhere")
    (photos / "gone.png").symlink_to("nowhere")
    found, lines = search(photos)
    assert found == ["a.png", "gone.png"]  # reading it says what is wrong
    assert lines == [
        f"left out: 1 broken link ({photos / 'gone'})",
        f"left out: 1 pipe, socket or device ({photos / 'pipe.bmp'})",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_reported(photos):
    closed = picture(photos / "closed" / "b.png").parent
    closed.chmod(0)
    found, lines = search(photos)
    closed.chmod(0o700)
    assert found == ["a.png"]
    assert lines == [f"left out: 1 folder that cannot be read ({closed}: Permission denied)"]


def test_names_that_no_file_can_have_do_not_keep_the_others_from_being_found(photos):
    odd = [Path("x" * 300), Path("a\0b"), photos / "a.png" / "b.png"]
    found = find_images([*odd, photos])
    assert [file for file, _ in found.files] == [*odd, photos / "a.png"]


def test_heat_maps_plots_and_runs_are_left_out(photos):
    heat_map(photos / "heat" / "photos" / "a.png")
    heat_map(photos / "b.png")
    plots.save(plots.Figure(), photos / "roc.png")
    run_folder(photos / "runs" / "first")
    found, lines = search(photos)
    assert found == ["a.png"]
    assert lines == [
        f"left out: 3 images written by anomaly_tf, heat maps or plots (first: {photos / 'b.png'})",
        f"left out: 1 run folder of anomaly_tf ({photos / 'runs' / 'first'})",
    ]
    assert recognise(photos).files == ["a.png"]
    # A file that is named directly is always used.
    assert len(find_images([photos / "b.png"]).files) == 1


def test_inaccessible_files_are_counted(tmp_path, without_root):
    top = Path(tempfile.mkdtemp())  # which the other user may enter
    picture(top / "all" / "a.png")
    picture(top / "all" / "closed" / "b.png")
    picture(top / "other" / "inside" / "c.png")
    (top / "all" / "today").symlink_to(top / "other" / "inside")
    (top / "all" / "nowhere").symlink_to(top / "gone")
    (top / "all" / "closed").chmod(0o444)  # listed, and not entered
    (top / "other").chmod(0)
    try:
        found = find_images([top / "all"])
        assert [file.name for file, _ in found.files] == ["a.png"]
        lines = "\n".join(found.left_out.lines())
        assert "2 files or folders that cannot be accessed" in lines
        assert "1 broken link" in lines
        assert not found.is_complete
    finally:
        (top / "all" / "closed").chmod(0o755)
        (top / "other").chmod(0o755)
        shutil.rmtree(top)


def test_links_lead_to_folders_that_are_read(photos, tmp_path):
    (tmp_path / "today").mkdir()
    (tmp_path / "today" / "link.png").symlink_to(photos / "a.png")
    assert folders_of([tmp_path / "today" / "link.png"]) == [tmp_path / "today", photos]
