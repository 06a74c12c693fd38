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

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from anomaly_tf.config import ALL_CLASSES_NORMAL, Config, CorruptionConfig, UnseenConfig
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.stored import Images, StoredImages, join, subset
from anomaly_tf.errors import UserError
from anomaly_tf.script import import_tensorflow


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
        images: uint8 `(N, H, W, C)`, an array or images on disk.
        labels: int8 `(N,)`, 1 = anomaly, 0 = normal.
        classes: Integers `(N,)`, the data set's own class numbers; kinds of corruption follow them.
        files: Where each lies in the data set's folder; empty if they are no files.
    """

    images: Images
    labels: np.ndarray
    classes: np.ndarray
    files: tuple[str, ...] = ()

    @property
    def normal(self) -> Images:
        """The normal images, uint8 `(M, H, W, C)`."""
        return subset(self.images, self.labels == 0)

    @property
    def anomalies(self) -> Images:
        """The anomalous images, uint8 `(M, H, W, C)`."""
        return subset(self.images, self.labels == 1)

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
        masks: Test file to a mask file of where its anomaly is.
    """

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    roles: Roles
    class_names: tuple[str, ...]
    masks: Mapping[str, str] = field(default_factory=dict)

    @property
    def judged(self) -> np.ndarray:
        """Which test images a detector is judged by, bool `(N,)`.

        With unseen classes beside seen ones, the unseen ones are what the protocol asks about.
        """
        return ~np.isin(self.test.classes, self.roles.seen if self.roles.unseen else ())


def class_roles(
    config: Config,
    class_names: tuple[str, ...],
    named_normal: tuple[int, ...] | None = None,
    is_folder: bool = False,
) -> Roles:
    """What a run's protocol takes each class for; needs the names alone, no images.

    Args:
        config: Protocol and classes.
        class_names: Name of each class number.
        named_normal: Classes that are normal by their names, unless the configuration says which.
        is_folder: Whether the classes are folders of pictures: there the first is normal for no
            reason but its name, and `corruption` leaves out those that are not.

    Raises:
        UserError: If a class does not exist, is asked to be two things, or no anomaly is left.
    """
    every = tuple(range(len(class_names)))
    if config.protocol in ALL_CLASSES_NORMAL and not is_folder:
        return Roles(every)
    normal = named_normal if is_folder else (0,)
    if config.normal_class is not None:
        normal = _class_numbers("normal class", config.normal_class, class_names)
    if config.protocol in ALL_CLASSES_NORMAL:
        told = normal is not None and config.protocol == "corruption"
        return Roles(normal if told and normal else every)
    if normal is None:
        raise UserError(
            f"the folders in {config.data} do not tell by their names which is normal; give "
            f"--normal-class one or several of: {', '.join(class_names)}"
        )
    others = tuple(number for number in every if number not in normal)
    if config.protocol == "one_class":
        return Roles(normal, unseen=others)
    if not others:
        raise UserError(
            f"approach {config.approach} learns from labelled anomalies and {config.data} holds "
            "normal images alone; use --approach autoencoder or vae, or --protocol corruption, "
            "which makes synthetic anomalies"
        )
    if config.protocol == "imbalance":
        return Roles(normal, seen=others)
    chosen: UnseenConfig = config.unseen  # type: ignore[attr-defined]
    return _unseen_roles(normal, others, chosen, class_names)


def _class_numbers(
    what: str, chosen: tuple[str | int, ...], class_names: tuple[str, ...]
) -> tuple[int, ...]:
    """Numbers of classes given by name or, where there is no such name, by number."""
    numbers = []
    for one in chosen:
        if str(one) in class_names:
            numbers.append(class_names.index(str(one)))
        elif str(one).isdecimal() and int(one) < len(class_names):
            numbers.append(int(one))
        else:
            near = difflib.get_close_matches(str(one), class_names, 1, 0.5)
            choice = ", ".join(f"{i} {name}" for i, name in enumerate(class_names))
            raise UserError(
                f"{what} {one} does not exist; "
                + (f"did you mean {near[0]}?" if near else f"choose one of: {choice}")
            )
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{what} {chosen} holds one class twice; give each once")
    return tuple(sorted(numbers))


