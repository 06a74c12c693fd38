"""Approaches on pretrained features, `patchcore` and `padim`: statistics and distances by hand."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_one_line, run_script
from PIL import Image

from anomaly_tf import Detector, reachability
from anomaly_tf.approaches.padim.model import (
    FAR,
    IMAGE_WEIGHT,
    LABEL_SHRINKAGE,
    LABEL_WEIGHT,
    Padim,
    build_distances,
)
from anomaly_tf.approaches.padim.options import PadimConfig, PadimNetworks
from anomaly_tf.approaches.patch_core.model import PatchCore
from anomaly_tf.approaches.patch_core.options import PatchCoreConfig, PatchCoreNetworks
from anomaly_tf.cli import train
from anomaly_tf.config import HoldOutConfig
from anomaly_tf.detection.threshold import labelled_threshold
from anomaly_tf.errors import UserError
from anomaly_tf.networks.features import RIDGE, build_features, greedy_coreset, whitening
from anomaly_tf.networks.keras_applications import APPLICATIONS
from anomaly_tf.networks.sizes import FeatureNetworks
from anomaly_tf.training.callbacks import StopOnNonFiniteLoss

SHAPE = (32, 48, 1)
SMALL = {"enlarge_to": 32, "strides": (8, 16), "grid": 8, "mirror": 0}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The channels of padim and the patches of patchcore are drawn at random."""
    keras.utils.set_random_seed(0)


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def scaled(images: np.ndarray) -> tf.Tensor:
    return tf.constant(images / np.float32(127.5) - 1)


def learnt(model: keras.Model, images: np.ndarray, batch: int = 7) -> keras.Model:
    """The model after one pass, in batches of which the last is smaller."""
    if model.adapts_to:
        model.adapt(images[: model.adapts_to])
    for start in range(0, len(images), batch):
        model.train_step(scaled(images[start : start + batch]))
    model.finish_epoch()
    return model


def distances(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """What the detector computes before it resizes and smooths."""
    found = keras.tree.flatten(model.distances(model.features(scaled(images))))
    return np.array(found[0])


def test_features_are_those_of_both_stages_on_the_finer_grid():
    networks = FeatureNetworks(**SMALL)
    both = np.array(build_features(SHAPE, networks)(scaled(noise(2))))
    assert both.shape == (2, 4, 6, 40 + 112)
    fine = FeatureNetworks(**SMALL | {"strides": (8,)})
    np.testing.assert_allclose(
        both[..., :40], build_features(SHAPE, fine)(scaled(noise(2))), rtol=1e-5, atol=1e-5
    )
    assert networks.n_patches(SHAPE) == 4 * 6


def test_patches_at_mirrored_borders_are_those_inside_of_a_larger_image():
    networks = FeatureNetworks(**SMALL | {"mirror": 32})
    tile = np.random.default_rng(0).normal(size=(1, 32, 48, 1)).astype(np.float32)
    mirrored = np.pad(tile, ((0, 0), (32, 32), (32, 32), (0, 0)), mode="symmetric")
    inside = build_features((96, 112, 1), FeatureNetworks(**SMALL))(mirrored)[:, 4:-4, 4:-4]
    found = build_features(SHAPE, networks)(tile)
    assert found.shape == (1, 4, 6, 152)
    np.testing.assert_allclose(found, inside, rtol=1e-4, atol=1e-4)
    assert FeatureNetworks(mirror=64).mirrored((10, 20, 1)) == 40
    assert FeatureNetworks(enlarge_to=8, mirror=64).mirrored((13, 20, 1)) == 8


def test_smaller_images_are_enlarged():
    networks = FeatureNetworks(enlarge_to=64)
    assert networks.input_size((28, 42, 1)) == (64, 96)
    assert networks.input_size((10, 8, 1)) == (40, 32)
    assert networks.input_size((100, 70, 3)) == (100, 70)
    assert build_features((28, 28, 1), networks).output_shape[1:3] == (8, 8)


def test_whitened_vectors_have_a_covariance_of_one_but_for_the_ridge():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(5000, 3)) @ [[3, 0, 0], [1, 2, 0], [0, 0, 1]] + 5).astype("f4")
    mean, matrix = whitening(vectors)
    found = np.linalg.eigvalsh(np.cov(((vectors - mean) @ matrix).T, bias=True))
    values = np.linalg.eigvalsh(np.cov(vectors.T, bias=True))
    np.testing.assert_allclose(
        np.sort(found), np.sort(values / (values + RIDGE * values.mean())), rtol=1e-3
    )


