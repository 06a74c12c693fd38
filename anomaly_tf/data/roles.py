"""What each class counts as under a run's protocol: normal, seen anomaly or unseen anomaly.

Which class is normal is what the user says by `--normal-class`. Without it, names such as `good`
and `defect` say it, of a folder and of arrays alike; of classes that are numbers, which only arrays
have, a convention does. Names that say nothing are asked for.
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

# As a class, all of them.
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
# A class with so many times the images of the normal ones makes a guess doubtful.
DOUBTFUL = 2


@dataclass(frozen=True)
class Roles:
    """What each class number of a data set counts as.

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
    """Which classes are normal, as far as their names tell.

    Attributes:
        normal: Their numbers.
        reason: Why, in words that follow the classes' names.
    """

    normal: tuple[int, ...]
    reason: str


def normal_by_name(class_names: tuple[str, ...]) -> tuple[int, ...] | None:
    """The classes that are normal by words such as `good`; None if no word says it.

    A class beside one such as `defects`, or the only class, is normal whatever its name; see
    `require_clear_guess`.
    """
    names = [name.lower() for name in class_names]
    normal = tuple(number for number, name in enumerate(names) if name in NORMAL_NAMES)
    others = tuple(number for number, name in enumerate(names) if name not in ANOMALY_NAMES)
    if names == [OUTLIER]:
        return None
    return normal or (others if len(others) == 1 and len(names) <= 2 else None)


def require_clear_guess(config: Config, dataset: ImageDataset, roles: Roles) -> None:
    """Refuses a class that counts as normal only because another is called an anomaly, and is rare.

    In `defect` and `scratch` either may be meant; normal images are the more frequent ones.

    Args:
        config: The run's configuration; nothing is guessed if it names the normal classes.
        dataset: Names of the classes and the class of each image.
        roles: What the classes count as.

    Raises:
        UserError: If the guess is not clear.
    """
    names = dataset.class_names
    said = any(names[number].lower() in NORMAL_NAMES for number in roles.normal)
    if config.normal_class is not None or said or len(names) != 2 or len(roles.normal) != 1:
        return
    (normal,) = roles.normal
    other = 1 - normal
    counts = _counts(dataset)
    if names[other].lower() in ANOMALY_NAMES and counts[normal] <= counts[other]:
        raise UserError(
            f"{names[normal]} ({counts[normal]} images) beside {names[other]} ({counts[other]}) "
            f"need not be normal; say which is, by --normal-class {names[normal]} or "
            f"{names[other]}"
        )


def guess_normal(class_names: tuple[str, ...], is_folder: bool = False) -> Guess | None:
    """Which classes are normal where the user does not say; None if the names do not say.

    Args:
        class_names: Name of each class number.
        is_folder: Whether they are names of folders, where numbers say nothing.
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
    """Lines on how the normal classes were guessed, and on what makes that doubtful.

    Args:
        config: The run's configuration; nothing is guessed if it names the normal classes.
        dataset: Names of the classes and the class of each image.
        roles: What the classes count as.
    """
    class_names = dataset.class_names
    guess = guess_normal(class_names, dataset.is_folder)
    if config.normal_class is not None or guess is None or roles.normal != guess.normal:
        return []
    if len(class_names) == 1:
        return []
    normal = ", ".join(class_names[number] for number in guess.normal)
    lines = [f"normal class: {normal}, {guess.reason}; --normal-class names others"]
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
    """How many images each class has."""
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
        is_folder: Whether the classes are folders of pictures.

    Raises:
        UserError: If the names do not say which class is normal, a class does not exist, is asked
            to be two things, or no anomaly is left.
    """
    every = tuple(range(len(class_names)))
    named = normal_by_name(class_names)
    if config.normal_class is not None:
        named = _class_numbers("normal class", config.normal_class, class_names)
    if config.protocol in ALL_CLASSES_NORMAL:
        # Synthetic anomalies are made of normal images only, where names say which are.
        return Roles(named if named and config.protocol == "corruption" else every)
    normal = named
    if normal is None and (guess := guess_normal(class_names, is_folder)):
        normal = guess.normal
    if normal is None:
        kind = "folders in" if is_folder else "classes of"
        raise UserError(
            f"the {kind} {config.data} do not tell by their names which is normal; give "
            f"--normal-class one or several of: {shortened(class_names, MAX_NAMED)}; or {ALL}"
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
    """Numbers of the classes `chosen`: by name or, where no class has that name, by number.

    Where there is no class of that name either, `all` stands for every class, and a name with `*`,
    `?` or `[...]` for those that it matches, as a shell has it.
    """
    numbers: list[int] = []
    for whole in (", ".join(map(str, chosen)), ",".join(map(str, chosen))):
        if whole in class_names:  # a name with a comma, which separates several
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
        raise UserError(f"{what} {chosen} holds one class twice; give each once")
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
