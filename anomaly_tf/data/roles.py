"""What each class counts as under a run's protocol: normal, seen anomaly or unseen anomaly."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from anomaly_tf.config import ALL_CLASSES_NORMAL, Config, UnseenConfig
from anomaly_tf.errors import UserError

# As a class, all of them.
ALL = "all"


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


def class_roles(
    config: Config,
    class_names: tuple[str, ...],
    named_normal: tuple[int, ...] | None = None,
    is_folder: bool = False,
) -> Roles:
    """Assigns each class its role under the run's protocol; needs class names only, no images.

    Args:
        config: Protocol and classes.
        class_names: Name of each class number.
        named_normal: Classes that are normal by their names, unless the configuration names others.
        is_folder: Whether the classes are folders of pictures. There a class is normal by its name
            only, not because it comes first, and `corruption` leaves out the other classes.

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
        return Roles(normal if normal and config.protocol == "corruption" else every)
    if normal is None:
        raise UserError(
            f"the folders in {config.data} do not tell by their names which is normal; give "
            f"--normal-class one or several of: {', '.join(class_names)}; or {ALL}"
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
    for one in chosen:
        matching = [i for i, name in enumerate(class_names) if fnmatchcase(name, str(one))]
        if str(one) in class_names:
            numbers.append(class_names.index(str(one)))
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