def test_the_coreset_takes_the_farthest_each_time():
    vectors = np.array([[0.0], [1.0], [10.0], [6.0], [10.0]], np.float32)
    assert greedy_coreset(vectors, 3, first=0).tolist() == [0, 2, 3]
    assert sorted(greedy_coreset(vectors, 5, first=0)) == [0, 1, 2, 3, 4]


def test_patchcore_gives_the_distance_to_the_nearest_of_the_bank():
    model = learnt(PatchCore(SHAPE, PatchCoreNetworks(bank_size=20, **SMALL)), noise(10))
    patches = np.array(model.features(scaled(noise(10)))).reshape(-1, 152)
    mean, matrix = whitening(patches)  # all patches fit into the sample
    white = (patches - mean) @ matrix
    kernel, squares = model.distances.get_layer("bank").get_weights()
    bank = kernel[0, 0].T / -2
    np.testing.assert_allclose(squares, (bank**2).sum(axis=1), rtol=1e-5)
    # Every vector of the bank is one of the patches.
    nearest = np.linalg.norm(bank[:, None] - white, axis=-1).min(axis=1)
    assert nearest.max() < 1e-2
    new = (np.array(model.features(scaled(noise(3, 1)))).reshape(-1, 152) - mean) @ matrix
    expected = np.linalg.norm(new[:, None] - bank, axis=-1).min(axis=1)
    np.testing.assert_allclose(distances(model, noise(3, 1)).ravel(), expected, rtol=1e-3)


def test_the_sample_holds_every_patch_once_or_a_uniform_part_of_them():
    images = noise(30)
    model = PatchCore(SHAPE, PatchCoreNetworks(bank_size=1, candidates=1000, **SMALL))
    learnt(model, images)
    patches = np.array(model.features(scaled(images))).reshape(-1, 152)
    sample = model.sample.vectors()
    assert len(sample) == len(patches) == 720
    np.testing.assert_allclose(np.sort(sample[:, 0]), np.sort(patches[:, 0]), atol=1e-4)
    model = PatchCore(SHAPE, PatchCoreNetworks(bank_size=1, candidates=200, **SMALL))
    learnt(model, images)
    sample = model.sample.vectors()
    numbers = np.linalg.norm(sample[:, None] - patches, axis=-1).argmin(axis=1)
    assert len(set(numbers)) == 200
    # Uniform: as many of the first half of the images as of the second, within four deviations.
    assert abs(np.mean(numbers < 360) - 0.5) < 4 * 0.5 / np.sqrt(200)


def test_a_bank_larger_than_the_patches_repeats_them_or_is_refused():
    few = learnt(PatchCore(SHAPE, PatchCoreNetworks(**SMALL)), noise(2))
    assert np.isfinite(few.detector(noise(2))["score"]).all()
    config = PatchCoreConfig(networks=PatchCoreNetworks(bank_size=100, **SMALL))
    config.require_images(5, SHAPE)
    with pytest.raises(UserError, match=r"100 patches needs 5 .* there are 4; .*bank-size to 96"):
        config.require_images(4, SHAPE)


def two_kinds(count: int) -> np.ndarray:
    """Dark noise, and bright noise of less contrast."""
    images = noise(2 * count, 3) // 2
    images[count:] = 200 + images[count:] // 4
    return images


