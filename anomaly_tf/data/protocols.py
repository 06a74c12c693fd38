"""Divides a data set into training, validation and test set by a run's protocol.

| protocol | trained on | tested on |
|---|---|---|
| `imbalance` | one normal class, and labelled images of all others | that class against the rest |
| `one_class` | the normal class only | the same |
| `contaminated` | the normal class, with unlabelled anomalies among it | the same |
| `unseen` | the normal class, and labelled images of some others | that class against the others |
| `corruption` | clean images of all classes | clean images against noisy and rotated ones |
| `classification` | images of all classes, with their class | the class of each image |

The split into training and validation set depends on the seed only, so that all approaches and
protocols are validated on the same images. The validation set of `unseen` holds no unseen class.
The validation set of `one_class` holds anomalies for the curves; they are not used for selection.
`contaminated` has the same validation set, without hidden anomalies, and the same test set, except
where `one_class` tests on anomalies of the training files: those that are mixed in are left out.
Under the protocols with labelled anomalies, an approach that learns from normal images only has all
of them in its validation set, or `MAX_VALIDATED` more than others; so has one that could learn from
them if they are fewer than `MIN_LEARNT`, or if images are cut into tiles, which have no labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from anomaly_tf.config import Config, NormalImagesConfig
from anomaly_tf.data.contamination import contaminants
from anomaly_tf.data.contents import (
    facts_of,
    require_same_content,
    require_same_kind,
    require_same_protocol,
    roles_of,
)
from anomaly_tf.data.corruption_sets import room_for_corruptions, with_corruptions
from anomaly_tf.data.cutting import random_share, stratified_cut
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.image_set import ImageSet, LabelledImages
from anomaly_tf.data.roi import require_same_roi
from anomaly_tf.data.roles import Roles, class_roles, learnt_as_normal, require_clear_guess
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import sampled
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import DetectorInfo

# Largest number of labelled anomalies that are added to a validation set.
MAX_VALIDATED = 1000
# Labelled anomalies from which on an approach learns from them that needs none.
MIN_LEARNT = 6
# Fewer cannot be divided into three sets.
MIN_NORMAL, MIN_ANOMALIES = 4, 3


def make_split(config: Config, dataset: ImageDataset, info: DetectorInfo | None = None) -> Split:
    """Divides a data set by a run's protocol.

    Args:
        config: Protocol, normal classes, shares of validation and test set, seed.
        dataset: Images and classes.
        info: Metadata of an existing run, with which the data is compared.

    Returns:
        The three sets.

    Raises:
        UserError: As `class_roles`, or if a set is too small or lacks normal images or anomalies,
            or if the data is not that of the run.
    """
    if info:
        require_same_protocol(config, info)
        require_same_kind(dataset.name, info, dataset.class_names, dataset.train.images.shape[1:])
    roles = class_roles(config, dataset.class_names, dataset.is_folder)
    if info:  # the roles of the run, which this version might guess differently
        roles = roles_of(info) or roles
    else:
        require_clear_guess(config, dataset, roles)
    split = _divided(config, dataset, roles)
    if info:
        require_same_roi(split.roi, info.roi, split.own_files)
        facts = facts_of(split, len(dataset.class_names), dataset.digests)
        require_same_content(dataset.name, info, facts)
    return with_corruptions(split, config)


def _divided(config: Config, dataset: ImageDataset, roles: Roles) -> Split:
    """The three sets, without synthetic anomalies."""
    _require_enough(config, dataset, roles)
    train, validation, test = _three_sets(config, dataset, roles)
    seen = np.isin(train.classes, roles.seen)
    labelled = int(seen.sum() + np.isin(validation.classes, roles.seen).sum())
    learnt = config.learns_anomalies and config.tiling is None and labelled >= MIN_LEARNT
    if config.learns_from == "normal images" and seen.any() and not learnt:
        # Training does not use them, so that they serve to compare and for the threshold.
        train, rest = train.cut(seen)
        validation = validation.joined(rest.take(sampled(len(rest), MAX_VALIDATED, 0)))
    observed = roles.unseen if config.protocol in ("one_class", "contaminated") else ()
    apart = np.isin(train.classes, observed)
    if isinstance(config, NormalImagesConfig) and config.protocol == "contaminated":
        share, seed = config.contamination, config.seed
        apart &= ~contaminants(train.classes, roles.normal, share, seed, dataset.name)
    if observed and not len(dataset.test) and len(test):
        # These anomalies are used in the test only.
        test = test.joined(train.take(apart))
    if apart.any():
        train = train.take(~apart)
    as_normal = learnt_as_normal(config, roles)
    sets = (
        _labelled(train, as_normal + roles.seen, as_normal),
        _labelled(validation, roles.normal + roles.seen + observed, roles.normal),
        _labelled(test, roles.normal + roles.seen + roles.unseen, roles.normal),
    )
    normal = {
        file
        for part in sets
        for file, label in zip(part.files, part.labels, strict=False)
        if not label
    }
    masks = {file: mask for file, mask in dataset.masks.items() if file not in normal}
    left_out = (
        *dataset.left_out,
        *_unused(config, dataset, sets),
        *_masks_of_normal(dataset, masks),
    )
    split = Split(*sets, roles, dataset.class_names, masks, left_out, dataset.reading.roi)
    _require_kinds(config, dataset, split)
    return room_for_corruptions(split, config)


def _unused(
    config: Config, dataset: ImageDataset, sets: tuple[LabelledImages, ...]
) -> tuple[str, ...]:
    """A line on the number of images that are in no set; no line if there are none."""
    unused = len(dataset.train) + len(dataset.test) - sum(map(len, sets))
    if not unused:
        return ()
    used = {file for part in sets for file in part.files}
    files = dataset.train.files + dataset.test.files
    first = next((f" (first: {file})" for file in files if file not in used), "")
    return (
        f"left out: {unused} images that approach {config.approach} does not use under protocol "
        f"{config.protocol}{first}",
    )


def _masks_of_normal(dataset: ImageDataset, used: Mapping[str, str]) -> tuple[str, ...]:
    """A line on the number of masks of images that count as normal; no line if there are none."""
    others = [mask for file, mask in dataset.masks.items() if file not in used]
    return tuple(
        f"left out: {len(others)} masks of images that count as normal (first: {first})"
        for first in others[:1]
    )


def _three_sets(
    config: Config, dataset: ImageDataset, roles: Roles
) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Training, validation and test images; a test set of the publisher is kept."""
    train, test = dataset.train, dataset.test
    share, seed = config.sampling.validation_fraction, config.seed
    if len(test) and not dataset.is_folder:
        return *stratified_cut(train, share, seed, dataset.name), test
    fraction = config.folder.test_fraction
    if not len(test) and fraction:
        train, test = train.cut(random_share(train.classes, fraction, seed, roles.normal))
    return *train.cut(random_share(train.classes, share, seed, roles.normal)), test


