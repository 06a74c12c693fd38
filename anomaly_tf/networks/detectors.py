"""From uint8 images to maps and scores: the parts that detectors are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import keras
from keras import KerasTensor, layers, ops

from anomaly_tf.config import ScoreMap


def image_input(image_shape: tuple[int, int, int]) -> tuple[KerasTensor, KerasTensor]:
    """First layers of every detector: uint8 images, and the same as float32 in [-1, 1]."""
    image = keras.Input(image_shape, dtype="uint8", name="image")
    return image, layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="scale")(image)


def smoothed(error_map: KerasTensor, score_map: ScoreMap) -> KerasTensor:
    """Each pixel's error with that around it, `(N, H, W)` likewise, of images judged by places.

    Of images that are judged as a whole the map stays as it is. Two means over a square window of a
    twelfth of the shorter side, which together come near the Gaussian that PaDiM smooths its maps
    by (T. Defard et al. 2021). Beyond the border there is no error: a mean of the fewer pixels
    there would vary more, and with it the largest of all.
    """
    height, width = error_map.shape[1:]
    if score_map.judges_whole((height, width)):
        return error_map
    window = smoothing_window(min(height, width))
    # A mean over a square is one over columns and one over rows.
    x = _two_means(error_map, window)
    turned = layers.Permute((2, 1), dtype="float32")
    return turned(_two_means(turned(x), window))


def _two_means(x: KerasTensor, window: int) -> KerasTensor:
    """Two means over a window of the first axis of `(N, H, W)`, with zeros beyond the border.

    The other axis is taken for channels, over which the kernels of every runtime are vectorised:
    over a single channel LiteRT needs thirty times as long.
    """
    height, width = x.shape[1:]
    x = layers.Reshape((height, 1, width), dtype="float32")(x)
    x = layers.ZeroPadding2D((window - 1, 0), dtype="float32")(x)
    for _ in range(2):
        x = layers.AveragePooling2D((window, 1), strides=1, dtype="float32")(x)
    return layers.Reshape((height, width), dtype="float32")(x)


def smoothing_window(side: int) -> int:
    """Height and width of the window, odd, for images with this shorter side: 11 for 128."""
    return side // 24 * 2 + 1


def map_score(error_map: KerasTensor, score_map: ScoreMap) -> KerasTensor:
    """Score `(N,)` of an image by its `smoothed` map: the mean, or of places the largest.

    In a large image the mean would drown a small defect in the noise of all other pixels; PaDiM
    and PatchCore (K. Roth et al. 2022) score an image by the maximum, too.
    """
    reduce = {"mean": ops.mean, "maximum": ops.max}[score_map.rule(error_map.shape[1:])]
    return reduce(error_map, axis=(1, 2))


def reconstruction_detector(
    generator: keras.Model,
    error: Literal["absolute", "squared"],
    score_map: ScoreMap,
    terms: Callable[[KerasTensor], list[KerasTensor]] = lambda images: [],
) -> keras.Model:
    """What a trained reconstruction approach leaves behind: one functional model, no own code.

    Args:
        generator: float32 images `(N, H, W, C)` in [-1, 1] to their reconstructions, likewise.
        error: `absolute`, |x - G(x)| as it is, in [0, 2]; or `squared`, (x - G(x))^2 where black
            is 0 and white is 1, in [0, 1].
        score_map: How the score follows from the map.
        terms: What is added to the score, each `(N,)`, of images like the generator's.

    Returns:
        A model from uint8 images `(N, H, W, C)` to a dictionary: `error_map` float32 `(N, H, W)`,
        the error of each pixel, mean over channels, by `smoothed`; `score` float32 `(N,)`, what
        `map_score` makes of the map, and the terms; `reconstruction` float32 `(N, H, W, C)` in
        [-1, 1].
    """
    image, scaled = image_input(generator.input_shape[1:])
    reconstruction = generator(scaled, training=False)
    difference = scaled - reconstruction
    # Half the difference is the one on a scale from black 0 to white 1.
    errors = ops.abs(difference) if error == "absolute" else ops.square(difference / 2)
    error_map = smoothed(ops.mean(errors, axis=-1), score_map)
    outputs = {
        "score": sum(terms(scaled), start=map_score(error_map, score_map)),
        "error_map": error_map,
        "reconstruction": reconstruction,
    }
    return keras.Model(image, outputs, name="detector")


def surprise(logits: KerasTensor) -> KerasTensor:
    """-log of the probability of normal, `(N,)`, at least 0, of the logits `(N, 1)` of anomaly."""
    evidence = logits[:, 0]
    # log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)); for small exp, where float32's 1 would
    # swallow it, the first two terms of its series.
    rest = ops.exp(-ops.abs(evidence))
    small = rest - rest * rest / 2.0
    return ops.relu(evidence) + ops.where(rest < 1e-3, small, ops.log(1.0 + rest))