def test_padim_gives_the_mahalanobis_distance_at_each_position():
    images = noise(60)
    model = learnt(Padim(SHAPE, PadimNetworks(dimensions=6, kinds=1, **SMALL)), images)
    vectors = np.array(model.channels(model.features(scaled(images))), np.float64).reshape(
        60, 24, 6
    )
    np.testing.assert_allclose(vectors.mean(axis=(0, 1)), 0, atol=1e-2)  # on the scale of `adapt`
    np.testing.assert_allclose(vectors.std(axis=(0, 1)), 1, atol=1e-2)
    new = np.array(model.channels(model.features(scaled(noise(3, 1)))), np.float64).reshape(
        3, 24, 6
    )
    expected = np.empty((3, 24))
    for place in range(24):
        covariance = np.cov(vectors[:, place].T, bias=True)
        covariance += RIDGE * np.trace(covariance) / 6 * np.eye(6)
        away = new[:, place] - vectors[:, place].mean(axis=0)
        squared = np.einsum("nd,de,ne->n", away, np.linalg.inv(covariance), away)
        expected[:, place] = np.sqrt(squared)
    np.testing.assert_allclose(distances(model, noise(3, 1)).reshape(3, 24), expected, rtol=1e-3)


def test_padim_keeps_kinds_of_normal_images_apart():
    images = two_kinds(40)
    model = learnt(Padim(SHAPE, PadimNetworks(dimensions=40, kinds=2, **SMALL)), images)
    assert sorted(np.array(model.counts)) == [40, 40]
    mixed = learnt(Padim(SHAPE, PadimNetworks(dimensions=40, kinds=1, **SMALL)), images)
    between = (images[:1] // 2 + images[40:41] // 2).astype(np.uint8)
    scores = [
        np.array(one.detector(np.concatenate([images[:1], between]))["score"])
        for one in (model, mixed)
    ]
    # What lies between two kinds stands out more than for one Gaussian around both of them.
    apart, together = (anomaly / normal for normal, anomaly in scores)
    assert apart > 1.5 * together > 1.5


def test_the_score_is_the_largest_error_and_the_distance_to_the_nearest_normal_image():
    images = noise(30)
    model = learnt(Padim(SHAPE, PadimNetworks(dimensions=9, kinds=1, **SMALL)), images)
    means = np.array(model.features(scaled(images)), np.float64).mean(axis=(1, 2))
    centre, spread = means.mean(axis=0), means.std(axis=0)
    known = (means - centre) / spread
    to_others = np.linalg.norm(known[:, None] - known, axis=-1)
    np.fill_diagonal(to_others, np.inf)
    new = np.array(model.features(scaled(noise(4, 1))), np.float64).mean(axis=(1, 2))
    nearest = np.linalg.norm((new[:, None] - centre) / spread - known, axis=-1).min(axis=1)
    term = IMAGE_WEIGHT * 3 * nearest / to_others.min(axis=1).mean()
    outputs = model.detector(noise(4, 1))
    largest = np.array(outputs["error_map"]).max(axis=(1, 2))
    np.testing.assert_allclose(outputs["score"], largest + term, rtol=1e-3)


def with_labels(images: np.ndarray, anomalies: np.ndarray) -> Padim:
    keras.utils.set_random_seed(0)
    model = Padim(SHAPE, PadimNetworks(dimensions=9, kinds=1, **SMALL))
    if len(anomalies):
        model.learn_anomalies(anomalies)
    return learnt(model, images)


def test_labelled_anomalies_add_their_regularised_discriminant():
    images, anomalies, new = noise(30), noise(5, 1) // 2, noise(4, 2) // 2
    means, wrong, found = (
        np.array(with_labels(images, anomalies).features(scaled(part))).mean(axis=(1, 2))
        for part in (images, anomalies, new)
    )
    centre, spread = means.mean(axis=0), means.std(axis=0)
    known, wrong = (means - centre) / spread, (wrong - centre) / spread
    covariance = (1 - LABEL_SHRINKAGE) * np.cov(known.T, bias=True)
    covariance += LABEL_SHRINKAGE * np.eye(len(centre))
    direction = np.linalg.solve(covariance, wrong.mean(axis=0))
    term = ((found - centre) / spread) @ direction / (known @ direction).std()
    with_them, without = (
        np.array(with_labels(images, labels).detector(new)["score"])
        for labels in (anomalies, anomalies[:0])
    )
    np.testing.assert_allclose(with_them - without, LABEL_WEIGHT * 3 * term, rtol=1e-2)
    assert (with_them > without).all()


def test_scores_that_labels_lower_are_at_least_zero():
    images = noise(30)
    model = with_labels(images, 255 - images[:5])
    model.discriminant.get_layer("linear").bias.assign([-1e4])
    np.testing.assert_array_equal(model.detector(images)["score"], np.zeros(30))


def test_few_images_are_not_divided_into_kinds():
    model = learnt(Padim(SHAPE, PadimNetworks(dimensions=6, **SMALL)), noise(20))
    assert np.array(model.counts).tolist() == [20, 0]
    assert np.isfinite(model.detector(noise(2))["score"]).all()


def test_more_kinds_than_images_allow_are_refused():
    config = PadimConfig(networks=PadimNetworks(kinds=3, **SMALL))
    config.require_images(75, SHAPE)
    with pytest.raises(UserError, match=r"3 kinds .* need 75 .* there are 74; .*kinds to 2"):
        config.require_images(74, SHAPE)
    PadimConfig().require_images(1, SHAPE)


def test_an_image_belongs_to_the_kind_with_the_smallest_mean_distance():
    model = build_distances((1, 2), dimensions=1, kinds=2)
    # At both positions: distances |x| of one kind, |x - 4| of the other.
    biases = np.array([[[0.0], [-4.0]]] * 2)
    model.get_layer("gaussians").set_weights([np.ones((2, 1, 2, 1)), biases])
    found, others = model(np.array([[[[0.0], [3.0]]], [[[4.0], [3.0]]]], np.float32))
    np.testing.assert_allclose(found, [[[0, 3]], [[0, 1]]])
    np.testing.assert_allclose(others, [[0, FAR], [FAR, 0]])


@pytest.mark.parametrize("networks", [PadimNetworks, PatchCoreNetworks])
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("backbone", "resnet9000", "must be one of efficientnet_lite0"),
        ("strides", (16, 8), "must be some of 2, 4, 8, 16, 32, rising"),
        ("strides", (), "must be some of"),
        ("enlarge_to", 4, "at least 8"),
        ("grid", 64, "at most 32"),
        ("grid", 2, "a stride that is not below the finest of strides; got 2"),
        ("mirror", 20, "must be a multiple of --networks.grid"),
    ],
)
def test_wrong_networks_are_refused(networks, option, value, words):
    with pytest.raises(ValueError, match=words):
        networks(**{option: value})


