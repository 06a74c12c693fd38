"""Sections of a configuration that all approaches share: data, training, threshold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from anomaly_tf.config.checked import Checked, number
from anomaly_tf.runs.sections import THRESHOLD_SETTINGS

Protocol = Literal[
    "imbalance", "one_class", "contaminated", "corruption", "unseen", "classification"
]


@dataclass(frozen=True)
class HoldOutConfig(Checked):
    """Training images as they are.

    Attributes:
        validation_fraction: Share of each class's training images that is kept for validation.
    """

    section: ClassVar[str] = "sampling."

    validation_fraction: float = number(0.1, 0.01, 0.5)


@dataclass(frozen=True)
class SamplingConfig(HoldOutConfig):
    """Training batches.

    Attributes:
        flip: Probability of flipping a training image left to right.
        shift: Largest random shift of a training image along each axis, in pixels.
        rotation: Largest random rotation of a training image in either direction, in degrees.
        erase: Probability of setting a random rectangle of a training image to black. The rectangle
            has at most half the image's height and width.
    """

    flip: float = number(0.5, 0, 1)
    shift: int = number(1, 0)
    rotation: float = number(0.0, 0, 180)
    erase: float = number(0.0, 0, 1)


@dataclass(frozen=True)
class BalancedSamplingConfig(SamplingConfig):
    """Training batches of normal images and labelled anomalies.

    Attributes:
        anomaly_clusters: Number of k-means clusters of the anomalies. Each cluster is sampled
            equally often; 1 samples all anomalies uniformly.
        candidates: Hard-example mining: number of images drawn per image of the batch. Half of the
            batch is used as drawn; the other half are the hardest of the remaining images, which
            are the normal images with the highest and the anomalies with the lowest current score.
            1 disables mining.
        synthetic: Share of the anomalies in a batch that are generated from normal images by
            rotating, shifting, resizing and mixing them. It has no effect under protocol
            corruption, which generates its own anomalies. null means 0.4 under protocol unseen and
            0 under the others.
    """

    anomaly_clusters: int = number(16, 1, 1000)
    candidates: int = number(1, 1, 32)
    synthetic: float | None = number(0.0, 0, 1)

    def for_protocol(self, protocol: Protocol) -> BalancedSamplingConfig:
        """A copy with the protocol's defaults filled in."""
        if self.synthetic is not None:
            return self
        return dataclasses.replace(self, synthetic=0.4 if protocol == "unseen" else 0.0)


@dataclass(frozen=True)
class BatchConfig(Checked):
    """Batches of a training.

    Attributes:
        batch_size: Number of images per batch; for approaches that learn from both, half are normal
            and half are anomalies. Default: 128, or fewer if there are fewer images or if they are
            large.
        precision: Precision of the layers; mixed_bfloat16 is for GPUs that support it.
        jit_compile: Compile the training step with XLA; auto compiles on one GPU only.
    """

    section: ClassVar[str] = "training."

    batch_size: int | None = number(None, 2)
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    jit_compile: Literal["auto", "on", "off"] = "auto"


@dataclass(frozen=True)
class OnePassTrainingConfig(BatchConfig):
    """Training in one pass over the normal images, without gradient steps."""

    epochs: ClassVar[int] = 1


@dataclass(frozen=True)
class TrainingConfig(BatchConfig):
    """Length of training, batch size and learning rate.

    Attributes:
        epochs: Number of epochs.
        steps_per_epoch: Number of batches per epoch. It is lowered for small data sets, so that no
            normal image occurs more than 30 times per epoch.
        learning_rate: Initial learning rate of Adam.
        schedule: Learning-rate schedule over all epochs. cosine decays to zero; constant keeps the
            initial rate.
        ema_decay: Decay per step of the exponential moving average of the detector's weights.
    """

    epochs: int = number(8, 1)
    steps_per_epoch: int = number(313, 1)
    learning_rate: float = number(2e-3, 0, above=True)
    schedule: Literal["cosine", "constant"] = "cosine"
    ema_decay: float = number(0.995, 0, 0.99999)


@dataclass(frozen=True)
class AdversarialTrainingConfig(TrainingConfig):
    """Length of training, batch size and learning rates of a generator and its discriminators.

    Attributes:
        discriminator_learning_rate: Initial learning rate of Adam for each discriminator.
    """

    discriminator_learning_rate: float = number(5e-4, 0, above=True)


