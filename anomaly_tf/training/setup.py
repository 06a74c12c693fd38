"""Prepares a training from its configuration: sizes, batches and an untrained model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import keras
import tensorflow as tf

from anomaly_tf.approaches import build_model
from anomaly_tf.approaches.base import Approach
from anomaly_tf.config import (
    ALL_CLASSES_NORMAL,
    BalancedSamplingConfig,
    Config,
    OnePassConfig,
    SamplingConfig,
    TrainingConfig,
)
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.pipelines import (
    anomaly_clusters,
    balanced_batches,
    classified_batches,
    corrupted_batches,
    dealt,
    each_once,
    normal_batches,
)
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import Images, StoredImages, bounded_sample
from anomaly_tf.data.tiles import require_tiles_fit, tiles_of
from anomaly_tf.errors import OptionError, UserError
from anomaly_tf.runs.sections import model_shape
from anomaly_tf.training.device import Device, select_device

# Pixels of a default batch: 128 images of 64 x 64, 32 of 128 x 128.
MAX_PIXELS = 2**19
# Size of the images for `adapt`.
ADAPT_BYTES = 2**30
# Largest number of times that an epoch of a small set draws each normal image.
MAX_DRAWS = 30


@dataclass(frozen=True)
class TrainingSetup:
    """A training before its first step; created by `TrainingSetup.of`.

    Attributes:
        config: The configuration with the defaults for data and protocol filled in.
        dataset: The data set of the images.
        split: The three sets; the test set is not used.
        device: The device or devices for training.
    """

    config: Config
    dataset: ImageDataset
    split: Split
    device: Device

    @classmethod
    def of(
        cls, config: Config, dataset: ImageDataset, split: Split, device: Device | None = None
    ) -> Self:
        """Creates the setup of a training.

        Args:
            config: The configuration as given by the user.
            dataset: The data set of the images.
            split: The sets of the data set.
            device: The device; None: that of `select_device`.

        Raises:
            UserError: If the images are too small for the networks.
        """
        config = resolve(config, split)
        return cls(config, dataset, split, device or select_device(config))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self.split.train.images.shape[1:]

    @property
    def batch_size(self) -> int:
        """Number of images per batch."""
        size = self.config.training.batch_size
        assert size  # set by `resolve`
        return size

    @property
    def n_steps(self) -> int:
        """Number of batches per epoch."""
        training = self.config.training
        if isinstance(training, TrainingConfig):
            return training.steps_per_epoch
        return math.ceil(len(self.normal) / self.batch_size)

    @property
    def n_images(self) -> int:
        """Number of images per epoch that are trained on."""
        if isinstance(self.config.training, TrainingConfig):
            return self.n_steps * self.batch_size
        return len(self.normal)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that the model takes: of an image, or of a tile."""
        return model_shape(self.image_shape, self.config.tiling)

    @cached_property
    def normal(self) -> Images:
        """Normal training images, uint8 `(N, H, W, C)`, or their tiles."""
        return tiles_of(self.split.learnt.normal_part, self.config.tiling, self.split.roi)

    def build(self) -> Approach:
        """Builds an untrained model from the configuration's seed.

        Returns:
            A compiled model in the precision of the configuration, adapted to the images if
            `adapts_to` is above 0.
        """
        config = self.config
        keras.utils.set_random_seed(config.seed)
        if config.deterministic:
            tf.config.experimental.enable_op_determinism()
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(config.training.precision)
        classes = len(self.dataset.class_names)
        try:
            with self.device.strategy.scope():
                model = build_model(config, self.input_shape, classes, self.device.jit_compile)
        finally:
            keras.config.set_dtype_policy(before)
        if model.adapts_to:
            chosen = bounded_sample(self.normal, model.adapts_to, config.seed, ADAPT_BYTES)
            model.adapt(chosen[:])
        if config.learns_anomalies and self.split.train.labels.any():
            anomalies = self.split.train.anomalies
            chosen = bounded_sample(anomalies, model.adapts_to, config.seed, ADAPT_BYTES)
            model.learn_anomalies(chosen[:])
        return model

    def batches(self, first_step: int = 0) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """The batches of all epochs, those from the first step on, prefetched.

        On several devices each batch is the same as on one, divided among them.
        """
        config, train, sampling = self.config, self.split.learnt, self.config.sampling
        length = self.batch_size, config.training.epochs * self.n_steps - first_step
        order = config.seed, first_step
        if not isinstance(sampling, SamplingConfig):
            batches = each_once(self.normal, self.batch_size, first_step)
        elif config.learns_from == "classes":
            batches = classified_batches(train.images, train.classes, *length, sampling, *order)
        elif not isinstance(sampling, BalancedSamplingConfig):
            batches = normal_batches(self.normal, *length, sampling, *order)
        elif config.protocol == "corruption":
            batches = corrupted_batches(train.normal, config.corruption, *length, sampling, *order)
        else:
            anomalies, cache = train.anomalies, Path(config.data_dir)
            clusters = anomaly_clusters(anomalies, sampling.anomaly_clusters, config.seed, cache)
            batches = balanced_batches(train.normal, anomalies, clusters, *length, sampling, *order)
        if len(self.device.names) > 1:
            shares = dealt(batches, len(self.device.names), *order)
            return self.device.strategy.distribute_datasets_from_function(lambda _: shares)
        if self.device.is_gpu:
            return batches.apply(tf.data.experimental.prefetch_to_device(self.device.name))
        if isinstance(train.images, StoredImages) or config.tiling:
            return batches
        # One thread prepares a batch in a fraction of a step; more would slow the step down.
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        return batches.with_options(options)

    def unreadable(self) -> UserError | None:
        """The error of a training image that could not be read; None if there is none."""
        images = self.split.train.images
        return images.unreadable if isinstance(images, StoredImages) else None


