"""Options of approach `padim`, Gaussians of patch features by position; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import OnePassConfig, ScoreMap, number
from anomaly_tf.errors import UserError
from anomaly_tf.networks.sizes import FeatureNetworks

DEFAULT_KINDS = 2
# Smallest mean number of images of a kind.
MIN_IMAGES_PER_KIND = 25


@dataclass(frozen=True)
class PadimNetworks(FeatureNetworks):
    """The pretrained network, and the Gaussians of normal patches.

    Attributes:
        dimensions: Number of feature channels that the Gaussians describe, drawn at random; at most
            as many as there are. Memory and size of the detector grow with its square.
        kinds: Number of groups into which normal images are divided, such as several materials,
            cameras or lights; each has Gaussians of its own and needs 25 images. Default: 2, or 1
            for fewer than 50 images.
    """

    # On validation cells of ELPV (anomalies of probability 2/3; one type, the other, both): strides
    # 8 and 16 .87, .73, .64; with 32 and two kinds .88, .73, .78. A grid of 8 pixels is no better.
    strides: tuple[int, ...] = (8, 16, 32)
    grid: int = number(16, 2, 32)
    dimensions: int = number(100, 1, 1000)
    kinds: int | None = number(None, 1, 16)


@dataclass(frozen=True)
class PadimConfig(OnePassConfig):
    """Configuration of approach `padim`, Gaussians of patch features by position.

    Under protocols imbalance and unseen it also learns to separate labelled anomalies from normal
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

    def require_images(self, count: int, image_shape: tuple[int, ...]) -> None:
        """Refuses fewer normal images than the kinds that are asked for need."""
        kinds = self.networks.kinds or 1
        if kinds > 1 and count < kinds * MIN_IMAGES_PER_KIND:
            raise UserError(
                f"{kinds} kinds of normal images need {kinds * MIN_IMAGES_PER_KIND} normal "
                f"training images; there are {count}; add images or lower --networks.kinds to "
                f"{max(1, count // MIN_IMAGES_PER_KIND)}"
            )
