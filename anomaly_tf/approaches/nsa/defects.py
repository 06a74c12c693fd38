"""Synthetic defects: local changes of normal images, from faint to strong.

A defect is content in a shape. The shapes are irregular spots (bounded by noise, as in DRAEM, V.
Zavrtanik et al., ICCV 2021), rotated rectangles and curved lines (patches and scars of CutPaste,
C.-L. Li et al., CVPR 2021). The contents are patches of the same or of another image, as they are
or blended so that only their details differ (NSA, H. Schlueter et al., ECCV 2022), and changes of
brightness, colour, sharpness and grain.

All random numbers are functions of the seed (stateless operations). In this module, images
`(N, H, W, C)` are 0 where black and 1 where white, and masks are `(N, H, W, 1)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# Below it a mask is 0, so that pixels outside of defects are unchanged.
LEAST_COVER = 0.02


class Draw:
    """Random numbers for each image of a batch, all different; a function of the seed.

    Args:
        seed: Two integers.
    """

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed = seed
        self._drawn = 0

    def _next(self) -> tf.Tensor:
        self._drawn += 1
        return tf.random.fold_in(self._seed, self._drawn)

    def uniform(
        self,
        count: tf.Tensor,
        low: float = 0.0,
        high: float = 1.0,
        shape: Sequence[int] = (1, 1, 1),
    ) -> tf.Tensor:
        """`(count, *shape)`, uniform from low to high."""
        return tf.random.stateless_uniform([count, *shape], self._next(), low, high)

    def size(self, count: tf.Tensor, low: float, high: float) -> tf.Tensor:
        """`(count, 1, 1, 1)`, whose logarithm is uniform."""
        return tf.exp(self.uniform(count, math.log(low), math.log(high)))

    def normal(self, count: tf.Tensor, shape: Sequence[int] = (1, 1, 1)) -> tf.Tensor:
        """`(count, *shape)`, standard normal."""
        return tf.random.stateless_normal([count, *shape], self._next())

    def chance(self, count: tf.Tensor, probability: float) -> tf.Tensor:
        """`(count, 1, 1, 1)`, True with a probability."""
        return self.uniform(count) < probability

    def order(self, count: tf.Tensor) -> tf.Tensor:
        """`(count,)`, the numbers from 0 in random order."""
        return tf.argsort(self.uniform(count, shape=()))


def synthetic_defects(
    images: tf.Tensor, layers: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Generates defects in normal images.

    Args:
        images: float32 `(N, H, W, C)` in [-1, 1], H and W known.
        layers: Number of defects of an image, one over the other; each is left out with a
            probability of a quarter. The kinds alternate within a batch, in random order.
        seed: Two integers.

    Returns:
        The images with defects, float32, the shape of `images`, in [-1, 1]; and the mean absolute
        difference to `images` over channels and 5 x 5 pixels, `(N, H, W)`, where black is 0 and
        white is 1, which is 0 outside of defects.
    """
    normal = (images + 1) / 2

    def add(layer: tf.Tensor, changed: tf.Tensor, touched: tf.Tensor) -> tuple[tf.Tensor, ...]:
        masks, contents = _defects(Draw(tf.random.fold_in(seed, layer)), changed)
        masks.set_shape(touched.shape)
        contents.set_shape(changed.shape)
        return layer + 1, changed + masks * (contents - changed), tf.maximum(touched, masks)

    # A loop of TensorFlow, so that the graph contains a single layer.
    state = tf.constant(0), normal, tf.zeros_like(normal[..., :1])
    _, changed, touched = tf.while_loop(lambda layer, *_: layer < layers, add, state)
    difference = tf.reduce_mean(tf.abs(changed - normal), axis=-1, keepdims=True)
    difference = tf.where(touched > 0, _blurred(difference, 5), 0.0)
    return 2 * changed - 1, difference[..., 0]


