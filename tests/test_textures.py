"""Crops of photographs with drawn defects; only `make bench-photos` installs the photographs."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from measurements import textures
from measurements.textures import CLASS_NAMES, DEFECTS, TEXTURES, make_textures

with_photographs = pytest.mark.skipif(
    find_spec("skimage") is None, reason="scikit-image (requirements-photos.txt) is not installed"
)


def files_of(folder) -> dict[str, list[str]]:
    """Names of the files by folder."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.png")):
        found.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path.name)
    return found


def is_cut_from(crop: np.ndarray, texture: np.ndarray) -> bool:
    """True if a crop is in a texture, at any position and flipped in any way."""
    windows = np.lib.stride_tricks.sliding_window_view(texture, crop.shape)
    for flipped in (crop, crop[::-1], crop[:, ::-1], crop[::-1, ::-1]):
        candidates = windows[..., 0, :8] == flipped[0, :8]
        for y, x in np.argwhere(candidates.all(axis=-1)):
            if np.array_equal(windows[y, x], flipped):
                return True
    return False


@with_photographs
@pytest.mark.parametrize("name", TEXTURES)
def test_training_and_test_are_cut_from_two_halves(name):
    photograph = textures.photograph(name)
    upper, lower = photograph[:256], photograph[256:]
    crops = make_textures(name, 0, train=3, test=3, size=64)
    assert all(is_cut_from(crop, upper) for crop in crops.train_images)
    good = crops.test_images[crops.test_classes == 0]
    assert len(good) == 3
    assert all(is_cut_from(crop, lower) for crop in good)
    assert not any(is_cut_from(crop, upper) for crop in good)


@with_photographs
@pytest.mark.parametrize("name", TEXTURES)
def test_defects_are_where_their_masks_say(name):
    crops = make_textures(name, 3, train=1, test=4)
    np.testing.assert_array_equal(crops.test_masks.any(axis=(1, 2)), crops.test_classes > 0)
    shares = crops.test_masks[crops.test_classes > 0].mean(axis=(1, 2))
    assert shares.min() > 1e-3
    assert shares.max() < 0.2


@with_photographs
@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_changes_its_pixels_and_few_others(kind):
    rng = np.random.default_rng(1)
    crop = textures.photograph("gravel")[:128, :128]
    image, mask = textures.draw_defect(rng, crop, kind, "gravel")
    change = np.abs(image.astype(int) - crop)
    assert change[mask].mean() >= textures.MIN_CHANGE
    # The soft edge of a defect is beside its mask.
    assert (change[~mask] > 0).sum() <= 1.5 * mask.sum()
    assert (image.dtype, image.shape, mask.dtype) == (np.uint8, crop.shape, bool)


@with_photographs
def test_a_defect_that_would_not_show_is_refused():
    flat = np.full((64, 64), 100, np.uint8)
    with pytest.raises(ValueError, match="blur hardly changes this crop of brick"):
        textures.draw_defect(np.random.default_rng(0), flat, "blur", "brick")


@with_photographs
def test_crops_depend_on_seed_and_photograph_only():
    first, again, other = (make_textures("grass", seed, 2, 1, size=64) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.test_images, again.test_images)
    np.testing.assert_array_equal(first.train_images, again.train_images)
    assert not np.array_equal(first.train_images, other.train_images)


@with_photographs
def test_the_files_are_those_of_mvtec_ad(tmp_path):
    textures.write_textures(tmp_path, "brick", seed=0, train=3, test=2)
    expected = {"train/good": ["000.png", "001.png", "002.png"]}
    expected |= {f"test/{name}": ["000.png", "001.png"] for name in CLASS_NAMES}
    masks = ["000_mask.png", "001_mask.png"]
    expected |= {f"ground_truth/{name}": masks for name in DEFECTS}
    assert files_of(tmp_path) == expected
    crops = make_textures("brick", 0, train=3, test=2)
    mask = np.asarray(Image.open(tmp_path / "ground_truth" / DEFECTS[0] / "001_mask.png"))
    np.testing.assert_array_equal(mask, crops.test_masks[3] * np.uint8(255))


@with_photographs
def test_no_test_crop_of_the_gravel_has_pixels_of_a_training_crop(tmp_path):
    textures.write_gravel(tmp_path)
    counts = {place: len(names) for place, names in files_of(tmp_path).items()}
    assert counts == {
        "train/good": 12,
        "test/good": 13,
        "test/grass": 16,
        "test/brick": 16,
        "test/coin": 13,
        "test/scratch": 13,
    }

    def crops(place: str) -> list[np.ndarray]:
        return [np.asarray(Image.open(path)) for path in sorted((tmp_path / place).iterdir())]

    gravel = textures.photograph("gravel")
    assert all(is_cut_from(crop, gravel[:384]) for crop in crops("train/good"))
    assert all(is_cut_from(crop, gravel[384:]) for crop in crops("test/good"))
    for kind in ("coin", "scratch"):
        for good, defective in zip(crops("test/good"), crops(f"test/{kind}"), strict=True):
            assert 0 < (good != defective).mean() < 0.2
