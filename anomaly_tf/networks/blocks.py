"""Layers and networks that two or more approaches share (DCGAN style, Radford et al. 2016)."""

from __future__ import annotations

import keras
from keras import KerasTensor, layers

from anomaly_tf.networks.sizes import AdversarialNetworks, ConvolutionalNetworks


def halved_sizes(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """Heights and widths before and after each of `times` strided convolutions.

    >>> halved_sizes((28, 28), 3)
    [(28, 28), (14, 14), (7, 7), (4, 4)]
    """
    sizes = [size]
    for _ in range(times):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def space_to_depth(x: KerasTensor) -> KerasTensor:
    """Folds each 2x2 block of pixels into channels, `(H, W, C)` to `(H/2, W/2, 4 C)`.

    An odd height or width is padded with a row or column of zeros.
    """
    height, width, channels = x.shape[1:]
    if height % 2 or width % 2:
        x = layers.ZeroPadding2D(((0, height % 2), (0, width % 2)))(x)
    rows, columns = (height + 1) // 2, (width + 1) // 2
    x = layers.Reshape((rows, 2, columns, 2 * channels))(x)
    return layers.Reshape((rows, columns, 4 * channels))(layers.Permute((1, 3, 2, 4))(x))


def depth_to_space(x: KerasTensor) -> KerasTensor:
    """The reverse: unfolds channels into 2x2 blocks, `(H, W, 4 C)` to `(2 H, 2 W, C)`."""
    height, width, channels = x.shape[1:]
    x = layers.Reshape((height, width, 2, channels // 2))(x)
    x = layers.Permute((1, 3, 2, 4))(x)
    return layers.Reshape((2 * height, 2 * width, channels // 4))(x)


def image_to_features(image: KerasTensor, filters: int) -> KerasTensor:
    """First layer of a network: halves height and width; convolution and LeakyReLU 0.2.

    A 3x3 convolution over folded 2x2 blocks has a receptive field of 6x6 pixels, and its gradient
    with respect to the image costs a third of that of a strided convolution on one channel.
    """
    x = layers.Conv2D(filters, 3, padding="same")(space_to_depth(image))
    return layers.LeakyReLU(0.2)(x)


def features_to_image(x: KerasTensor, channels: int, size: tuple[int, int]) -> KerasTensor:
    """Last layer of a decoder: doubles height and width, cropped to `size`; float32 in [-1, 1].

    `features_to_pixels` and tanh.
    """
    return layers.Activation("tanh", dtype="float32")(features_to_pixels(x, channels, size))


def features_to_pixels(x: KerasTensor, channels: int, size: tuple[int, int]) -> KerasTensor:
    """Doubles height and width, cropped to `size`, with any number of output channels.

    Sub-pixel convolution (Shi et al. 2016), for the reason given in `image_to_features`.
    """
    return _crop(depth_to_space(layers.Conv2D(4 * channels, 3, padding="same")(x)), size)


def downsample(x: KerasTensor, filters: int) -> KerasTensor:
    """Halves height and width: strided 4x4 convolution, BatchNorm, LeakyReLU 0.2."""
    x = layers.Conv2D(filters, 4, strides=2, padding="same", use_bias=False)(x)
    return layers.LeakyReLU(0.2)(layers.BatchNormalization(momentum=0.9)(x))


def upsample(x: KerasTensor, filters: int, size: tuple[int, int]) -> KerasTensor:
    """Doubles height and width, cropped to `size`: transposed 4x4 convolution, BatchNorm, ReLU."""
    x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(_crop(x, size)))


def encoder_maps(image: KerasTensor, networks: ConvolutionalNetworks) -> list[KerasTensor]:
    """The part of an encoder before its latent vector: the feature maps after each halving."""
    first, *others = networks.filters_for(image.shape[1:])
    maps = [image_to_features(image, first)]
    for filters in others:
        maps.append(downsample(maps[-1], filters))
    return maps


def build_encoder(
    image_shape: tuple[int, int, int], networks: ConvolutionalNetworks, skips: bool = False
) -> keras.Model:
    """A model from images float32 `(N, H, W, C)` in [-1, 1] to a list of outputs.

    The first is the latent vector, float32 `(N, latent)`. With `skips`, the feature maps of all
    halvings except the last follow, outermost first.
    """
    image = keras.Input(image_shape, name="image")
    *maps, last = encoder_maps(image, networks)
    latent = layers.Dense(networks.latent, dtype="float32", name="latent")(layers.Flatten()(last))
    return keras.Model(image, [latent, *(maps if skips else ())], name="encoder")


def build_decoder(
    image_shape: tuple[int, int, int], networks: ConvolutionalNetworks, skips: bool = False
) -> keras.Model:
    """A model from the encoder's outputs to images float32 `(N, H, W, C)` in [-1, 1].

    With `skips`, the encoder's maps are concatenated with the decoder's of the same size (U-Net, O.
    Ronneberger et al. 2015), and one more convolution follows the outermost.
    """
    *others, last = networks.filters_for(image_shape)
    sizes = halved_sizes(image_shape[:2], len(others) + 1)
    latent = keras.Input((networks.latent,), name="latent")
    shapes = zip(sizes[1:-1], others, strict=True)
    maps = [keras.Input((*size, filters)) for size, filters in shapes] if skips else []
    height, width = sizes[-1]
    x = layers.Dense(height * width * last, use_bias=False)(latent)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Reshape((height, width, last))(x)
    for place in reversed(range(len(others))):
        x = upsample(x, others[place], sizes[place + 1])
        if maps:
            x = layers.Concatenate()([x, maps[place]])
    if maps:
        x = layers.Conv2D(others[0], 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    image = features_to_image(x, image_shape[-1], sizes[0])
    return keras.Model([latent, *maps], image, name="decoder")


def build_generator(
    image_shape: tuple[int, int, int], networks: ConvolutionalNetworks, skips: bool = False
) -> keras.Model:
    """Encoder and decoder in one model: images to reconstructions, both in [-1, 1]."""
    image = keras.Input(image_shape, name="image")
    encoder = build_encoder(image_shape, networks, skips)
    decoder = build_decoder(image_shape, networks, skips)
    return keras.Model(image, decoder(encoder(image)), name="generator")


def build_discriminator(
    image_shape: tuple[int, int, int], networks: AdversarialNetworks, name: str
) -> keras.Model:
    """PatchGAN discriminator: images to a grid of scores float32 `(N, h, w, 1)`, real near 1."""
    image = keras.Input(image_shape, name="image")
    first, *others = networks.discriminator_filters_for(image_shape)
    x = image_to_features(image, first)
    for filters in others:
        x = downsample(x, filters)
    scores = layers.Conv2D(1, 4, padding="same", dtype="float32", name="scores")(x)
    return keras.Model(image, scores, name=name)


def _crop(x: KerasTensor, size: tuple[int, int]) -> KerasTensor:
    surplus = ((0, x.shape[1] - size[0]), (0, x.shape[2] - size[1]))
    return x if surplus == ((0, 0), (0, 0)) else layers.Cropping2D(surplus)(x)
