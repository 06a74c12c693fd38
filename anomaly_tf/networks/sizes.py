"""Sizes of the networks that two or more approaches share; imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

from anomaly_tf.config import Checked, number


def halvings(image_shape: tuple[int, ...]) -> int:
    """How many halvings bring an image's shorter side nearest to 4 pixels, by ratio; at least 1.

    >>> [halvings((side, side, 1)) for side in (8, 28, 64, 128, 256)]
    [1, 3, 4, 5, 6]
    """
    return max(1, round(math.log2(min(image_shape[:2]) / 4)))


@dataclass(frozen=True)
class Networks(Checked):
    """Base of the networks' sizes: a None stands for what fits the images.

    What field `x` holds, or images get by it, is told by the method `x_for`.
    """

    section: ClassVar[str] = "networks."

    def for_image(self, image_shape: tuple[int, ...]) -> Self:
        """The same sizes with every None replaced by what images `(H, W, C)` get.

        Raises:
            ValueError: If the images are too small for the sizes that are given.
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
        """Channels of the halving blocks that field `name` holds, or that images get.

        Args:
            name: Name of the field.
            image_shape: Height, width, channels.
            channels: Channels of the first blocks; the last number stands for all further ones.
            least: Smallest number of blocks.
            fewer: How many fewer than `halvings` there are.
        """
        given = getattr(self, name)
        if given is None:
            count = max(halvings(image_shape) - fewer, least)
            return (channels + channels[-1:] * count)[:count]
        side = min(image_shape[:2])
        most = math.ceil(math.log2(side))
        if len(given) > most:
            size = f"{image_shape[0]}x{image_shape[1]}"
            self._refuse(
                name,
                f"must hold at most {most} values, each of which halves images of {size} pixels; "
                f"got {len(given)}",
            )
        return given


@dataclass(frozen=True)
class ConvolutionalNetworks(Networks):
    """Sizes of a convolutional autoencoder.

    Attributes:
        filters: Channels of the encoder's convolutions, each halving height and width, outermost
            first; the decoder mirrors them. By default as many of 16, 32, 64, 128, 128, ... as
            bring the shorter side to about 4 pixels: 16, 32, 64 at 28x28.
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
        discriminator_filters: Channels of each discriminator's halving convolutions. By default
            as the generator's by default, without the last: 16, 32 at 28x28.
    """

    discriminator_filters: tuple[int, ...] | None = number(None, 1)

    def discriminator_filters_for(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Channels of a discriminator's convolutions for images `(H, W, C)`."""
        return self._halving("discriminator_filters", image_shape, (16, 32, 64, 128), fewer=1)


@dataclass(frozen=True)
class ClassifierNetworks(Networks):
    """Sizes of the convolutional classifier.

    Attributes:
        filters: Channels of its blocks of convolutions, at least two, each halving height and
            width by max pooling. By default as many of 32, 48, 64, 96, 128, 128, ... as bring the
            shorter side to about 4 pixels: 32, 48, 64 at 28x28.
        dense: Units of the dense layer before the softmax.
        dropout: Share of units that are dropped before each dense layer in training.
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