def _labelled(part: ImageSet, classes: tuple[int, ...], normal: tuple[int, ...]) -> LabelledImages:
    """The images of some classes, with their labels: 0 for those of the classes `normal`."""
    kept = np.isin(part.classes, classes)
    return LabelledImages.of(part if kept.all() else part.take(kept), normal)


def _require_enough(config: Config, dataset: ImageDataset, roles: Roles) -> None:
    """Refuses, before the split, a data set that is too small for three sets."""
    if config.learns_from == "classes" and len(dataset.class_names) < 2:
        raise UserError(
            f"approach {config.approach} learns to tell classes apart and needs at least 2; "
            f"{dataset.name} has 1; use an approach that learns from normal images"
        )
    if len(dataset.test) and not dataset.is_folder:
        return
    classes = dataset.train.classes
    least = MIN_NORMAL - 2 if len(dataset.test) else MIN_NORMAL
    count = int(np.isin(classes, roles.normal).sum())
    if count < least:
        names = ", ".join(dataset.class_names[number] for number in roles.normal)
        raise UserError(
            f"{dataset.name} holds {count} normal image{'s' * (count != 1)} to learn from "
            f"({names}), and at least {least} are needed; add some or name the normal class with "
            "--normal-class"
        )
    anomalies = int(np.isin(classes, roles.seen).sum())
    if roles.seen and config.learns_from != "normal images" and anomalies < MIN_ANOMALIES:
        raise UserError(
            f"approach {config.approach} needs at least {MIN_ANOMALIES} labelled anomalies, and "
            f"{dataset.name} has {anomalies} to learn from; use --approach autoencoder or vae, "
            "which need none"
        )


def _require_kinds(config: Config, dataset: ImageDataset, split: Split) -> None:
    """Refuses a split that lacks normal images or anomalies that its protocol needs."""
    learns_normal = config.learns_from == "normal images"
    needed = {"training": (split.train, (0,) if learns_normal or not split.roles.seen else (0, 1))}
    if learns_normal and split.roles.seen:
        needed["validation"] = split.validation, (0, 1)
    if len(split.test) or config.folder.test_fraction:
        kinds = (0, 1) if split.roles.seen or split.roles.unseen else (0,)
        needed["test"] = split.test, kinds
    for name, (part, labels) in needed.items():
        for label in labels:
            if label not in part.labels:
                kind = ("normal", "anomaly")[label]
                raise UserError(
                    f"protocol {config.protocol} needs {kind} images, and {dataset.name} has no "
                    f"{kind} image in its {name} set (normal: "
                    f"{', '.join(dataset.class_names[number] for number in split.roles.normal)}); "
                    "name other classes with --normal-class, or add images"
                )
