"""Folders of images: their layouts, skipped files, and refused folders."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_line, run_script, weighing_detector
from PIL import Image

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.approaches.dual_gan.options import DualGanConfig
from anomaly_tf.cli import train
from anomaly_tf.config import FolderConfig
from anomaly_tf.data import corruption_sets, folder_reading
from anomaly_tf.data.cutting import MIN_CUT
from anomaly_tf.data.folder_layout import recognise
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.images import Reading, read_image
from anomaly_tf.data.masks import masked_images, read_masks
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roles import normal_by_name
from anomaly_tf.data.split_file import open_split, save_split
from anomaly_tf.data.stored import StoredImages
from anomaly_tf.errors import UserError
from anomaly_tf.runs.caches import only_read
from anomaly_tf.training import loop, session
from anomaly_tf.training.loop import Outcome
from anomaly_tf.training.setup import resolve

RANDOM = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (12, 10), mode: str = "L") -> Path:
    """Writes a picture of noise, unlike every other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size[::-1] + (() if mode == "L" else (3,))
    Image.fromarray(RANDOM.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def mask(path: Path, levels: tuple[int, ...] = (255,)) -> Path:
    """A mask as large as `picture` makes images: of each level a square, from left to right."""
    values = np.zeros((10, 12), np.uint8)
    for number, level in enumerate(levels):
        values[2:5, 1 + 3 * number : 4 + 3 * number] = level
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def pictures(folder: Path, count: int, **keywords) -> None:
    for number in range(count):
        picture(folder / f"{number:03}.png", **keywords)


def config(tmp_path: Path, approach=AutoencoderConfig, **keywords):
    return approach(data=str(tmp_path / "photos"), data_dir=str(tmp_path / "cache"), **keywords)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def counts(dataset) -> tuple[dict[str, int], dict[str, int]]:
    """Images of each class in the training and in the test files."""
    return tuple(
        {
            dataset.class_names[number]: int(count)
            for number, count in zip(*np.unique(classes, return_counts=True), strict=True)
        }
        for classes in (dataset.train_classes, dataset.test_classes)
    )


@pytest.mark.parametrize(
    ("layout", "train", "test", "normal"),
    [
        (["{}.png"], {"normal": 6}, {}, "normal"),
        (["kitchen/{}.png"], {"kitchen": 6}, {}, "kitchen"),
        (["normal/deep/{}.png", "anomaly/{}.png"], {"normal": 6, "anomaly": 6}, {}, "normal"),
        (["Good/{}.png", "dent/{}.png"], {"Good": 6, "dent": 6}, {}, "Good"),
        (["cups/{}.png", "defects/{}.png"], {"cups": 6, "defects": 6}, {}, "cups"),
        (["a/{}.png", "b/{}.png"], {"a": 6, "b": 6}, {}, None),
        (
            ["train/good/{}.png", "test/good/{}.png", "test/dent/{}.png"],
            {"good": 6},
            {"good": 6, "dent": 6},
            "good",
        ),
        (["train/{}.png", "test/ok/{}.png"], {"ok": 6}, {"ok": 6}, "ok"),
        (["Train/{}.png"], {"normal": 6}, {}, "normal"),
    ],
)
def test_layouts(layout, train, test, normal, photos, tmp_path):
    for place in layout:
        for number in range(6):
            picture(photos / place.format(number))
    dataset = load_folder(photos, config(tmp_path))
    assert counts(dataset) == (train, test)
    names = [dataset.class_names[number] for number in normal_by_name(dataset.class_names) or ()]
    assert names == ([normal] if normal else [])
    for file, image in zip(dataset.train.files, dataset.train_images, strict=True):
        np.testing.assert_array_equal(image, read_image(photos / file, (10, 12, 1)))


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ([], "holds no images"),
        (["notes.txt"], "holds no images"),
        (["test/good/{}.png"], r"has a test/ and no train/"),
        (["{}.png", "anomaly/{}.png"], r"images beside folders of images \(anomaly/\); move them"),
        (["train/{}.png", "train/good/{}.png"], r"photos/train holds images beside"),
    ],
)
def test_layouts_that_are_none(layout, words, photos, tmp_path):
    for place in layout:
        picture(photos / place.format(0)) if "png" in place else (photos / place).touch()
    with pytest.raises(UserError, match=words):
        load_folder(photos, config(tmp_path))


def test_only_anomalies_or_one_normal_image(photos, tmp_path):
    pictures(photos / "anomaly", 5)
    with pytest.raises(UserError, match=r"holds only anomalies .*\(anomaly\); add a folder"):
        load_folder(photos, config(tmp_path))
    pictures(photos / "a", 5)
    pictures(photos / "b", 5)
    dataset = load_folder(photos, config(tmp_path))
    with pytest.raises(UserError, match=r"has a known name for normal images.*of: a, anomaly, b"):
        make_split(config(tmp_path), dataset)
    for name in ("a", "b"):
        shutil.rmtree(photos / name)
    pictures(photos / "normal", 1)
    dataset = load_folder(photos, config(tmp_path))
    with pytest.raises(UserError, match=r"holds 1 normal image to learn from \(normal\).*least 4"):
        make_split(config(tmp_path), dataset)


