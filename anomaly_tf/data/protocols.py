"""Which images count as normal or anomaly, and which set each belongs to.

| protocol | trained on | tested on |
|---|---|---|
| `imbalance` | one normal class, and labelled images of all others | that class against the rest |
| `one_class` | the normal class alone | the same |
| `unseen` | the normal class, and labelled images of some others | that class against the others |
| `corruption` | clean images of all classes | clean images against noisy and rotated ones |
| `classification` | images of all classes, with their class | which class it is |

The cut into training and validation set depends on the seed alone, so all approaches and
protocols choose on the same images. The validation set of `unseen` holds no unseen class; that of
`one_class` holds anomalies, for curves to look at: nothing is chosen by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomaly_tf.config import ALL_CLASSES_NORMAL, Config, CorruptionConfig, UnseenConfig
from anomaly_tf.data.sources import ImageDataset
from anomaly_tf.errors import UserError


@dataclass(frozen=True)
class Roles:
    """What each class number of a data set is taken for.

    Attributes:
        normal: Classes that count as normal.
        seen: Anomaly classes that training may see, with their label.
        unseen: Anomaly classes that are met only at test.
    """

    normal: tuple[int, ...]
    seen: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()


@dataclass(frozen=True)
class LabelledImages:
    """Images with their truth.

    Attributes:
        images: uint8 `(N, H, W, C)`.
        labels: int8 `(N,)`, 1 = anomaly, 0 = normal.
        classes: uint8 `(N,)`, the data set's own class numbers; kinds of corruption follow them.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """The normal images, uint8 `(M, H, W, C)`."""
        return self.images[self.labels == 0]

    @property
    def anomalies(self) -> np.ndarray:
        """The anomalous images, uint8 `(M, H, W, C)`."""
        return self.images[self.labels == 1]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Split:
    """Three disjoint sets: learn on the first, choose on the second, score the third once.

    Attributes:
        train: Training set.
        validation: Validation set, cut from the training files.
        test: Test set.
        roles: What each class is taken for.
        class_names: Name of each class number in the three sets.
    """

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    roles: Roles
    class_names: tuple[str, ...]

    @property
    def judged(self) -> np.ndarray:
        """Which test images a detector is judged by, bool `(N,)`.

        With unseen classes beside seen ones, the unseen ones are what the protocol asks about.
        """
        return ~np.isin(self.test.classes, self.roles.seen if self.roles.unseen else ())


def class_roles(config: Config, class_names: tuple[str, ...]) -> Roles:
    """What a run's protocol takes each class for; needs the names alone, no images.

    Raises:
        UserError: If a class does not exist, is asked to be two things, or no anomaly is left.
    """
    every = tuple(range(len(class_names)))
    if config.protocol in ALL_CLASSES_NORMAL:
        return Roles(every)
    normal = config.normal_class
    _require_classes("normal class", [normal], class_names)
    others = tuple(number for number in every if number != normal)
    if not others:
        raise UserError(
            f"protocol {config.protocol} needs a second class for its anomalies and the data has "
            "one; choose another data set"
        )
    if config.protocol == "imbalance":
        return Roles((normal,), seen=others)
    if config.protocol == "one_class":
        return Roles((normal,), unseen=others)
    chosen: UnseenConfig = config.unseen  # type: ignore[attr-defined]
    return _unseen_roles(normal, others, chosen, class_names)


