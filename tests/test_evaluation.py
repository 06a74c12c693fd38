"""What evaluate.py measures on images whose scores and maps can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import plain_images, weighing_detector
from PIL import Image

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.approaches.dual_gan.options import DualGanConfig
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roles import Roles
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_file import open_split, save_split
from anomaly_tf.reporting.evaluation import evaluate
from anomaly_tf.reporting.table import table
from anomaly_tf.runs.directory import RunDirectory

# Red pixels of each picture, which are all of its score: number / 80 of 10 x 8 pixels.
TESTED = {
    "good": {"a": 2, "b": 10, "c": 0},
    "dent": {"a": 8, "b": 4, "c": 12},
    "stain": {"a": 1, "b": 6},
}
WITHOUT_MASK = ("stain", "a")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory) -> dict:
    """Of a folder of blue pictures; a defect is red, and marked by a mask, each elsewhere."""
    folder = tmp_path_factory.mktemp("evaluation")
    photos = folder / "photos"
    colours = np.zeros((10, 8, 3), np.uint8)
    colours[..., 2] = 255
    for number in range(6):
        save(
            colours - np.array([0, 0, number], np.uint8),
            photos / "train" / "good" / f"{number}.png",
        )
    place = 0
    for name, pictures in TESTED.items():
        for stem, count in pictures.items():
            red = np.zeros(80, bool)
            red[place : place + count] = True
            place += count
            picture = colours.copy()
            picture[red.reshape(10, 8)] = (255, 0, 0)
            save(picture, photos / "test" / name / f"{stem}.png")
            if name != "good" and (name, stem) != WITHOUT_MASK:
                mask = 255 * red.reshape(10, 8).astype(np.uint8)
                save(mask, photos / "ground_truth" / name / f"{stem}_mask.png")
    config = AutoencoderConfig(data=str(photos), data_dir=str(folder), image_size="10x8")
    dataset = load_folder(photos, config)
    save_split(make_split(config, dataset), dataset, folder / "split.json")
    detector = weighing_detector((10, 8, 3), (1, 0, 0), threshold=5 / 80)
    detector.info.class_names = list(dataset.class_names)
    run = RunDirectory(folder / "run")
    return evaluate(detector, open_split(config, folder / "split.json"), config, run)


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_each_picture_is_scored_as_what_it_is(metrics):
    # Dents of 8, 4 and 12 against 2, 10 and 0 win 2 + 2 + 3 of 9; stains of 1 and 6 win 1 + 2 of 6.
    assert metrics["auroc_by_class"] == pytest.approx({"dent": 7 / 9, "stain": 3 / 6})
    assert metrics["auroc"] == pytest.approx(10 / 15)
    # From 5 on: 10 of the good ones; 8, 12 and 6 of the others.
    assert metrics["confusion_matrix"] == [[2, 1], [2, 3]]
    assert metrics["test_detection_rate"] == pytest.approx(3 / 5)
    assert metrics["normal_scores"]["median"] == pytest.approx(2 / 80)
    assert (metrics["n_test"], metrics["normal_class_name"]) == (8, "good")


def test_the_most_unusual_normal_pictures_are_named(metrics):
    found = {row["file"]: row["score"] for row in metrics["most_unusual_normal"]}
    assert list(found) == ["test/good/b.png", "test/good/a.png", "test/good/c.png"]
    assert list(found.values()) == pytest.approx([10 / 80, 2 / 80, 0], abs=1e-6)


def test_each_map_is_compared_with_the_mask_of_its_own_picture(metrics):
    # Four masks of 8 + 4 + 12 + 6 pixels, all found. Of the 3 x 80 pixels of good pictures and the
    # 4 x 80 - 30 others of marked ones, 12 are as red; the picture without a mask is left out.
    assert metrics["n_masks"] == 4
    assert metrics["pixel_auroc"] == pytest.approx((530 - 12 / 2) / 530)
    # Up to 12 / 530 of false positives the overlap rises from 0 to 1, where it stays up to 0.3.
    assert metrics["aupro"] == pytest.approx((0.3 - 12 / 530 / 2) / 0.3)


def test_seen_and_unseen_classes_are_measured_apart(tmp_path):
    # Classes: 0 normal, 1 seen in training, 2 unseen.
    test = plain_images([20, 80, 60, 90, 10, 70, 95], [0, 0, 1, 1, 2, 2, 2])
    empty = plain_images([], [])
    split = Split(empty, empty, test, Roles((0,), (1,), (2,)), ("good", "dent", "stain"))
    detector = weighing_detector((8, 8, 1), (1,), threshold=65 / 255)
    detector.info.class_names = list(split.class_names)
    config = DualGanConfig(protocol="unseen", normal_class=("good",), seed=4)
    metrics = evaluate(detector, split, config, RunDirectory(tmp_path / "run"))
    # Unseen: 10 beats none of 20 and 80, 70 beats one, 95 both. Seen: 60 beats one, 90 both.
    assert metrics["auroc"] == metrics["auroc_unseen"] == pytest.approx(3 / 6)
    assert metrics["auroc_seen"] == pytest.approx(3 / 4)
    assert metrics["confusion_matrix"] == [[1, 1], [1, 2]]
    assert (metrics["n_test"], metrics["seed"], metrics["protocol"]) == (5, 4, "unseen")
    assert (metrics["seen_classes"], metrics["unseen_classes"]) == (["dent"], ["stain"])
    assert "AUROC against stain (unseen)" in table(metrics)