def test_normal_images_suffice_for_one_class_only(photos, tmp_path):
    pictures(photos, 10)
    dataset = load_folder(photos, config(tmp_path))
    split = make_split(config(tmp_path), dataset)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [5, 2, 3]
    assert not split.test.labels.any()
    with pytest.raises(UserError, match=r"sota learns from labelled anomalies.*autoencoder or vae"):
        make_split(config(tmp_path, DualGanConfig), dataset)
    synthetic = config(tmp_path, protocol="corruption")
    split = make_split(synthetic, dataset)
    assert split.test.labels.tolist() == [0] * 3 + [1] * 9
    assert split.test.files[3].endswith("(synthetic)")


@pytest.mark.parametrize("approach", [AutoencoderConfig, DualGanConfig])
def test_a_split_is_saved_and_holds_every_image_once(approach, photos, tmp_path):
    pictures(photos / "normal", 60)
    pictures(photos / "dent", 10)
    for rare in range(4):
        picture(photos / f"rare {rare}" / "only.png")
    chosen = config(tmp_path, approach)
    dataset = load_folder(photos, chosen)
    split = make_split(chosen, dataset)
    files = [set(part.files) for part in (split.train, split.validation, split.test)]
    assert sum(map(len, files)) == len(set.union(*files)) == 74
    normal = [int((part.labels == 0).sum()) for part in (split.train, split.validation, split.test)]
    assert normal == [27, 13, MIN_CUT]
    # Anomalies that one_class does not train on are in the test set.
    assert bool(split.train.labels.any()) == (approach is DualGanConfig)
    assert split.validation.labels.any()
    assert split.test.labels.sum() >= (10 if approach is AutoencoderConfig else 3)
    assert make_split(chosen, dataset).test.files == split.test.files
    other = make_split(dataclasses.replace(chosen, seed=1), dataset)
    assert other.test.files != split.test.files


def test_a_run_reads_its_own_split_again(photos, tmp_path):
    pictures(photos / "normal", 30, mode="RGB")
    pictures(photos / "a 'dent'\n", 6, mode="RGB")
    chosen = config(tmp_path, DualGanConfig, seed=4)
    dataset = load_folder(photos, chosen)
    split = make_split(chosen, dataset)
    save_split(split, dataset, tmp_path / "split.json")
    picture(photos / "normal" / "later.png")
    again = open_split(chosen, tmp_path / "split.json")
    for name in ("train", "validation", "test"):
        before, after = getattr(split, name), getattr(again, name)
        assert after.files == before.files
        np.testing.assert_array_equal(after.labels, before.labels)
        np.testing.assert_array_equal(after.classes, before.classes)
        np.testing.assert_array_equal(after.images[:], before.images)
    (photos / split.test.files[0]).unlink()
    with pytest.raises(UserError, match=r"(?s)1 of the 36 files .*first: .*with --data"):
        open_split(chosen, tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    for outside in ("../elsewhere.png", "/etc/passwd"):
        part = content["test"] | {"files": [outside, *content["test"]["files"][1:]]}
        (tmp_path / "split.json").write_text(json.dumps(content | {"test": part}))
        with pytest.raises(UserError, match="must be paths of files inside the folder"):
            open_split(chosen, tmp_path / "split.json")
    (tmp_path / "split.json").write_text(json.dumps({"roles": []}))
    with pytest.raises(UserError, match="is damaged"):
        open_split(chosen, tmp_path / "split.json")
    (tmp_path / "split.json").write_text(json.dumps({"roles": {}}))
    with pytest.raises(UserError, match=r"split\.json is damaged"):
        open_split(chosen, tmp_path / "split.json")


STRANGE = {
    "cmyk.jpg": lambda path: Image.new("CMYK", (12, 10), (0, 200, 200, 0)).save(path),
    "palette.png": lambda path: Image.new("P", (12, 10), 3).save(path),
    "alpha.png": lambda path: Image.new("RGBA", (12, 10), (9, 9, 9, 0)).save(path),
    "deep.png": lambda path: Image.fromarray(np.full((10, 12), 65535, np.uint16)).save(path),
    "turned.jpg": lambda path: _turned(path),
    "moving.webp": lambda path: _moving(path),
    "two\nlines.png": picture,
    "ein schönes Bild.PNG": lambda path: picture(path.with_suffix(".png")).rename(path),
    b"latin \xe9.png".decode("utf-8", "surrogateescape"): picture,
}


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 12), (250, 0, 0)).save(path, exif=exif)


def _moving(path: Path) -> None:
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def test_unusual_images_are_read_correctly(photos, tmp_path):
    for name, write in STRANGE.items():
        write(photos / name)
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    (photos / ".hidden.png").write_bytes(b"")
    dataset = load_folder(photos, config(tmp_path))
    assert set(dataset.train.files) == set(STRANGE)
    assert dataset.skipped == ()
    assert dataset.train_images.shape == (len(STRANGE), 10, 12, 3)
    images = dict(zip(dataset.train.files, dataset.train_images, strict=True))
    assert (images["alpha.png"] == 255).all()
    assert (images["deep.png"] == 255).all()
    assert images["turned.jpg"][..., 0].mean() > 240 > 20 > images["turned.jpg"][..., 1].mean()
    assert images["moving.webp"][..., 2].mean() < 30


