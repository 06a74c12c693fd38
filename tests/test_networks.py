"""Networks and detectors that approaches share: sizes, layers, maps and scores."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from anomaly_tf.approaches import build_model, options_of
from anomaly_tf.approaches.autoencoder.options import DenseNetworks
from anomaly_tf.approaches.vae import model as vae
from anomaly_tf.approaches.vae.options import VaeLosses
from anomaly_tf.config import reconstruction_map
from anomaly_tf.networks.blocks import build_generator, depth_to_space, halved_sizes, space_to_depth
from anomaly_tf.networks.detectors import (
    map_score,
    reconstruction_detector,
    smoothed,
    smoothing_window,
)
from anomaly_tf.networks.sizes import AdversarialNetworks, ClassifierNetworks, ConvolutionalNetworks

BY_ERROR = reconstruction_map("squared error")


@pytest.mark.parametrize("shape", [(28, 28, 1), (17, 10, 3)], ids=str)
@pytest.mark.parametrize(
    "approach", ["autoencoder", "cnn", "contrastive", "gan", "sota", "supervised"]
)
def test_scores_are_those_that_each_approach_defines(approach, shape):
    keras.utils.set_random_seed(0)
    model = build_model(options_of(approach)(), shape, 7, jit_compile=False)
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    outputs = {name: value.numpy() for name, value in model.detector(images).items()}
    if approach == "cnn":
        expected = -np.log(outputs["probabilities"].max(axis=1))
        np.testing.assert_allclose(outputs["score"], expected, rtol=1e-4, atol=1e-6)
        return
    if approach == "supervised":
        expected = np.logaddexp(0.0, outputs["evidence"].astype(np.float64))
        np.testing.assert_allclose(outputs["score"], expected, rtol=1e-4)
        return
    difference = np.abs(images / 127.5 - 1.0 - outputs["reconstruction"])  # black to white is 2
    error = difference if approach == "sota" else (difference / 2) ** 2
    np.testing.assert_allclose(outputs["error_map"], error.mean(axis=-1), rtol=1e-4, atol=1e-6)
    if approach != "sota":  # whose further terms test_dual_gan.py has
        np.testing.assert_allclose(outputs["score"], error.mean(axis=(1, 2, 3)), rtol=1e-4)


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
