"""Protocol contaminated: unlabelled anomalies among the normal training images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from test_protocols import contents, numbered

import anomaly_tf
from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.approaches.vae.options import VaeConfig
from anomaly_tf.benchmark import BenchmarkOptions, Cell, settings_of
from anomaly_tf.command_line import parse_train_options
from anomaly_tf.config import NormalImagesConfig
from anomaly_tf.data.advice import findings
from anomaly_tf.data.contamination import contaminants
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.sources import open_dataset
from anomaly_tf.data.split_file import open_split, save_split
from anomaly_tf.errors import UserError

CLEAN = VaeConfig(normal_class=(3,))
CONTAMINATED = dataclasses.replace(CLEAN, protocol="contaminated")


def test_every_approach_that_learns_from_normal_images_has_the_protocol():
    learning = {name for name in APPROACHES if options_of(name).learns_from == "normal images"}
    having = {name for name in APPROACHES if "contaminated" in options_of(name).protocols}
    assert learning == having == {n for n in APPROACHES if hasattr(options_of(n), "contamination")}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.5])
def test_the_share_is_that_of_all_training_images(share):
    classes = np.repeat([0, 1, 2], [500, 300, 300])
    mixed = contaminants(classes, (0,), share, 0, "data")
    assert not mixed[classes == 0].any()
    assert mixed.sum() / (500 + mixed.sum()) == pytest.approx(share, abs=0.5 / 500)


def test_the_seed_draws_and_a_larger_share_adds_to_a_smaller_one():
    classes = np.repeat([0, 1, 2], 500)
    small, large = (contaminants(classes, (0,), share, 7, "data") for share in (0.05, 0.1))
    assert not (small & ~large).any()
    assert not np.array_equal(small, contaminants(classes, (0,), 0.05, 8, "data"))
    assert set(classes[small]) == {1, 2}


def test_anomalies_are_added_to_training_and_nothing_else_changes(fashion):
    clean, mixed = make_split(CLEAN, fashion), make_split(CONTAMINATED, fashion)
    hidden = mixed.hidden
    assert (len(hidden), int(hidden.sum())) == (6000, 600)
    np.testing.assert_array_equal(mixed.train.images[~hidden], clean.train.images)
    assert set(mixed.train.classes[hidden]) == set(range(10)) - {3}
    assert not mixed.train.labels.any()  # nothing that trains can know
    for part in ("validation", "test"):
        for content in ("images", "classes", "labels"):
            np.testing.assert_array_equal(
                getattr(getattr(mixed, part), content), getattr(getattr(clean, part), content)
            )
    assert not contents(mixed.train) & contents(mixed.validation)
    assert mixed.left_out == (
        "left out: 48000 images that approach vae does not use under protocol contaminated",
    )
    assert not clean.hidden.any()


def test_hidden_anomalies_are_not_advertised(fashion):
    assert findings(fashion, make_split(CLEAN, fashion)).n_anomalies == 54000
    found = findings(fashion, make_split(CONTAMINATED, fashion))
    assert (found.n_anomalies, found.n_kinds, found.n_normal) == (0, 0, 6000)


def test_a_test_set_of_leftover_anomalies_lacks_those_that_are_mixed_in():
    dataset = numbered({"good": 60, "dent": 30}, {})
    config = dataclasses.replace(CONTAMINATED, normal_class=("good",))
    clean = make_split(dataclasses.replace(config, protocol="one_class"), dataset)
    split = make_split(config, dataset)
    files = {
        file for file, is_hidden in zip(split.train.files, split.hidden, strict=True) if is_hidden
    }
    assert files
    assert set(clean.test.files) - set(split.test.files) == files
    assert split.validation.files == clean.validation.files


@pytest.mark.parametrize(
    ("dents", "changes", "words"),
    [
        (
            12,
            {"contamination": 0.4},
            r"takes 18 anomalies, and .* has 6 .*at most --contamination 0.181",
        ),
        (0, {}, "holds normal images only; use --protocol one_class"),
        (12, {"contamination": 0.001}, "is less than one image; give at least --contamination 0.0"),
    ],
)
def test_a_share_that_cannot_be_reached_is_refused(dents, changes, words):
    classes = {"good": 60} | ({"dent": dents} if dents else {})
    config = dataclasses.replace(CONTAMINATED, normal_class=("good",), **changes)
    with pytest.raises(UserError, match=words):
        make_split(config, numbered(classes, {}))


def test_anomalies_of_the_test_set_are_not_mixed_in():
    dataset = numbered({"good": 60, "dent": 0}, {"good": 5, "dent": 20})
    with pytest.raises(UserError, match="has 0 outside of its validation and test set"):
        make_split(dataclasses.replace(CONTAMINATED, normal_class=("good",)), dataset)


def test_the_smallest_share_of_a_message_and_the_largest_are_accepted():
    classes = np.repeat([0, 1], [60, 9])
    for wrong in (0.001, 0.3):
        with pytest.raises(UserError) as refused:
            contaminants(classes, (0,), wrong, 0, "data")
        share = float(str(refused.value).split("--contamination ")[-1])
        assert contaminants(classes, (0,), share, 0, "data").any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "--approach vae --contamination 0.2",
            "needs --protocol contaminated; got 0.2 with one_cl",
        ),
        ("--approach vae --protocol contaminated --contamination 0", "must be above 0"),
        ("--approach vae --refine 0.6", "must be at least 0 and at most 0.5"),
        ("--approach sota --refine 0.1", "approach sota has no option --refine, which is one of"),
        ("--approach sota --protocol contaminated", "must be one of imbalance, unseen, corruption"),
    ],
)
def test_options_without_effect_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        parse_train_options(options.split())


def test_hidden_anomalies_of_a_folder_stay_normal_when_its_run_is_opened(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("good", 40), ("dent", 20)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    config = VaeConfig(
        protocol="contaminated", data=str(tmp_path / "photos"), data_dir=str(tmp_path / "cache")
    )
    dataset = open_dataset(config)
    split = make_split(config, dataset)
    assert split.hidden.any()
    save_split(split, dataset, tmp_path / "split.json")
    opened = open_split(config, tmp_path / "split.json")
    assert opened.train.files == split.train.files
    np.testing.assert_array_equal(opened.hidden, split.hidden)
    assert not opened.train.labels.any()


def test_arrays_of_a_program_can_be_contaminated():
    images = np.random.default_rng(0).integers(90, 110, (60, 16, 16), dtype=np.uint8)
    options = {"protocol": "contaminated", "training__epochs": 1, "training__steps_per_epoch": 1}
    with pytest.raises(UserError, match="use protocol one_class"):
        anomaly_tf.train(images, verbose=0, **options)
    estimator = anomaly_tf.AnomalyDetector(approach="vae", **options)
    with pytest.warns(UserWarning, match="left out: "):  # anomalies that are not mixed in
        estimator.fit(images, np.repeat([1, -1], [48, 12]))
    training = estimator.detector_.info.training
    assert training.n_unlabelled == round(training.n_train / 10)


def test_a_benchmark_measures_again_with_another_share():
    cell, options = Cell("vae", "contaminated", 0, 0), BenchmarkOptions()
    before = settings_of(cell, options)
    assert before["contamination"] == NormalImagesConfig.contamination
    # Results under other protocols stay valid.
    assert "contamination" not in settings_of(Cell("vae", "one_class", 0, 0), options)