BROKEN = {
    "empty.png": (lambda content: b"", "is empty"),
    "short.png": (lambda content: content[: len(content) // 2], "is damaged"),
    "no.png": (lambda content: b"hello", "is not an image"),
}


def test_broken_files_are_skipped_and_listed_until_there_are_too_many(photos, tmp_path):
    pictures(photos, 57)
    good = (photos / "000.png").read_bytes()
    for name, (change, _) in BROKEN.items():
        (photos / name).write_bytes(change(good))
    dataset = load_folder(photos, config(tmp_path))
    assert len(dataset.train.files) == 57
    assert len(dataset.skipped) == 3
    (line,) = (line for line in dataset.report if line.startswith("skipped"))
    for name, (_, words) in BROKEN.items():
        assert f"{name} {words}" in line
    for storage in ("memory", "disk"):
        strict = config(tmp_path, max_broken=0.04, folder=FolderConfig(storage=storage))
        with pytest.raises(UserError, match=r"3 of 60 files .*more than --max-broken 0.04.*first:"):
            load_folder(photos, strict)


def test_too_many_files_that_are_no_images_are_counted_as_such(photos, tmp_path):
    pictures(photos, 6)
    for number in range(4):
        (photos / f"text {number}.png").write_text("no picture")
    with pytest.raises(UserError, match=r"4 of 10 files .*more than --max-broken 0.1 .*first:"):
        load_folder(photos, config(tmp_path))
    for path in photos.glob("0*.png"):
        path.write_text("no picture")
    with pytest.raises(UserError, match=r"no image in .* can be read"):
        load_folder(photos, config(tmp_path, max_broken=1.0))


def test_a_folder_with_broken_files_only(photos, tmp_path):
    (photos / "a.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"no image in .* can be read; first: .*a\.png is not"):
        load_folder(photos, config(tmp_path, max_broken=1.0))


@pytest.mark.parametrize("cache", [True, False])
def test_images_on_disk_are_those_in_memory(cache, photos, tmp_path):
    pictures(photos / "normal", 30, mode="RGB")
    pictures(photos / "dent", 30, size=(30, 20))
    (photos / "dent" / "003.png").write_bytes(b"broken")
    on_disk = config(tmp_path, folder=FolderConfig(storage="disk", cache=cache))
    for _ in range(2):  # the second time from the cache
        stored = load_folder(photos, on_disk)
        memory = load_folder(photos, config(tmp_path, folder=FolderConfig(storage="memory")))
        assert isinstance(stored.train_images, StoredImages)
        assert isinstance(memory.train_images, np.ndarray)
        np.testing.assert_array_equal(stored.train_images[:], memory.train_images)
        np.testing.assert_array_equal(stored.train_classes, memory.train_classes)
        assert stored.train.files == memory.train.files
        assert stored.report[:-1] == memory.report[:-1]
        assert len(list((tmp_path / "cache").rglob("images"))) == cache
    some = np.array([5, 2, 40])
    np.testing.assert_array_equal(stored.train_images[some], memory.train_images[some])
    split = make_split(on_disk, stored)
    assert isinstance(split.train.images, StoredImages)
    np.testing.assert_array_equal(
        split.test.images[:], make_split(config(tmp_path), memory).test.images
    )


def test_the_cache_notices_a_change_and_damage(photos, tmp_path):
    pictures(photos, 8)
    on_disk = config(tmp_path, folder=FolderConfig(storage="disk"))
    load_folder(photos, on_disk)
    picture(photos / "003.png")
    changed = load_folder(photos, on_disk)
    expected = read_image(photos / "003.png", (10, 12, 1))
    np.testing.assert_array_equal(changed.train_images[3:4][0], expected)
    for images in (tmp_path / "cache").rglob("images"):
        os.truncate(images, 100)
    with pytest.raises(UserError, match=r"cache .* is damaged .*remove it"):
        load_folder(photos, on_disk)


def replace_content(file: Path, seconds: int) -> None:
    """Another picture of the same length, whose date differs by so many seconds."""
    before = file.stat()
    picture(file)
    assert file.stat().st_size == before.st_size  # as of every BMP of one size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + seconds * 10**9))


def enlarge(file: Path) -> None:
    """Another picture of another length and the same date."""
    before = file.stat()
    picture(file, size=(30, 20))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "date": lambda folder: replace_content(folder / "normal" / "1.bmp", 1),
    "length": lambda folder: enlarge(folder / "normal" / "1.bmp"),
    "name": lambda folder: replace_content(
        (folder / "normal" / "1.bmp").rename(folder / "normal" / "1 again.bmp"), 0
    ),
    "class": lambda folder: (folder / "normal" / "1.bmp").rename(folder / "dent" / "1.bmp"),
    "number": lambda folder: (folder / "normal" / "1.bmp").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_is_not_used_for_files_that_were_changed(change, photos, tmp_path):
    for number in range(6):
        path = picture(photos / ("dent" if number == 5 else "normal") / f"{number}.bmp")
        os.utime(path, (1e9, 1e9))  # as files from an archive, all of one date
    on_disk = config(tmp_path, folder=FolderConfig(storage="disk"))
    load_folder(photos, on_disk)
    CHANGES[change](photos)
    dataset = load_folder(photos, on_disk)
    for file, image in zip(dataset.train.files, dataset.train_images[:], strict=True):
        np.testing.assert_array_equal(image, read_image(photos / file, (10, 12, 1)))


def test_a_cache_is_not_used_for_another_folder_with_the_same_names_lengths_and_dates(tmp_path):
    lines = [tmp_path / "line1", tmp_path / "line2"]
    for line in lines:
        for number in range(5):
            os.utime(picture(line / f"{number}.bmp"), (1e9, 1e9))  # as tar and Docker do
    for line in lines:
        on_disk = config(tmp_path, folder=FolderConfig(storage="disk"))
        images = load_folder(line, on_disk).train_images
        for number, image in enumerate(images[:]):
            np.testing.assert_array_equal(image, read_image(line / f"{number}.bmp", (10, 12, 1)))


def test_a_cache_is_not_used_for_a_changed_file_of_the_same_length_and_date(photos, tmp_path):
    pictures(photos, 3, size=(12, 10))
    file = picture(photos / "3.bmp")
    on_disk = config(tmp_path, folder=FolderConfig(storage="disk"))
    load_folder(photos, on_disk)
    before = file.stat()
    with file.open("r+b") as opened:  # in its place, not as a new file
        content = opened.read()
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([content[-1] ^ 255]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_ino == before.st_ino
    image = load_folder(photos, on_disk).train_images[3:4][0]
    np.testing.assert_array_equal(image, read_image(file, (10, 12, 1)))


def test_a_folder_that_was_renamed_keeps_its_cache(photos, tmp_path):
    pictures(photos, 5)
    on_disk = config(tmp_path, folder=FolderConfig(storage="disk"))
    load_folder(photos, on_disk)
    load_folder(photos.rename(tmp_path / "renamed"), on_disk)
    assert len(list((tmp_path / "cache" / "folders").iterdir())) == 1


def test_the_cache_of_who_was_faster_is_kept(photos, tmp_path):
    pictures(photos, 5)
    on_disk = config(tmp_path, folder=FolderConfig(storage="disk"))
    layout = recognise(photos)
    _, scan = folder_reading.read_folder(photos, layout, on_disk)
    (cache,) = (tmp_path / "cache" / "folders").iterdir()
    before = (cache / "images").stat().st_ino
    # As a process does that began before the cache was there.
    images, again = folder_reading._into_cache(photos, layout.files, scan, Reading(), cache)
    assert (cache / "images").stat().st_ino == before
    assert again.digests == scan.digests
    assert len(images) == 5


def test_many_that_decode_one_folder_at_once_all_get_its_images(photos, tmp_path):
    pictures(photos, 20)
    on_disk = config(tmp_path, folder=FolderConfig(storage="disk"))
    expected = load_folder(photos, config(tmp_path)).train_images
    with ThreadPoolExecutor(6) as pool:
        for _ in range(4):
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            for dataset in pool.map(lambda _: load_folder(photos, on_disk), range(6)):
                np.testing.assert_array_equal(dataset.train_images[:], expected)
            (cache,) = (tmp_path / "cache" / "folders").iterdir()
            assert {path.name for path in cache.iterdir()} == {"images", "scan.json"}


def test_each_image_size_has_its_own_cache(photos, tmp_path):
    pictures(photos, 5, size=(40, 30))
    for asked, shape in ((None, (30, 40)), (16, (16, 16)), ("8x16", (8, 16)), ("16x8", (16, 8))):
        on_disk = config(tmp_path, image_size=asked, folder=FolderConfig(storage="disk"))
        for _ in range(2):  # the second time from the cache
            images = load_folder(photos, on_disk).train_images
            assert images.shape == (5, *shape, 1)
            expected = read_image(photos / "003.png", (*shape, 1))
            np.testing.assert_array_equal(images[3:4][0], expected)
    assert len(list((tmp_path / "cache" / "folders").iterdir())) == 4


def test_a_cache_of_another_version_is_not_opened(photos, tmp_path, monkeypatch):
    pictures(photos, 5)
    on_disk = config(tmp_path, folder=FolderConfig(storage="disk"))
    load_folder(photos, on_disk)
    for images in (tmp_path / "cache").rglob("images"):
        images.write_bytes(bytes(images.stat().st_size))
    assert not load_folder(photos, on_disk).train_images[:].any()  # it is the cache that is read
    monkeypatch.setattr(folder_reading, "CACHE_VERSION", folder_reading.CACHE_VERSION + 1)
    assert load_folder(photos, on_disk).train_images[:].any()


def test_images_that_do_not_fit_into_memory_stay_on_disk(photos, tmp_path):
    pictures(photos, 9, size=(400, 400))
    small = config(tmp_path, image_size=400, folder=FolderConfig(memory_limit=1))
    assert isinstance(load_folder(photos, small).train_images, StoredImages)
    assert "read from disk" in load_folder(photos, small).report[-1]
    large = dataclasses.replace(small, folder=FolderConfig(memory_limit=2))
    assert isinstance(load_folder(photos, large).train_images, np.ndarray)


@pytest.mark.parametrize(
    ("sizes", "asked", "shape"),
    [
        ([(20, 30)], None, (30, 20, 1)),
        ([(640, 480)], None, (96, 128, 1)),
        ([(20, 30), (40, 30), (60, 90)], None, (30, 40, 1)),
        ([(5, 4)], None, (8, 8, 1)),
        ([(640, 480)], "32x48", (32, 48, 1)),
        ([(640, 480)], 16, (16, 16, 1)),
    ],
)
def test_the_size_that_images_are_brought_to(sizes, asked, shape, photos, tmp_path):
    for number, size in enumerate(sizes):
        picture(photos / f"{number}.png", size=size)
    dataset = load_folder(photos, config(tmp_path, image_size=asked))
    assert dataset.train_images.shape[1:] == shape
    assert f"read as {shape[0]}x{shape[1]} (height x width" in "\n".join(dataset.report)


def deep_pictures(folder: Path, count: int, bits: int) -> None:
    """Pictures of 16 bits, as a camera of fewer writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        values = RANDOM.integers(0, 2**bits, (10, 12), np.uint16)
        values[0, 0] = 2**bits - 1
        Image.fromarray(values).save(folder / f"{number:03}.png")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("storage", ["memory", "disk", "files"])
def test_all_pictures_have_the_bit_depth_of_the_set(bits, storage, photos, tmp_path):
    deep_pictures(photos / "normal", 6, bits)
    dark = np.full((10, 12), 2**bits // 3, np.uint16)  # which is no other depth for that
    Image.fromarray(dark).save(photos / "normal" / "dark.png")
    picture(photos / "normal" / "plain.png")
    place = "memory" if storage == "memory" else "disk"
    chosen = config(tmp_path, folder=FolderConfig(storage=place, cache=storage != "files"))
    for _ in range(2):
        dataset = load_folder(photos, chosen)
        assert dataset.reading.bit_depth == bits
        images = dict(zip(dataset.train.files, dataset.train_images[:], strict=True))
        assert images["normal/000.png"][0, 0, 0] == 255
        assert set(np.unique(images["normal/dark.png"])) <= {84, 85}
        expected = read_image(photos / "normal" / "plain.png", (10, 12, 1))
        np.testing.assert_array_equal(images["normal/plain.png"], expected)
        (line,) = (line for line in dataset.report if line.startswith("16-bit files"))
        assert f"16-bit files: 7, values up to {2**bits - 1}, read as {bits} bits" in line
        assert "--folder.bit-depth" in line
    # And so does the run read them again.
    split = make_split(chosen, dataset)
    save_split(split, dataset, tmp_path / "split.json")
    again = open_split(chosen, tmp_path / "split.json")
    np.testing.assert_array_equal(again.train.images[:], split.train.images[:])


def test_a_given_bit_depth_is_used_and_has_its_own_cache(photos, tmp_path):
    deep_pictures(photos, 6, 10)
    for bits, white in ((10, 255), (12, 63), (16, 3), (10, 255)):
        asked = FolderConfig(storage="disk", bit_depth=bits)
        dataset = load_folder(photos, config(tmp_path, folder=asked))
        assert (dataset.reading.bit_depth, dataset.train_images[0:1].max()) == (bits, white)
    narrow = config(tmp_path, folder=FolderConfig(bit_depth=8))
    with pytest.raises(UserError, match="more than the 8 bits"):
        load_folder(photos, narrow)


def test_pictures_of_two_bit_depths_in_one_folder_are_doubted(photos, tmp_path):
    deep_pictures(photos / "normal", 6, 16)
    assert not any("WARNING" in line for line in load_folder(photos, config(tmp_path)).report)
    deep_pictures(photos / "dent", 3, 12)
    (line,) = (line for line in load_folder(photos, config(tmp_path)).report if "WARNING" in line)
    assert "3 16-bit files stay below a quarter of 16 bits (first: dent/000.png)" in line


def test_a_split_of_an_earlier_version_reads_sixteen_bits_as_it_did(photos, tmp_path):
    deep_pictures(photos, 12, 12)
    chosen = config(tmp_path, folder=FolderConfig(bit_depth=16))
    dataset = load_folder(photos, chosen)
    split = make_split(chosen, dataset)
    save_split(split, dataset, tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    assert content.pop("bit_depth") == 16
    (tmp_path / "split.json").write_text(json.dumps(content))
    again = open_split(chosen, tmp_path / "split.json")
    np.testing.assert_array_equal(again.test.images[:], split.test.images[:])
    for wrong in ("12", 7, 12.0, True):
        (tmp_path / "split.json").write_text(json.dumps(content | {"bit_depth": wrong}))
        with pytest.raises(UserError, match="is damaged"):
            open_split(chosen, tmp_path / "split.json")


def test_pictures_of_few_grey_levels_are_doubted(photos, tmp_path):
    for number in range(5):
        digits = RANDOM.integers(0, 17, (10, 12), np.uint8)
        Image.fromarray(digits).save(photos / f"{number}.png")
    report = load_folder(photos, config(tmp_path)).report
    assert any("WARNING: no grey level is above 16 of 255" in line for line in report)


def test_copies_do_not_come_to_lie_on_both_sides(photos, tmp_path):
    pictures(photos / "normal", 8)
    pictures(photos / "dent", 5)
    with Image.open(photos / "normal" / "002.png") as image:  # another file, the same content
        image.save(photos / "normal" / "copy.bmp")
        image.save(photos / "normal" / "again.png", optimize=True)
    contradiction = (photos / "dent" / "001.png").read_bytes()
    (photos / "normal" / "dented.png").write_bytes(contradiction)
    dataset = load_folder(photos, config(tmp_path))
    assert "left out: 2 copies of other images (same content)" in dataset.report
    assert any("2 images that are in two classes" in line for line in dataset.report)
    assert counts(dataset)[0] == {"normal": 8, "dent": 4}


def test_copies_in_a_training_folder_are_left_out_and_those_of_the_test_stay(photos, tmp_path):
    pictures(photos / "train" / "good", 8)
    pictures(photos / "test" / "good", 4)
    for part, name in (("train", "002"), ("test", "001")):
        shutil.copy(photos / part / "good" / f"{name}.png", photos / part / "good" / "copy.png")
    dataset = load_folder(photos, config(tmp_path))
    assert counts(dataset) == ({"good": 8}, {"good": 5})
    assert "left out: 1 copies of other images (same content)" in dataset.report


def test_test_images_in_the_training_set_are_reported(photos, tmp_path):
    pictures(photos / "train", 5)
    pictures(photos / "test" / "good", 4)
    (photos / "test" / "good" / "known.png").write_bytes((photos / "train/000.png").read_bytes())
    dataset = load_folder(photos, config(tmp_path))
    assert len(dataset.test.files) == 5
    (line,) = (line for line in dataset.report if "WARNING" in line)
    assert "1 test images are also among the training images" in line
    assert "known.png" in line


def test_masks_are_found_checked_and_read(photos, tmp_path):
    pictures(photos / "train" / "good", 4, size=(20, 20))
    pictures(photos / "test" / "good", 2, size=(20, 20))
    pictures(photos / "test" / "dent", 4, size=(20, 20))
    truth = photos / "ground_truth" / "dent"
    truth.mkdir(parents=True)
    mask = np.zeros((20, 20), np.uint8)
    mask[4:8, 4:16] = 255
    mask[15, 15] = 255
    Image.fromarray(mask).save(truth / "000_mask.png")
    Image.fromarray(mask).save(truth / "001.bmp")
    Image.fromarray(mask[:10]).save(truth / "002_mask.png")
    (truth / "003_mask.png").write_bytes(b"no image")
    dataset = load_folder(photos, config(tmp_path, image_size=10))
    assert {Path(a).name: Path(b).name for a, b in dataset.masks.items()} == {
        "000.png": "000_mask.png",
        "001.png": "001.bmp",
    }
    (line,) = (line for line in dataset.report if line.startswith("left out"))
    for words in ("2 masks", "20x10, its image 20x20", "is not an image"):
        assert words in line
    files = [None, "ground_truth/dent/000_mask.png"]
    masks = read_masks(photos, files, (10, 10, 1))
    expected = np.zeros((2, 10, 10), bool)
    expected[1, 2:4, 2:8] = True  # a quarter of a pixel is none where there is more
    np.testing.assert_array_equal(masks, expected)
    thin = np.zeros((20, 20), np.uint8)
    thin[7, 3] = 255
    Image.fromarray(thin).save(truth / "thin.png")
    masks = read_masks(photos, ["ground_truth/dent/thin.png"], (10, 10, 1))
    assert np.argwhere(masks).tolist() == [[0, 3, 1]]


def test_images_of_one_name_in_two_classes_keep_their_own_masks(photos, tmp_path):
    truth = {}
    for place in ("train/good/1", "test/good/1", "test/dent/1", "test/stain/1", "test/stain/2"):
        picture(photos / f"{place}.png")
        mask = np.zeros((10, 12), np.uint8)
        mask[len(truth), 2 * len(truth)] = 255
        truth[f"{place}.png"] = mask > 0
        path = photos / place.replace("test", "ground_truth").replace("train", "ground_truth")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(f"{path}_mask.png")
    pictures(photos / "train" / "good", 4)
    dataset = load_folder(photos, config(tmp_path))
    # Normal images have no defect, even if ground_truth has a mask.
    assert set(dataset.masks) == {name for name in truth if "good" not in name}
    masks = read_masks(photos, [*dataset.masks.values()], (10, 12, 1))
    for file, mask in zip(dataset.masks, masks, strict=True):
        np.testing.assert_array_equal(mask, truth[file])
    split = make_split(config(tmp_path), dataset)
    save_split(split, dataset, tmp_path / "split.json")
    assert split.masks == open_split(config(tmp_path), tmp_path / "split.json").masks
    assert dict(split.masks) == dict(dataset.masks)


@pytest.mark.parametrize("name", ["{}_truth2.png", "{} map.png", "{}/000.png"])
def test_masks_without_an_image_are_reported(name, photos, tmp_path):
    pictures(photos / "train" / "good", 6)
    pictures(photos / "test" / "good", 2)
    pictures(photos / "test" / "dent", 3)
    for number in range(3):
        mask(photos / "ground_truth" / "dent" / name.format(f"{number:03}"))
    mask(photos / "ground_truth" / "dent" / "001.png")
    mask(photos / "ground_truth" / "dent" / "001_mask.png")  # of one picture
    dataset = load_folder(photos, config(tmp_path))
    assert len(dataset.masks) == 1
    (line,) = (line for line in dataset.left_out if "mask" in line)
    assert line.startswith("left out: 4 masks that match no image of an anomaly; name them ")
    assert line in dataset.report
    split = make_split(config(tmp_path), dataset)
    assert split.left_out == dataset.left_out
    save_split(split, dataset, tmp_path / "split.json")
    (photos / "later.heic").touch()
    picture(photos / "test" / "dent" / "later.png")
    later = "\n".join(open_split(config(tmp_path), tmp_path / "split.json").left_out)
    for words in ("4 masks that the run does not use", "1 .heic", "1 image in no set of the run"):
        assert words in later


def test_training_reports_left_out_files_on_stderr(photos, tmp_path, capsys, monkeypatch):
    pictures(photos / "train", 6)
    pictures(photos / "validation", 2)
    for file in ("1.heic", "train/2.HEIC", "train/notes.txt"):
        (photos / file).touch()
    (photos / "train" / "broken.png").write_bytes(b"broken")
    shutil.copy(photos / "train" / "000.png", photos / "train" / "copy.png")

    def stop(*arguments: object) -> None:
        raise UserError("enough")

    monkeypatch.setattr(session, "make_split", stop)
    options = ["--approach", "vae", "--data", str(photos), "--max-broken", "0.5"]
    with pytest.raises(UserError, match="enough"):
        train.main([*options, "--run-dir", str(tmp_path / "run")])
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 5
    for words in (
        "skipped: 1 unreadable file",
        "left out: 1 copies",
        "left out: 2 images in formats that are not supported",
        "left out: 1 other file",
        "left out: 2 images beside train/ and test/",
    ):
        assert any(line.startswith(words) for line in lines)
    assert "read as" in said.out
    assert "left out" not in said.out


def test_classes_that_the_protocol_does_not_use_are_counted(photos, tmp_path):
    for place in ("train/good", "train/dent", "test/good", "test/dent"):
        pictures(photos / place, 5)
    dataset = load_folder(photos, config(tmp_path))
    split = make_split(config(tmp_path), dataset)
    assert split.left_out == (
        "left out: 4 images that approach autoencoder does not use under protocol one_class "
        "(first: train/dent/000.png)",
    )
    assert make_split(config(tmp_path, DualGanConfig), dataset).left_out == ()


@pytest.mark.parametrize(
    ("chosen", "normal"),
    [
        (("all",), ["2024-01-01", "2024-01-02", "all good", "dent"]),
        (("2024-*",), ["2024-01-01", "2024-01-02"]),
        (("2024-01-0[2-9]", "all*"), ["2024-01-02", "all good"]),
    ],
)
def test_classes_that_are_normal_need_not_be_listed(chosen, normal, photos, tmp_path):
    for name in ("2024-01-01", "2024-01-02", "dent", "all good"):
        pictures(photos / name, 5)
    asked = config(tmp_path, normal_class=chosen)
    split = make_split(asked, load_folder(photos, asked))
    assert [split.class_names[number] for number in split.roles.normal] == normal
    assert resolve(asked, split).normal_class == tuple(normal)


def test_a_split_is_opened_with_its_classes_and_roles_from_where_the_data_is(photos, tmp_path):
    for name, count in (("good", 12), ("stain 9", 8), ("stain 10", 4)):
        pictures(photos / name, count, size=(12, 20), mode="RGB")
    (photos / "good" / "000.png").write_bytes(b"broken")
    options = {"normal_class": ("good",), "protocol": "unseen", "max_broken": 0.5}
    chosen = config(tmp_path, DualGanConfig, **options)
    dataset = load_folder(photos, chosen)
    split = make_split(chosen, dataset)
    assert split.roles.seen
    assert split.roles.unseen
    save_split(split, dataset, tmp_path / "split.json")
    assert json.loads((tmp_path / "split.json").read_text())["skipped"] == list(dataset.skipped)
    moved = shutil.copytree(photos, tmp_path / "moved")
    for file in photos.rglob("*.png"):  # which is not to be read any more
        file.write_bytes(b"old")
    again = open_split(dataclasses.replace(chosen, data=str(moved)), tmp_path / "split.json")
    assert (again.roles, again.class_names) == (split.roles, split.class_names)
    for name in ("train", "validation", "test"):
        before, after = getattr(split, name), getattr(again, name)
        np.testing.assert_array_equal(after.images[:], before.images)
        np.testing.assert_array_equal(after.labels, before.labels)


def test_synthetic_anomalies_are_generated_again_and_not_saved(photos, tmp_path):
    pictures(photos, 30)
    chosen = config(tmp_path, protocol="corruption", seed=3)
    dataset = load_folder(photos, chosen)
    split = make_split(chosen, dataset)
    save_split(split, dataset, tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    assert sum(len(content[name]["files"]) for name in ("train", "validation", "test")) == 30
    again = open_split(chosen, tmp_path / "split.json")
    assert again.class_names == split.class_names
    assert again.test.files == split.test.files
    np.testing.assert_array_equal(again.test.images, split.test.images)
    np.testing.assert_array_equal(again.validation.classes, split.validation.classes)


def test_of_many_stored_images_some_are_corrupted(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(corruption_sets, "MAX_CORRUPTED", 4)
    pictures(photos, 30)
    on_disk = {"protocol": "corruption", "folder": FolderConfig(storage="disk")}
    chosen = config(tmp_path, **on_disk)
    split = make_split(chosen, load_folder(photos, chosen))
    assert split.test.labels.tolist() == [0] * 4 + [1] * 4 * (len(split.class_names) - 1)
    assert len(split.test.files) == len(split.test.classes) == len(split.test)
    left = len(load_folder(photos, chosen).train) - len(split.train.files) - 4 - 4
    said = [line for line in split.left_out if "would be kept in memory" in line]
    assert sum(int(line.split()[2]) for line in said) == left > 0


def test_masks_that_a_protocol_does_not_use_are_counted(photos, tmp_path):
    pictures(photos / "train" / "good", 12)
    pictures(photos / "test" / "good", 4)
    pictures(photos / "test" / "dent", 3)
    for number in range(3):
        mask(photos / "ground_truth" / "dent" / f"{number:03}.png")
    chosen = config(tmp_path, protocol="corruption")
    split = make_split(chosen, load_folder(photos, chosen))
    assert split.masks == {}
    assert "left out: 3 masks, which protocol corruption does not use" in split.left_out


def test_a_mask_outside_of_the_folder_is_refused(photos, tmp_path):
    pictures(photos, 10)
    chosen = config(tmp_path)
    dataset = load_folder(photos, chosen)
    save_split(make_split(chosen, dataset), dataset, tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    for masks in ({"a.png": "../b.png"}, {"../a.png": "b.png"}, {"a.png": "/b.png"}):
        (tmp_path / "split.json").write_text(json.dumps(content | {"masks": masks}))
        with pytest.raises(UserError, match="must be paths of files inside the folder"):
            open_split(chosen, tmp_path / "split.json")


def test_a_test_set_without_a_masked_image_is_compared_on_normal_ones(photos, tmp_path):
    pictures(photos / "train" / "good", 8)
    pictures(photos / "test" / "good", 3)
    pictures(photos / "test" / "dent", 3)
    split = make_split(config(tmp_path), load_folder(photos, config(tmp_path)))
    split = dataclasses.replace(split, masks={"train/dent/000.png": "ground_truth/dent/000.png"})
    chosen = masked_images(split, config(tmp_path), (10, 12, 1))
    assert (len(chosen.part), chosen.n_normal) == (3, 3)
    assert chosen.masks.shape == (3, 10, 12)
    assert not chosen.masks.any()


def test_layout_needs_names_only(photos):
    pictures(photos / "part 10", 1)
    pictures(photos / "part 9", 1)
    assert recognise(photos).class_names == ("part 9", "part 10")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "--normal-class gut",
            ["normal class gut does not exist", "choose one of: 0 dent, 1 good"],
        ),
        ("--normal-class goood", ["goood does not exist; did you mean good?"]),
        ("--normal-class dent,dent", ["names one class twice"]),
        ("--image-size 6", ["--image-size must be 8 to 1024"]),
        ("--image-size big", ["--image-size must be like 64 or 128x96; got big"]),
        ("--normal-class dent", ["holds 2 normal images", "at least 4"]),
        ("--approach sota", ["sota needs at least 3 labelled anomalies", "has 2"]),
    ],
)
def test_mistakes_end_in_one_line(options, words, photos, tmp_path, without_tensorflow):
    pictures(photos / "good", 12)
    pictures(photos / "dent", 2)
    arguments = ["--approach", "autoencoder", "--data", photos, "--run-dir", tmp_path / "run"]
    done = run_script("train.py", *arguments, *options.split(), env=without_tensorflow)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_path_with_a_line_break_stays_one_line(tmp_path):
    done = run_script("train.py", "--data", tmp_path / "no\nfolder", "--approach", "vae")
    assert_one_line(done, "no\\nfolder")


def test_a_disk_without_space_for_the_cache(photos, tmp_path, monkeypatch):
    pictures(photos, 5)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("anomaly_tf.data.folder_reading.shutil.disk_usage", lambda place: usage)
    on_disk = config(tmp_path, folder=FolderConfig(storage="disk"))
    with pytest.raises(UserError, match=r"decoded images need 0.0 GB .*--folder.cache false"):
        load_folder(photos, on_disk)
    assert not (tmp_path / "cache").exists()


def test_networks_that_do_not_fit_the_images(photos, tmp_path):
    pictures(photos, 6)
    options = ("--approach", "vae", "--data", photos, "--networks.filters", "8,8,8,8,8")
    done = run_script("train.py", *options, "--run-dir", tmp_path / "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "option --networks.filters must hold at most 4 values" in done.stderr
    assert not (tmp_path / "run").exists()


# As the names of folders and files may be.
HOSTILE = "a\n\x1b[31mb"


@pytest.mark.parametrize("status", ["completed", "interrupted"])
def test_training_prints_names_without_their_escapes(status, tmp_path, capsys, monkeypatch):
    photos = tmp_path / HOSTILE
    pictures(photos / "good", 8)
    pictures(photos / HOSTILE, 20)
    (photos / "good" / f"{HOSTILE}.png").write_text("no picture")
    (photos / "good" / f"text.{HOSTILE}").touch()
    info = weighing_detector((8, 8, 1), (1,)).info
    outcome = Outcome(status, info, f"stopped in {HOSTILE}" * (status == "interrupted"))
    monkeypatch.setattr(loop, "train", lambda *arguments, **keywords: outcome)
    options = ["--approach", "autoencoder", "--protocol", "corruption", "--data", str(photos)]
    options += ["--max-broken", "0.5", "--data-dir", str(tmp_path / "cache")]
    run = tmp_path / "run" / HOSTILE
    assert train.main([*options, "--run-dir", str(run)]) == {"completed": 0}.get(status, 130)
    said, errors = capsys.readouterr()
    assert (said + errors).replace("\n", "").isprintable()
    shown = r"a\n\x1b[31mb"
    for begin in ("images: ", "WARNING: good counts as normal", "data: ", "run: ", "next: "):
        (line,) = (line for line in said.splitlines() if line.startswith(begin))
        assert shown in line
    for word in ("other file", "images that approach", "unreadable file"):
        (line,) = (line for line in errors.splitlines() if word in line)
        assert shown in line
    assert errors.endswith(f"error: stopped in {shown}\n") == (status == "interrupted")


def test_a_complete_training_is_named_without_escapes(run_copy, tmp_path, capsys):
    run = run_copy.rename(tmp_path / HOSTILE)
    assert train.main(["--resume", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.count(r"a\n\x1b[31mb") == 2
    assert said.removesuffix("\n").isprintable()


def test_decoded_images_are_cached_only_in_the_folder_of_the_user(photos, tmp_path):
    pictures(photos / "good", 6)
    asked = config(tmp_path, folder=FolderConfig(storage="disk"))
    with only_read(tmp_path / "cache"):
        found = load_folder(photos, asked)
    assert isinstance(found.train.images, StoredImages)
    assert not (tmp_path / "cache").exists()
    load_folder(photos, asked)
    assert list((tmp_path / "cache").glob("folders/*/images"))
