"""Natural synthetic anomalies, approach `nsa`.

H. Schlueter, J. Tan, B. Hou, B. Kainz: Natural Synthetic Anomalies for Self-Supervised Anomaly
Detection and Localization, ECCV 2022. A convolutional network learns to locate synthetic defects
(`defects.py`) in normal images. It returns the probability of a defect for each pixel and is
trained on the binary cross-entropy with labels that depend on the local difference to the normal
image, because a difference that cannot be seen cannot be learnt. Real defects need not look like
the synthetic ones: the network learns how normal images look in order to find what differs.

The network is a U-Net (O. Ronneberger et al. 2015) whose first and last level have half the height
and width of the images.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import KerasTensor, layers

from anomaly_tf.approaches.base import Approach, adam
from anomaly_tf.approaches.nsa.defects import defect_labels, synthetic_defects
from anomaly_tf.approaches.nsa.options import NsaConfig, SegmentationNetworks, SyntheticDefects
from anomaly_tf.networks.blocks import (
    downsample,
    features_to_pixels,
    halved_sizes,
    image_to_features,
    upsample,
)
from anomaly_tf.networks.detectors import image_input, map_score, smoothed, softplus


def build_network(image_shape: tuple[int, int, int], filters: tuple[int, ...]) -> keras.Model:
    """A model from images `(N, H, W, C)` in [-1, 1] to logits of a defect, float32 `(N, H, W)`.

    Args:
        image_shape: Height, width, channels; the weights do not depend on height and width.
        filters: Channels of the levels, outermost first.
    """
    sizes = halved_sizes(image_shape[:2], len(filters))
    image = keras.Input(image_shape, name="image")
    maps = [_convolution(image_to_features(image, filters[0]), filters[0])]
    for channels in filters[1:]:
        maps.append(_convolution(downsample(maps[-1], channels), channels))
    x = maps[-1]
    for place in reversed(range(len(filters) - 1)):
        x = upsample(x, filters[place], sizes[place + 1])
        x = _convolution(layers.Concatenate()([x, maps[place]]), filters[place])
    logits = features_to_pixels(x, 1, sizes[0])
    logits = layers.Reshape(image_shape[:2], dtype="float32", name="logits")(logits)
    return keras.Model(image, logits, name="segmentation")


def _convolution(x: KerasTensor, filters: int) -> KerasTensor:
    """3x3 convolution, BatchNorm, LeakyReLU 0.2."""
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.LeakyReLU(0.2)(layers.BatchNormalization(momentum=0.9)(x))


class Nsa(Approach):
    """The network that locates defects in training.

    `fit` takes normal images, float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: Size of the network.
        defects: Synthetic defects.
        ema_decay: Decay of the moving average per step.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        networks: SegmentationNetworks,
        defects: SyntheticDefects,
        ema_decay: float,
    ) -> None:
        filters = networks.filters_for(image_shape)
        self.crop = networks.cropped(image_shape)
        self.defects = defects
        trained = {"segmentation": build_network(self.crop, filters)}
        averaged = build_network(image_shape, filters)
        super().__init__("nsa", ("loss",), trained, {"segmentation": averaged}, ema_decay)
        self.seeds = keras.random.SeedGenerator()
        self.detector = build_detector(averaged)

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step on a batch of normal images; returns the mean of the loss."""
        crop_seed, seed = tf.unstack(tf.random.split(tf.cast(self.seeds.next(), tf.int32)))
        images, difference = synthetic_defects(
            self._cropped(data, crop_seed), self.defects.layers, seed
        )
        labels = defect_labels(difference, self.defects.faintness)
        with tf.GradientTape() as tape:
            logits = self.networks["segmentation"](images, training=True)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        self.learn(tape, {"segmentation": loss})
        return self.track({"loss": loss})

    def _cropped(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A random place of the images, the same for all of them, of the size for training."""
        if images.shape[1:] == self.crop:
            return images
        places = [
            whole - part + 1 for whole, part in zip(images.shape[1:3], self.crop[:2], strict=True)
        ]
        row, column = tf.unstack(tf.cast(tf.random.stateless_uniform([2], seed) * places, tf.int32))
        return tf.slice(images, [0, row, column, 0], [-1, *self.crop])


def build_detector(network: keras.Model) -> keras.Model:
    """A model from uint8 images to score and error map.

    The map is -log of the probability that a pixel is normal, smoothed; the score is `map_score` of
    the map.
    """
    image, scaled = image_input(network.input_shape[1:])
    score_map = NsaConfig.score_map
    logits = network(scaled, training=False)
    # The network's map is smooth already; a wide window would blur the outlines of defects.
    error_map = smoothed(softplus(logits), score_map, share=1 / 3)
    outputs = {"score": map_score(error_map, score_map), "error_map": error_map}
    return keras.Model(image, outputs, name="detector")


def build(
    config: NsaConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> Nsa:
    """A compiled model with Adam."""
    training = config.training
    model = Nsa(image_shape, config.networks, config.defects, training.ema_decay)
    model.compile({"segmentation": adam(training.learning_rate, training)}, jit_compile)
    return model
