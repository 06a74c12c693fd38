"""PatchCore, approach `patchcore`: distance to a memory bank of normal patches.

K. Roth, L. Pemula, J. Zepeda, B. Schoelkopf, T. Brox, P. Gehler: Towards Total Recall in Industrial
Anomaly Detection, CVPR 2022. A pretrained network describes each patch of an image by a vector. The
memory bank holds vectors of normal patches, chosen so that all others are near one of them (greedy
k-centre, O. Sener, S. Savarese, ICLR 2018). The error of a patch is its distance to the nearest
vector of the bank; the score of an image is the largest error of its smoothed map.

Unlike in the paper, the vectors are whitened by the covariance of normal patches, and the bank is
chosen from a random sample of the patches, so that memory and time do not depend on the number of
images.
"""

from __future__ import annotations

import tensorflow as tf

from anomaly_tf.approaches.base import Approach
from anomaly_tf.approaches.patch_core.options import (
    DEFAULT_BANK,
    PatchCoreConfig,
    PatchCoreNetworks,
)
from anomaly_tf.networks.features import (
    FEATURE_LENGTH,
    UniformSample,
    bank_distances,
    build_features,
    distance_detector,
    mean_length,
    set_bank,
    whitening,
)


class PatchCore(Approach):
    """The sample of normal patches and the memory bank that is chosen from it.

    `fit` takes normal images, float32 `(N, H, W, C)` in [-1, 1].

    Args:
        image_shape: Height, width, channels.
        networks: The pretrained network and the size of the bank.
    """

    def __init__(self, image_shape: tuple[int, int, int], networks: PatchCoreNetworks) -> None:
        super().__init__("patchcore", (FEATURE_LENGTH,))
        self.features = build_features(image_shape, networks)
        grid = self.features.output_shape[1:]
        bank_size = networks.bank_size or min(DEFAULT_BANK, networks.candidates)
        self.distances = bank_distances(grid, bank_size)
        self.detector = distance_detector(self.features, self.distances, PatchCoreConfig.score_map)
        self.sample = UniformSample(networks.candidates, grid[-1])

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds the patches of a batch to the sample."""
        features = self.features(data, training=False)
        patches = tf.reshape(features, [-1, features.shape[-1]])
        self.sample.add(patches)
        return self.track({FEATURE_LENGTH: mean_length(patches)})

    def finish_epoch(self) -> None:
        """Chooses the bank from the sample and sets the detector's weights."""
        sample = self.sample.vectors()
        mean, matrix = whitening(sample)
        set_bank(self.distances, sample, mean, matrix)


def build(
    config: PatchCoreConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> PatchCore:
    """A compiled model without optimizers."""
    model = PatchCore(image_shape, config.networks)
    model.compile({}, jit_compile)
    return model
