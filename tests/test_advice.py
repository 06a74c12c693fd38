"""What is found in a data set before training, and what the user is advised."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from anomaly_tf.approaches import options_of
from anomaly_tf.choice import describe_choice, first_choice
from anomaly_tf.config import Config, ThresholdConfig
from anomaly_tf.data import folder_report
from anomaly_tf.data.advice import ALIGNED, COMPARED, FEW, Findings, advice, alikeness, findings
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.folder_reading import Scan
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.stored import StoredImages
from measurements.surfaces import make_surfaces

MANY = Findings(
    n_normal=300,
    n_calibration=30,
    n_anomalies=0,
    n_kinds=0,
    image_shape=(96, 128, 3),
    alikeness=0.5,
)


def found_with(**changes) -> Findings:
    return dataclasses.replace(MANY, **changes)


def config_of(approach: str, **changes) -> Config:
    return options_of(approach)(**changes)


def gravel(count: int, side: int = 64, grain: float = 2) -> np.ndarray:
    rng = np.random.default_rng(7)
    noise = [ndimage.gaussian_filter(rng.normal(size=(side, side)), grain) for _ in range(count)]
    grey = np.stack([128 + 40 * picture / picture.std() for picture in noise])
    return grey.clip(0, 255).astype(np.uint8)[..., None]


def shirts(fashion: ImageDataset, count: int = 60) -> np.ndarray:
    """T-shirts, drawn at random: the data set is sorted by bytes."""
    numbers = np.flatnonzero(fashion.train_classes == 0)
    return fashion.train_images[np.random.default_rng(0).choice(numbers, count)]


def enlarged(images: np.ndarray) -> np.ndarray:
    big = [Image.fromarray(image[..., 0]).resize((96, 64)) for image in images]
    return np.stack([np.asarray(picture.convert("RGB")) for picture in big])


def dataset_of(train: np.ndarray, classes: np.ndarray, test: int = 0) -> ImageDataset:
    """Good images (0), scratches (1) and dents (2); the last test images are the test set."""
    images = ImageSet(train, classes)
    cut = len(train) - test
    names = ("good", "scratch", "dent")[: classes.max() + 1]
    return ImageDataset("x", images.take(slice(cut)), images.take(slice(cut, None)), names)


def test_pictures_of_one_object_are_alike_and_turned_ones_are_not(fashion):
    upright = shirts(fashion)
    turns = np.random.default_rng(0).uniform(0, 360, len(upright))
    turned = [
        ndimage.rotate(image, turn, reshape=False, order=1)
        for image, turn in zip(upright, turns, strict=True)
    ]
    assert alikeness(upright) > 0.3
    assert alikeness(enlarged(upright)) > 0.3
    assert alikeness(np.stack(turned)) < ALIGNED


def test_textures_are_not_alike_whatever_the_light():
    side = np.linspace(0.3, 1, 64)
    lit_from_a_side = (gravel(40) * side[:, None]).astype(np.uint8)
    corners = 1 - 0.4 * (np.linspace(-1, 1, 64)[:, None] ** 2 + np.linspace(-1, 1, 64) ** 2) / 2
    dark_corners = (gravel(40) * corners[..., None]).astype(np.uint8)
    cloth = make_surfaces(seed=3, train=40, test=1, size=64).train_images
    for pictures in (gravel(40), lit_from_a_side, dark_corners, cloth):
        assert abs(alikeness(pictures)) < 0.05


def test_alikeness_at_its_ends():
    same = np.repeat(gravel(1), 8, axis=0)
    assert alikeness(same) == pytest.approx(1)
    assert alikeness(np.full((8, 20, 30, 3), 90, np.uint8)) == 0
    opposite = np.concatenate([same[:1], 255 - same[:1]])
    assert alikeness(opposite) == pytest.approx(-1, abs=1e-3)


def test_findings_count_what_training_could_learn_from():
    images = gravel(120, side=32)
    classes = np.array([0] * 70 + [1] * 20 + [2] * 10 + [0] * 10 + [1] * 10)
    dataset = dataset_of(images, classes, test=20)
    found = findings(dataset, make_split(config_of("vae"), dataset))
    assert (found.n_anomalies, found.n_kinds) == (30, 2)
    assert (found.n_normal + found.n_calibration, found.n_calibration) == (70, 7)
    assert found.image_shape == (32, 32, 1)
    learning = findings(dataset, make_split(config_of("sota"), dataset))
    assert learning.n_normal == found.n_normal
    assert abs(found.alikeness) < 0.1
    assert not found.is_aligned


def test_few_images_are_not_compared():
    dataset = dataset_of(np.repeat(gravel(1), 9, axis=0), np.zeros(9, np.int16), test=3)
    assert findings(dataset, make_split(config_of("vae"), dataset)).alikeness is None
    more = dataset_of(np.repeat(gravel(1), 19, axis=0), np.zeros(19, np.int16), test=3)
    assert findings(more, make_split(config_of("vae"), more)).is_aligned


def test_images_on_disk_are_read_as_a_sample():
    images, read = gravel(400, side=16), []

    def from_disk(numbers: np.ndarray) -> np.ndarray:
        read.extend(numbers.tolist())
        return images[numbers]

    stored = StoredImages(from_disk, np.arange(400), (16, 16, 1))
    classes = np.zeros(400, np.int16)
    dataset = dataset_of(images, classes)
    split = make_split(config_of("vae"), dataset)
    on_disk = {
        name: dataclasses.replace(part, images=stored.subset(np.arange(len(part))))
        for name, part in (("train", split.train), ("validation", split.validation))
    }
    assert len(split.train) > COMPARED
    findings(dataset, dataclasses.replace(split, **on_disk))
    assert len(read) == COMPARED


def test_a_good_data_set_needs_no_notes():
    assert advice(config_of("vae"), MANY) == ()


def test_a_dozen_images():
    few = found_with(n_normal=7, n_calibration=2)
    learning, threshold = advice(config_of("vae"), few)
    assert learning.startswith("note: 7 normal images to learn from")
    assert "the threshold rests on 2 normal images" in threshold
    assert "expect about 35% false alarms, not 5%; no rate below 33%" in threshold
    high = config_of("vae", threshold=ThresholdConfig(percentile=99.5))
    assert "about 34% false alarms, not 0.5%;" in advice(high, few)[1]
    promised = config_of("vae", threshold=ThresholdConfig("conformal", false_alarm_rate=0.4))
    assert advice(promised, few) == (learning,)
    assert advice(config_of("vae"), found_with(n_calibration=20)) == ()
    assert len(advice(config_of("vae"), found_with(n_calibration=19))) == 1
    assert advice(config_of("vae"), found_with(n_normal=FEW)) == ()


@pytest.mark.parametrize(
    ("approach", "changes", "said"),
    [
        ("vae", {"alikeness": 0.02}, "take smoother ones for normal"),
        ("vae", {"alikeness": ALIGNED}, ""),
        ("vae", {"alikeness": None}, ""),
        ("vae", {"alikeness": 0.02, "image_shape": (28, 28, 1)}, "turn"),
        ("transform", {"alikeness": 0.02, "image_shape": (28, 28, 1)}, "turn"),
        ("transform", {"alikeness": 0.02}, ""),
        ("patchcore", {"alikeness": 0.02}, ""),
    ],
)
def test_pictures_that_are_not_aligned(approach, changes, said):
    lines = advice(config_of(approach), found_with(**changes))
    assert len(lines) == bool(said)
    for line in lines:
        assert "not aligned (alikeness 0.02" in line
        assert said in line


@pytest.mark.parametrize(
    ("changes", "first", "why"),
    [
        ({}, "padim", "96x128 pixels, aligned, 0.50, no labelled anomalies"),
        ({"alikeness": 0.1}, "patchcore", "96x128 pixels, not aligned, 0.10, no labelled"),
        ({"alikeness": None}, "patchcore", "too few pictures to see whether they are aligned"),
        ({"image_shape": (48, 64, 3)}, "transform", "small pictures, 48x64"),
        ({"n_anomalies": 30, "n_kinds": 3}, "padim", "30 labelled anomalies"),
        ({"n_anomalies": 99, "n_kinds": 1, "image_shape": (28, 28, 1)}, "transform", "99 labelled"),
        ({"n_anomalies": 100, "n_kinds": 1, "image_shape": (28, 28, 1)}, "sota", "of 1 kind"),
    ],
)
def test_first_choice(changes, first, why):
    found = found_with(**changes)
    name, reason = first_choice(found)
    assert name == first
    assert why in reason
    assert describe_choice(config_of(first), found) == (
        f"approach: {first} is the first choice for this data ({reason})",
    )


SMALL = {"image_shape": (28, 28, 1)}
LABELLED = {"n_anomalies": 200, "n_kinds": 2}


@pytest.mark.parametrize(
    ("approach", "changes", "expected"),
    [
        ("autoencoder", SMALL, "0.928, of transform 0.955"),
        ("vae", SMALL, "0.933, of transform 0.955"),
        ("ganomaly", SMALL, "of transform"),
        ("sota", SMALL | {"n_anomalies": 10}, "memorised"),
        ("gan", {"n_anomalies": 10}, "memorised"),
        ("vae", SMALL | LABELLED, "vae learns nothing from labelled anomalies"),
        ("supervised", SMALL | LABELLED, "kinds of anomalies that are not in training"),
        ("contrastive", SMALL | LABELLED, "of sota 0.969"),
        ("transform", {}, "many times longer"),
        ("ganomaly", {}, "misses small defects"),
        ("vae", {}, "vae begins without knowing any photograph"),
        ("padim", {"alikeness": 0.0}, "padim expects the same part at the same position"),
        ("patchcore", {}, "patchcore does not know what belongs where"),
    ],
)
def test_another_approach_than_the_first_choice(approach, changes, expected):
    found = found_with(**changes)
    (line,) = describe_choice(config_of(approach), found)
    assert line.startswith(f"approach: {approach}; the first choice for this data is ")
    assert expected in line


def test_no_choice_where_the_protocol_decides():
    assert describe_choice(config_of("cnn"), MANY) == ()
    assert describe_choice(config_of("vae", protocol="corruption"), MANY) == ()


@pytest.mark.parametrize("size", [1, 2, 5, 19])
def test_the_false_alarms_that_are_expected_are_those_that_come(size):
    rng = np.random.default_rng(0)
    normal = rng.exponential(size=(20_000, size))
    thresholds = np.percentile(normal, 95, axis=1)
    rate = float(np.mean(np.exp(-thresholds)))
    (line,) = advice(config_of("vae"), found_with(n_calibration=size))
    said = int(line.partition("about ")[2].partition("%")[0]) / 100
    assert said == pytest.approx(rate, abs=0.015)


@pytest.mark.parametrize(("side", "lines"), [(1023, 0), (1024, 1), (4000, 1)])
def test_large_photographs_lose_small_defects(side, lines):
    scan = Scan((96, 128, 3), [[side, 700, 9], [64, 64, 3]], n_grayscale=0, broken={})
    said = folder_report.shrunk(scan)
    assert len(said) == lines
    for line in said:
        assert f"pictures of {side}x700 become {side / 128:.0f} times smaller" in line
        assert f"below {side / 128:.0f} pixels" in line