def test_images_are_used_as_they_are():
    """Options of augmentation and of gradient steps would have no effect."""
    assert PadimConfig().sampling == HoldOutConfig()
    assert not hasattr(PadimConfig().training, "learning_rate")


@pytest.mark.parametrize("quantize", ["int8", "dynamic"])
def test_quantized_features_are_refused_before_work(quantize, evaluated, tmp_path):
    run = evaluated("patchcore", "one_class").run
    output = Path(tmp_path / "out")
    options = ["--format", "tflite", "--quantize", quantize, "--output", output]
    done = run_script("export.py", "--run-dir", run, *options)
    assert_one_line(done, f"cannot be exported with quantize {quantize}", "use float16")
    assert not output.exists()


def test_labelled_anomalies_choose_the_threshold_and_no_weight(evaluated, tmp_path):
    """Under `imbalance` all labelled anomalies are for validation, and the bank stays as it is."""
    plain = evaluated("patchcore", "one_class")
    labelled = evaluated("patchcore", "imbalance", "--threshold.method", "labelled")
    models = [keras.models.load_model(done.run / "model.keras") for done in (plain, labelled)]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    info = Detector.load(labelled.run).info
    stored = info.calibration
    assert labelled.metrics["threshold_method"] == "labelled"
    assert len(stored.anomaly_scores) == info.training.n_validation - stored.size > stored.size
    assert info.threshold.value == labelled_threshold(stored)
    assert labelled.metrics["auroc"] == pytest.approx(plain.metrics["auroc"])

    exported = tmp_path / "file.tflite"
    Detector.load(labelled.run).export(exported)
    assert Detector.load(exported).threshold == pytest.approx(info.threshold.value, rel=1e-3)
    copy = Path(shutil.copytree(labelled.run, tmp_path / "copy"))
    done = run_script("evaluate.py", "--run-dir", copy, "--threshold.percentile", 95)
    assert done.returncode == 0, done.stderr
    done = run_script("evaluate.py", "--run-dir", copy, "--threshold.method", "labelled")
    assert done.returncode == 0, done.stderr
    assert json.loads((copy / "metrics.json").read_text())["threshold"] == info.threshold.value
    copy = Path(shutil.copytree(plain.run, tmp_path / "plain"))
    done = run_script("evaluate.py", "--run-dir", copy, "--threshold.method", "labelled")
    assert_one_line(done, "needs labelled anomalies", "imbalance")


