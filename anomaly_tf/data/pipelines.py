"""tf.data pipelines: augmented batches from images that stay uint8 in memory.

Every random choice is a function of the seed and the batch number only (stateless random
operations), so that a seed gives the same batches on any number of threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.cluster import MiniBatchKMeans

from anomaly_tf.config import BalancedSamplingConfig, CorruptionConfig, SamplingConfig
from anomaly_tf.data.augmentation import augment
from anomaly_tf.data.corruptions import corrupt
from anomaly_tf.data.iteration import untuned
from anomaly_tf.data.stored import Images, StoredImages, apply, parts, sample, subset
from anomaly_tf.data.synthetic import synthetic_anomalies
from anomaly_tf.errors import UserError
from anomaly_tf.runs.arrays import Announced, read_array
from anomaly_tf.runs.caches import may_write
from anomaly_tf.runs.files import atomic_path


def anomaly_clusters(images: Images, count: int, seed: int, cache_dir: Path) -> np.ndarray:
    """Groups anomaly images by K-means on their pixels (Kim et al. 2020), cached by content.

    Large images are downsampled, and the clusters of many images are fitted on a sample, so that
    the pixels take at most `MAX_BYTES`.

    Args:
        images: uint8 `(N, H, W, C)`.
        count: Number of clusters, at most `N`.
        seed: Seed of K-means.
        cache_dir: Folder for the result, which depends only on the arguments above.

    Returns:
        int32 `(N,)`, the cluster of each image, numbered from 0 without gaps.
    """
    count = min(count, len(images))
    if count == 1:
        return np.zeros(len(images), np.int32)
    key = hashlib.sha256(repr((images.shape, count, seed)).encode())
    for part in parts(images):
        key.update(np.ascontiguousarray(part).data)
    cache = cache_dir / f"clusters-{key.hexdigest()[:16]}.npy"
    if cache.is_file():
        return _read_clusters(cache, len(images), count)
    kmeans = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=4096)
    largest = MAX_BYTES // _pixels(images[:1]).nbytes
    if len(images) <= largest:
        predicted = kmeans.fit_predict(apply(_pixels, images))
    else:
        kmeans.fit(apply(_pixels, sample(images, largest, seed)))
        predicted = np.concatenate([kmeans.predict(_pixels(part)) for part in parts(images)])
    _, clusters = np.unique(predicted, return_inverse=True)
    clusters = clusters.astype(np.int32)
    if may_write(cache):
        with atomic_path(cache) as temporary:
            np.save(temporary, clusters)
    return clusters


def _read_clusters(cache: Path, images: int, count: int) -> np.ndarray:
    try:
        clusters = read_array(cache, Announced(np.dtype(np.int32), (images,)))
        if clusters.min() < 0 or clusters.max() >= count:
            raise ValueError(f"clusters {clusters.min()} to {clusters.max()} of {count}")
    except (OSError, ValueError) as error:
        raise UserError(f"cache {cache} is damaged ({error}); remove it") from error
    return clusters


# Largest size of the images for K-means, as float32.
MAX_BYTES = 200 * 10**6


def _pixels(images: np.ndarray) -> np.ndarray:
    """Images, downsampled to about 32 x 32 pixels, as vectors in [0, 1]: float32 `(N, D)`."""
    factor = max(1, min(images.shape[1:3]) // 32)
    height, width = (side - side % factor for side in images.shape[1:3])
    blocks = images[:, :height, :width].reshape(
        len(images), height // factor, factor, width // factor, factor, images.shape[-1]
    )
    shrunk = blocks.mean(axis=(2, 4), dtype=np.float32) if factor > 1 else images
    return shrunk.reshape(len(images), -1).astype(np.float32) / 255


def normal_batches(
    images: Images,
    batch_size: int,
    steps: int,
    sampling: SamplingConfig,
    seed: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Batches of images drawn without replacement, reshuffled after each pass.

    Args:
        images: uint8 `(N, H, W, C)`.
        batch_size: Images per batch.
        steps: Number of batches.
        sampling: Augmentation.
        seed: Seed of every random choice.
        first_step: Number of the first batch, to continue a sequence.

    Returns:
        A data set of float32 `(batch_size, H, W, C)` in [-1, 1].
    """
    source = _BatchSource(images)

    def batch(step: tf.Tensor) -> tf.Tensor:
        drawn = source.draw(step, batch_size, seed)
        return augment(scale(source.images(drawn)), sampling, _key(seed, step))

    return _numbered(batch, steps, first_step)