def _unseen_roles(
    normal: int, others: tuple[int, ...], chosen: UnseenConfig, class_names: tuple[str, ...]
) -> Roles:
    for name, classes in (("seen", chosen.seen_classes), ("unseen", chosen.unseen_classes)):
        _require_classes(f"{name} class", classes or (), class_names)
        if normal in (classes or ()):
            raise UserError(
                f"class {normal} ({class_names[normal]}) is the normal one and cannot be an "
                f"anomaly; take it out of --unseen.{name}-classes or choose another --normal-class"
            )
    seen, unseen = chosen.seen_classes, chosen.unseen_classes
    if seen is None and unseen is None:
        following = sorted(others, key=lambda number: (number < normal, number))
        seen = tuple(following[: len(others) // 2])
    if seen is None:
        seen = tuple(number for number in others if number not in (unseen or ()))
    if unseen is None:
        unseen = tuple(number for number in others if number not in seen)
    for name, classes in (("seen", seen), ("unseen", unseen)):
        if not classes:
            raise UserError(
                f"no class is left to be {name}: normal {normal}, seen {sorted(seen)}, unseen "
                f"{sorted(unseen)}; choose fewer --unseen.{'un' * (name == 'seen')}seen-classes"
            )
    return Roles((normal,), tuple(sorted(seen)), tuple(sorted(unseen)))


def describe_roles(roles: Roles, class_names: tuple[str, ...]) -> str:
    """In words, which classes are normal and, if some stay unseen, which are seen."""
    if len(roles.normal) > 1:
        return f"all {len(roles.normal)} classes normal"
    (normal,) = roles.normal
    words = f"normal class {normal} ({class_names[normal]})"
    if roles.seen and roles.unseen:
        seen, unseen = (
            ", ".join(class_names[number] for number in part) for part in (roles.seen, roles.unseen)
        )
        words += f", seen anomalies {seen}, unseen {unseen}"
    return words


def make_split(config: Config, dataset: ImageDataset) -> Split:
    """Divides a data set as a run's protocol says.

    Args:
        config: Protocol, normal class, share of the validation set, seed.
        dataset: Images and classes.

    Returns:
        The three sets.

    Raises:
        UserError: What `class_roles` raises, or if a set is too small or lacks one kind of image.
    """
    roles = class_roles(config, dataset.class_names)
    train, validation = _cut(dataset, config.sampling.validation_fraction, config.seed)
    observed = roles.unseen if config.protocol == "one_class" else ()

    def labelled(images: np.ndarray, classes: np.ndarray, anomalies: tuple) -> LabelledImages:
        kept = np.isin(classes, roles.normal + anomalies)
        if not kept.all():
            images, classes = images[kept], classes[kept]
        return LabelledImages(images, (~np.isin(classes, roles.normal)).astype(np.int8), classes)

    files = dataset.train_images, dataset.train_classes
    split = Split(
        labelled(files[0][train], files[1][train], roles.seen),
        labelled(files[0][validation], files[1][validation], roles.seen + observed),
        labelled(dataset.test_images, dataset.test_classes, roles.seen + roles.unseen),
        roles,
        dataset.class_names,
    )
    needed = {
        "training": (split.train, (0, 1) if roles.seen else (0,)),
        "test": (split.test, (0, 1) if roles.seen or roles.unseen else (0,)),
    }
    for name, (part, labels) in needed.items():
        for label in labels:
            if label not in part.labels:
                kind = ("normal", "anomaly")[label]
                raise UserError(
                    f"protocol {config.protocol} needs {kind} images, and {dataset.name} has no "
                    f"{kind} image in its {name} files; choose another class or data set"
                )
    return _with_corruptions(split, config) if config.protocol == "corruption" else split


def _require_classes(
    what: str, numbers: list[int] | tuple[int, ...], class_names: tuple[str, ...]
) -> None:
    for number in numbers:
        if not 0 <= number < len(class_names):
            choice = ", ".join(f"{i} {name}" for i, name in enumerate(class_names))
            raise UserError(f"{what} {number} does not exist; choose one of: {choice}")


def _cut(dataset: ImageDataset, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training files that train, and of those that validate, cut per class."""
    # Imported late: it takes a second, and every script imports this module.
    from sklearn.model_selection import train_test_split

    try:
        train, validation = train_test_split(
            np.arange(len(dataset.train_classes)),
            test_size=fraction,
            stratify=dataset.train_classes,
            random_state=seed,
        )
    except ValueError as error:
        raise UserError(
            f"{dataset.name} is too small to cut a validation set from: {error}"
        ) from error
    return train, validation


def _with_corruptions(split: Split, config: Config) -> Split:
    """Adds corrupted copies of the validation and of the test images, one of each kind."""
    corruption = config.corruption

    def add(part: LabelledImages, stream: int) -> LabelledImages:
        # Imported late: it brings TensorFlow, and wrong classes are told before.
        from anomaly_tf.data.corruptions import corrupted

        copies = [
            corrupted(part.images, kind, corruption.noise, corruption.rotation, config.seed, stream)
            for kind in corruption.kinds
        ]
        kinds = len(split.class_names) + np.arange(len(copies), dtype=np.uint8)
        return LabelledImages(
            np.concatenate([part.images, *copies]),
            np.repeat(np.array([0, 1], np.int8), [len(part), len(copies) * len(part)]),
            np.concatenate([part.classes, np.repeat(kinds, len(part))]),
        )

    return Split(
        split.train,
        add(split.validation, VALIDATION_STREAM),
        add(split.test, TEST_STREAM),
        split.roles,
        split.class_names + corruption_names(corruption),
    )


# Keep the random numbers of the corrupted sets apart.
VALIDATION_STREAM, TEST_STREAM = 1, 2


def corruption_names(corruption: CorruptionConfig) -> tuple[str, ...]:
    """A name for each kind of corruption, with its strength: `noise 0.2`, `rotation 45`, ..."""
    strengths = {
        "noise": f"noise {corruption.noise:g}",
        "rotation": f"rotation {corruption.rotation:g}",
        "both": f"noise {corruption.noise:g} and rotation {corruption.rotation:g}",
    }
    return tuple(strengths[kind] for kind in corruption.kinds)
