"""What a run is made of: typed, frozen and checked before anything is written.

Values come from three places, later ones win: the defaults below, a YAML file
(`configs/<approach>.yaml` or `--config FILE`), the command line. The resolved configuration is
saved with the run, so a run can always say how it came to be. Nothing here imports TensorFlow:
`--help` and every wrong option answer at once (see `command_line.py`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml

from anomaly_tf.files import atomic_path
from anomaly_tf.metadata import THRESHOLD_SETTINGS


def number(default: Any, low: float, high: float = float("inf"), *, above: bool = False) -> Any:
    """A dataclass field whose value, or each of its values, lies in `[low, high]`.

    Args:
        default: Default value, a number or a tuple of numbers; or None, which is not checked.
        low: Smallest allowed value.
        high: Largest allowed value.
        above: Whether `low` itself is excluded.
    """
    return field(default=default, metadata={"low": low, "high": high, "above": above})


@dataclass(frozen=True)
class Checked:
    """Base of the configuration dataclasses: checks the ranges declared by `number`."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if "low" not in item.metadata:
                continue
            low, high, above = (item.metadata[key] for key in ("low", "high", "above"))
            value = getattr(self, item.name)
            if value is None:
                continue
            for part in value if isinstance(value, tuple) else (value,):
                # Not by math.isinf, for which a whole number may be too large.
                infinite = abs(part) == math.inf
                if not low <= part <= high or (above and part == low) or infinite:
                    bound = f"above {low:g}" if above else f"at least {low:g}"
                    limit = " and finite" if infinite else ""
                    limit = limit if math.isinf(high) else f" and at most {high:.10g}"
                    self._refuse(item.name, f"must be {bound}{limit}; got {part}")
            if value == ():
                self._refuse(item.name, "must hold at least one value; got none")

    def _refuse(self, name: str, reason: str) -> None:
        raise ValueError(f"{self.section}{name} {reason}")


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
            drawn; the other half are those of the rest that the detector so far tells worst, normal
            images of the highest and anomalies of the lowest score. 1 learns from all.
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
        test_fraction: Share of each class kept for the test, where the folder has no test/ of its
            own.
        storage: Where pictures lie in training: memory, disk (read as they are needed), or auto,
            which is memory up to memory_limit.
        memory_limit: Megabytes (10^6 bytes) that pictures may take in memory.
        cache: Keep the decoded pictures of storage disk as one file in data_dir, so that each is
            decoded once; else they are decoded each time.
    """

    section: ClassVar[str] = "folder."

    test_fraction: float = number(0.2, 0.01, 0.9)
    storage: Literal["auto", "memory", "disk"] = "auto"
    memory_limit: int = number(500, 1)
    cache: bool = True


Protocol = Literal["imbalance", "one_class", "corruption", "unseen", "classification"]
# Below, the networks have nothing to fold; above, they outgrow ordinary machines.
SMALLEST_SIDE, LARGEST_SIDE = 8, 1024
ALL_CLASSES_NORMAL: tuple[Protocol, ...] = ("corruption", "classification")
LearnsFrom = Literal["normal images", "normal and anomalous images", "classes"]


@dataclass(frozen=True)
class Config(Checked):
    """What every approach's run is made of.

    Attributes:
        approach: Name of the approach.
        protocol: Which images are normal or anomaly. imbalance: one normal class, labelled images
            of all others; one_class: one normal class alone; unseen: labelled images of some
            others, tested on the rest; corruption: every class is normal, anomalies are made by
            noise and rotation; classification: tell the classes apart.
        normal_class: Names or numbers of the classes that count as normal, separated by commas;
            by default class 0, of a folder of pictures the one called normal, good or ok.
            corruption and classification take all.
        data: fashion_mnist; a folder of pictures; an .npz file; tfds:NAME; or a folder with the
            four IDX files of an MNIST-like data set.
        data_dir: Folder in which downloaded or decoded data is cached.
        image_size: What pictures are resized to, 64 or 128x96 (height x width); by default their
            own size, of a folder at most 128 on the longer side.
        max_broken: Share of unreadable files in a folder from which on training refuses.
        seed: Seed of the split, the weights and the batches.
        deterministic: Use only deterministic operations, for bit-identical repeats.
        sampling: How images become training batches.
        training: How long and how fast to learn.
        threshold: When a score becomes an alarm.
        corruption: Synthetic anomalies of protocol corruption.
        folder: How a folder of pictures becomes a data set.
    """

    protocols: ClassVar[tuple[Protocol, ...]]
    learns_from: ClassVar[LearnsFrom]
    # What the earlier work reported, class 0 unless said, beside which benchmark.py puts ours.
    reported: ClassVar[dict[Protocol, str]] = {}

    approach: str = ""
    protocol: Protocol = "imbalance"
    normal_class: tuple[str | int, ...] | None = None
    data: str = "fashion_mnist"
    data_dir: str = "data"
    image_size: int | str | None = None
    max_broken: float = number(0.1, 0, 1)
    seed: int = number(0, 0, 2**31 - 1)
    deterministic: bool = False
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    corruption: CorruptionConfig = CorruptionConfig()
    folder: FolderConfig = FolderConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normal_class == ():
            self._refuse("normal_class", "must hold at least one class; got none")
        self.size  # noqa: B018 - refuses what is no size
        if self.protocol not in self.protocols:
            self._refuse(
                "protocol",
                f"must be one of {', '.join(self.protocols)} for approach {self.approach}, which "
                f"learns from {self.learns_from}; got {self.protocol}",
            )

    def for_protocol(self) -> Self:
        """The same with what was left to the protocol."""
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that `image_size` asks for, if it asks."""
        if self.image_size is None:
            return None
        sides = str(self.image_size).lower().split("x")
        if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
            self._refuse("image_size", f"must be like 64 or 128x96; got {self.image_size}")
        height, width = int(sides[0]), int(sides[-1])
        if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in (height, width)):
            self._refuse(
                "image_size",
                f"must be {SMALLEST_SIDE} to {LARGEST_SIDE} pixels high and wide; got "
                f"{self.image_size}",
            )
        return height, width