@dataclass(frozen=True)
class CorruptionConfig(Checked):
    """Synthetic anomalies of protocol corruption.

    Attributes:
        kinds: Kinds of corruption; each is applied to every image. both is rotation, then noise.
        noise: Standard deviation of the Gaussian noise, where black is 0 and white is 1.
        rotation: Largest rotation in degrees; each image is rotated by a random angle up to it, in
            either direction.
        sweep: Factors by which noise and rotation are multiplied for the curve of AUROC against
            strength.
    """

    section: ClassVar[str] = "corruption."

    kinds: tuple[Literal["noise", "rotation", "both"], ...] = ("noise", "rotation", "both")
    noise: float = number(0.2, 0)
    rotation: float = number(45.0, 0, 180)
    sweep: tuple[float, ...] = number((0.25, 0.5, 0.75, 1.0, 1.5, 2.0), 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            self._refuse(
                "kinds", f"must hold each of noise, rotation, both at most once; got {self.kinds}"
            )


@dataclass(frozen=True)
class UnseenConfig(Checked):
    """Anomaly classes of protocol unseen, for training and for the test only.

    Attributes:
        seen_classes: Anomaly classes used in training, by name or number. Default: all classes that
            are not in unseen_classes; without these, the first half of the classes after the normal
            one (class 0 follows the last).
        unseen_classes: Anomaly classes used in the test only. Default: all others.
    """

    section: ClassVar[str] = "unseen."

    seen_classes: tuple[str | int, ...] | None = None
    unseen_classes: tuple[str | int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seen_classes", "unseen_classes"):
            classes = getattr(self, name)
            if classes == ():
                self._refuse(name, "must hold at least one class; got none")
            if classes and len(set(classes)) < len(classes):
                self._refuse(name, f"must hold each class once; got {list(classes)}")
        both = set(self.seen_classes or ()) & set(self.unseen_classes or ())
        if both:
            self._refuse(
                "unseen_classes",
                f"must hold none of the seen classes; got {', '.join(map(str, both))} in both",
            )


@dataclass(frozen=True)
class ThresholdConfig(Checked):
    """Threshold on the anomaly score.

    Attributes:
        method: How the threshold is computed from the scores of the normal validation images.
            percentile: a percentile of these scores; conformal: a threshold that guarantees
            false_alarm_rate; labelled: the threshold that separates them best from the labelled
            anomalies of the validation set.
        percentile: Percentile of these scores, for method percentile.
        false_alarm_rate: Largest probability that a new normal image is an alarm, for method
            conformal; above 0 and below 1.
    """

    section: ClassVar[str] = "threshold."

    method: Literal["percentile", "conformal", "labelled"] = "percentile"
    percentile: float = number(95.0, 0, 100)
    false_alarm_rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.false_alarm_rate < 1:
            self._refuse(
                "false_alarm_rate", f"must be above 0 and below 1; got {self.false_alarm_rate}"
            )
        # An option that would have no effect is refused.
        for method, name in THRESHOLD_SETTINGS.items():
            value = getattr(self, name)
            if method != self.method and value != getattr(ThresholdConfig, name):
                self._refuse(
                    name, f"needs --threshold.method {method}; got {value} with {self.method}"
                )


@dataclass(frozen=True)
class FolderConfig(Checked):
    """Reading of a folder of images.

    Attributes:
        test_fraction: Share of each class that is kept for the test, if the data has no test set;
            with 0, the run has no test set and cannot be evaluated.
        storage: Where the images are kept during training. memory: all in memory; disk: read when
            needed; auto: memory if they fit into memory_limit, else disk.
        memory_limit: Largest size of the images in memory, in megabytes (10^6 bytes); training
            takes up to four times as much.
        bit_depth: Bit depth of the grey levels in 16-bit files, such as 12 for many cameras.
            Default: the smallest of 8, 10, 12, 14 and 16 that holds the largest value in the
            folder.
        cache: With storage disk, keep the decoded images in one file in data_dir, so that each
            image is decoded once; otherwise images are decoded each time they are used.
    """

    section: ClassVar[str] = "folder."

    test_fraction: float = number(0.2, 0, 0.9)
    storage: Literal["auto", "memory", "disk"] = "auto"
    memory_limit: int = number(200, 1)
    bit_depth: int | None = number(None, 8, 16)
    cache: bool = True