def resolve(config: Config, split: Split) -> Config:
    """Fills in the defaults that depend on data and protocol: classes, batches, networks.

    Args:
        config: The configuration as given by the user.
        split: The sets of the data set.

    Raises:
        UserError: If the images are too small for the networks.
    """
    names = None
    if config.protocol not in ALL_CLASSES_NORMAL:
        names = tuple(split.class_names[number] for number in split.roles.normal)
    image_shape = split.train.images.shape[1:]
    require_tiles_fit(config.tiling, *image_shape[:2])
    input_shape, each = model_shape(image_shape, config.tiling), 1
    if config.tiling is not None:
        each = len(config.tiling.places(image_shape))
    batch_size = config.training.batch_size
    batch_size = batch_size or default_batch_size(each * len(split.learnt), input_shape)
    training: dict[str, Any] = {"batch_size": batch_size}
    normal = each * int((split.learnt.labels == 0).sum())
    if isinstance(config.training, TrainingConfig):
        share = 0.5 if config.learns_from == "normal and anomalous images" else 1.0
        most = math.ceil(MAX_DRAWS * normal / (share * batch_size))
        training["steps_per_epoch"] = min(config.training.steps_per_epoch, most)
    try:
        networks = config.networks.for_image(input_shape)  # type: ignore[attr-defined]
    except OptionError as error:  # more layers than pixels to halve
        raise error.as_user_error() from error
    changes: dict[str, Any] = {
        "normal_class": names if names and _is_open(config, split) else config.normal_class,
        "training": dataclasses.replace(config.training, **training),
        "networks": networks,
    }
    if isinstance(config, OnePassConfig):
        config.require_images(normal, input_shape)
    return dataclasses.replace(config.for_protocol(), **changes)


def _is_open(config: Config, split: Split) -> bool:
    """True if the normal classes are not given, or given by `all` or a pattern."""
    given = map(str, config.normal_class or ("",))
    return not all(name in split.class_names or name.isdecimal() for name in given)


def default_batch_size(images: int, image_shape: tuple[int, ...]) -> int:
    """The default batch size: 128, or fewer with at most `MAX_PIXELS`; an even number.

    Args:
        images: Number of training images or tiles, which is an upper limit.
        image_shape: Their height, width, channels.
    """
    fitting = max(MAX_PIXELS // (image_shape[0] * image_shape[1]), 16)
    return max(2, min(128, fitting, images) // 2 * 2)