@dataclass(frozen=True)
class NormalOnlyConfig(Config):
    """Configuration of an approach that never sees an anomaly, not even to choose its epoch."""

    protocols: ClassVar[tuple[Protocol, ...]] = ("one_class", "corruption")
    learns_from: ClassVar[LearnsFrom] = "normal images"

    protocol: Protocol = "one_class"


@dataclass(frozen=True)
class BalancedConfig(Config):
    """Configuration of an approach that learns from normal images and labelled anomalies.

    Attributes:
        sampling: How images become training batches.
        unseen: Which anomalies protocol unseen shows in training, and which only at test.
    """

    protocols: ClassVar[tuple[Protocol, ...]] = ("imbalance", "unseen", "corruption")
    learns_from: ClassVar[LearnsFrom] = "normal and anomalous images"

    protocol: Protocol = "imbalance"
    sampling: BalancedSamplingConfig = BalancedSamplingConfig()
    unseen: UnseenConfig = UnseenConfig()

    def for_protocol(self) -> Self:
        """The same with what was left to the protocol."""
        return dataclasses.replace(self, sampling=self.sampling.for_protocol(self.protocol))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.training.batch_size or 0) % 2:
            self._refuse(
                "training.batch_size",
                f"must be even, half normal and half anomaly; got {self.training.batch_size}",
            )


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
class DenseNetworks(Networks):
    """Sizes of the dense autoencoder.

    Attributes:
        hidden: Units of the encoder's hidden layers, outermost first; the decoder mirrors them.
            By default powers of two down to 64, from at most 512 units, fewer for tiny images and
            for large ones, whose first and last layer would outgrow memory: 512, 256, 128, 64 at
            28x28, 128, 64 at 128x128 in colour.
        latent: Length of the latent vector.
    """

    hidden: tuple[int, ...] | None = number(None, 1)
    latent: int = number(64, 1)

    def hidden_for(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Units of the encoder's hidden layers for images `(H, W, C)`."""
        if self.hidden is not None:
            return self.hidden
        values = math.prod(image_shape)
        # The first and the last layer hold nearly all weights: 2 * values * units of them.
        most = min(values - 1, DENSE_WEIGHTS // (2 * values))
        first = max(5, min(9, int(math.log2(most))))
        return tuple(2**power for power in range(first, min(first, 6) - 1, -1))


# 50 MB of float32, four times that in training: with Adam's two moments and the moving average.
DENSE_WEIGHTS = 13_000_000


@dataclass(frozen=True)
class AutoencoderConfig(NormalOnlyConfig):
    """Configuration of approach `autoencoder`, the dense autoencoder.

    Attributes:
        sampling: How images become training batches.
        training: How long and how fast to learn.
        networks: Sizes of the network.
    """

    approach: str = "autoencoder"
    sampling: SamplingConfig = SamplingConfig(flip=0.0, shift=0)
    training: TrainingConfig = TrainingConfig(epochs=30, steps_per_epoch=210, ema_decay=0.99)
    networks: DenseNetworks = DenseNetworks()


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


@dataclass(frozen=True)
class CnnConfig(Config):
    """Configuration of approach `cnn`, the convolutional classifier.

    Attributes:
        sampling: How images become training batches.
        training: How long and how fast to learn.
        networks: Sizes of the network.
    """

    protocols: ClassVar[tuple[Protocol, ...]] = ("classification", "corruption")
    learns_from: ClassVar[LearnsFrom] = "classes"

    reported: ClassVar[dict[Protocol, str]] = {"classification": "accuracy .903 to .926"}

    approach: str = "cnn"
    protocol: Protocol = "classification"
    sampling: SamplingConfig = SamplingConfig(shift=0)
    training: TrainingConfig = TrainingConfig(
        epochs=22, steps_per_epoch=422, learning_rate=3e-3, ema_decay=0.998
    )
    networks: ClassifierNetworks = ClassifierNetworks()


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
class DualGanNetworks(AdversarialNetworks):
    """Sizes of the dual-discriminator GAN's networks, and how they are joined.

    Attributes:
        skip_connections: Hand the encoder's feature maps to the decoder's layers of the same size
            (U-Net), beside the latent.
    """

    skip_connections: bool = True


@dataclass(frozen=True)
class VaeLosses(Checked):
    """Terms of the variational autoencoder's loss, and of its score.

    Attributes:
        noise: Standard deviation of the Gaussian that the decoder stands for, where black is 0
            and white is 1; the smaller, the more the reconstruction weighs against the KL term.
            In the score it is added to the spread of each pixel's error on normal images.
        latent_score_weight: Weight of the latent's half squared length in the score, beside the
            standardised error; only for images whose shorter side is at most 48 pixels.
    """

    section: ClassVar[str] = "losses."

    noise: float = number(0.1, 0, 10, above=True)
    latent_score_weight: float = number(24.0, 0)


@dataclass(frozen=True)
class VaeConfig(NormalOnlyConfig):
    """Configuration of approach `vae`, the convolutional variational autoencoder.

    Attributes:
        sampling: How images become training batches.
        training: How long and how fast to learn.
        networks: Sizes of the networks.
        losses: Terms of loss and score.
    """

    approach: str = "vae"
    sampling: SamplingConfig = SamplingConfig(flip=0.0, shift=0)
    training: TrainingConfig = TrainingConfig(
        epochs=20, steps_per_epoch=80, learning_rate=3e-3, ema_decay=0.99
    )
    networks: ConvolutionalNetworks = ConvolutionalNetworks(latent=32)
    losses: VaeLosses = VaeLosses()


@dataclass(frozen=True)
class TransformLosses(Checked):
    """Terms of the score of the classifier of transformations.

    Attributes:
        gradient_score_weight: Weight of the squared Mahalanobis distance of the image's gradients,
            1 on average for normal images, beside the mean negative log-probability of the
            transformations.
    """

    section: ClassVar[str] = "losses."

    gradient_score_weight: float = number(0.2, 0)


@dataclass(frozen=True)
class TransformConfig(NormalOnlyConfig):
    """Configuration of approach `transform`, the classifier of geometric transformations.

    Attributes:
        sampling: How images become training batches.
        training: How long and how fast to learn.
        networks: Sizes of the network.
        losses: Terms of the score.
    """

    approach: str = "transform"
    sampling: SamplingConfig = SamplingConfig(flip=0.0, shift=0)
    training: TrainingConfig = TrainingConfig(epochs=5, steps_per_epoch=300, ema_decay=0.99)
    networks: ClassifierNetworks = ClassifierNetworks()
    losses: TransformLosses = TransformLosses()


@dataclass(frozen=True)
class ContrastiveLosses(Checked):
    """Terms of the contrastive autoencoder's loss.

    Attributes:
        anomaly_weight: Weight of the anomalies' term beside the normal images' squared error.
        anomaly_scale: Factor s on an anomaly's squared error in its term exp(-s e); the larger,
            the smaller the error at which an anomaly is left alone.
    """

    section: ClassVar[str] = "losses."

    anomaly_weight: float = number(0.5, 0)
    anomaly_scale: float = number(20.0, 0, above=True)


@dataclass(frozen=True)
class ContrastiveConfig(BalancedConfig):
    """Configuration of approach `contrastive`, the contrastive autoencoder.

    Attributes:
        training: How long and how fast to learn.
        networks: Sizes of the networks.
        losses: Terms of the loss.
    """

    reported: ClassVar[dict[Protocol, str]] = {"imbalance": "about .95, from hard labels"}

    approach: str = "contrastive"
    training: TrainingConfig = TrainingConfig(epochs=8)
    networks: ConvolutionalNetworks = ConvolutionalNetworks()
    losses: ContrastiveLosses = ContrastiveLosses()


@dataclass(frozen=True)
class GanLosses(ContrastiveLosses):
    """Terms of the plain GAN's losses.

    Attributes:
        adversarial_weight: The normal reconstruction should look real to the discriminator.
    """

    adversarial_weight: float = number(0.05, 0)


@dataclass(frozen=True)
class GanConfig(BalancedConfig):
    """Configuration of approach `gan`, the plain GAN.

    Attributes:
        training: How long and how fast to learn.
        networks: Sizes of the networks.
        losses: Terms of the losses.
    """

    reported: ClassVar[dict[Protocol, str]] = {"imbalance": ".870"}

    approach: str = "gan"
    training: AdversarialTrainingConfig = AdversarialTrainingConfig()
    networks: AdversarialNetworks = AdversarialNetworks()
    losses: GanLosses = GanLosses()


@dataclass(frozen=True)
class SupervisedConfig(BalancedConfig):
    """Configuration of approach `supervised`, a classifier of normal against anomalous.

    Attributes:
        training: How long and how fast to learn.
        networks: Sizes of the network.
    """

    reported: ClassVar[dict[Protocol, str]] = {"imbalance": ".993, mean of ten classes .9918"}

    approach: str = "supervised"
    training: TrainingConfig = TrainingConfig(ema_decay=0.998)
    networks: ClassifierNetworks = ClassifierNetworks()


@dataclass(frozen=True)
class DualGanLosses(Checked):
    """Weights of the dual-discriminator GAN's losses (Kim et al. 2020).

    Attributes:
        reconstruction_weight: Mean absolute error of normal images.
        patch_weight: The three worst windows of that error.
        latent_weight: Distance of the latents of a normal image and of its reconstruction.
        normal_adversarial_weight: The normal reconstruction should look real to D_N.
        abc_weight: Autoencoding binary classifier: anomalies must reconstruct badly.
        anomaly_adversarial_weight: The anomaly's reconstruction should look fake to D_A.
        normal_discriminator_weight: D_N's own loss.
        anomaly_discriminator_weight: D_A's own loss.
        classifier_score_weight: Weight in the score, beside the mean error, of -log p(normal) by
            a classifier that learns with the GAN; 0: no classifier, as in the paper. Only for
            images whose shorter side is at most 48 pixels.
        gradient_score_weight: Weight in the score of the squared Mahalanobis distance of the
            image's gradients, 1 on average for normal images; likewise. By default 0.2 under
            protocol unseen, 0 under the others.
        abc_scale: Factor s on the error inside the ABC loss; the larger, the smaller the error
            at which an anomaly is left alone.
        label_smoothing: How far below 1 the discriminators' target for real images lies.
    """

    section: ClassVar[str] = "losses."

    reconstruction_weight: float = number(1.5, 0)
    patch_weight: float = number(1.5, 0)
    latent_weight: float = number(0.5, 0)
    normal_adversarial_weight: float = number(0.5, 0)
    abc_weight: float = number(6.0, 0)
    anomaly_adversarial_weight: float = number(0.2, 0)
    normal_discriminator_weight: float = number(1.0, 0)
    anomaly_discriminator_weight: float = number(1.0, 0)
    classifier_score_weight: float = number(0.3, 0)
    gradient_score_weight: float | None = number(None, 0)
    abc_scale: float = number(4.0, 0, above=True)
    label_smoothing: float = number(0.1, 0, 0.5)

    def for_protocol(self, protocol: Protocol) -> DualGanLosses:
        """The same with what was left to the protocol."""
        if self.gradient_score_weight is not None:
            return self
        return dataclasses.replace(self, gradient_score_weight=0.2 if protocol == "unseen" else 0.0)


@dataclass(frozen=True)
class SotaConfig(BalancedConfig):
    """Configuration of approach `sota`, the dual-discriminator GAN.

    Attributes:
        sampling: How images become training batches.
        training: How long and how fast to learn.
        networks: Sizes of the networks.
        losses: Weights of the losses.
    """

    reported: ClassVar[dict[Protocol, str]] = {
        "imbalance": ".899 and about .95, from hard labels; the paper's mean of ten classes .986"
    }

    approach: str = "sota"
    sampling: BalancedSamplingConfig = BalancedSamplingConfig(candidates=3, synthetic=None)
    training: AdversarialTrainingConfig = AdversarialTrainingConfig()
    networks: DualGanNetworks = DualGanNetworks()
    losses: DualGanLosses = DualGanLosses()

    def for_protocol(self) -> Self:
        """The same with what was left to the protocol."""
        losses = self.losses.for_protocol(self.protocol)
        return dataclasses.replace(super().for_protocol(), losses=losses)


CONFIGS: dict[str, type[Config]] = {
    "autoencoder": AutoencoderConfig,
    "cnn": CnnConfig,
    "contrastive": ContrastiveConfig,
    "gan": GanConfig,
    "supervised": SupervisedConfig,
    "transform": TransformConfig,
    "vae": VaeConfig,
    "sota": SotaConfig,
}
ALIASES = {"baseline": "gan"}


def save_config(config: Config, path: Path) -> None:
    """Writes the resolved configuration as YAML, readable again by `--config`."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False), "utf-8"
        )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted option names and values, `{"losses.abc_weight": 2.0, ...}`, in order."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def plain(value: Any) -> Any:
    """Tuples as lists, which YAML and JSON know."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value
