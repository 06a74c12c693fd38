"""Digests of the sets of a run, to check that its data is unchanged.

Training writes a digest of each set to `detector.json`, and a digest of each file of a folder to
`split.json`. A command that opens a run with its data compares them and refuses, in one line, data
that is not that of the run: other classes, another size, images that were added or replaced. The
location of the data does not matter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from anomaly_tf.config import Config
from anomaly_tf.data.decoding import UnreadableImage
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.roles import Roles
from anomaly_tf.data.search import Search
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import parts
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.sections import DataFacts
from anomaly_tf.script import printable, shortened

# Each set of a run, and its name in a message.
SETS = {"train": "training", "validation": "validation", "test": "test"}
# Classes that a message lists.
MAX_NAMED = 6

# Name of each set to its files and their digests.
FileDigests = dict[str, dict[str, str]]


def file_digest(path: Path) -> str:
    """Digest of the bytes of a file, hexadecimal.

    Raises:
        UnreadableImage: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UnreadableImage(f"cannot read {path}: {error.strerror or error}") from error


def file_digests(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """Digest of each file in a folder; much faster than decoding the files."""
    with ThreadPoolExecutor(available_threads()) as pool:
        digests = pool.map(lambda file: file_digest(folder / file), files)
        return dict(zip(files, digests, strict=True))


def digest_of_source(source: str, without: Sequence[str] = ()) -> str | None:
    """Digest of a file or folder; None for a data set that is given by its name.

    Args:
        source: A value of `--data`.
        without: Folders whose files are ignored, such as caches.
    """
    path = Path(source)
    if path.is_file():
        return file_digest(path)
    if not path.is_dir():
        return None
    apart = {Path(folder).resolve() for folder in without}
    inside = path.resolve()
    found = Search().images_below(path)
    files = [file for file in found if apart.isdisjoint((inside / file).parents)]
    digests = file_digests(path, files)
    state = hashlib.blake2b(digest_size=16)
    for file, digest in digests.items():
        state.update(f"{file}\0{digest}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def facts_of(split: Split, class_count: int, digests: Mapping[str, str]) -> DataFacts:
    """The digests of the sets of a run, without synthetic anomalies.

    Args:
        split: The sets.
        class_count: Classes of the data set; those of synthetic anomalies have higher numbers.
        digests: Digest of each file, if the images are files.
    """
    train, validation, test = (
        own_images(part, class_count) for part in (split.train, split.validation, split.test)
    )
    return DataFacts(
        train=_digest_of_set(train, digests),
        validation=_digest_of_set(validation, digests),
        test=_digest_of_set(test, digests),
        n_test=len(test),
    )


def digests_of(split: Split, digests: Mapping[str, str]) -> FileDigests:
    """The files of each set and their digests."""
    return {name: {file: digests[file] for file in getattr(split, name).files} for name in SETS}


def own_images(part: LabelledImages, class_count: int) -> LabelledImages:
    """The images of a set without the synthetic anomalies."""
    own = part.classes < class_count
    return part if own.all() else part.take(own)


def digest_of_sets(split: Split) -> str:
    """The digest in a checkpoint; it changes with the training or the validation set.

    It covers the names of files, the images of arrays, the classes of both, and the regions; not
    the images that `--refine` leaves out.
    """
    digest = hashlib.sha256()
    if split.roi is not None:
        digest.update(split.roi.digest_of((*split.learnt.files, *split.validation.files)).encode())
    for part in (split.learnt, split.validation):
        digest.update(repr((part.images.shape, part.files)).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(part.classes, np.int64).data)
        for images in () if part.files else parts(part.images):
            digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def _digest_of_set(part: LabelledImages, digests: Mapping[str, str]) -> str:
    """SHA-256 over classes and images in their order; for files over names and digests."""
    state = hashlib.sha256(np.ascontiguousarray(part.classes, np.int64).data)
    for file in part.files:
        state.update(f"{file}\0{digests[file]}\0".encode("utf-8", "surrogateescape"))
    for images in () if part.files else parts(part.images):
        state.update(repr(images.shape[1:]).encode())
        state.update(np.ascontiguousarray(images).data)
    return state.hexdigest()


def require_same_protocol(config: Config, info: DetectorInfo) -> None:
    """Refuses a configuration with another approach or protocol than the run.

    Raises:
        UserError: If the configuration is not that of the run.
    """
    for name, here, there in (
        ("approach", config.approach, info.approach),
        ("protocol", config.protocol, info.protocol),
    ):
        if there is not None and here != there:
            raise UserError(
                f"config.yaml of the run has {name} {here} and its detector.json {there}; restore "
                "the config.yaml that it was trained with"
            )


def require_same_kind(
    data: str, info: DetectorInfo, class_names: tuple[str, ...], image_shape: tuple[int, ...]
) -> None:
    """Refuses data with other classes or another image shape than the run; needs no images.

    Args:
        data: Name of the data set, file or folder, for messages.
        info: The run's metadata.
        class_names: Names of its classes, in the order of their numbers.
        image_shape: Height, width and channels.

    Raises:
        UserError: If classes or shape differ from those of the run.
    """
    if list(class_names) != info.class_names:
        here, there = (shortened(names, MAX_NAMED) for names in (class_names, info.class_names))
        raise _other_data(data, f"its classes are {here}, those of the run {there}")
    if list(image_shape) != info.image_shape:
        here, there = ("x".join(map(str, shape)) for shape in (image_shape, info.image_shape))
        raise _other_data(data, f"its images are {here}, those of the run {there}")


def require_same_content(data: str, info: DetectorInfo, facts: DataFacts) -> None:
    """Refuses sets that hold other images than those of the run.

    A run of an earlier version has no digests; a line on stderr reports that nothing is compared.

    Args:
        data: Name of the data set, file or folder, for messages.
        info: The run's metadata.
        facts: The current digests of the sets.

    Raises:
        UserError: If the content of a set differs.
    """
    known = info.data
    if known is None:
        report_not_compared(data)
        return
    differing = [
        words for name, words in SETS.items() if getattr(known, name) != getattr(facts, name)
    ]
    if differing:
        raise _other_data(
            data,
            f"its {', '.join(differing)} set{'s' * (len(differing) > 1)} hold"
            f"{'s' * (len(differing) == 1)} other images or classes than those of the run (some "
            "were added or changed)",
        )


def require_same_files(data: str, before: FileDigests, now: FileDigests) -> None:
    """Refuses other files than those of the run, and lists replaced, added and removed ones.

    Args:
        data: The folder, for messages.
        before: The files of each set of the run.
        now: The current files of each set.

    Raises:
        UserError: If they differ.
    """
    if before == now:
        return
    old, new = ({f: d for name in SETS for f, d in part[name].items()} for part in (before, now))
    learnt = {*before["train"].values(), *before["validation"].values()}
    test = before["test"]
    found = {
        "training or validation images that are now in the test set": [
            file for file, one in now["test"].items() if one in learnt and test.get(file) != one
        ],
        "images replaced under their names": [f for f in new if old.get(f, new[f]) != new[f]],
        "images added": [file for file in new if file not in old],
        "images removed": [file for file in old if file not in new],
    }
    words = [f"{what}: {len(files)} (first: {files[0]})" for what, files in found.items() if files]
    raise _other_data(data, "; ".join(words) or "its images are in other sets")


def report_other_masks(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Reports on stderr the masks that were replaced since training, which does not use them.

    Args:
        before: Mask files of the run and the digest of each.
        now: The same files and their current digests.
    """
    if replaced := [mask for mask in now if before.get(mask) != now[mask]]:
        print(
            f"note: masks replaced since training: {len(replaced)} (first: "
            f"{printable(replaced[0])}); pixel metrics are computed with the new ones",
            file=sys.stderr,
        )


def report_not_compared(data: str) -> None:
    """Reports on stderr that a run of an earlier version has no digests."""
    print(
        f"note: this run is from an earlier version, which wrote no digests of its images; the "
        f"content of {printable(data)} is not checked",
        file=sys.stderr,
    )


def roles_of(info: DetectorInfo) -> Roles | None:
    """The roles of the classes in a run's training; None if its metadata has none.

    Raises:
        UserError: If the roles in the metadata are damaged.
    """
    if info.roles is None:
        return None
    names = {item.name for item in dataclasses.fields(Roles)}
    numbers = range(len(info.class_names))
    valid = set(info.roles) == names and all(
        isinstance(part, (list, tuple)) and all(type(one) is int and one in numbers for one in part)
        for part in info.roles.values()
    )
    if not valid or not info.roles["normal"]:
        raise UserError("the run's detector.json is damaged (roles); train again")
    return Roles(**{name: tuple(part) for name, part in info.roles.items()})


def _other_data(data: str, difference: str) -> UserError:
    return UserError(
        f"{data} is not the data that the run was trained on: {difference}; restore that data, "
        "give its location with --data, or train again"
    )
