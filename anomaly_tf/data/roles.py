"""The role of each class under a run's protocol: normal, seen anomaly or unseen anomaly.

The user names the normal classes with `--normal-class`. By default they are recognised by names
such as `good` and `defect`, in folders and in arrays; for numeric classes, which only arrays have,
a convention is used. If the names are not known, the option is required.
"""

from __future__ import annotations

import difflib
import unicodedata
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from anomaly_tf.config import ALL_CLASSES_NORMAL, Config, UnseenConfig
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.fashion_mnist import FASHION_MNIST_CLASSES
from anomaly_tf.errors import UserError
from anomaly_tf.script import shortened

# The value of `--normal-class` for all classes.
ALL = "all"
# In lower case.
NORMAL_NAMES = ("normal", "good", "ok", "pass", "passed", "healthy", "inlier", "inliers")
ANOMALY_NAMES = {
    *("abnormal", "anomalies", "anomalous", "anomaly", "bad", "damaged", "defect", "defective"),
    *("defects", "fail", "failed", "faulty", "ng", "nok", "not good", "not ok", "not_good"),
    *("not_ok", "outlier", "outliers", "reject", "rejected", "rejects", "scrap"),
}
# scikit-learn's label of an outlier.
OUTLIER = "-1"
# Classes that a message lists.
MAX_NAMED = 12
# A guess is doubtful if another class has more than this many times the images of the normal ones.
DOUBTFUL = 2


@dataclass(frozen=True)
class Roles:
    """The role of each class number of a data set.

    Attributes:
        normal: Normal classes.
        seen: Anomaly classes in the training set, with their label.
        unseen: Anomaly classes in the test set only.
    """

    normal: tuple[int, ...]
    seen: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()


@dataclass(frozen=True)
class Guess:
    """The normal classes according to the class names.

    Attributes:
        normal: Their numbers.
        reason: The reason, in words that follow the classes' names.
    """

    normal: tuple[int, ...]
    reason: str


def normal_by_name(class_names: tuple[str, ...]) -> tuple[int, ...] | None:
    """The classes that are normal by names such as `good`; None if no name is known.

    The only class is normal, and so is a class beside one such as `defects`, with any name; see
    `require_clear_guess`.
    """
    names = [name.lower() for name in class_names]
    normal = tuple(number for number, name in enumerate(names) if name in NORMAL_NAMES)
    others = tuple(number for number, name in enumerate(names) if name not in ANOMALY_NAMES)
    if names == [OUTLIER]:
        return None
    return normal or (others if len(others) == 1 and len(names) <= 2 else None)


def require_clear_guess(config: Config, dataset: ImageDataset, roles: Roles) -> None:
    """Refuses a rare class that counts as normal only because the other one is named an anomaly.

    With `defect` and `scratch`, both may be anomalies; normal images are usually more frequent.

    Args:
        config: The run's configuration; nothing is guessed if it names the normal classes.
        dataset: Names of the classes and the class of each image.
        roles: The roles of the classes.

    Raises:
        UserError: If the guess is not clear.
    """
    names = dataset.class_names
    known = any(names[number].lower() in NORMAL_NAMES for number in roles.normal)
    if config.normal_class is not None or known or len(names) != 2 or len(roles.normal) != 1:
        return
    (normal,) = roles.normal
    other = 1 - normal
    counts = _counts(dataset)
    if names[other].lower() in ANOMALY_NAMES and counts[normal] <= counts[other]:
        raise UserError(
            f"{names[normal]} ({counts[normal]} images) beside {names[other]} ({counts[other]}) "
            f"need not be normal; name the normal class with --normal-class {names[normal]} or "
            f"{names[other]}"
        )


def guess_normal(class_names: tuple[str, ...], is_folder: bool = False) -> Guess | None:
    """Guesses the normal classes if the user gives none; None if the names are not known.

    Args:
        class_names: Name of each class number.
        is_folder: Whether they are names of folders, for which numbers have no convention.
    """
    if (named := normal_by_name(class_names)) is not None:
        return Guess(named, "by the names of the classes")
    if is_folder:
        return None
    if set(class_names) == {"1", OUTLIER}:
        return Guess((class_names.index("1"),), "because -1 is scikit-learn's label of an outlier")
    if set(class_names) == {"False", "True"}:
        return Guess((class_names.index("False"),), "taking True for an anomaly")
    if class_names == FASHION_MNIST_CLASSES:
        return Guess((0,), "because it comes first")
    if all(name.isdecimal() for name in class_names):
        number = min(range(len(class_names)), key=lambda n: int(class_names[n]))
        return Guess((number,), "because it comes first")
    return None


def describe_guess(config: Config, dataset: ImageDataset, roles: Roles) -> list[str]:
    """Lines on how the normal classes were guessed, with a warning if the guess is doubtful.

    Args:
        config: The run's configuration; nothing is guessed if it names the normal classes.
        dataset: Names of the classes and the class of each image.
        roles: The roles of the classes.
    """
    class_names = dataset.class_names
    guess = guess_normal(class_names, dataset.is_folder)
    if config.normal_class is not None or guess is None or roles.normal != guess.normal:
        return []
    if len(class_names) == 1:
        return []
    normal = ", ".join(class_names[number] for number in guess.normal)
    lines = [f"normal class: {normal}, {guess.reason}; --normal-class selects others"]
    counts = _counts(dataset)
    count = int(counts[list(guess.normal)].sum())
    counts[list(guess.normal)] = 0
    largest = int(counts.argmax())
    if counts[largest] > DOUBTFUL * count:
        lines.append(
            f"WARNING: {normal} counts as normal and has {count} images, {class_names[largest]} "
            f"counts as an anomaly and has {counts[largest]}; if it is the other way round, give "
            f"--normal-class {class_names[largest]}"
        )
    return lines


