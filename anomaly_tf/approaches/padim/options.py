"""Options of approach `padim`, Gaussians of patch features by position; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import OnePassConfig, ScoreMap, number
from anomaly_tf.networks.sizes import FeatureNetworks


@dataclass(frozen=True)
class PadimNetworks(FeatureNetworks):
    """The pretrained network, and the Gaussians of normal patches.

    Attributes:
        dimensions: Number of feature channels that the Gaussians describe, drawn at random; at most
            as many as there are. Memory and size of the detector grow with its square.
        kinds: Number of groups into which normal images are divided, such as several materials,
            cameras or lights; each has Gaussians of its own. Sets of fewer than 50 images are not
            divided.
    """

    # On validation cells of ELPV (anomalies of probability 2/3; one type, the other, both): strides
    # 8 and 16 .87, .73, .64; with 32 and two kinds .88, .73, .78. A grid of 8 pixels is no better.
    strides: tuple[int, ...] = (8, 16, 32)
    grid: int = number(16, 2, 32)
    dimensions: int = number(100, 1, 1000)
    kinds: int = number(2, 1, 16)


@dataclass(frozen=True)
class PadimConfig(OnePassConfig):
    """Configuration of approach `padim`, Gaussians of patch features by position.

    Under protocols imbalance and unseen it also learns what tells labelled anomalies from normal
    images, if there are at least 6 and pictures are not cut into tiles.

    Attributes:
        networks: The pretrained network and the Gaussians.
    """

    learns_anomalies: ClassVar[bool] = True
    quantizable: ClassVar[bool] = False
    score_map: ClassVar[ScoreMap] = ScoreMap(
        "Mahalanobis distance from normal patches of the position",
        "none",
        "none",
        whole_up_to=0,
    )

    approach: str = "padim"
    networks: PadimNetworks = PadimNetworks()
