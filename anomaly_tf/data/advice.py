"""Properties of a data set that determine how well it can be learnt from, and advice on them.

The choice of an approach is made elsewhere, because this module does not depend on approaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from PIL import Image

from anomaly_tf.config import MAX_WHOLE, Config
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import Images, join, parts, subset

# Number of images that are compared, and the smallest reliable number: eight images of a texture as
# coarse as an eighth of their side reach 0.10 in one of twenty draws, five images reach 0.16.
COMPARED, MIN_COMPARED = 100, 8
# Thumbnails that are compared, in pixels.
THUMBNAIL = 16
# Alikeness from which images count as aligned. Measured on up to 100 images: Fashion-MNIST by
# class 0.16 (bags) to 0.57 (trousers), cells of solar panels (ELPV) 0.84 and, polycrystalline,
# 0.46, objects in a scene that move by up to 4 % 0.27 and 0.39, by 12 % 0.15 and 0.31. Not aligned:
# Fashion-MNIST turned by any angle 0.01 to 0.08, moved by up to 14 % 0.07 to 0.15, all classes
# mixed 0.08; drawn cloth and gravel, and crops of ELPV's cells, 0.00, a dozen of them within 0.02,
# and with light from one side or dark corners 0.00 as well. What it costs: T-shirts turned by any
# angle fall from an AUROC of .962 to .870 (reconstructed: from .927 to .827); gravel of 64x64 by
# reconstruction: coins .45, stains .50, scratches .81, another, smoother ground .00.
ALIGNED = 0.15
# Normal images to learn from below which scores are rough. With 10, 45, 180 and 900 T-shirts of
# Fashion-MNIST, AUROC against all else: .929 .953 .959 .960 by transformations, .885 .929 .924
# .927 and .902 .882 .902 .921 by reconstructions; false alarms at the 95th percentile of 2, 5,
# 20 and 100 validation images: 33 to 63 %, 9 to 17 %, 5 to 10 %, 4 to 9 %.
FEW = 50
# With fewer, a tenth of all normal images or more exceed the 95th percentile.
ENOUGH_CALIBRATION = 20


@dataclass(frozen=True)
class Findings:
    """Properties of a data set.

    Attributes:
        n_normal: Number of normal training images.
        n_calibration: Number of normal validation images, from which the threshold is computed.
        n_anomalies: Number of anomalies for training; those in a test set do not count.
        n_kinds: Number of classes of these anomalies.
        image_shape: Height, width and channels.
        alikeness: Similarity of the normal images by position, see `alikeness`; None if there are
            fewer than `MIN_COMPARED`.
    """

    n_normal: int
    n_calibration: int
    n_anomalies: int
    n_kinds: int
    image_shape: tuple[int, int, int]
    alikeness: float | None

    @property
    def is_aligned(self) -> bool:
        """True if the same region of all images shows the same part of the object."""
        return self.alikeness is not None and self.alikeness >= ALIGNED

    @property
    def is_small(self) -> bool:
        """True if images are small and scored as a whole."""
        return min(self.image_shape[:2]) <= MAX_WHOLE


def findings(dataset: ImageDataset, split: Split) -> Findings:
    """Examines numbers, sizes and a sample of the normal images; takes well below a second.

    Args:
        dataset: All images and their classes.
        split: The sets of the run.
    """
    classes = dataset.train_classes
    anomalies = classes[~np.isin(classes, split.roles.normal)]
    n_anomalies = len(anomalies)
    if split.hidden.any():  # protocol contaminated, under which nobody knows of anomalies
        n_anomalies, anomalies = 0, anomalies[:0]
    elif not len(dataset.test):  # a part of them is for the test, as of the normal images
        n_normal = int(np.isin(classes, split.roles.normal).sum())
        n_anomalies -= round(n_anomalies * int((split.test.labels == 0).sum()) / n_normal)
    compared = _normal_sample(split.train, split.validation)
    height, width, channels = split.train.images.shape[1:]
    return Findings(
        n_normal=int((split.train.labels == 0).sum()),
        n_calibration=int((split.validation.labels == 0).sum()),
        n_anomalies=n_anomalies,
        n_kinds=len(np.unique(anomalies)),
        image_shape=(height, width, channels),
        alikeness=alikeness(compared) if len(compared) >= MIN_COMPARED else None,
    )


def alikeness(images: Images) -> float:
    """Similarity of images by position: 1 if they are equal, about 0 if nothing recurs.

    The mean correlation of two different images, computed on grey thumbnails of 16x16 from which
    brightness, gradients of light and dark corners (a polynomial of degree two) are removed.

    Args:
        images: uint8 `(N, H, W, C)`, N at least 2.

    Returns:
        From -1 / (N - 1) to 1. Images without contrast have a correlation of 0 with all others.
    """
    shrunk = [_thumbnail(image) for part in parts(images) for image in part]
    thumbnails = np.stack(shrunk).reshape(len(images), -1)
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : THUMBNAIL * 1j, -1 : 1 : THUMBNAIL * 1j])
    light, _ = np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1))
    residuals = thumbnails - (thumbnails @ light) @ light.T
    lengths = np.linalg.norm(residuals, axis=1, keepdims=True)
    # Below one grey level, only rounding errors remain.
    directions = np.where(lengths > THUMBNAIL, residuals / np.maximum(lengths, 1.0), 0.0)
    # The sum over all pairs, without each image with itself.
    together = float(np.sum(directions.sum(axis=0) ** 2) - np.sum(directions**2))
    return together / (len(images) * (len(images) - 1))


def advice(config: Config, found: Findings) -> tuple[str, ...]:
    """Advice on a data set that is independent of the approach, a line for each finding.

    Args:
        config: The run's configuration.
        found: Properties of the data set.
    """
    lines = (_few_images(found), _few_calibration(config, found), _unaligned(config, found))
    return tuple(line for line in lines if line)


def _few_images(found: Findings) -> str:
    if found.n_normal >= FEW:
        return ""
    return (
        f"note: {found.n_normal} normal images to learn from: scores are rough, and other images "
        "would give others; aim for 200 normal images or more"
    )


def _few_calibration(config: Config, found: Findings) -> str:
    """The effect of few images for a percentile; the conformal method refuses too few images."""
    size = found.n_calibration
    if size >= ENOUGH_CALIBRATION or config.threshold.method == "conformal":
        return ""
    return few_calibration_images(size, config.threshold.percentile)


def few_calibration_images(size: int, percentile: float) -> str:
    """Note on a percentile of the scores of few normal validation images.

    Args:
        size: Number of these images.
        percentile: From 0 to 100.
    """
    share = percentile / 100
    # A new image exceeds the k-th smallest of n with a probability of (n + 1 - k) / (n + 1), and
    # the percentile lies at k = 1 + share * (n - 1).
    expected = (size - share * (size - 1)) / (size + 1)
    return (
        f"note: the threshold rests on {size} normal image{'s' * (size > 1)}: expect about "
        f"{expected:.0%} false alarms, not {100 - percentile:g}%; no rate below "
        f"{1 / (size + 1):.0%} can be guaranteed (5% takes 19 images, 1% takes 99)"
    )


def _unaligned(config: Config, found: Findings) -> str:
    """Advice on images without common positions."""
    if found.alikeness is None or found.is_aligned or not config.learns_positions:
        return ""
    start = (
        f"note: the images are not aligned (alikeness {found.alikeness:z.2f}; aligned from "
        f"{ALIGNED} on), unless they show a plain surface: "
    )
    if found.is_small:
        return f"{start}turn and crop them alike if they show one kind of object"
    if config.score_map.whole == "none":
        return ""
    return (
        f"{start}this approach can miss defects of rough surfaces and take smoother ones for "
        "normal; crop to the part if there is one, and test with known defects"
    )


def _normal_sample(*sets: LabelledImages) -> Images:
    """At most `COMPARED` normal images from sets of the same images."""
    drawn: list[Images] = []
    left = COMPARED
    for number, part in enumerate(sets):
        normal = np.flatnonzero(part.labels == 0)
        count = min(len(normal), left)
        chosen = np.random.default_rng(number).choice(normal, count, replace=False)
        drawn.append(subset(part.images, np.sort(chosen)))
        left -= count
    return reduce(join, drawn)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Grey, float64 `(THUMBNAIL, THUMBNAIL)`, from uint8 `(H, W, C)`."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("L")
    size = (THUMBNAIL, THUMBNAIL)
    return np.asarray(picture.resize(size, Image.Resampling.BOX), np.float64)
