"""What the sets of a run hold: digests by which a run knows its data again.

`train.py` keeps a digest of each set in `detector.json`, and of a folder's files one of each in
`split.json`. Whatever opens a run with data again compares, and refuses in one line data that is
not the run's: another meaning of the classes, another size, images that were added or replaced.
Where the data lies makes no difference.
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
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.images import UnreadableImage
from anomaly_tf.data.roles import Roles
from anomaly_tf.data.search import Search
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import parts
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.detector_info import DataFacts, DetectorInfo
from anomaly_tf.script import printable, shortened

# Each set of a run, and its name in a message.
SETS = {"train": "training", "validation": "validation", "test": "test"}
# Classes that a message lists.
MAX_NAMED = 6

# Of each set, its files and the digest of each.
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
    """Digest of each file in a folder; a fraction of the time that decoding it takes."""
    with ThreadPoolExecutor(available_threads()) as pool:
        digests = pool.map(lambda file: file_digest(folder / file), files)
        return dict(zip(files, digests, strict=True))


def digest_of_source(source: str, without: Sequence[str] = ()) -> str | None:
    """Digest of a user's own file or folder; None of a data set that is known by its name.

    Args:
        source: As `--data` takes it.
        without: Folders whose files do not count, such as caches.
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
    """Of each set its files and their digests."""
    return {name: {file: digests[file] for file in getattr(split, name).files} for name in SETS}


def own_images(part: LabelledImages, class_count: int) -> LabelledImages:
    """The images of a set that are no synthetic anomalies."""
    own = part.classes < class_count
    return part if own.all() else part.take(own)


def digest_of_sets(split: Split) -> str:
    """The digest that a checkpoint keeps; it changes with the training or the validation set.

    Of files it takes the names, of arrays the images themselves, and the classes of both.
    """
    digest = hashlib.sha256()
    for part in (split.train, split.validation):
        digest.update(repr((part.images.shape, part.files)).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(part.classes, np.int64).data)
        for images in () if part.files else parts(part.images):
            digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def _digest_of_set(part: LabelledImages, digests: Mapping[str, str]) -> str:
    """SHA-256 over classes and images in their order; of files over names and digests."""
    state = hashlib.sha256(np.ascontiguousarray(part.classes, np.int64).data)
    for file in part.files:
        state.update(f"{file}\0{digests[file]}\0".encode("utf-8", "surrogateescape"))
    for images in () if part.files else parts(part.images):
        state.update(repr(images.shape[1:]).encode())
        state.update(np.ascontiguousarray(images).data)
    return state.hexdigest()


def require_same_protocol(config: Config, info: DetectorInfo) -> None:
    """Refuses a configuration that is not the one that the run was trained with.

    Raises:
        UserError: If it has another approach or protocol.
    """
    for name, here, there in (
        ("approach", config.approach, info.approach),
        ("protocol", config.protocol, info.protocol),
    ):
        if there is not None and here != there:
            raise UserError(
                f"config.yaml of the run says {name} {here} and its detector.json {there}; bring "
                "back the config.yaml that it was trained with"
            )


def require_same_kind(
    data: str, info: DetectorInfo, class_names: tuple[str, ...], image_shape: tuple[int, ...]
) -> None:
    """Refuses data whose classes or images are not of the run's kind; needs no image.

    Args:
        data: Where the data comes from, as the user knows it.
        info: The run's metadata.
        class_names: Names of its classes, in the order of their numbers.
        image_shape: Height, width and channels.

    Raises:
        UserError: If they are others than the run's.
    """
    if list(class_names) != info.class_names:
        here, there = (shortened(names, MAX_NAMED) for names in (class_names, info.class_names))
        raise _other_data(data, f"its classes are {here}, those of the run {there}")
    if list(image_shape) != info.image_shape:
        here, there = ("x".join(map(str, shape)) for shape in (image_shape, info.image_shape))
        raise _other_data(data, f"its images are {here}, those of the run {there}")


def require_same_content(data: str, info: DetectorInfo, facts: DataFacts) -> None:
    """Refuses sets that hold other images than the run's.

    A run of an earlier version has no digests; one line on stderr says that nothing is compared.

    Args:
        data: Where the data comes from, as the user knows it.
        info: The run's metadata.
        facts: What the sets hold now.

    Raises:
        UserError: If the content of a set is another one.
    """
    known = info.data
    if known is None:
        say_not_compared(data)
        return
    differing = [
        words for name, words in SETS.items() if getattr(known, name) != getattr(facts, name)
    ]
    if differing:
        raise _other_data(
            data,
            f"its {', '.join(differing)} set{'s' * (len(differing) > 1)} hold"
            f"{'s' * (len(differing) == 1)} other images or classes than those of the run, as "
            "where some were added or changed",
        )


def require_same_files(data: str, before: FileDigests, now: FileDigests) -> None:
    """Refuses files that are not those of the run, and says which were replaced, added or removed.

    Args:
        data: The folder, as the user knows it.
        before: The files of each set of the run.
        now: Those of each set as it is opened again.

    Raises:
        UserError: If they are not the same.
    """
    if before == now:
        return
    old, new = ({f: d for name in SETS for f, d in part[name].items()} for part in (before, now))
    learnt = {*before["train"].values(), *before["validation"].values()}
    test = before["test"]
    found = {
        "images of training that are now in the test set": [
            file for file, one in now["test"].items() if one in learnt and test.get(file) != one
        ],
        "images replaced under their names": [f for f in new if old.get(f, new[f]) != new[f]],
        "images added": [file for file in new if file not in old],
        "images removed": [file for file in old if file not in new],
    }
    words = [f"{what}: {len(files)} (first: {files[0]})" for what, files in found.items() if files]
    raise _other_data(data, "; ".join(words) or "its images are in other sets")


def say_other_masks(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Says on stderr which masks were replaced since training, which never saw them.

    Args:
        before: Mask files of the run and the digest of each.
        now: The same files as they are now.
    """
    if replaced := [mask for mask in now if before.get(mask) != now[mask]]:
        print(
            f"note: masks replaced since training: {len(replaced)} (first: "
            f"{printable(replaced[0])}); figures by pixel rest on the new ones",
            file=sys.stderr,
        )


def say_not_compared(data: str) -> None:
    """Says on stderr that a run of an earlier version holds no digests."""
    print(
        f"note: this run was made by an earlier version, which kept no digests of its images; "
        f"whether {printable(data)} still holds the same is not checked",
        file=sys.stderr,
    )


def roles_of(info: DetectorInfo) -> Roles | None:
    """What each class counted as in a run's training; None if its metadata does not say.

    Raises:
        UserError: If that is damaged.
    """
    if info.roles is None:
        return None
    names = {item.name for item in dataclasses.fields(Roles)}
    numbers = range(len(info.class_names))
    right = set(info.roles) == names and all(
        isinstance(part, (list, tuple)) and all(type(one) is int and one in numbers for one in part)
        for part in info.roles.values()
    )
    if not right or not info.roles["normal"]:
        raise UserError("the run's detector.json is damaged (roles); train again")
    return Roles(**{name: tuple(part) for name, part in info.roles.items()})


def _other_data(data: str, difference: str) -> UserError:
    return UserError(
        f"{data} is not the data that the run was trained on: {difference}; bring that data back, "
        "give its place by --data, or train again"
    )
