"""The meaning of folder names, and contradictory layouts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_folders import config, mask, picture, pictures

from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.mask_rules import image_of, is_mask_folder
from anomaly_tf.data.masks import masked_images
from anomaly_tf.data.protocols import make_split
from anomaly_tf.errors import UserError


@pytest.mark.parametrize(
    ("layout", "below", "remedy"),
    [
        (["photos/good", "photos/bad"], "bad", "photos"),
        (
            ["bottle/train/good", "bottle/test/broken", "bottle/ground_truth/broken"],
            "test",
            "bottle",
        ),
        (
            ["Data/Images/Normal", "Data/Images/Anomaly", "Data/Masks/Anomaly"],
            "Anomaly",
            "Data/Images",
        ),
        (["cam1/ok", "cam1/nok", "cam2/ok"], "nok", "cam1"),
        (["normal", "normal/rejected"], "rejected", "normal"),
        (["train/a/good", "train/a/bad", "test/a/bad"], "bad", "a"),
        (["good/validation", "bad"], "validation", "good"),
    ],
)
def test_classes_below_a_class_are_refused(layout, below, remedy, tmp_path):
    folder = tmp_path / "data"
    for place in layout:
        for number in range(4):
            draw = mask if "ask" in place or "truth" in place else picture
            draw(folder / place / f"{number:03}.png")
    with pytest.raises(UserError, match=rf"{below}/ has the name .*--data \S*{remedy}, or move"):
        load_folder(folder, config(tmp_path))


def test_names_below_a_class_with_the_same_meaning_are_accepted(tmp_path):
    folder = tmp_path / "data"
    for place in ("good/ok", "good/monday", "bad/defect", "bad/deep/er"):
        pictures(folder / place, 4)
    dataset = load_folder(folder, config(tmp_path))
    assert dataset.class_names == ("bad", "good")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *(("ground truth", True), ("Ground-Truth", True), ("masks", True), ("defect_masks", True)),
        *(("unmasked", False), ("labels", True), ("label_missing", False), ("masked", False)),
    ],
)
def test_names_of_folders_of_masks(name, is_one):
    assert is_mask_folder(name) == is_one


@pytest.mark.parametrize(
    ("name", "image"),
    [
        *(("1_mask", "1"), ("1-mask", "1"), ("1.mask", "1"), ("mask_1", "1"), ("1 Mask", "1")),
        *(("a_seg", "a"), ("a_segmentation", "a"), ("a_ground_truth", "a"), ("gt-a", "a")),
        *(("a_b", "a_b"), ("mask", "mask"), ("unmask", "unmask"), ("masked_1", "masked_1")),
    ],
)
def test_names_of_masks(name, image):
    assert image_of(name) == image


@pytest.mark.parametrize("name", ["n{}-mask.png", "mask_n{}.png", "n{}.seg.png"])
def test_masks_beside_their_pictures_are_none(name, tmp_path):
    folder = tmp_path / "data"
    for number in range(12):
        picture(folder / f"n{number:02}.png")
    for number in range(4):
        mask(folder / name.format(f"{number:02}"))
    dataset = load_folder(folder, config(tmp_path))
    assert len(dataset.train) == 12
    assert any(line.startswith("left out: 4 masks that match no") for line in dataset.left_out)


def test_files_that_look_like_masks_of_other_images_are_reported(tmp_path):
    folder = tmp_path / "data"
    for number in range(12):
        picture(folder / f"n{number:02}.png")
        picture(folder / f"n{number:02}-again.png")
    assert not doubts(folder, tmp_path)
    for number in range(4):
        mask(folder / f"n{number:02}-where.png")
    (line,) = doubts(folder, tmp_path)
    assert "4 images with -where after the name of another" in line


def doubts(folder: Path, tmp_path: Path) -> list[str]:
    report = load_folder(folder, config(tmp_path)).report
    return [line for line in report if "like its mask" in line]


@pytest.mark.parametrize(
    ("levels", "doubted"),
    [
        ((255,), False),
        ((100, 200), False),
        ((100, 60, 200), True),
        ((1, 2, 255), True),
        ((1,), False),
    ],
)
def test_masks_of_several_levels_are_doubted(levels, doubted, tmp_path):
    folder = tmp_path / "data"
    pictures(folder / "good", 8)
    for number in range(3):
        picture(folder / "bad" / f"{number}.png")
        mask(folder / "ground_truth" / "bad" / f"{number}_mask.png", levels)
    report = load_folder(folder, config(tmp_path)).report
    assert any("have more dark grey than white pixels" in line for line in report) == doubted


def test_pictures_are_no_masks(tmp_path):
    folder = tmp_path / "data"
    pictures(folder / "good", 8)
    for number in range(3):
        picture(folder / "bad" / f"{number}.png", size=(40, 40))
    smooth = Image.fromarray(np.pad(np.full((20, 20), 255, np.uint8), 10))
    for number, image in enumerate(
        (smooth.resize((20, 20)).resize((40, 40)), Image.new("L", (9, 9)))
    ):
        (folder / "ground_truth" / "bad").mkdir(parents=True, exist_ok=True)
        image.resize((40, 40)).save(folder / "ground_truth" / "bad" / f"{number}.png")
    picture(folder / "ground_truth" / "bad" / "2.png", size=(40, 40))
    dataset = load_folder(folder, config(tmp_path))
    assert [Path(file).name for file in dataset.masks] == ["0.png"]
    (line,) = (line for line in dataset.left_out if "2.png" in line)
    assert "looks like an image, not like a mask" in line


def test_masks_of_pictures_that_count_as_normal_are_counted(tmp_path):
    folder = tmp_path / "data"
    for name in ("a", "b"):
        pictures(folder / name, 8)
        for number in range(8):
            mask(folder / "ground_truth" / name / f"{number:03}_mask.png")
    chosen = dataclasses.replace(config(tmp_path, normal_class=("a",)), data=str(folder))
    split = make_split(chosen, load_folder(folder, chosen))
    assert {Path(file).parent.name for file in split.masks} == {"b"}
    assert any("8 masks of images that count as normal" in line for line in split.left_out)
    compared = masked_images(split, chosen, (10, 12, 1))
    assert compared.n_normal + split.test.labels.sum() == len(compared.part)
    assert not compared.masks[: compared.n_normal].any()


def test_a_class_beside_anomalies_is_normal_if_it_is_the_more_frequent_one(tmp_path):
    folder = tmp_path / "data"
    pictures(folder / "defect", 8)
    pictures(folder / "scratch", 8)
    chosen = dataclasses.replace(config(tmp_path), data=str(folder))
    with pytest.raises(UserError, match=r"scratch \(8 images\) beside defect \(8\) need not be"):
        make_split(chosen, load_folder(folder, chosen))
    named = dataclasses.replace(chosen, normal_class=("scratch",))
    assert make_split(named, load_folder(folder, named)).roles.normal == (1,)
    picture(folder / "scratch" / "one more.png")
    assert make_split(chosen, load_folder(folder, chosen)).roles.normal == (1,)
