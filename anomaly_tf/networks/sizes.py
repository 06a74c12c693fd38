"""Sizes of the networks that two or more approaches share; imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

from anomaly_tf.config import Checked, number
from anomaly_tf.networks.backbone_names import BACKBONES, DEFAULT_BACKBONE


def halvings(image_shape: tuple[int, ...]) -> int:
    """Number of halvings, at least 1, after which the shorter side is nearest to 4 pixels by ratio.

    >>> [halvings((side, side, 1)) for side in (8, 28, 64, 128, 256)]
    [1, 3, 4, 5, 6]
    """
    return max(1, round(math.log2(min(image_shape[:2]) / 4)))


@dataclass(frozen=True)
class Networks(Checked):
    """Base of the networks' sizes; None means a size that depends on the images.

    Method `x_for` returns the value of field `x`, or its default for the images.
    """

    section: ClassVar[str] = "networks."

    def for_image(self, image_shape: tuple[int, ...]) -> Self:
        """A copy with every None replaced by the default for images `(H, W, C)`.

        Raises:
            ValueError: If the images are too small for the given sizes.
        """
        names = [item.name for item in dataclasses.fields(self)]
        fitting = {name: getattr(self, f"{name}_for", None) for name in names}
        sizes = {name: fit(image_shape) for name, fit in fitting.items() if fit}
        return dataclasses.replace(self, **sizes)

    def _halving(
        self,
        name: str,
        image_shape: tuple[int, ...],
        channels: tuple[int, ...],
        least: int = 1,
        fewer: int = 0,
    ) -> tuple[int, ...]:
        """Channels of the halving blocks: the value of field `name`, or its default.

        Args:
            name: Name of the field.
            image_shape: Height, width, channels.
            channels: Channels of the first blocks; further blocks have the last number.
            least: Smallest number of blocks.
            fewer: Number of blocks by which the default is below `halvings`.
        """
        given = getattr(self, name)
        if given is None:
            count = max(halvings(image_shape) - fewer, least)
            return (channels + channels[-1:] * count)[:count]
        side = min(image_shape[:2])
        largest = math.ceil(math.log2(side))
        if len(given) > largest:
            size = f"{image_shape[0]}x{image_shape[1]}"
            self._refuse(
                name,
                f"must hold at most {largest} values, because each halves images of {size} pixels; "
                f"got {len(given)}",
            )
        return given


@dataclass(frozen=True)
class ConvolutionalNetworks(Networks):
    """Sizes of a convolutional autoencoder.

    Attributes:
        filters: Channels of the encoder's convolutions, outermost first; each halves height and
            width, and the decoder mirrors them. Default: as many of 16, 32, 64, 128, 128, ... as
            reduce the shorter side to about 4 pixels, such as 16, 32, 64 at 28x28.
        latent: Length of the latent vector.
    """

    filters: tuple[int, ...] | None = number(None, 1)
    latent: int = number(128, 1)

    def filters_for(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Channels of the encoder's convolutions for images `(H, W, C)`; raises as `for_image`."""
        return self._halving("filters", image_shape, (16, 32, 64, 128))


@dataclass(frozen=True)
class AdversarialNetworks(ConvolutionalNetworks):
    """Sizes of a generator, which is a convolutional autoencoder, and its discriminators.

    Attributes:
        discriminator_filters: Channels of each discriminator's convolutions, which halve height and
            width. Default: the generator's default without its last value, such as 16, 32 at 28x28.
    """

    discriminator_filters: tuple[int, ...] | None = number(None, 1)

    def discriminator_filters_for(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Channels of a discriminator's convolutions for images `(H, W, C)`."""
        return self._halving("discriminator_filters", image_shape, (16, 32, 64, 128), fewer=1)


@dataclass(frozen=True)
class ClassifierNetworks(Networks):
    """Sizes of the convolutional classifier.

    Attributes:
        filters: Channels of the convolution blocks, at least two; each block halves height and
            width by max pooling. Default: as many of 32, 48, 64, 96, 128, 128, ... as reduce the
            shorter side to about 4 pixels, such as 32, 48, 64 at 28x28.
        dense: Units of the dense layer before the softmax.
        dropout: Dropout rate before each dense layer in training.
    """

    filters: tuple[int, ...] | None = number(None, 1)
    dense: int = number(128, 1)
    dropout: float = number(0.25, 0, 0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filters is not None and len(self.filters) < 2:
            self._refuse("filters", f"must hold at least two values; got {list(self.filters)}")

    def filters_for(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Channels of the blocks for images `(H, W, C)`; raises as `for_image`."""
        return self._halving("filters", image_shape, (32, 48, 64, 96, 128), least=2)


# Larger ones show nothing more.
MAX_ENLARGEMENT = 4.0


@dataclass(frozen=True)
class FeatureNetworks(Networks):
    """A pretrained network and the stages that describe patches.

    Attributes:
        backbone: Pretrained network. efficientnet_lite0 is installed with this package; Keras
            downloads the others when they are first used.
        strides: Strides in pixels of the stages whose outputs describe a patch, finest first.
        grid: Distance in pixels between neighbouring patches, not below the finest stride.
        enlarge_to: Smaller images are enlarged inside the model until the shorter side has this
            many pixels, at most four times.
        mirror: Number of pixels by which the image is continued beyond its borders by its mirror
            image, a multiple of grid; at most the shorter side. Without it, patches at the borders
            look unusual, because the network sees zeros beyond.
    """

    backbone: str = DEFAULT_BACKBONE
    strides: tuple[int, ...] = (8, 16)
    grid: int = number(8, 2, 32)
    enlarge_to: int = number(128, 8, 1024)
    mirror: int = number(0, 0, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone not in BACKBONES:
            self._refuse("backbone", f"must be one of {', '.join(BACKBONES)}; got {self.backbone}")
        known = sorted({stage.stride for stage in BACKBONES[self.backbone]})
        if not self.strides or list(self.strides) != sorted(set(self.strides) & set(known)):
            words = ", ".join(map(str, known))
            self._refuse("strides", f"must be some of {words}, rising; got {list(self.strides)}")
        if self.grid not in known or self.grid < self.strides[0]:
            words = ", ".join(str(stride) for stride in known if stride >= self.strides[0])
            self._refuse(
                "grid",
                f"must be one of {words}, a stride that is not below the finest of strides; got "
                f"{self.grid}",
            )
        if self.mirror % self.grid:
            self._refuse(
                "mirror", f"must be a multiple of --networks.grid, {self.grid}; got {self.mirror}"
            )

    def input_size(self, image_shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of what the backbone sees of images `(H, W, C)`."""
        factor = min(max(1.0, self.enlarge_to / min(image_shape[:2])), MAX_ENLARGEMENT)
        height, width = (round(factor * side) for side in image_shape[:2])
        return height, width

    def mirrored(self, image_shape: tuple[int, ...]) -> int:
        """Number of mirrored pixels beyond each border of images `(H, W, C)`."""
        shorter = min(self.input_size(image_shape))
        return min(self.mirror, shorter - shorter % self.grid)

    def n_patches(self, image_shape: tuple[int, ...]) -> int:
        """Number of patches of an image `(H, W, C)`."""
        return math.prod(-(-side // self.grid) for side in self.input_size(image_shape))
