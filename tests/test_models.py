"""What every approach keeps: shapes, ranges, and a detector that stands alone."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from anomaly_tf.config import CONFIGS
from anomaly_tf.models import APPROACHES
from anomaly_tf.models.blocks import depth_to_space, halved_sizes, space_to_depth


@pytest.fixture(params=APPROACHES)
def approach(request) -> str:
    return request.param


@pytest.fixture(params=[(28, 28, 1), (17, 10, 3)], ids=str)
def model(approach, request) -> keras.Model:
    keras.utils.set_random_seed(0)
    return APPROACHES[approach](CONFIGS[approach](), request.param, jit_compile=False)


@pytest.fixture
def images(model) -> np.ndarray:
    shape = (5, *model.detector.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_every_configuration_has_an_approach_and_the_reverse():
    assert set(APPROACHES) == set(CONFIGS)


def test_detector_shapes_and_ranges(model, images):
    outputs = {name: value.numpy() for name, value in model.detector(images).items()}
    count, height, width, channels = images.shape
    assert outputs["score"].shape == (count,)
    assert outputs["error_map"].shape == (count, height, width)
    assert outputs["reconstruction"].shape == (count, height, width, channels)
    assert all(value.dtype == np.float32 for value in outputs.values())
    assert np.abs(outputs["reconstruction"]).max() <= 1.0
    assert outputs["error_map"].min() >= 0.0
    assert outputs["error_map"].max() <= 2.0


def test_the_score_is_the_mean_absolute_error_of_the_image_in_minus_one_to_one(model, images):
    outputs = model.detector(images)
    error = np.abs(images / 127.5 - 1.0 - outputs["reconstruction"].numpy())
    np.testing.assert_allclose(outputs["error_map"], error.mean(axis=-1), atol=1e-6)
    np.testing.assert_allclose(outputs["score"], error.mean(axis=(1, 2, 3)), atol=1e-6)


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
