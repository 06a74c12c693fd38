"""Masks: the files that are masks, and the pixels that they mark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.data.folder_layout import recognise
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.mask_rules import looks_like_mask, marked
from anomaly_tf.data.masks import read_masks
from anomaly_tf.errors import UserError

RANDOM = np.random.default_rng(0)
# The pixels that all masks of this file mark.
TRUTH = np.zeros((16, 20), bool)
TRUTH[4:9, 6:13] = True


def picture(path: Path) -> None:
    """A picture of noise, unlike every other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, (*TRUTH.shape, 3), np.uint8)).save(path)


def mask(path: Path, truth: np.ndarray = TRUTH) -> None:
    """A mask, white on black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(255 * truth.astype(np.uint8)).save(path)


def levels(black: int, white: int, dtype: type = np.uint8) -> np.ndarray:
    return np.where(TRUTH, white, black).astype(dtype)


def coloured(red: int, green: int, blue: int) -> np.ndarray:
    return TRUTH[..., np.newaxis] * np.array([red, green, blue], np.uint8)


def with_opacity(colour: int, opacity: np.ndarray) -> Image.Image:
    parts = [Image.fromarray(np.full(TRUTH.shape, colour, np.uint8))] * 3
    return Image.merge("RGBA", [*parts, Image.fromarray(opacity)])


def palette() -> Image.Image:
    image = Image.fromarray(levels(0, 1)).convert("P")
    image.putpalette([0, 0, 0, 64, 0, 0])  # a dark colour for the first kind
    return image


KINDS = {
    "white": (Image.fromarray(levels(0, 255)), "grey above 127"),
    "bilevel": (Image.fromarray(levels(0, 255)).convert("1"), "grey above 127"),
    "ones": (Image.fromarray(levels(0, 1)), "grey above 0"),
    "kinds": (Image.fromarray(levels(0, 3)), "grey above 0"),
    "dim": (Image.fromarray(levels(0, 100)), "grey above 0"),
    "smooth": (Image.fromarray(np.where(TRUTH, 255, 90).astype(np.uint8)), "grey above 127"),
    "deep": (Image.fromarray(levels(0, 65535, np.uint16)), "grey above 0"),
    "deep ones": (Image.fromarray(levels(0, 1, np.uint16)), "grey above 0"),
    "red": (Image.fromarray(coloured(255, 0, 0)), "colour above 127"),
    "blue": (Image.fromarray(coloured(0, 0, 200)), "colour above 127"),
    "grey in colour": (Image.fromarray(coloured(255, 255, 255)), "grey above 127"),
    "palette": (palette(), "colour above 127"),
    "opaque": (with_opacity(0, levels(0, 255)), "opacity above 127"),
    "half opaque": (with_opacity(255, levels(0, 90)), "opacity above 0"),
    "all opaque": (Image.fromarray(coloured(0, 255, 0)).convert("RGBA"), "colour above 127"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_mask_marks_the_anomaly(kind, tmp_path):
    image, words = KINDS[kind]
    path = tmp_path / "mask.png"
    image.save(path)
    where, said = marked(path)
    np.testing.assert_array_equal(where, TRUTH)
    assert said == words
    np.testing.assert_array_equal(read_masks(tmp_path, ["mask.png"], (16, 20, 3))[0], TRUTH)
    assert looks_like_mask(path)


def test_noise_of_a_lossy_mask_marks_nothing(tmp_path):
    path = tmp_path / "mask.jpg"
    Image.fromarray(levels(0, 255)).resize((200, 160), Image.Resampling.NEAREST).save(path)
    where, _ = marked(path)
    assert np.mean(where != np.kron(TRUTH, np.ones((10, 10), bool))) < 0.01
    assert looks_like_mask(path)
    Image.fromarray(RANDOM.integers(0, 20, (64, 64), np.uint8)).save(path)
    assert not marked(path)[0].any()
    picture(tmp_path / "photo.jpg")
    assert not looks_like_mask(tmp_path / "photo.jpg")


def loaded(folder: Path):
    return load_folder(folder, AutoencoderConfig(data=str(folder), data_dir=str(folder / "cache")))


def test_masks_are_reported_with_warnings(tmp_path):
    for number in range(6):
        picture(tmp_path / "train" / "good" / f"{number}.png")
        picture(tmp_path / "test" / "good" / f"{number}.png")
        picture(tmp_path / "test" / "dent" / f"{number}.png")
    truth = tmp_path / "ground_truth" / "dent"
    for number, where in enumerate((TRUTH, TRUTH, ~TRUTH, np.zeros_like(TRUTH))):
        mask(truth / f"{number}_mask.png", where)
    Image.fromarray(levels(0, 1)).save(truth / "1_mask.png")
    dataset = loaded(tmp_path)
    assert len(dataset.masks) == 3
    report = "\n".join(dataset.report)
    assert "left out: 1 mask (" in report
    assert "3_mask.png marks nothing" in report
    assert "masks mark the anomaly by grey above 127 (2), grey above 0 (1)" in report
    (line,) = (line for line in dataset.report if "WARNING" in line)
    assert "1 of 3 masks mark more than half of their image (first: ground_truth" in line


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ("crack/{}.png", "mask/crack/{}.png"),
        ("crack/{}.png", "Masks/{}.png"),
        ("crack/{}.png", "annotations/crack/{}_mask.png"),
        ("crack/{}.png", "crack/labels/{}.png"),
        ("crack/{}.png", "crack/{}_label.png"),
        ("crack/{}.png", "crack/{}_GT.png"),
        ("test/crack/{}.png", "test/masks/crack/{}.png"),
        ("test/crack/{}.png", "masks/crack/{}.png"),
        ("test/crack/{}.png", "test/crack/mask/{}.png"),
    ],
)
def test_masks_beside_class_folders_are_no_class(image, place, tmp_path):
    divided = image.startswith("test")
    for number in range(4):
        picture(tmp_path / ("train/good" if divided else "good") / f"g{number}.png")
        picture(tmp_path / image.format(number))
        mask(tmp_path / place.format(number))
    layout = recognise(tmp_path)
    assert set(layout.class_names) == {"crack", "good"}
    expected = {image.format(number): place.format(number) for number in range(4)}
    assert layout.masks == expected
    (note,) = (note for note in layout.notes if "masks of anomalies" in note)
    assert "4 masks of anomalies, by name and content" in note


def test_masks_of_one_name_for_two_images_are_paired_with_neither(tmp_path):
    for place in ("good/g", "crack/1", "dent/1", "crack/2", "good/3"):
        picture(tmp_path / f"{place}.png")
    for name in ("1", "2", "3"):
        mask(tmp_path / "masks" / f"{name}.png")
    assert recognise(tmp_path).masks == {"crack/2.png": "masks/2.png"}


def test_photos_in_a_folder_that_is_called_as_masks_are_a_class(tmp_path):
    for place in ("good", "label"):  # labels that stick askew
        for number in range(4):
            picture(tmp_path / place / f"{number}.png")
    layout = recognise(tmp_path)
    assert layout.class_names == ("good", "label")
    assert layout.masks == {}
    (note,) = layout.notes
    assert "WARNING: label/ is read as images of a class" in note


def test_masks_in_a_folder_of_another_name_are_doubted(tmp_path):
    for number in range(5):
        picture(tmp_path / "good" / f"g{number}.png")
        picture(tmp_path / "crack" / f"{number}.png")
        mask(tmp_path / "bw" / f"{number}.png")
    (note,) = recognise(tmp_path).notes
    assert "WARNING: bw/ is read as a class but looks like masks" in note
    # Of two classes of black-and-white images neither is.
    for number in range(5):
        mask(tmp_path / "crack" / f"{number}.png", ~TRUTH)
    assert recognise(tmp_path).notes == ()


def test_a_folder_of_masks_and_images_is_refused(tmp_path):
    for number in range(4):
        picture(tmp_path / "good" / f"{number}.png")
        mask(tmp_path / "masks" / f"{number}.png")
    (tmp_path / "masks" / "8.png").write_bytes(b"broken, which says neither")
    assert recognise(tmp_path).class_names == ("good",)
    picture(tmp_path / "masks" / "9.png")
    with pytest.raises(
        UserError, match=r"masks has a name for masks and also holds images .*9\.png"
    ):
        recognise(tmp_path)


def test_a_folder_of_black_and_white_images_only_holds_images(tmp_path):
    for number in range(4):
        mask(tmp_path / "labels" / f"{number}.png")
    assert len(recognise(tmp_path).files) == 4