def _unseen_roles(
    normal: tuple[int, ...],
    others: tuple[int, ...],
    chosen: UnseenConfig,
    class_names: tuple[str, ...],
) -> Roles:
    given: dict[str, tuple[int, ...] | None] = {}
    for name, classes in (("seen", chosen.seen_classes), ("unseen", chosen.unseen_classes)):
        given[name] = None
        if classes is not None:
            given[name] = _class_numbers(f"{name} class", classes, class_names)
        for number in given[name] or ():
            if number in normal:
                raise UserError(
                    f"class {number} ({class_names[number]}) is the normal one and cannot be an "
                    f"anomaly; take it out of --unseen.{name}-classes or choose another "
                    "--normal-class"
                )
    seen, unseen = given["seen"], given["unseen"]
    if seen is None and unseen is None:
        following = sorted(others, key=lambda number: (number < normal[0], number))
        seen = tuple(following[: len(others) // 2])
    if seen is None:
        seen = tuple(number for number in others if number not in (unseen or ()))
    if unseen is None:
        unseen = tuple(number for number in others if number not in seen)
    for name, part in (("seen", seen), ("unseen", unseen)):
        if not part:
            raise UserError(
                f"no class is left to be {name}: normal {list(normal)}, seen {sorted(seen)}, "
                f"unseen {sorted(unseen)}; choose fewer "
                f"--unseen.{'un' * (name == 'seen')}seen-classes"
            )
    both = sorted(set(seen) & set(unseen))
    if both:
        raise UserError(f"class {class_names[both[0]]} is both seen and unseen; choose one")
    return Roles(normal, tuple(sorted(seen)), tuple(sorted(unseen)))


def describe_roles(roles: Roles, class_names: tuple[str, ...]) -> str:
    """In words, which classes are normal and, if some stay unseen, which are seen."""
    if len(roles.normal) == len(class_names) > 1:
        return f"all {len(roles.normal)} classes normal"
    names = [f"{number} ({class_names[number]})" for number in roles.normal]
    words = f"normal class{'es' * (len(names) > 1)} {', '.join(names)}"
    if roles.seen and roles.unseen:
        seen, unseen = (
            ", ".join(class_names[number] for number in part) for part in (roles.seen, roles.unseen)
        )
        words += f", seen anomalies {seen}, unseen {unseen}"
    return words


def make_split(config: Config, dataset: ImageDataset) -> Split:
    """Divides a data set as a run's protocol says.

    Args:
        config: Protocol, normal classes, shares of validation and test set, seed.
        dataset: Images and classes.

    Returns:
        The three sets.

    Raises:
        UserError: What `class_roles` raises, or if a set is too small or lacks one kind of image.
    """
    roles = class_roles(config, dataset.class_names, dataset.named_normal, dataset.is_folder)
    published = len(dataset.test_images) > 0
    train = _Pool(dataset.train_images, dataset.train_classes, dataset.train_files)
    test = _Pool(dataset.test_images, dataset.test_classes, dataset.test_files)
    _require_enough(config, dataset, roles)
    if not published:
        train, test = train.cut(config.folder.test_fraction, config.seed, roles.normal)
    if published and not dataset.is_folder:
        learnt, checked = _published_cut(dataset, config.sampling.validation_fraction, config.seed)
        learn, validation = train.take(learnt), train.take(checked)
    else:
        share = config.sampling.validation_fraction
        learn, validation = train.cut(share, config.seed, roles.normal)
    observed = roles.unseen if config.protocol == "one_class" else ()
    if not published and config.protocol == "one_class":
        # Nothing learns from these anomalies; the test does.
        test = test.and_also(learn, np.isin(learn.classes, roles.unseen))
    split = Split(
        learn.labelled(roles, roles.seen),
        validation.labelled(roles, roles.seen + observed),
        test.labelled(roles, roles.seen + roles.unseen),
        roles,
        dataset.class_names,
        dataset.masks,
    )
    _require_kinds(config, dataset, split)
    return with_corruptions(split, config)


@dataclass(frozen=True)
class _Pool:
    """Images, their classes and, if they are files, their names."""

    images: Images
    classes: np.ndarray
    files: tuple[str, ...]

    def take(self, chosen: np.ndarray) -> _Pool:
        """Some of them, by number or by a mask."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        files = tuple(self.files[number] for number in numbers) if self.files else ()
        return _Pool(subset(self.images, chosen), self.classes[chosen], files)

    def cut(self, share: float, seed: int, normal: tuple[int, ...]) -> tuple[_Pool, _Pool]:
        """What remains, and a share of each class that was cut off."""
        cut = _cut_off(self.classes, share, seed, normal)
        return self.take(~cut), self.take(cut)

    def and_also(self, other: _Pool, chosen: np.ndarray) -> _Pool:
        """These, and some of others that come from the same place."""
        more = other.take(chosen)
        return _Pool(
            join(self.images, more.images),
            np.concatenate([self.classes, more.classes]),
            self.files + more.files,
        )

    def labelled(self, roles: Roles, anomalies: tuple[int, ...]) -> LabelledImages:
        """The normal ones and those of some anomaly classes, with their labels."""
        kept = np.isin(self.classes, roles.normal + anomalies)
        part = self if kept.all() else self.take(kept)
        labels = (~np.isin(part.classes, roles.normal)).astype(np.int8)
        return LabelledImages(part.images, labels, part.classes, part.files)


# Of few images so many are cut off at least, or a third of them: a threshold set by three images,
# or a false-alarm rate told by three, says little.
LEAST_CUT = 20
# Fewer than these cannot be divided into three sets.
LEAST_NORMAL, LEAST_ANOMALIES = 4, 3


def _cut_off(classes: np.ndarray, share: float, seed: int, normal: tuple[int, ...]) -> np.ndarray:
    """Which images to cut off, bool `(N,)`: a share of each class, at random.

    Anomaly classes of less than five images are taken together, so that a few single ones are
    found on both sides.
    """
    numbers, counts = np.unique(classes, return_counts=True)
    rare = [number for number in numbers[counts < 5] if number not in normal]
    groups = np.where(np.isin(classes, rare), -1, classes.astype(np.int64))
    cut = np.zeros(len(classes), bool)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        count = max(round(share * len(members)), min(LEAST_CUT, len(members) // 3), 1)
        count = min(count, len(members) - 1)
        cut[np.random.default_rng([seed, group + 1]).permutation(members)[:count]] = True
    return cut


def _published_cut(
    dataset: ImageDataset, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
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


def _require_enough(config: Config, dataset: ImageDataset, roles: Roles) -> None:
    """Refuses what cannot be divided into three sets, before it is tried."""
    if len(dataset.test_images) and not dataset.is_folder:
        return
    classes = dataset.train_classes
    least = LEAST_NORMAL - 2 if len(dataset.test_images) else LEAST_NORMAL
    count = int(np.isin(classes, roles.normal).sum())
    if count < least:
        names = ", ".join(dataset.class_names[number] for number in roles.normal)
        raise UserError(
            f"{dataset.name} holds {count} normal image{'s' * (count != 1)} to learn from "
            f"({names}), and at least {least} are needed; add some or name the normal class by "
            "--normal-class"
        )
    anomalies = int(np.isin(classes, roles.seen).sum())
    if roles.seen and anomalies < LEAST_ANOMALIES:
        raise UserError(
            f"approach {config.approach} learns from labelled anomalies, at least "
            f"{LEAST_ANOMALIES}, and {dataset.name} has {anomalies} to learn from; use --approach "
            "autoencoder or vae, which need none"
        )


def _require_kinds(config: Config, dataset: ImageDataset, split: Split) -> None:
    """Refuses a protocol for which one kind of image is missing."""
    needed = {
        "training": (split.train, (0, 1) if split.roles.seen else (0,)),
        "test": (split.test, (0, 1) if split.roles.seen or split.roles.unseen else (0,)),
    }
    for name, (part, labels) in needed.items():
        for label in labels:
            if label not in part.labels:
                kind = ("normal", "anomaly")[label]
                raise UserError(
                    f"protocol {config.protocol} needs {kind} images, and {dataset.name} has no "
                    f"{kind} image in its {name} files; choose another class or data set"
                )


def with_corruptions(split: Split, config: Config) -> Split:
    """Under protocol `corruption`, adds corrupted copies of validation and test images.

    One of each kind; of images on disk as many as `MOST_CORRUPTED`, because copies are kept in
    memory.
    """
    if config.protocol != "corruption":
        return split
    corruption = config.corruption

    def add(part: LabelledImages, stream: int) -> LabelledImages:
        # Imported late: it brings TensorFlow, and wrong classes are told before.
        import_tensorflow()
        from anomaly_tf.data.corruptions import corrupted

        if isinstance(part.images, StoredImages):
            few = slice(0, MOST_CORRUPTED)
            part = LabelledImages(
                part.images[few], part.labels[few], part.classes[few], part.files[few]
            )
        images = part.images[:]
        copies = [
            corrupted(images, kind, corruption.noise, corruption.rotation, config.seed, stream)
            for kind in corruption.kinds
        ]
        kinds = len(split.class_names) + np.arange(len(copies), dtype=part.classes.dtype)
        return LabelledImages(
            np.concatenate([images, *copies]),
            np.repeat(np.array([0, 1], np.int8), [len(part), len(copies) * len(part)]),
            np.concatenate([part.classes, np.repeat(kinds, len(part))]),
            part.files + tuple(f"{file} (synthetic)" for _ in copies for file in part.files),
        )

    return Split(
        split.train,
        add(split.validation, VALIDATION_STREAM),
        add(split.test, TEST_STREAM),
        split.roles,
        split.class_names + corruption_names(corruption),
    )


MOST_CORRUPTED = 2000
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
