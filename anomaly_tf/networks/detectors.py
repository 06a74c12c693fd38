"""Building blocks of detectors, which map uint8 images to anomaly maps and scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import keras
from keras import KerasTensor, layers, ops

from anomaly_tf.config import ScoreMap


def image_input(image_shape: tuple[int, int, int]) -> tuple[KerasTensor, KerasTensor]:
    """First layers of every detector: the uint8 input, and it scaled to float32 in [-1, 1]."""
    image = keras.Input(image_shape, dtype="uint8", name="image")
    return image, layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="scale")(image)


def smoothed(error_map: KerasTensor, score_map: ScoreMap, share: float = 1.0) -> KerasTensor:
    """Smooths the error map `(N, H, W)` of images that are scored by region.

    The map of images that are scored as a whole is unchanged. The filter is two means over a square
    window of a twelfth of the shorter side, which together approximate the Gaussian filter of PaDiM
    (T. Defard et al. 2021). The map is padded with zeros: a mean over the fewer pixels at the
    border would have a larger variance, and so would the maximum of the map.

    Args:
        error_map: The map.
        score_map: How the score is computed from the map.
        share: Factor on the window, for maps with less noise than a reconstruction's errors.
    """
    height, width = error_map.shape[1:]
    if score_map.scores_whole((height, width)):
        return error_map
    window = smoothing_window(round(share * min(height, width)))
    # A mean over a square is a mean over rows followed by one over columns.
    x = _two_means(error_map, window)
    turned = layers.Permute((2, 1), dtype="float32")
    return turned(_two_means(turned(x), window))


def _two_means(x: KerasTensor, window: int) -> KerasTensor:
    """Two means over a window of the first axis of `(N, H, W)`, with zeros beyond the border.

    The other axis is used as channels, because the kernels of every runtime are vectorised over
    channels: with a single channel LiteRT takes thirty times as long.
    """
    height, width = x.shape[1:]
    x = layers.Reshape((height, 1, width), dtype="float32")(x)
    x = layers.ZeroPadding2D((window - 1, 0), dtype="float32")(x)
    for _ in range(2):
        x = layers.AveragePooling2D((window, 1), strides=1, dtype="float32")(x)
    return layers.Reshape((height, width), dtype="float32")(x)


def smoothing_window(side: int) -> int:
    """Side of the smoothing window, an odd number, for a shorter side in pixels: 11 for 128."""
    return side // 24 * 2 + 1


def map_score(error_map: KerasTensor, score_map: ScoreMap) -> KerasTensor:
    """Scores `(N,)` of images: the mean of the `smoothed` map, or its maximum if scored by region.

    In a large image, the mean would hide a small defect in the noise of all other pixels. PaDiM and
    PatchCore (K. Roth et al. 2022) also score an image by the maximum.
    """
    reduce = {"mean": ops.mean, "maximum": ops.max}[score_map.rule(error_map.shape[1:])]
    return reduce(error_map, axis=(1, 2))


def reconstruction_detector(
    generator: keras.Model,
    error: Literal["absolute", "squared"],
    score_map: ScoreMap,
    terms: Callable[[KerasTensor], list[KerasTensor]] = lambda images: [],
) -> keras.Model:
    """The detector of a reconstruction approach, a functional model without custom code.

    Args:
        generator: A model from float32 images `(N, H, W, C)` in [-1, 1] to reconstructions of the
            same kind.
        error: `absolute`, |x - G(x)|, in [0, 2]; or `squared`, (x - G(x))^2 where black is 0 and
            white is 1, in [0, 1].
        score_map: How the score is computed from the map.
        terms: Function from images, as the generator takes them, to terms `(N,)` that are added to
            the score.

    Returns:
        A model from uint8 images `(N, H, W, C)` to a dictionary: `error_map` float32 `(N, H, W)`,
        the error of each pixel, averaged over channels and smoothed by `smoothed`; `score` float32
        `(N,)`, `map_score` of the map plus the terms; `reconstruction` float32 `(N, H, W, C)` in
        [-1, 1].
    """
    image, scaled = image_input(generator.input_shape[1:])
    reconstruction = generator(scaled, training=False)
    difference = scaled - reconstruction
    # Half the difference, on a scale from black 0 to white 1.
    errors = ops.abs(difference) if error == "absolute" else ops.square(difference / 2)
    error_map = smoothed(ops.mean(errors, axis=-1), score_map)
    outputs = {
        "score": sum(terms(scaled), start=map_score(error_map, score_map)),
        "error_map": error_map,
        "reconstruction": reconstruction,
    }
    return keras.Model(image, outputs, name="detector")


def surprise(logits: KerasTensor) -> KerasTensor:
    """-log of the probability of normal, `(N,)`, at least 0, from logits `(N, 1)` of anomaly."""
    return softplus(logits[:, 0])


def softplus(evidence: KerasTensor) -> KerasTensor:
    """log(1 + exp(x)), at least 0: -log of the probability of normal, from the logit of anomaly."""
    # log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)); where exp is so small that float32 would
    # round it away in the sum, the first two terms of the series are used.
    rest = ops.exp(-ops.abs(evidence))
    small = rest - rest * rest / 2.0
    return ops.relu(evidence) + ops.where(rest < 1e-3, small, ops.log(1.0 + rest))