def _counts(dataset: ImageDataset) -> np.ndarray:
    """The number of images of each class."""
    classes = np.concatenate([dataset.train_classes, dataset.test_classes]).astype(np.int64)
    return np.bincount(classes, minlength=len(dataset.class_names))


def class_roles(
    config: Config,
    class_names: tuple[str, ...],
    is_folder: bool = False,
) -> Roles:
    """Assigns each class its role under the run's protocol; needs class names only, no images.

    Args:
        config: Protocol and classes.
        class_names: Name of each class number.
        is_folder: Whether the classes are folders of images.

    Raises:
        UserError: If the normal classes are not known by their names, a class does not exist or has
            two roles, or no anomaly is left.
    """
    every = tuple(range(len(class_names)))
    named = normal_by_name(class_names)
    if config.normal_class is not None:
        named = _class_numbers("normal class", config.normal_class, class_names)
    if config.protocol in ALL_CLASSES_NORMAL:
        # Synthetic anomalies are generated from normal images only, if the names are known.
        return Roles(named if named and config.protocol == "corruption" else every)
    normal = named
    if normal is None and (guess := guess_normal(class_names, is_folder)):
        normal = guess.normal
    if normal is None:
        kind = "folders in" if is_folder else "classes of"
        raise UserError(
            f"none of the {kind} {config.data} has a known name for normal images; give "
            f"--normal-class one or several of: {shortened(class_names, MAX_NAMED)}; or {ALL}"
        )
    others = tuple(number for number in every if number not in normal)
    if config.protocol == "one_class" or (config.protocol == "contaminated" and others):
        return Roles(normal, unseen=others)
    if not others:
        if config.learns_from == "normal images":
            raise UserError(
                f"protocol {config.protocol} needs anomalies and {config.data} holds "
                "normal images only; use --protocol one_class, or add anomalies"
            )
        raise UserError(
            f"approach {config.approach} learns from labelled anomalies and {config.data} holds "
            "normal images only; use --approach autoencoder or vae, or --protocol corruption, "
            "which generates synthetic anomalies"
        )
    if config.protocol == "imbalance":
        return Roles(normal, seen=others)
    chosen: UnseenConfig = config.unseen  # type: ignore[attr-defined]
    return _unseen_roles(normal, others, chosen, class_names)


def learnt_as_normal(config: Config, roles: Roles) -> tuple[int, ...]:
    """The classes whose training images are labelled normal.

    Under protocol contaminated they include the anomalies that are mixed among the normal images.
    """
    return roles.normal + roles.unseen if config.protocol == "contaminated" else roles.normal


def _class_numbers(
    what: str, chosen: tuple[str | int, ...], class_names: tuple[str, ...]
) -> tuple[int, ...]:
    """Numbers of the classes `chosen`, given by name or, if no class has that name, by number.

    If there is no such class either, `all` means every class, and a name with `*`, `?` or `[...]`
    means the classes that it matches, as in a shell.
    """
    numbers: list[int] = []
    for whole in (", ".join(map(str, chosen)), ",".join(map(str, chosen))):
        if whole in class_names:  # a class name that contains the separator, a comma
            return (class_names.index(whole),)
    composed = [unicodedata.normalize("NFC", name) for name in class_names]
    for one in chosen:
        matching = [i for i, name in enumerate(class_names) if fnmatchcase(name, str(one))]
        if str(one) in class_names:
            numbers.append(class_names.index(str(one)))
        elif composed.count(unicodedata.normalize("NFC", str(one))) == 1:
            numbers.append(composed.index(unicodedata.normalize("NFC", str(one))))
        elif str(one).isdecimal() and int(one) < len(class_names):
            numbers.append(int(one))
        elif str(one) == ALL:
            numbers += range(len(class_names))
        elif matching:
            numbers += matching
        else:
            near = difflib.get_close_matches(str(one), class_names, 1, 0.5)
            choice = ", ".join(f"{i} {name}" for i, name in enumerate(class_names))
            raise UserError(
                f"{what} {one} does not exist; "
                + (f"did you mean {near[0]}?" if near else f"choose one of: {choice}")
            )
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{what} {chosen} names one class twice; give each class once")
    return tuple(sorted(numbers))


def _unseen_roles(
    normal: tuple[int, ...],
    others: tuple[int, ...],
    chosen: UnseenConfig,
    class_names: tuple[str, ...],
) -> Roles:
    """Divides the anomaly classes `others` into seen and unseen ones."""
    given: dict[str, tuple[int, ...] | None] = {}
    for name, classes in (("seen", chosen.seen_classes), ("unseen", chosen.unseen_classes)):
        given[name] = None
        if classes is not None:
            given[name] = _class_numbers(f"{name} class", classes, class_names)
        for number in given[name] or ():
            if number in normal:
                raise UserError(
                    f"class {number} ({class_names[number]}) is the normal one and cannot be an "
                    f"anomaly; remove it from --unseen.{name}-classes or choose another "
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
    """Describes in words the normal classes and, with unseen classes, seen and unseen ones."""
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