def test_padim_learns_from_labelled_anomalies_and_holds_some_out(evaluated):
    plain = evaluated("padim", "one_class")
    labelled = evaluated("padim", "imbalance")
    info = Detector.load(labelled.run).info
    n_learnt = info.training.n_train - Detector.load(plain.run).info.training.n_train
    assert n_learnt > len(info.calibration.anomaly_scores) > 0
    term, none = (
        keras.models.load_model(done.run / "model.keras").get_layer("discriminant").get_weights()
        for done in (labelled, plain)
    )
    assert np.abs(term[0]).min() > 0
    assert not np.any(none[0])
    assert labelled.metrics["auroc"] >= plain.metrics["auroc"]


def test_labels_that_are_not_learnt_are_said(parts_of_a_folder, tmp_path, capsys):
    options = ["--approach", "padim", "--protocol", "imbalance", "--data", str(parts_of_a_folder)]
    options += ["--data-dir", str(tmp_path / "cache"), "--run-dir", str(tmp_path / "run")]
    assert train.main([*options, "--networks.enlarge-to", "32"]) == 0
    said = capsys.readouterr().out
    assert "padim learns from none of the 3 labelled anomalies (fewer than 6)" in said


@pytest.fixture
def parts_of_a_folder(tmp_path) -> Path:
    """Ten good images and three defective ones, which are for training, and test images."""
    rng = np.random.default_rng(0)
    for part, count in (("train/good", 10), ("train/bad", 3), ("test/good", 2), ("test/bad", 2)):
        folder = tmp_path / "photos" / part
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (32, 32), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_an_interrupted_pass_keeps_nothing_and_starts_again(
    small_folder, tmp_path, monkeypatch, capsys
):
    options = [
        "--approach",
        "patchcore",
        "--data",
        str(small_folder),
        "--networks.enlarge-to",
        "32",
    ]
    options += ["--data-dir", str(small_folder / "cache"), "--training.batch-size", "64"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    with monkeypatch.context() as patched:

        def interrupt(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

        patched.setattr(StopOnNonFiniteLoss, "on_train_batch_end", interrupt)
        assert train.main([*options, "--run-dir", str(run)]) == 130
    assert "no epoch was finished, so there is no detector to keep" in capsys.readouterr().err
    assert train.main(["--resume", str(run)]) == 0
    assert "training starts again" in capsys.readouterr().out
    assert train.main([*options, "--run-dir", str(whole)]) == 0
    one, other = (keras.models.load_model(folder / "model.keras") for folder in (run, whole))
    for weight, same in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)


def test_a_missing_backbone_leaves_no_run(small_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(reachability, "GIVE_UP_SECONDS", 0.3)
    changed = dataclasses.replace(APPLICATIONS["resnet50"], url="http://127.0.0.1:9/w.h5")
    monkeypatch.setitem(APPLICATIONS, "resnet50", changed)
    options = [
        "--approach",
        "padim",
        "--data",
        str(small_folder),
        "--networks.backbone",
        "resnet50",
    ]
    options += ["--data-dir", str(small_folder / "cache"), "--run-dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match="choose the backbone efficientnet_lite0"):
        train.main(options)
    assert not (tmp_path / "run").exists()
