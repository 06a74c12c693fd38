"""The interface of every registered approach: shapes, ranges, score and map, its detector."""

import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.approaches import APPROACHES, build_model, options_of
from anomaly_tf.approaches.base import Approach
from anomaly_tf.config import BalancedConfig, BalancedSamplingConfig, reconstruction_map


@pytest.fixture(params=APPROACHES)
def approach(request) -> str:
    return request.param


SHAPES = [(28, 28, 1), (17, 10, 3)]
BY_ERROR = reconstruction_map("squared error")


def built(approach: str, shape: tuple[int, int, int]) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_model(options_of(approach)(), shape, 7, jit_compile=False)


@pytest.fixture(params=SHAPES, ids=str)
def model(approach, request) -> keras.Model:
    return built(approach, request.param)


@pytest.fixture
def images(model) -> np.ndarray:
    shape = (5, *model.detector.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_an_approach_is_called_as_the_registry_calls_it(approach):
    assert options_of(approach)().approach == approach


def test_detector_shapes_and_ranges(model, images):
    outputs = {name: value.numpy() for name, value in model.detector(images).items()}
    count, height, width, channels = images.shape
    assert all(value.dtype == np.float32 for value in outputs.values())
    assert outputs["score"].shape == (count,)
    assert outputs["score"].min() >= 0.0
    if "reconstruction" in outputs:
        assert outputs["reconstruction"].shape == (count, height, width, channels)
        assert np.abs(outputs["reconstruction"]).max() <= 1.0
    if "error_map" in outputs:
        assert outputs["error_map"].shape == (count, height, width)
        assert outputs["error_map"].min() >= 0.0
    else:
        assert outputs["features"].ndim == 4
        assert outputs["evidence"].shape == (count,)
    if "probabilities" in outputs:
        assert outputs["probabilities"].shape == (count, 7)
        np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (48, 60, 1), (49, 52, 3)], ids=str)
def test_the_score_follows_from_the_map_as_the_approach_declares(approach, shape):
    declared = options_of(approach).score_map
    rule = declared.rule(shape)
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    outputs = {
        name: value.numpy() for name, value in built(approach, shape).detector(images).items()
    }
    assert declared.unit
    if "error_map" not in outputs:
        assert rule == "none"
    elif rule != "none":
        reduce = {"mean": np.mean, "maximum": np.max}[rule]
        # The score may have further terms for the image as a whole, which are not negative.
        further = outputs["score"] - reduce(outputs["error_map"], axis=(1, 2))
        assert further.min() > -1e-5
        if not declared.scores_whole(shape):
            np.testing.assert_allclose(further, 0, atol=1e-5)