def each_once(images: Images, batch_size: int, first_step: int = 0) -> tf.data.Dataset:
    """Batches that hold each image once, in order and as it is; the last one may be smaller.

    Args:
        images: uint8 `(N, H, W, C)`.
        batch_size: Images per batch.
        first_step: Number of the first batch, to continue a sequence.

    Returns:
        A data set of float32 `(batch_size, H, W, C)` in [-1, 1].
    """
    source, size = _BatchSource(images), len(images)

    def batch(step: tf.Tensor) -> tf.Tensor:
        start = step * batch_size
        numbers = tf.range(start, tf.minimum(start + batch_size, size), dtype=tf.int64)
        return scale(source.images(numbers))

    return _numbered(batch, -(-size // batch_size) - first_step, first_step)


def classified_batches(
    images: Images,
    classes: np.ndarray,
    batch_size: int,
    steps: int,
    sampling: SamplingConfig,
    seed: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Batches as in `normal_batches`, with the class number of each image.

    Args:
        images: uint8 `(N, H, W, C)`.
        classes: `(N,)`, class numbers.
        batch_size: Images per batch.
        steps: Number of batches.
        sampling: Augmentation.
        seed: Seed of every random choice.
        first_step: Number of the first batch, to continue a sequence.

    Returns:
        A data set of pairs: float32 `(batch_size, H, W, C)` in [-1, 1], int32 `(batch_size,)`.
    """
    source = _BatchSource(images)
    numbers = tf.constant(classes, tf.int32)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = source.draw(step, batch_size, seed)
        augmented = augment(scale(source.images(drawn)), sampling, _key(seed, step))
        return augmented, tf.gather(numbers, drawn)

    return _numbered(batch, steps, first_step)


def corrupted_batches(
    images: Images,
    corruption: CorruptionConfig,
    batch_size: int,
    steps: int,
    sampling: BalancedSamplingConfig,
    seed: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Batches of clean images and the same number of other, corrupted images of the same set.

    Args:
        images: uint8 `(N, H, W, C)`.
        corruption: Kinds, which alternate within a batch, and strengths.
        batch_size: Images per batch that are trained on, an even number.
        steps: Number of batches.
        sampling: Augmentation, applied before corruption, and candidates.
        seed: Seed of every random choice.
        first_step: Number of the first batch, to continue a sequence.

    Returns:
        As `balanced_batches`.
    """
    source, kinds = _BatchSource(images), corruption.kinds
    half = batch_size // 2 * sampling.candidates

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = source.draw(step, 2 * half, seed)
        augmented = augment(scale(source.images(drawn)), sampling, _key(seed, step))
        clean, rest = augmented[:half], augmented[half:]
        changed = [
            corrupt(
                rest[number :: len(kinds)],
                kind,
                corruption.noise,
                corruption.rotation,
                tf.random.fold_in(_key(seed, step), number),
            )
            for number, kind in enumerate(kinds)
        ]
        return clean, tf.concat(changed, axis=0)

    return _numbered(batch, steps, first_step)


def balanced_batches(
    normal: Images,
    anomalies: Images,
    clusters: np.ndarray,
    batch_size: int,
    steps: int,
    sampling: BalancedSamplingConfig,
    seed: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Batches of equally many normal images and anomalies, for sets of any sizes.

    Normal images are drawn without replacement, reshuffled after each pass. Anomalies are drawn
    from the clusters in turn, and within each cluster as the normal images are. Synthetic
    anomalies, generated from further normal images, are the first anomalies of a batch.

    Args:
        normal: uint8 `(N, H, W, C)`.
        anomalies: uint8 `(M, H, W, C)`.
        clusters: int32 `(M,)`, from `anomaly_clusters`.
        batch_size: Images per batch that are trained on, an even number.
        steps: Number of batches.
        sampling: Augmentation, candidates and synthetic anomalies.
        seed: Seed of every random choice.
        first_step: Number of the first batch, to continue a sequence.

    Returns:
        A data set of `(normal, anomaly)` pairs, each float32 `(candidates * batch_size / 2, H, W,
        C)` in [-1, 1].
    """
    half = batch_size // 2
    generated = round(half * (sampling.synthetic or 0.0))
    half *= sampling.candidates
    labelled = half - generated
    members = np.argsort(clusters, kind="stable")
    sizes = np.bincount(clusters)
    normal_source, anomaly_source = _BatchSource(normal), _BatchSource(subset(anomalies, members))
    with tf.device("CPU:0"):
        cluster_sizes = tf.constant(sizes, tf.int64)
        cluster_starts = tf.constant(np.cumsum(sizes) - sizes, tf.int64)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = step * labelled + tf.range(labelled, dtype=tf.int64)
        cluster = position % len(sizes)
        size = tf.gather(cluster_sizes, cluster)
        drawn = _shuffled(position // len(sizes), size, seed, 1 + cluster)
        anomaly = tf.gather(cluster_starts, cluster) + drawn
        images = tf.concat(
            [
                normal_source.images(normal_source.draw(step, half + generated, seed)),
                anomaly_source.images(anomaly),
            ],
            axis=0,
        )
        images = augment(scale(images), sampling, _key(seed, step))
        kept, rest, anomalous = tf.split(images, [half, generated, labelled])
        if generated:
            synthetic = synthetic_anomalies(rest, tf.random.fold_in(_key(seed, step), 3))
            anomalous = tf.concat([synthetic, anomalous], axis=0)
        return kept, anomalous

    return _numbered(batch, steps, first_step)


def dealt(batches: tf.data.Dataset, shares: int, seed: int, first_step: int = 0) -> tf.data.Dataset:
    """Divides each batch into shares of the same size, one for each device.

    Of every `shares` consecutive images each share gets one, at random. A share is therefore
    composed as the batch is: its kinds of anomalies, in their order, have the same proportions.

    Args:
        batches: Batches of one or several tensors, each `(N, ...)`, where `shares` divides `N`.
        shares: Number of shares.
        seed: Seed of every random choice.
        first_step: Number of the first batch.

    Returns:
        A data set of the shares `(N / shares, ...)` of the first batch, then of the second, and so
        on.
    """
    size = tf.nest.flatten(batches.element_spec)[0].shape[0]
    if size % shares:
        raise ValueError(f"batches of {size} images cannot be divided into {shares} equal shares")

    def deal(step: tf.Tensor, batch: Any) -> Any:
        drawn = tf.random.stateless_uniform([size // shares, shares], _key(seed, step))
        first = tf.range(0, size, shares)
        numbers = tf.transpose(first[:, tf.newaxis] + tf.argsort(drawn, axis=1))
        return tf.nest.map_structure(lambda part: tf.gather(part, numbers), batch)

    deal = tf.autograph.experimental.do_not_convert(deal)
    return untuned(batches.enumerate(first_step).map(deal).unbatch().prefetch(2 * shares))


class _BatchSource:
    """Images in the host's memory or on disk, from which batches are drawn.

    Args:
        images: uint8 `(N, H, W, C)`.
    """

    def __init__(self, images: Images) -> None:
        self._size = len(images)
        self._stored = images if isinstance(images, StoredImages) else None
        if self._stored is None:
            with tf.device("CPU:0"):
                self._images = tf.constant(images)

    def draw(self, step: tf.Tensor, count: int, seed: int) -> tf.Tensor:
        """Numbers int64 `(count,)` of the images of batch `step`, `count` images a batch."""
        position = step * count + tf.range(count, dtype=tf.int64)
        return _shuffled(position, tf.constant(self._size, tf.int64), seed, 0)

    def images(self, numbers: tf.Tensor) -> tf.Tensor:
        """The images with these numbers, uint8 `(len(numbers), H, W, C)`."""
        if self._stored is None:
            return tf.gather(self._images, numbers)
        read = tf.numpy_function(self._stored.__getitem__, [numbers], tf.uint8, stateful=False)
        return tf.ensure_shape(read, (*numbers.shape, *self._stored.shape[1:]))


def _numbered(batch: Callable[[tf.Tensor], Any], steps: int, first_step: int) -> tf.data.Dataset:
    """The results of `batch` for `steps` numbers from `first_step` on, prefetched."""
    numbers = tf.data.Dataset.range(first_step, first_step + steps)
    # AutoGraph would take half a second to rewrite all functions and change nothing, because all
    # conditions are on Python values.
    batch = tf.autograph.experimental.do_not_convert(batch)
    batches = numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return untuned(batches.prefetch(tf.data.AUTOTUNE))


def _key(seed: int, step: tf.Tensor) -> tf.Tensor:
    return tf.stack([tf.cast(seed, tf.int64), step])


def scale(images: tf.Tensor) -> tf.Tensor:
    """Scales uint8 from 0 to 255 to float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def _shuffled(position: tf.Tensor, size: tf.Tensor, seed: int, stream: tf.Tensor) -> tf.Tensor:
    """The item at `position` in an endless sequence of shuffled passes over `size` items.

    Args:
        position: int64 `(N,)`, counted from the beginning of training.
        size: int64, scalar or `(N,)`, the number of items of one pass.
        seed: The run's seed.
        stream: Scalar or `(N,)`; different values give different shuffles.
    """
    size = tf.broadcast_to(size, tf.shape(position))
    stream = tf.broadcast_to(tf.cast(stream, tf.int64), tf.shape(position))
    seeds = tf.stack([tf.fill(tf.shape(position), tf.cast(seed, tf.int64)), stream], axis=1)
    seeds = tf.concat([seeds, (position // size)[:, tf.newaxis]], axis=1)
    # The raw operation, because the public wrapper pads a matrix of seeds along the wrong axis.
    return tf.raw_ops.RandomIndexShuffle(
        index=position % size, seed=seeds, max_index=size - 1, rounds=4
    )
