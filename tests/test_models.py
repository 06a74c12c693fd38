"""What every approach keeps: shapes, ranges, and a detector that stands alone."""

import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from anomaly_tf.approaches import APPROACHES, build_model, options_of
from anomaly_tf.approaches.autoencoder.options import DenseNetworks
from anomaly_tf.approaches.base import Approach
from anomaly_tf.approaches.vae import model as vae
from anomaly_tf.approaches.vae.options import VaeLosses
from anomaly_tf.config import BalancedConfig, BalancedSamplingConfig, reconstruction_map
from anomaly_tf.networks.blocks import build_generator, depth_to_space, halved_sizes, space_to_depth
from anomaly_tf.networks.detectors import (
    map_score,
    reconstruction_detector,
    smoothed,
    smoothing_window,
)
from anomaly_tf.networks.sizes import AdversarialNetworks, ClassifierNetworks, ConvolutionalNetworks


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
        assert outputs["error_map"].shape == (count, height, width)
        assert outputs["reconstruction"].shape == (count, height, width, channels)
        assert np.abs(outputs["reconstruction"]).max() <= 1.0
        assert outputs["error_map"].min() >= 0.0
    else:
        assert outputs["features"].ndim == 4
        assert outputs["evidence"].shape == (count,)
    if "probabilities" in outputs:
        assert outputs["probabilities"].shape == (count, 7)
        np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1.0, rtol=1e-5)


def test_scores_are_what_each_approach_says(approach, model, images):
    outputs = {name: value.numpy() for name, value in model.detector(images).items()}
    if approach == "cnn":
        expected = -np.log(outputs["probabilities"].max(axis=1))
        np.testing.assert_allclose(outputs["score"], expected, rtol=1e-4, atol=1e-6)
        return
    if approach == "supervised":
        expected = np.logaddexp(0.0, outputs["evidence"].astype(np.float64))
        np.testing.assert_allclose(outputs["score"], expected, rtol=1e-4)
        return
    if approach in ("transform", "vae"):
        pytest.skip(f"its score has a file of its own, test_{approach}.py")
    difference = np.abs(images / 127.5 - 1.0 - outputs["reconstruction"])  # black to white is 2
    error = difference if approach == "sota" else (difference / 2) ** 2
    np.testing.assert_allclose(outputs["error_map"], error.mean(axis=-1), rtol=1e-4, atol=1e-6)
    if approach != "sota":  # whose further terms test_dual_gan.py has
        np.testing.assert_allclose(outputs["score"], error.mean(axis=(1, 2, 3)), rtol=1e-4)


def batch_for(approach: str, images: np.ndarray) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """Images as a batch of which an approach learns from four."""
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
def test_of_several_candidates_those_told_worst_by_the_detector_are_learnt_from(
    approach, small_dataset
):
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
    """What a GPU runs by default, and its option: XLA and mixed precision, here on the CPU."""
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
    """Saved, and loaded by Keras alone in safe mode in a process that cannot see anomaly_tf."""
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


@pytest.mark.parametrize(
    ("shape", "filters", "discriminator_filters", "classifier_filters", "hidden"),
    [
        ((8, 8, 1), (16,), (16,), (32, 48), (32,)),
        ((28, 28, 1), (16, 32, 64), (16, 32), (32, 48, 64), (512, 256, 128, 64)),
        ((50, 33, 3), (16, 32, 64), (16, 32), (32, 48, 64), (512, 256, 128, 64)),
        ((64, 64, 3), (16, 32, 64, 128), (16, 32, 64), (32, 48, 64, 96), (512, 256, 128, 64)),
        (
            (128, 96, 3),
            (16, 32, 64, 128, 128),
            (16, 32, 64, 128),
            (32, 48, 64, 96, 128),
            (128, 64),
        ),
    ],
)
def test_depths_follow_the_shorter_side(
    shape, filters, discriminator_filters, classifier_filters, hidden
):
    networks = AdversarialNetworks(latent=9).for_image(shape)
    assert networks == AdversarialNetworks(filters, 9, discriminator_filters)
    assert ClassifierNetworks().for_image(shape).filters == classifier_filters
    assert DenseNetworks().for_image(shape).hidden == hidden


def test_sizes_that_are_given_stay():
    given = AdversarialNetworks(filters=(4, 8), discriminator_filters=(4,))
    assert given.for_image((128, 128, 3)) == given
    assert DenseNetworks(hidden=(7,)).for_image((128, 128, 3)).hidden == (7,)
    generator = build_generator((28, 28, 1), given)
    assert generator.get_layer("encoder").layers[-2].output.shape == (None, 7 * 7 * 8)


