"""Data sets that come as arrays: IDX files, a NumPy .npz file, TensorFlow Datasets."""

from __future__ import annotations

import difflib
import gzip
import os
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomaly_tf.data.dataset import Arrays, ImageDataset, SourceUnavailable
from anomaly_tf.data.images import fit_image
from anomaly_tf.errors import UserError

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NPZ_KEYS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("images", "labels"),
)
NPZ_EXPECTED = "; or ".join(", ".join(keys) for keys in NPZ_KEYS)
# Class numbers are int16.
MOST_CLASSES = 32_000
# TFDS retries an unreachable host for minutes, so a small file of the same host is asked first.
TFDS_PROBE = "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz"
GIVE_UP_SECONDS = 8.0


def in_one_order(images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts images by their bytes, equal ones by their class: TFDS shuffles.

    Args:
        images: uint8 `(N, H, W, C)`.
        classes: Integers `(N,)`.
    """
    flat = np.ascontiguousarray(images).reshape(len(images), int(np.prod(images.shape[1:])))
    order = np.lexsort((classes, flat.view(np.dtype((np.void, flat.shape[1]))).ravel()))
    return images[order], classes[order]


def fit_array(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """One image, uint8 `(H, W, 1)` or `(H, W, 3)`, brought to `shape` as `fit_image` does."""
    if image.shape == shape:
        return image
    return fit_image(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), shape)


def probe(url: str) -> None:
    """Asks for the head of a file, for at most `GIVE_UP_SECONDS`.

    Raises:
        SourceUnavailable: If its host gives no answer by then, or another one than the file.
    """
    answer: list[Exception | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            # A fixed address, https.
            with urllib.request.urlopen(request, timeout=GIVE_UP_SECONDS):  # nosec B310
                answer.append(None)
        except OSError as error:  # URLError is one
            answer.append(error)

    # In a thread, because the timeout does not cover looking up the host's name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(GIVE_UP_SECONDS)
    problem = answer[0] if answer else f"no answer within {GIVE_UP_SECONDS:g} s"
    if problem is not None:
        raise SourceUnavailable(f"{url.split('/')[2]} cannot be reached: {problem}")


def has_idx_files(folder: Path) -> bool:
    """Whether at least one of the four IDX files is there, gzipped or not."""
    return any((folder / f"{name}{end}").exists() for name in IDX_NAMES for end in ("", ".gz"))


def load_idx_folder(folder: Path) -> ImageDataset:
    """The data set of four IDX files, named as those of MNIST; classes are called by number.

    Raises:
        UserError: If a file is missing or damaged, or they do not belong together.
    """
    try:
        arrays = read_idx_folder(folder)
    except SourceUnavailable as error:
        raise UserError(f"no data in {folder}: {error}") from error
    names = tuple(str(number) for number in range(int(arrays[1].max()) + 1))
    return ImageDataset(str(folder), *arrays, class_names=names)


def read_idx_folder(folder: Path) -> Arrays:
    """Four IDX files: images uint8 `(N, H, W, 1)`, classes uint8 `(N,)`.

    Raises:
        SourceUnavailable: If a file is missing or damaged, or they do not belong together.
    """
    train_images, train_classes, test_images, test_classes = IDX_NAMES
    arrays = (
        _read_idx(folder, train_images, 3)[..., np.newaxis],
        _read_idx(folder, train_classes, 1),
        _read_idx(folder, test_images, 3)[..., np.newaxis],
        _read_idx(folder, test_classes, 1),
    )
    if len(arrays[0]) != len(arrays[1]) or len(arrays[2]) != len(arrays[3]):
        raise SourceUnavailable("its image and label files differ in length")
    if not len(arrays[0]) or not len(arrays[2]) or arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise SourceUnavailable("its training and test images are empty or differ in size")
    return arrays


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Reads one uint8 IDX file (the format of yann.lecun.com/exdb/mnist), gzipped or not."""
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.exists()), None)
    if path is None:
        raise SourceUnavailable(f"{name}[.gz] is not in {folder}")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceUnavailable(f"{path} is unreadable: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise SourceUnavailable(f"{path} is not an IDX file of {dimensions}-dimensional uint8")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    if len(content) - header != np.prod(shape):
        raise SourceUnavailable(f"{path} is truncated: {shape} announced, {len(content)} bytes")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def load_npz(path: Path) -> ImageDataset:
    """The data set of a file that `numpy.savez` or `numpy.savez_compressed` wrote.

    Args:
        path: Holds `images` and `labels`, or `train_images`, `train_labels`, `test_images` and
            `test_labels`, or Keras' `x_train`, `y_train`, `x_test` and `y_test`. Images are uint8
            `(N, H, W)` or `(N, H, W, C)` with C 1 or 3, labels integers or strings, one per image.

    Returns:
        Classes are int16, numbered in the order of the sorted labels, which name them. With
        `images` and `labels` the test set is empty.

    Raises:
        UserError: If the file cannot be read or holds something else.
    """
    arrays = _read_npz(path)
    names = tuple(arrays)
    images = [_npz_images(path, name, arrays[name]) for name in names[::2]]
    labels = [
        _npz_labels(path, name, arrays[name], len(part))
        for name, part in zip(names[1::2], images, strict=True)
    ]
    if images[0].shape[1:] != images[-1].shape[1:]:
        raise UserError(
            f"{path}: {names[0]} and {names[2]} must hold images of one shape; "
            f"got {images[0].shape[1:]} and {images[-1].shape[1:]}; bring them to one"
        )
    class_names, (train_classes, *test_classes) = _numbered(path, labels)
    if not test_classes:
        images.append(images[0][:0])
        test_classes = [train_classes[:0]]
    return ImageDataset(
        str(path), images[0], train_classes, images[1], test_classes[0], class_names
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the first of `NPZ_KEYS` that the file holds in full, in that order."""
    reading = "its content"
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            keys = next((keys for keys in NPZ_KEYS if set(keys) <= set(file.files)), None)
            if keys is None:
                there = ", ".join(map(repr, file.files[:10])) or "nothing"
                raise UserError(f"{path} must hold the arrays {NPZ_EXPECTED}; got {there}")
            arrays = {}
            for reading in keys:
                arrays[reading] = file[reading]
                if not isinstance(arrays[reading], np.ndarray):  # some other file in the zip
                    raise ValueError("no array")
            return arrays
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; give an .npz file that can be read"
        ) from error
    # Damaged bytes make zipfile and NumPy raise almost anything.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"cannot read {path}: {reading} should be plain numbers or text written by "
            f"numpy.savez, got {type(error).__name__} ({reason}); write the file again"
        ) from error


def _npz_images(path: Path, name: str, images: np.ndarray) -> np.ndarray:
    grey = images[..., np.newaxis] if images.ndim == 3 else images
    if (
        images.dtype != np.uint8
        or grey.ndim != 4
        or grey.shape[-1] not in (1, 3)
        or not images.size
    ):
        raise UserError(
            f"{path}: {name} must be uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3), none of them "
            f"0; got {images.dtype} {images.shape}; save grey or colour images from 0 to 255"
        )
    return grey


def _npz_labels(path: Path, name: str, labels: np.ndarray, count: int) -> np.ndarray:
    """Labels as `(N,)`; Keras' colour sets have `(N, 1)`."""
    if labels.dtype.kind not in "iuU" or labels.shape not in ((count,), (count, 1)):
        raise UserError(
            f"{path}: {name} must be integers or strings ({count},), one per image; "
            f"got {labels.dtype} {labels.shape}; save one label for each image"
        )
    return labels.ravel()


def _numbered(path: Path, labels: list[np.ndarray]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Names of the classes, and the labels as class numbers."""
    kinds = [part.dtype.kind.replace("u", "i") for part in labels]
    if len(set(kinds)) > 1:
        raise UserError(
            f"{path}: training and test labels must be of one kind; got "
            f"{' and '.join(str(part.dtype) for part in labels)}; save both as integers or strings"
        )
    found = [np.unique(part, return_inverse=True) for part in labels]
    # As Python's integers: NumPy would join signed and unsigned 64 bits as floats.
    values = sorted({value for unique, _ in found for value in unique.tolist()})
    if len(values) > MOST_CLASSES:
        raise UserError(
            f"{path} has {len(values)} different labels; at most {MOST_CLASSES} classes are "
            "possible; give labels that are classes"
        )
    number = {value: index for index, value in enumerate(values)}
    classes = [
        np.array([number[value] for value in unique.tolist()], np.int16)[inverse]
        for unique, inverse in found
    ]
    return tuple(str(value) for value in values), classes


def load_tfds(name: str, size: tuple[int, int] | None = None) -> ImageDataset:
    """A set of TensorFlow Datasets with features `image` and `label`.

    One that lies prepared in `tfds_folder` is read without a network, else TFDS downloads it.

    Args:
        name: As TFDS calls it: `mnist`, `cifar10`, `plant_village`, `name/config:version`.
        size: Height and width that every image is brought to; may be
            None where all have one size.

    Returns:
        Splits `train` and `test`, the latter empty where TFDS has none, both in a fixed order
        whatever TFDS shuffled. Images without a class (label -1) are left out. Classes are int16.

    Raises:
        UserError: If there is no such set, it is not of 8-bit grey or colour images with a class
            each, sizes vary and `size` is None, or it can be neither read nor downloaded.
    """
    with _tfds_errors(name):
        builder = _tfds_builder(name)
        shape = _tfds_image_shape(name, builder.info.features, size)
        if not builder.is_prepared():
            probe(TFDS_PROBE)
            builder.download_and_prepare()
        # Some builders know the names of their classes only now.
        class_names = builder.info.features["label"].names
        if "train" not in builder.info.splits or not 0 < len(class_names or ()) <= MOST_CLASSES:
            raise UserError(
                f"tfds:{name} must have a split 'train' and up to {MOST_CLASSES} named classes; "
                f"got splits {', '.join(builder.info.splits)} and {len(class_names or ())} names; "
                "choose another data set"
            )
        train_images, train_classes = _read_tfds_split(builder, "train", shape)
        if "test" in builder.info.splits:
            test_images, test_classes = _read_tfds_split(builder, "test", shape)
        else:
            test_images, test_classes = train_images[:0], train_classes[:0]
    return ImageDataset(
        f"tfds:{name}",
        train_images,
        train_classes,
        test_images,
        test_classes,
        class_names=tuple(class_names),
    )


def tfds_folder() -> Path:
    """Where TFDS keeps its data sets: TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


@contextmanager
def _tfds_errors(name: str) -> Iterator[None]:
    """Tells in one line of whatever TFDS and its many back ends raise."""
    try:
        yield
    except UserError:
        raise
    except SourceUnavailable as error:
        raise UserError(
            f"tfds:{name} is not prepared in {tfds_folder()}, and {error}; connect to the "
            "internet, or name the folder that holds it in TFDS_DATA_DIR"
        ) from error
    except Exception as error:
        raise UserError(
            f"tfds:{name} cannot be read: {type(error).__name__}: {error}".splitlines()[0]
        ) from error


def _tfds_builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=tfds_folder(), try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], known, 1)
        hint = f"did you mean tfds:{near[0]}?" if near else "see tensorflow.org/datasets/catalog"
        raise UserError(
            f"TFDS has no data set {name!r}, nor is one in {tfds_folder()}; {hint}"
        ) from error


def _tfds_image_shape(
    name: str, features: Any, wanted: tuple[int, int] | None
) -> tuple[int, int, int]:
    """The shape that the images will have, once the features were found to be usable."""
    import tensorflow_datasets as tfds

    if not {"image", "label"} <= set(features) or not isinstance(
        features["label"], tfds.features.ClassLabel
    ):
        raise UserError(
            f"tfds:{name} must have the features 'image' and 'label' (a class); "
            f"got {', '.join(features)}; choose another data set"
        )
    image = features["image"]
    shape = image.shape
    if len(shape) != 3 or shape[-1] not in (1, 3) or image.np_dtype != np.uint8:
        raise UserError(
            f"tfds:{name} must have 8-bit images of 1 or 3 channels; got {image.np_dtype} "
            f"{tuple(shape)}; choose another data set"
        )
    if wanted is None and None in shape:
        raise UserError(
            f"the images of tfds:{name} vary in size; give the one they are brought to by "
            "--image-size"
        )
    return (*(wanted or shape[:2]), shape[-1])


def _read_tfds_split(
    builder: Any, split: str, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    count = builder.info.splits[split].num_examples
    images, classes = np.empty((count, *shape), np.uint8), np.full(count, -1, np.int16)
    examples = builder.as_dataset(split=split, shuffle_files=False)
    for number, example in enumerate(tfds.as_numpy(examples)):
        images[number] = fit_array(example["image"], shape)
        classes[number] = example["label"]
    known = classes >= 0
    if not known.all():
        images, classes = images[known], classes[known]
    return in_one_order(images, classes)
