"""Sections of a configuration that belong to no single approach: data, training, threshold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from anomaly_tf.config.checked import Checked, number
from anomaly_tf.runs.detector_info import THRESHOLD_SETTINGS

Protocol = Literal["imbalance", "one_class", "corruption", "unseen", "classification"]


@dataclass(frozen=True)
class SamplingConfig(Checked):
    """How images become training batches.

    Attributes:
        validation_fraction: Share of the training files kept for validation, cut per class.
        flip: Probability of mirroring a training image left to right.
        shift: Largest random shift of a training image, in pixels along each axis.
        rotation: Largest random rotation of a training image, in degrees either way.
        erase: Probability of blackening a rectangle of a training image, up to half as high and
            wide.
    """

    section: ClassVar[str] = "sampling."

    validation_fraction: float = number(0.1, 0.01, 0.5)
    flip: float = number(0.5, 0, 1)
    shift: int = number(1, 0)
    rotation: float = number(0.0, 0, 180)
    erase: float = number(0.0, 0, 1)


@dataclass(frozen=True)
class BalancedSamplingConfig(SamplingConfig):
    """How normal images and labelled anomalies become training batches.

    Attributes:
        anomaly_clusters: K-means clusters from which anomalies are drawn equally; 1 draws
            uniformly.
        candidates: Images drawn for each that is learnt from. Half of a batch is learnt from as
            drawn; the other half are the hardest of the rest: the normal images that score highest
            at that moment and the anomalies that score lowest. 1 learns from all.
        synthetic: Share of the anomalies in a batch that are made of normal images, by turning,
            moving, resizing and mixing them; not under protocol corruption, which makes its own.
            null stands for 0.4 under protocol unseen and 0 under the others.
    """

    anomaly_clusters: int = number(16, 1, 1000)
    candidates: int = number(1, 1, 32)
    synthetic: float | None = number(0.0, 0, 1)

    def for_protocol(self, protocol: Protocol) -> BalancedSamplingConfig:
        """The same with what was left to the protocol."""
        if self.synthetic is not None:
            return self
        return dataclasses.replace(self, synthetic=0.4 if protocol == "unseen" else 0.0)


@dataclass(frozen=True)
class TrainingConfig(Checked):
    """How long and how fast to learn.

    Attributes:
        epochs: Number of epochs.
        steps_per_epoch: Batches in one epoch, fewer on a small set: none in which a normal image
            comes more than 30 times.
        batch_size: Images in one batch; half normal and half anomaly where both are learnt from.
            By default 128, fewer if there are fewer images or they are large.
        learning_rate: Adam's first learning rate.
        schedule: How the learning rates change over all epochs: fall to zero on a cosine, or stay.
        ema_decay: Decay of the moving average of the detector's weights, per step.
        precision: Arithmetic of the layers; mixed_bfloat16 is meant for GPUs that have it.
        jit_compile: Compile the step by XLA; auto means on a GPU only.
    """

    section: ClassVar[str] = "training."

    epochs: int = number(8, 1)
    steps_per_epoch: int = number(313, 1)
    batch_size: int | None = number(None, 2)
    learning_rate: float = number(2e-3, 0, above=True)
    schedule: Literal["cosine", "constant"] = "cosine"
    ema_decay: float = number(0.995, 0, 0.99999)
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    jit_compile: Literal["auto", "on", "off"] = "auto"


@dataclass(frozen=True)
class AdversarialTrainingConfig(TrainingConfig):
    """How long and how fast a generator and its discriminators learn.

    Attributes:
        discriminator_learning_rate: Adam's first learning rate for each discriminator.
    """

    discriminator_learning_rate: float = number(5e-4, 0, above=True)


@dataclass(frozen=True)
class CorruptionConfig(Checked):
    """Synthetic anomalies of protocol corruption.

    Attributes:
        kinds: Which to make of every image, of noise, rotation and both (rotation, then noise).
        noise: Standard deviation of Gaussian noise; black is 0 and white is 1.
        rotation: Largest angle in degrees; each image is turned by a random angle up to it,
            either way.
        sweep: Factors on both strengths for the curve of AUROC against strength.
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
    """Which anomalies protocol unseen shows in training, and which only at test.

    Attributes:
        seen_classes: Anomaly classes given to training, by name or number; by default the
            first half of the classes that follow the normal one (after the last comes class 0), or
            all that are not unseen.
        unseen_classes: Anomaly classes met only at test; by default all others.
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
    """When a score becomes an alarm.

    Attributes:
        method: How the threshold is set from the scores of normal validation images. percentile
            takes a percentile of them; conformal keeps a promised false_alarm_rate.
        percentile: The percentile of those scores, for method percentile.
        false_alarm_rate: Largest probability that a new normal image is an alarm, for method
            conformal; above 0 and below 1.
    """

    section: ClassVar[str] = "threshold."

    method: Literal["percentile", "conformal"] = "percentile"
    percentile: float = number(95.0, 0, 100)
    false_alarm_rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.false_alarm_rate < 1:
            self._refuse(
                "false_alarm_rate", f"must be above 0 and below 1; got {self.false_alarm_rate}"
            )
        # What would have no effect is a mistake.
        for method, name in THRESHOLD_SETTINGS.items():
            value = getattr(self, name)
            if method != self.method and value != getattr(ThresholdConfig, name):
                self._refuse(
                    name, f"needs --threshold.method {method}; got {value} with {self.method}"
                )


@dataclass(frozen=True)
class FolderConfig(Checked):
    """How a folder of pictures becomes a data set.

    Attributes:
        test_fraction: Share of each class kept for the test set, where the data has none of its
            own; 0 keeps none, and the run then cannot be evaluated.
        storage: Where pictures lie in training: memory, disk (read as they are needed), or auto,
            which is memory up to memory_limit.
        memory_limit: Megabytes (10^6 bytes) that pictures may take in memory.
        bit_depth: Bits of the grey levels in 16-bit files, such as 12 for many cameras; by default
            as few of 8, 10, 12, 14 and 16 as hold the largest value in the folder.
        cache: Keep the decoded pictures of storage disk as one file in data_dir, so that each is
            decoded once; else they are decoded each time.
    """

    section: ClassVar[str] = "folder."

    test_fraction: float = number(0.2, 0, 0.9)
    storage: Literal["auto", "memory", "disk"] = "auto"
    memory_limit: int = number(500, 1)
    bit_depth: int | None = number(None, 8, 16)
    cache: bool = True