def _defects(draw: Draw, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Masks of a defect in each image, and what the images would be in its place."""
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]

    def mask(shape: Callable, numbers: tf.Tensor) -> tf.Tensor:
        return shape(draw, tf.size(numbers), height, width)

    def content(change: Callable, numbers: tf.Tensor) -> tf.Tensor:
        others = tf.gather(images, (numbers + 1) % count)
        return change(draw, tf.gather(images, numbers), others)

    masks = _alternating(SHAPES, draw.order(count), mask)
    masks = tf.where((masks > LEAST_COVER) & draw.chance(count, 0.75), masks, 0.0)
    contents = _alternating(CONTENTS, draw.order(count), content)
    return masks, tf.clip_by_value(contents, 0.0, 1.0)


def _alternating(
    kinds: Sequence[Callable], order: tf.Tensor, make: Callable[[Callable, tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Makes a part of a batch with each of the kinds, and joins them in the batch's order.

    Args:
        kinds: Functions.
        order: `(N,)`, the numbers of the images in random order.
        make: Called with each function and the numbers of its images.
    """
    parts = [order[place :: len(kinds)] for place in range(len(kinds))]
    made = tf.concat([make(*pair) for pair in zip(kinds, parts, strict=True)], axis=0)
    return tf.gather(made, tf.argsort(tf.concat(parts, axis=0)))


def _spot(draw: Draw, count: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Ellipses of a diameter of 4 to 50 % of the side, whose outlines are distorted by noise."""
    along, across = _frame(draw, count, height, width)
    radius = draw.size(count, 0.02, 0.25) * min(height, width)
    stretch = draw.size(count, 0.5, 2.0)
    depth = 1 - (tf.square(along / stretch) + tf.square(across * stretch)) / tf.square(radius)
    for cells in (8, 24):
        noise = tf.image.resize(draw.normal(count, (cells, cells, 1)), [height, width])
        depth += draw.size(count, 0.1, 0.5) * noise
    return tf.sigmoid(depth / draw.size(count, 0.05, 0.5))


def _rectangle(draw: Draw, count: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Rectangles in any direction, with sides of 3 to 40 % of the image's."""
    along, across = _frame(draw, count, height, width)
    halves = [draw.size(count, 0.015, 0.2) * min(height, width) for _ in range(2)]
    inside = tf.minimum(halves[0] - tf.abs(along), halves[1] - tf.abs(across))
    return _edged(inside, draw.size(count, 0.7, 6.0))


def _line(draw: Draw, count: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Parabolas with waves, from one pixel to 8 % of the side wide."""
    along, across = _frame(draw, count, height, width)
    half = draw.size(count, 0.05, 0.5) * min(height, width)
    bend = 0.4 * draw.normal(count)
    course = bend * (tf.square(along / half) - 0.3) * half
    length = draw.size(count, 0.1, 0.5) * min(height, width)
    wave = tf.sin(2 * math.pi * (along / length + draw.uniform(count)))
    course += draw.uniform(count, 0.0, 0.05) * length * wave
    slope = 2 * bend * along / half
    away = tf.abs(across - course) / tf.sqrt(1 + tf.square(slope))
    thickness = draw.size(count, 0.5, max(0.04 * min(height, width), 1.0))
    inside = tf.minimum(thickness - away, half - tf.abs(along))
    return _edged(inside, draw.size(count, 0.7, 3.0))


SHAPES = (_spot, _rectangle, _line)


def _frame(draw: Draw, count: tf.Tensor, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Pixels along and across a random direction from a random centre, each `(N, H, W, 1)`."""
    rows, columns = _grid(height, width)
    y, x = rows - draw.uniform(count) * height, columns - draw.uniform(count) * width
    angle = draw.uniform(count, 0.0, math.pi)
    return x * tf.cos(angle) + y * tf.sin(angle), y * tf.cos(angle) - x * tf.sin(angle)


def _grid(height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows `(1, H, 1, 1)` and columns `(1, 1, W, 1)` of the pixels."""
    rows, columns = tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32)
    return rows[tf.newaxis, :, tf.newaxis, tf.newaxis], columns[
        tf.newaxis, tf.newaxis, :, tf.newaxis
    ]


def _edged(inside: tf.Tensor, softness: tf.Tensor) -> tf.Tensor:
    """A mask from the distance to the edge, positive inside; softness is the edge's width."""
    return tf.clip_by_value(inside / softness + 0.5, 0.0, 1.0)


def _tinted(draw: Draw, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Multiplied by a colour."""
    return images * (1 + _colour(draw, images, 0.04, 0.7))


def _coloured(draw: Draw, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """A colour is added."""
    return images + _colour(draw, images, 0.03, 0.5)


def _covered(draw: Draw, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Without details, and a colour is added."""
    return _blurred(images, _window(images, 6)) + _colour(draw, images, 0.02, 0.4)


def _sharpness(draw: Draw, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Smoothed, or with exaggerated details."""
    count = tf.shape(images)[0]
    smooth = tf.where(draw.chance(count, 0.5), _blurred(images, 3), _blurred(images, 9))
    kept = tf.where(
        draw.chance(count, 0.3), draw.uniform(count, 1.4, 2.5), draw.uniform(count, 0.0, 0.6)
    )
    return smooth + kept * (images - smooth)


def _grained(draw: Draw, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """With noise, grey or coloured, fine or coarse."""
    count, shape = tf.shape(images)[0], images.shape[1:]
    noise = draw.normal(count, (*shape[:2], 1)) + draw.uniform(count) * draw.normal(count, shape)
    # The mean over 3 x 3 pixels has a third of the deviation.
    noise = tf.where(draw.chance(count, 0.5), noise, 3 * _blurred(noise, 3))
    return images + draw.size(count, 0.03, 0.2) * noise


def _moved(draw: Draw, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Another place of the same or of another image, flipped at random."""
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    rows, columns = _grid(height, width)
    down, across = (tf.where(draw.chance(count, 0.5), -1.0, 1.0) for _ in range(2))
    y = down * rows + tf.floor(draw.uniform(count, 0.05, 0.95) * height) + 0 * columns
    x = across * columns + tf.floor(draw.uniform(count, 0.05, 0.95) * width) + 0 * rows
    return _blended(draw, images, _pixels(_source(draw, images, others), y, x))


def _resized(draw: Draw, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Another place of the same or of another image, rotated, at half to twice the size."""
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    rows, columns = _grid(height, width)
    angle, size = draw.uniform(count, -math.pi, math.pi), draw.size(count, 0.5, 2.0)
    y = (tf.cos(angle) * rows + tf.sin(angle) * columns) * size + draw.uniform(count) * height
    x = (tf.cos(angle) * columns - tf.sin(angle) * rows) * size + draw.uniform(count) * width
    source = _source(draw, images, others)
    top, left = tf.floor(y), tf.floor(x)
    upper, lower = (
        _pixels(source, row, left) * (left + 1 - x) + _pixels(source, row, left + 1) * (x - left)
        for row in (top, top + 1)
    )
    return _blended(draw, images, upper * (top + 1 - y) + lower * (y - top))


# Tints are twice as frequent: faint ones are the hardest to see.
CONTENTS = (_tinted, _moved, _coloured, _resized, _tinted, _covered, _sharpness, _grained)


def _colour(draw: Draw, images: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """A random grey or colour of either sign, `(N, 1, 1, C)`; its largest channel has the size."""
    count = tf.shape(images)[0]
    share = draw.uniform(count)
    colour = share * draw.normal(count) + (1 - share) * draw.normal(count, (1, 1, images.shape[-1]))
    largest = tf.reduce_max(tf.abs(colour), axis=-1, keepdims=True)
    return draw.size(count, low, high) * colour / tf.maximum(largest, 1e-6)


def _source(draw: Draw, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    return tf.where(draw.chance(tf.shape(images)[0], 0.5), images, others)


def _blended(draw: Draw, images: tf.Tensor, patches: tf.Tensor) -> tf.Tensor:
    """Patches of 30 to 100 % opacity; half of them with the brightness of the image below."""
    count, window = tf.shape(images)[0], _window(images, 4)
    seamless = patches + _blurred(images, window) - _blurred(patches, window)
    patches = tf.where(draw.chance(count, 0.5), seamless, patches)
    return images + draw.uniform(count, 0.3, 1.0) * (patches - images)


def _pixels(images: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Pixels at whole-numbered rows and columns `(N, H, W, 1)`, reflected at the borders."""
    height, width, channels = images.shape[1:]
    y, x = (
        tf.abs(tf.math.floormod(place + side - 1, max(2 * side - 2, 1)) - (side - 1))
        for place, side in ((y, height), (x, width))
    )
    index = tf.cast(tf.reshape(y * width + x, [-1, height * width]), tf.int32)
    found = tf.gather(tf.reshape(images, [-1, height * width, channels]), index, batch_dims=1)
    return tf.reshape(found, [-1, height, width, channels])


def _blurred(images: tf.Tensor, window: int) -> tf.Tensor:
    """Means over a square window; at the border over the fewer pixels."""
    for size in ((window, 1), (1, window)):
        images = tf.nn.avg_pool2d(images, size, 1, "SAME")
    return images


def _window(images: tf.Tensor, part: int) -> int:
    """An odd window of about a part of the shorter side."""
    return max(min(images.shape[1:3]) // (2 * part) * 2 + 1, 3)


def defect_labels(difference: Any, faintness: float) -> Any:
    """Probability of a defect from the difference of `synthetic_defects`; in [0, 1).

    1 - 2^(-d / f): 0 without a difference, a half at the faintness, nearly 1 for plain defects. NSA
    uses a logistic function of the difference.
    """
    return 1 - tf.pow(2.0, -difference / faintness)