def batch_for(approach: str, images: np.ndarray) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """Images as a batch in which an approach learns from four."""
    candidates = getattr(options_of(approach)().sampling, "candidates", 1)
    count = 4 * candidates
    drawn = np.random.default_rng(1).integers(0, 256, (count, *images.shape[1:]))
    scaled = tf.constant(drawn / 127.5 - 1.0, tf.float32)
    return {
        "normal images": scaled,
        "normal and anomalous images": (scaled[: count // 2], scaled[count // 2 :]),
        "classes": (scaled, tf.constant([0, 1, 2, 3])),
    }[options_of(approach).learns_from]


def test_a_step_teaches_the_networks_and_names_its_losses(approach, model, images):
    before = {
        name: [variable.numpy() for variable in network.trainable_variables]
        for name, network in model.networks.items()
    }
    values = model.train_step(batch_for(approach, images))
    assert set(values) == {metric.name for metric in model.metrics}
    assert all(np.isfinite(float(value)) for value in values.values())
    assert set(model.learning_rates()) == {f"{name}_learning_rate" for name in model.networks}
    for name, network in model.networks.items():
        moved = [
            not np.array_equal(old, new)
            for old, new in zip(before[name], network.trainable_variables, strict=True)
        ]
        assert np.mean(moved) > 0.9, name  # a dead ReLU may keep a weight of a tiny batch


BALANCED = [name for name in APPROACHES if issubclass(options_of(name), BalancedConfig)]


@pytest.mark.parametrize("approach", BALANCED)
def test_the_hardest_candidates_of_the_detector_are_learnt_from(approach, small_dataset):
    def built(candidates: int) -> Approach:
        keras.utils.set_random_seed(0)
        sampling = BalancedSamplingConfig(candidates=candidates)
        config = options_of(approach)(sampling=sampling)
        return build_model(config, (28, 28, 1), 10, jit_compile=False)

    sets = [small_dataset.train_images[small_dataset.train_classes == c][:12] for c in (0, 1)]
    mining, plain = built(3), built(1)
    scores = [mining.detector(images[2:])["score"].numpy() for images in sets]
    worst = [np.argsort(-scores[0])[:2], np.argsort(scores[1])[:2]]
    chosen = [
        np.concatenate([images[:2], images[2:][two]])
        for images, two in zip(sets, worst, strict=True)
    ]
    for model, parts in ((mining, sets), (plain, chosen)):
        model.train_step(tuple(tf.constant(part / 127.5 - 1.0, tf.float32) for part in parts))
    for one, other in zip(mining.averaged.weights, plain.averaged.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_a_step_in_bfloat16_compiled_by_xla_keeps_losses_and_outputs_in_float32(approach):
    """XLA, which a GPU uses by default, and mixed precision, here on the CPU."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model(options_of(approach)(), (16, 16, 1), 7, jit_compile=True)
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1), np.uint8)
    step = tf.function(model.train_step, jit_compile=True)
    for value in step(batch_for(approach, images)).values():
        assert value.dtype == tf.float32
        assert np.isfinite(float(value))
    assert {output.dtype for output in model.detector.output.values()} == {"float32"}
    assert np.isfinite(model.detector(images)["score"]).all()


@pytest.mark.parametrize("shape", [(8, 8, 1), (33, 50, 3), (64, 64, 3), (128, 96, 3)], ids=str)
def test_every_approach_fits_images_of_other_sizes(approach, shape):
    model = build_model(options_of(approach)(), shape, 7, jit_compile=False)
    assert model.detector.count_params() < 15e6
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    outputs = {name: value.numpy() for name, value in model.detector(images).items()}
    assert outputs["score"].shape == (2,)
    assert outputs["score"].min() >= 0.0
    for value in outputs.values():
        assert np.isfinite(value).all()
    if "reconstruction" in outputs:
        assert outputs["reconstruction"].shape == images.shape
    if "error_map" in outputs:
        assert outputs["error_map"].shape == images.shape[:3]
        assert outputs["error_map"].min() >= 0.0


def test_a_score_does_not_depend_on_the_rest_of_the_batch(model, images):
    together = model.detector(images)["score"].numpy()
    alone = np.concatenate([model.detector(images[i : i + 1])["score"] for i in range(5)])
    # Float32 sums of other batch sizes may be ordered differently: a few units in the last place.
    np.testing.assert_allclose(together, alone, rtol=1e-5)


LOAD = """
import pathlib, sys
import keras, numpy

for file in pathlib.Path().glob("*.keras"):
    model = keras.models.load_model(file, compile=False, safe_mode=True)
    images = numpy.load(file.with_suffix(".npy"))
    numpy.save(file.with_suffix(".scores.npy"), model(images)["score"])
assert "anomaly_tf" not in sys.modules
"""


def test_every_detector_is_whole_without_this_package(tmp_path):
    """Saved, and loaded by Keras in safe mode in a process that cannot import anomaly_tf."""
    expected = {}
    for approach, shape in itertools.product(APPROACHES, SHAPES):
        name = f"{approach}-{len(expected)}"
        model = built(approach, shape)
        images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
        model.detector.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", images)
        expected[name] = model.detector(images)["score"].numpy()
    subprocess.run([sys.executable, "-I", "-c", LOAD], cwd=tmp_path, check=True, timeout=120)
    for name, scores in expected.items():
        # Same weights, same operations: equal but for the order of float32 sums.
        found = np.load(tmp_path / f"{name}.scores.npy")
        np.testing.assert_allclose(found, scores, rtol=1e-5, err_msg=name)
