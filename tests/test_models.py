"""What every approach keeps: shapes, ranges, and a detector that stands alone."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.config import CONFIGS
from anomaly_tf.models import APPROACHES
from anomaly_tf.models.blocks import depth_to_space, halved_sizes, space_to_depth


@pytest.fixture(params=APPROACHES)
def approach(request) -> str:
    return request.param


@pytest.fixture(params=[(28, 28, 1), (17, 10, 3)], ids=str)
def model(approach, request) -> keras.Model:
    keras.utils.set_random_seed(0)
    return APPROACHES[approach](CONFIGS[approach](), request.param, 7, jit_compile=False)


@pytest.fixture
def images(model) -> np.ndarray:
    shape = (5, *model.detector.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_every_configuration_has_an_approach_and_the_reverse():
    assert list(APPROACHES) == list(CONFIGS)


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
    if approach == "vae":
        pytest.skip("its score has a file of its own, test_vae.py")
    difference = np.abs(images / 127.5 - 1.0 - outputs["reconstruction"])  # black to white is 2
    error = difference if approach == "sota" else (difference / 2) ** 2
    np.testing.assert_allclose(outputs["error_map"], error.mean(axis=-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outputs["score"], error.mean(axis=(1, 2, 3)), rtol=1e-4)


def batch_for(approach: str, images: np.ndarray) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """Four images as the batch that an approach learns from."""
    scaled = tf.constant(images[:4] / 127.5 - 1.0, tf.float32)
    return {
        "normal images": scaled,
        "normal and anomalous images": (scaled[:2], scaled[2:]),
        "classes": (scaled, tf.constant([0, 1, 2, 3])),
    }[CONFIGS[approach].learns_from]


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


def test_a_step_in_bfloat16_compiled_by_xla_keeps_losses_and_outputs_in_float32(approach):
    """What a GPU runs by default, and its option: XLA and mixed precision, here on the CPU."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = APPROACHES[approach](CONFIGS[approach](), (16, 16, 1), 7, jit_compile=True)
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1), np.uint8)
    step = tf.function(model.train_step, jit_compile=True)
    for value in step(batch_for(approach, images)).values():
        assert value.dtype == tf.float32
        assert np.isfinite(float(value))
    assert {output.dtype for output in model.detector.output.values()} == {"float32"}
    assert np.isfinite(model.detector(images)["score"]).all()


def test_a_score_does_not_depend_on_the_rest_of_the_batch(model, images):
    together = model.detector(images)["score"].numpy()
    alone = np.concatenate([model.detector(images[i : i + 1])["score"] for i in range(5)])
    # Float32 sums of other batch sizes may be ordered differently: a few units in the last place.
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_the_detector_is_whole_without_this_package(model, images, tmp_path):
    """Saved, and loaded by Keras alone in safe mode in a process that cannot see anomaly_tf."""
    model.detector.save(tmp_path / "detector.keras")
    np.save(tmp_path / "images.npy", images)
    program = (
        "import keras, numpy, sys\n"
        "model = keras.models.load_model('detector.keras', compile=False, safe_mode=True)\n"
        "numpy.save('scores.npy', model(numpy.load('images.npy'))['score'])\n"
        "assert 'anomaly_tf' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True, timeout=120)
    # Same weights, same operations: equal but for the order of float32 sums.
    np.testing.assert_allclose(
        np.load(tmp_path / "scores.npy"), model.detector(images)["score"], rtol=1e-5
    )


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
