"""The generated surfaces: files in MVTec AD's layout, neither trivial nor impossible."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from measurements.surfaces import CLASS_NAMES, DEFECTS, Surfaces, make_surfaces, write_surfaces


@pytest.fixture(scope="module")
def drawn() -> Surfaces:
    return make_surfaces(0, train=40, test=40)


def test_the_files_are_those_of_mvtec_ad_and_hold_the_pictures(tmp_path):
    write_surfaces(tmp_path, seed=3, train=3, test=2, size=64)
    surfaces = make_surfaces(3, train=3, test=2, size=64)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    expected = [f"train/good/00{number}.png" for number in range(3)]
    expected += [f"test/{name}/00{number}.png" for name in CLASS_NAMES for number in range(2)]
    expected += [f"ground_truth/{name}/00{n}_mask.png" for name in DEFECTS for n in range(2)]
    assert files == sorted(expected)
    last = CLASS_NAMES[-1]
    picture = np.asarray(Image.open(tmp_path / f"test/{last}/001.png"))
    np.testing.assert_array_equal(picture, surfaces.test_images[-1])
    mask = np.asarray(Image.open(tmp_path / f"ground_truth/{last}/001_mask.png"))
    np.testing.assert_array_equal(mask, surfaces.test_masks[-1] * np.uint8(255))


def test_every_defect_has_a_place_and_no_good_picture_has_one(drawn):
    defective = drawn.test_masks.any(axis=(1, 2))
    np.testing.assert_array_equal(defective, drawn.test_classes > 0)
    shares = drawn.test_masks[defective].mean(axis=(1, 2))
    assert shares.min() > 1e-3
    assert shares.max() < 0.15


def test_images_depend_on_the_seed_only(drawn):
    again, other = make_surfaces(0, 2, 1), make_surfaces(1, 2, 1)
    np.testing.assert_array_equal(again.train_images, drawn.train_images[:2])
    assert not np.array_equal(again.train_images, other.train_images)


def test_trivial_scores_do_not_find_the_defects(drawn):
    truth = drawn.test_classes > 0
    images = drawn.test_images / 255
    brightness = images.mean(axis=(1, 2, 3))
    assert 0.3 < roc_auc_score(truth, brightness) < 0.7
    difference = np.square(images - drawn.train_images.mean(axis=0) / 255).mean(axis=(1, 2, 3))
    assert roc_auc_score(truth, difference) < 0.8


def test_defects_show_within_their_masks(drawn):
    """Each defect departs from the flawless picture's colours where its mask says."""
    images = drawn.test_images / 255
    for number in range(1, len(CLASS_NAMES)):
        chosen = drawn.test_classes == number
        own = images[chosen] - images[chosen].mean(axis=(1, 2), keepdims=True)
        error = np.square(own).mean(axis=-1)
        inside = drawn.test_masks[chosen]
        assert error[inside].mean() > 1.5 * error[~inside].mean(), CLASS_NAMES[number]
