"""PaDiM, approach `padim`: a Gaussian of patch features for each position.

T. Defard, A. Setkov, A. Loesch, R. Audigier: PaDiM: a Patch Distribution Modeling Framework for
Anomaly Detection and Localization, ICPR workshops 2021. A pretrained network describes each patch
of an image by a vector, of which some channels, drawn at random, are kept. For each position, the
vectors of normal images have a Gaussian distribution; the error of a patch is its Mahalanobis
distance. The images must show the same thing at the same position.

Unlike in the paper, normal images may be of several kinds, such as two materials in one folder:
k-means of the images' mean features finds them, and each has its own Gaussians, whose covariances
are shrunk towards the covariance within all kinds, because a kind may have few images. An image
belongs to the kind with the smallest mean distance. The score of an image is the largest error of
its smoothed map, plus the distance of its mean features to those of the nearest normal image. If
there are labelled anomalies, it also has a linear term of the mean features that separates them
from normal images: Fisher's discriminant with a regularised covariance (J. Friedman, Regularized
Discriminant Analysis, JASA 1989), which is stable with few anomalies.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor, layers, ops
from sklearn.cluster import KMeans

from anomaly_tf.approaches.base import Approach
from anomaly_tf.approaches.padim.options import (
    DEFAULT_KINDS,
    MIN_IMAGES_PER_KIND,
    PadimConfig,
    PadimNetworks,
)
from anomaly_tf.networks.features import (
    FEATURE_LENGTH,
    RIDGE,
    UniformSample,
    bank_distances,
    build_features,
    distance_detector,
    mean_length,
    set_bank,
)

# Largest number of images, and of their bytes, for the means of the channels and the kinds.
MAX_IMAGES, MAX_BYTES = 1000, 200 * 10**6
# Weight of the distance to the nearest normal image, relative to that of a typical patch. On
# validation cells of ELPV of probability 1/3 and 2/3 against functional ones: mono .83 (without
# .82), poly .73 (.70), both types .75 (.72).
IMAGE_WEIGHT = 0.5
# Standard deviation of the linear term for normal images, in distances of a typical patch, and
# share of the identity in their correlations. On validation cells of ELPV, mean of one type, the
# other and both: .81 without labels, .815 with 5, .82 with 10, .83 with 20 and more; with shares of
# .2 to .9 and two thirds of the weight, too.
LABEL_WEIGHT, LABEL_SHRINKAGE = 0.1, 0.5
# A distance beyond all others.
FAR = 1e6


def build_distances(grid: tuple[int, int], dimensions: int, kinds: int) -> keras.Model:
    """A model from the kept channels to the distances from the nearest kind of normal images.

    The Mahalanobis distance of x is the length of (x - mean) W, where W W^T is the inverse of the
    covariance.

    Args:
        grid: Height and width of the features.
        dimensions: Number of channels.
        kinds: Number of kinds.

    Returns:
        A model with the layer `gaussians`, whose weights are the matrices `(h w, D, kinds, D)` and
        biases, from float32 `(N, h, w, D)` to the distances `(N, h, w)`, at least 0, and to
        `(N, kinds)`, which is 0 for the kind of an image and `FAR` for others.
    """
    vectors = keras.Input((*grid, dimensions), name="vectors")
    places = grid[0] * grid[1]
    x = layers.Reshape((places, dimensions), dtype="float32")(vectors)
    gaussians = layers.EinsumDense(
        "npd,pdke->npke",
        output_shape=(places, kinds, dimensions),
        bias_axes="pke",
        dtype="float32",
        name="gaussians",
    )
    distances = ops.sqrt(ops.sum(ops.square(gaussians(x)), axis=-1))  # (N, places, kinds)
    typical = ops.mean(distances, axis=1, keepdims=True)
    nearest = ops.min(typical, axis=-1, keepdims=True)
    others = ops.where(nearest < typical, FAR, 0.0)
    chosen = layers.Reshape(grid, dtype="float32")(ops.min(distances + others, axis=-1))
    others = layers.Reshape((kinds,), dtype="float32")(others)
    return keras.Model(vectors, [chosen, others], name="mahalanobis")


def build_channels(shape: tuple[int, int, int], count: int) -> keras.Model:
    """A model from features `(N, h, w, K)` to some of their channels, `(N, h, w, count)`.

    The channels are drawn at random; `Padim.adapt` sets their scale.
    """
    features = keras.Input(shape, name="features")
    kept = layers.Conv2D(count, 1, dtype="float32", name="channels")
    model = keras.Model(features, kept(features), name="channels")
    chosen = np.sort(np.random.permutation(shape[-1])[:count])
    kept.set_weights([np.eye(shape[-1])[np.newaxis, np.newaxis, :, chosen], np.zeros(count)])
    return model


def build_discriminant(channels: int) -> keras.Model:
    """A model from mean features `(N, 1, 1, K)` to a linear term `(N,)` of scores, 0 at first."""
    mean = keras.Input((1, 1, channels), name="mean")
    linear = layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="linear")
    term = linear(layers.Reshape((channels,), dtype="float32")(mean))
    return keras.Model(mean, term[:, 0], name="discriminant")


class Padim(Approach):
    """Means and covariances of normal patches.

    `fit` takes normal images, float32 `(N, H, W, C)` in [-1, 1]; `adapt` must be called before.

    Args:
        image_shape: Height, width, channels.
        networks: The pretrained network and the sizes of the Gaussians.
    """

    def __init__(self, image_shape: tuple[int, int, int], networks: PadimNetworks) -> None:
        super().__init__("padim", (FEATURE_LENGTH,))
        self.adapts_to = min(MAX_IMAGES, max(1, MAX_BYTES // math.prod(image_shape)))
        self.features = build_features(image_shape, networks)
        height, width, channels = self.features.output_shape[1:]
        size = min(networks.dimensions, channels)
        self.channels = build_channels((height, width, channels), size)
        kinds = networks.kinds or DEFAULT_KINDS
        gaussians = build_distances((height, width), size, kinds)
        described = keras.Input((height, width, channels), name="features")
        distances = gaussians(self.channels(described))
        self.distances = keras.Model(described, distances, name="distances")
        size_of_bank = max(1, MAX_IMAGES // kinds)
        self.nearest = [
            bank_distances((1, 1, channels), size_of_bank, f"nearest_of_kind_{kind}")
            for kind in range(kinds)
        ]
        self.discriminant = build_discriminant(channels)
        self.detector = distance_detector(
            self.features, self.distances, PadimConfig.score_map, self._image_term
        )
        self.images = UniformSample(MAX_IMAGES, channels)

        def variable(name: str, *shape: int, initializer: str = "zeros") -> keras.Variable:
            return self.add_weight(shape, initializer, trainable=False, name=name)

        self.kinds, places = networks.kinds, height * width
        self.centres = variable("centres", kinds, size)  # of the mean vectors of images
        self.spread = variable("spread", size, initializer="ones")
        self.counts = variable("counts", kinds)
        self.means = variable("means", kinds, places, size)
        self.scatters = variable("scatters", kinds, places, size, size)  # sums of (x - m)(x - m)^T
        self.n_anomalies = variable("n_anomalies")
        self.anomalies = variable("anomalies", channels)  # mean of their mean features

    def _image_term(self, features: KerasTensor, others: KerasTensor) -> KerasTensor:
        """What the mean features of images add to their scores, `(N,)`.

        The distance to the nearest normal image of their kind, and what labelled anomalies taught.
        """
        mean = ops.mean(features, axis=(1, 2), keepdims=True)
        each = [layers.Reshape((1,), dtype="float32")(nearest(mean)) for nearest in self.nearest]
        joined = layers.Concatenate(dtype="float32")(each) if len(each) > 1 else each[0]
        return ops.min(joined + others, axis=-1) + self.discriminant(mean)

    def adapt(self, images: np.ndarray) -> None:
        """Scales the channels, and finds the kinds of normal images.

        Args:
            images: At most `adapts_to` normal training images, uint8 `(N, H, W, C)`.
        """
        channels = self.channels.get_layer("channels")
        kernel, _ = channels.get_weights()
        # A graph, because Keras keeps all feature maps of a model that is called without one.
        moments = tf.function(self._moments, reduce_retracing=True)
        parts = [moments(images[start : start + 32]) for start in range(0, len(images), 32)]
        of_images, squares = (np.concatenate(values) for values in zip(*parts, strict=True))
        mean = of_images.mean(axis=0)
        variance = squares.mean(axis=0) - mean**2
        scale = 1 / np.sqrt(np.maximum(variance, 1e-6))
        channels.set_weights([kernel * scale, -mean * scale])
        of_images = (of_images - mean) * scale
        spread = np.maximum(of_images.std(axis=0), 1e-3)
        count = self.kinds or min(DEFAULT_KINDS, max(1, len(images) // MIN_IMAGES_PER_KIND))
        count = min(count, len(images))  # very large images are few here
        centres = np.full(self.centres.shape, FAR)  # of no kind, which no image is near
        found = KMeans(count, n_init=5, random_state=0).fit(of_images / spread)
        centres[:count] = found.cluster_centers_
        self.centres.assign(centres)
        self.spread.assign(spread)

    def learn_anomalies(self, images: np.ndarray) -> None:
        """Keeps the mean features of labelled anomalies, uint8 `(N, H, W, C)`, N at least 1."""
        means = tf.function(self._mean_features, reduce_retracing=True)
        parts = [means(images[start : start + 32]) for start in range(0, len(images), 32)]
        self.anomalies.assign(np.concatenate(parts).mean(axis=0))
        self.n_anomalies.assign(len(images))

    def _mean_features(self, images: tf.Tensor) -> tf.Tensor:
        """Mean features `(N, K)` of uint8 images `(N, H, W, C)`."""
        return tf.reduce_mean(self._features_of(images), (1, 2))

    def _features_of(self, images: tf.Tensor) -> tf.Tensor:
        """Features `(N, h, w, K)` of uint8 images `(N, H, W, C)`."""
        return self.features(tf.cast(images, tf.float32) / 127.5 - 1.0, training=False)

    def _moments(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and mean square, each `(N, D)`, of the vectors of uint8 images `(N, H, W, C)`."""
        vectors = self.channels(self._features_of(images))
        return tf.reduce_mean(vectors, (1, 2)), tf.reduce_mean(tf.square(vectors), (1, 2))

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds the vectors of a batch to the means and scatters of their kinds.

        T. Chan, G. Golub, R. LeVeque: Updating Formulae and a Pairwise Algorithm for Computing
        Sample Variances, COMPSTAT 1982.
        """
        features = self.features(data, training=False)
        self.images.add(tf.reduce_mean(features, axis=(1, 2)))
        vectors = self.channels(features)
        places, size = self.means.shape[1:]
        vectors = tf.reshape(vectors, [-1, places, size])
        belongs = tf.one_hot(self._kinds_of(tf.reduce_mean(vectors, axis=1)), self.centres.shape[0])
        counts, means, scatters = [], [], []
        for kind in range(self.centres.shape[0]):
            weights = belongs[:, kind, tf.newaxis, tf.newaxis]
            before, added = self.counts.value[kind], tf.reduce_sum(weights)
            after = tf.maximum(before + added, 1.0)
            mean = tf.reduce_sum(weights * vectors, axis=0) / tf.maximum(added, 1.0)
            centred = tf.transpose(weights * (vectors - mean), [1, 2, 0])
            shift = mean - self.means.value[kind]
            moved = shift[:, :, tf.newaxis] * shift[:, tf.newaxis] * before * added / after
            counts.append(before + added)
            means.append(self.means.value[kind] + shift * added / after)
            scatters.append(
                self.scatters.value[kind] + tf.matmul(centred, centred, transpose_b=True) + moved
            )
        self.counts.assign(tf.stack(counts))
        self.means.assign(tf.stack(means))
        self.scatters.assign(tf.stack(scatters))
        return self.track({FEATURE_LENGTH: mean_length(vectors)})

    def _kinds_of(self, means: tf.Tensor) -> tf.Tensor:
        """The kind `(N,)` of images from the means `(N, D)` of their vectors."""
        means = means / self.spread.value
        away = tf.reduce_sum((means[:, tf.newaxis] - self.centres.value) ** 2, axis=-1)
        return tf.argmin(away, axis=1)

    def finish_epoch(self) -> None:
        """Sets the detector's weights from the means and scatters."""
        counts, means = np.array(self.counts), np.array(self.means)
        scatters = np.array(self.scatters)
        places, size = means.shape[1:]
        within = scatters.sum(axis=0) / counts.sum()
        matrices = np.zeros((places, size, len(counts), size), np.float32)
        biases = np.zeros((places, len(counts), size), np.float32)
        for kind, count in enumerate(counts):
            own = kind if count else int(counts.argmax())  # a kind without images repeats another
            share = size / (size + counts[own])
            covariance = (1 - share) * scatters[own] / counts[own] + share * within
            ridge = RIDGE * np.trace(covariance, axis1=1, axis2=2) / size
            covariance += np.maximum(ridge, 1e-4)[:, np.newaxis, np.newaxis] * np.eye(size)
            root = np.linalg.inv(np.linalg.cholesky(covariance)).transpose(0, 2, 1)
            matrices[:, :, kind] = root
            biases[:, kind] = -np.einsum("pd,pde->pe", means[own], root)
        gaussians = self.distances.get_layer("mahalanobis").get_layer("gaussians")
        gaussians.set_weights([matrices, biases])
        self._finish_nearest()
        if float(self.n_anomalies):
            self._finish_discriminant()

    def _finish_nearest(self) -> None:
        """Sets the banks of normal images, on the scale of the distances of patches.

        The distance of a normal image to the nearest other one of its kind becomes `IMAGE_WEIGHT`
        times the square root of the number of dimensions, the distance of a typical patch.
        """
        images = self.images.vectors()
        kernel, bias = self.channels.get_layer("channels").get_weights()
        kinds = np.array(self._kinds_of(tf.constant(images @ kernel[0, 0] + bias)))
        spread = np.maximum(images.std(axis=0, dtype=np.float64), 1e-3)
        largest = np.bincount(kinds).argmax()
        for kind, nearest in enumerate(self.nearest):
            own = images[kinds == (kind if kind in kinds else largest)]
            mean = own.mean(axis=0, dtype=np.float64)
            typical = _distance_to_another((own - mean) / spread)
            # Copies of one image have no distance; a tenth of the length of a vector is small.
            typical = max(typical, 0.1 * math.sqrt(images.shape[1]))
            scale = IMAGE_WEIGHT * math.sqrt(kernel.shape[-1]) / typical
            set_bank(nearest, own, mean, np.diag(scale / spread))

    def _finish_discriminant(self) -> None:
        """Sets the linear term that separates labelled anomalies from normal images."""
        images = self.images.vectors().astype(np.float64)
        mean, spread = images.mean(axis=0), np.maximum(images.std(axis=0), 1e-3)
        normal, anomalies = (images - mean) / spread, (np.array(self.anomalies) - mean) / spread
        correlations = (1 - LABEL_SHRINKAGE) * normal.T @ normal / len(normal)
        correlations += LABEL_SHRINKAGE * np.eye(len(mean))
        direction = np.linalg.solve(correlations, anomalies)
        # Copies of one image have no spread; the length of the direction is that of a unit spread.
        typical = max((normal @ direction).std(), 0.1 * float(np.linalg.norm(direction)))
        weight = LABEL_WEIGHT * math.sqrt(self.means.shape[-1]) / typical
        kernel = weight * direction / spread
        self.discriminant.get_layer("linear").set_weights(
            [kernel[:, np.newaxis], -mean[np.newaxis] @ kernel]
        )


def _distance_to_another(vectors: np.ndarray) -> float:
    """Mean distance of vectors `(n, K)` to the nearest other one; 0 for a single one."""
    if len(vectors) < 2:
        return 0.0
    squares = np.square(vectors).sum(axis=1)
    away = squares[:, np.newaxis] + squares - 2 * vectors @ vectors.T
    np.fill_diagonal(away, np.inf)
    return float(np.sqrt(np.maximum(away.min(axis=1), 0)).mean())


def build(
    config: PadimConfig, image_shape: tuple[int, int, int], class_count: int, jit_compile: bool
) -> Padim:
    """A compiled model without optimizers."""
    model = Padim(image_shape, config.networks)
    model.compile({}, jit_compile)
    return model
