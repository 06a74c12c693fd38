"""Options of approach `nsa`, which learns to locate synthetic defects; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import (
    Checked,
    NormalOnlyConfig,
    SamplingConfig,
    ScoreMap,
    TrainingConfig,
    number,
    reconstruction_map,
)
from anomaly_tf.networks.sizes import Networks


@dataclass(frozen=True)
class SegmentationNetworks(Networks):
    """Size of the network that locates defects.

    Attributes:
        filters: Channels of the convolutions, outermost first; each level halves height and width.
            Default: as many of 16, 32, 64, 64, ... as reduce the shorter side to about 8 pixels.
        crop: Largest height and width in training: larger images are cropped at random places. The
            network is convolutional, and the detector applies it to whole images.
    """

    filters: tuple[int, ...] | None = number(None, 1)
    crop: int = number(128, 16)

    def cropped(self, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Height, width and channels in training for images `(H, W, C)`."""
        height, width, channels = image_shape
        return min(height, self.crop), min(width, self.crop), channels

    def filters_for(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Channels of the levels for images `(H, W, C)`; raises as `for_image`."""
        return self._halving("filters", self.cropped(image_shape), (16, 32, 64), fewer=1)


@dataclass(frozen=True)
class SyntheticDefects(Checked):
    """Defects that are generated in normal images.

    Attributes:
        layers: Number of defects of an image, one over the other; each is left out with a
            probability of a quarter.
        faintness: Mean absolute difference to the normal image, where black is 0 and white is 1,
            from which a pixel is rather defective than normal. Smaller values find fainter defects
            and raise more false alarms.
    """

    section: ClassVar[str] = "defects."

    layers: int = number(3, 1, 20)
    faintness: float = number(0.02, 0, 1, above=True)


@dataclass(frozen=True)
class NsaConfig(NormalOnlyConfig):
    """Configuration of approach `nsa`, which learns to locate synthetic defects.

    Attributes:
        sampling: Training batches.
        training: Length of training, batch size and learning rate.
        networks: Size of the network.
        defects: Synthetic defects.
    """

    learns_positions: ClassVar[bool] = False
    score_map: ClassVar[ScoreMap] = reconstruction_map("-log p(normal)")

    approach: str = "nsa"
    sampling: SamplingConfig = SamplingConfig(flip=0.0, shift=0)
    training: TrainingConfig = TrainingConfig(epochs=20, steps_per_epoch=40, ema_decay=0.99)
    networks: SegmentationNetworks = SegmentationNetworks()
    defects: SyntheticDefects = SyntheticDefects()