def test_images_too_small_for_the_given_filters_are_refused_in_one_line():
    networks = ConvolutionalNetworks(filters=(4,) * 4)
    assert networks.for_image((9, 50, 1)) == networks  # 9, 5, 3, 2, 1
    with pytest.raises(ValueError, match=r"^networks\.filters must hold at most 3 .* 8x50 .* 4$"):
        build_generator((8, 50, 1), networks)
    with pytest.raises(ValueError, match=r"^networks\.discriminator_filters must hold at most 3 "):
        AdversarialNetworks(discriminator_filters=(4,) * 4).for_image((8, 8, 1))


def smoothed_twice(maps: np.ndarray, window: int) -> np.ndarray:
    """Two means over a window, with zeros beyond the border."""
    maps = np.pad(maps, ((0, 0), (window - 1, window - 1), (window - 1, window - 1)))
    for _ in range(2):
        shape = (window, window)
        windows = np.lib.stride_tricks.sliding_window_view(maps, shape, axis=(1, 2))
        maps = windows.mean(axis=(3, 4))
    return maps


def test_the_map_of_a_larger_image_is_smoothed_and_its_maximum_is_the_score():
    keras.utils.set_random_seed(0)
    shape = (128, 150, 3)
    generator = build_generator(shape, ConvolutionalNetworks(filters=(4,), latent=2))
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    detector = reconstruction_detector(generator, "squared", BY_ERROR)
    outputs = {name: value.numpy() for name, value in detector(images).items()}
    errors = np.square((images / 127.5 - 1 - outputs["reconstruction"]) / 2).mean(axis=-1)
    expected = smoothed_twice(errors, 11)
    np.testing.assert_allclose(outputs["error_map"], expected, rtol=1e-4)
    np.testing.assert_allclose(outputs["score"], expected.max(axis=(1, 2)), rtol=1e-4)


def test_the_vae_smooths_the_same_way_and_leaves_its_latent_out_of_the_maximum():
    keras.utils.set_random_seed(0)
    shape = (64, 64, 3)
    network = vae.build_network(shape, ConvolutionalNetworks(filters=(4,), latent=2), 0.1)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    detector = vae.build_detector(network, VaeLosses())
    outputs = {name: value.numpy() for name, value in detector(images).items()}
    _, standardised, _ = network((images / 127.5 - 1).astype(np.float32), training=False)
    expected = smoothed_twice(np.square(standardised).mean(axis=-1) / 2, 5)
    np.testing.assert_allclose(outputs["error_map"], expected, rtol=1e-3)
    np.testing.assert_allclose(outputs["score"], expected.max(axis=(1, 2)), rtol=1e-3)


def test_smoothing_is_the_same_in_keras_tensorflow_and_litert(tmp_path):
    error_map = keras.Input((60, 77))
    model = keras.Model(error_map, {"smoothed": smoothed(error_map, BY_ERROR)})
    maps = np.random.default_rng(0).random((1, 60, 77), np.float32)
    expected = smoothed_twice(maps, smoothing_window(60))
    model.export(tmp_path / "saved", verbose=False)
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serve"]
    interpreter = Interpreter(
        model_content=tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert()
    )
    (name,) = serve.structured_input_signature[1]
    for said in (model(maps), serve(**{name: tf.constant(maps)})):
        np.testing.assert_allclose(said["smoothed"], expected, atol=1e-5)
    said = interpreter.get_signature_runner()(**{name: maps})
    np.testing.assert_allclose(said["smoothed"], expected, atol=1e-5)


def test_only_images_above_48_pixels_are_smoothed():
    for shape, small in (((48, 200), True), ((49, 49), False)):
        error_map = keras.Input(shape)
        assert (smoothed(error_map, BY_ERROR) is error_map) == small
        maps = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
        score = keras.Model(error_map, map_score(error_map, BY_ERROR))(maps)
        expected = maps.mean(axis=(1, 2)) if small else maps.max(axis=(1, 2))
        np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_halved_sizes_round_up():
    assert halved_sizes((28, 17), 3) == [(28, 17), (14, 9), (7, 5), (4, 3)]


def test_space_to_depth_folds_blocks_of_four_pixels_and_depth_to_space_unfolds_them():
    image = keras.Input((4, 6, 3))
    folded = space_to_depth(image)
    model = keras.Model(image, [folded, depth_to_space(folded)])
    pixels = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    blocks, unfolded = (output.numpy() for output in model(pixels))
    assert blocks.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(blocks[:, 1, 2], pixels[:, 2:4, 4:6].reshape(2, 12))
    np.testing.assert_array_equal(unfolded, pixels)
