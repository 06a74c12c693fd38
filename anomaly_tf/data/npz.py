"""Data sets in one NumPy .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anomaly_tf.data.arrays import MAX_CLASSES, dark_images
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.images import bits_of
from anomaly_tf.errors import UserError
from anomaly_tf.runs.arrays import MAGIC, announced_arrays

NPZ_KEYS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("images", "labels"),
)
NPZ_EXPECTED = "; or ".join(", ".join(keys) for keys in NPZ_KEYS)


def load_npz(path: Path) -> ImageDataset:
    """Loads a file written by `numpy.savez` or `numpy.savez_compressed`.

    Args:
        path: Holds `images` and `labels`, or `train_images`, `train_labels`, `test_images` and
            `test_labels`, or Keras' `x_train`, `y_train`, `x_test` and `y_test`. Images are uint8
            `(N, H, W)` or `(N, H, W, C)` with C 1 or 3, labels integers, booleans or strings, one
            per image.

    Returns:
        Classes are int16, numbered in the order of the sorted labels, which name them. With
        `images` and `labels` the test set is empty.

    Raises:
        UserError: If the file cannot be read or has other content.
    """
    arrays, others = _read_npz(path)
    names = tuple(arrays)
    images = [_npz_images(path, name, arrays[name]) for name in names[::2]]
    labels = [
        _npz_labels(path, name, arrays[name], len(part))
        for name, part in zip(names[1::2], images, strict=True)
    ]
    if images[0].shape[1:] != images[-1].shape[1:]:
        raise UserError(
            f"{path}: {names[0]} and {names[2]} must hold images of one shape; "
            f"got {images[0].shape[1:]} and {images[-1].shape[1:]}; resize them to one shape"
        )
    class_names, classes = _numbered(path, labels)
    train = ImageSet(images[0], classes[0])
    test = ImageSet(images[1], classes[1]) if len(classes) > 1 else train.take(slice(0))
    left_out = (f"left out: arrays that are not read ({', '.join(others)})",) if others else ()
    report = (*dark_images(*images), *left_out)
    return ImageDataset(str(path), train, test, class_names, report=report, left_out=left_out)


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of the first complete entry of `NPZ_KEYS`, and the names of the other arrays."""
    reading = "its content"
    try:
        with path.open("rb") as opened:
            if opened.read(len(MAGIC)) == MAGIC:
                raise ValueError("a single array")
            opened.seek(0)
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            keys = next((keys for keys in NPZ_KEYS if set(keys) <= set(file.files)), None)
            if keys is None:
                there = ", ".join(map(repr, file.files[:10])) or "nothing"
                raise UserError(f"{path} must hold the arrays {NPZ_EXPECTED}; got {there}")
            arrays = {}
            announced_arrays(path)
            for reading in keys:
                arrays[reading] = file[reading]
                if not isinstance(arrays[reading], np.ndarray):  # some other file in the zip
                    raise ValueError("no array")
            return arrays, [name for name in file.files if name not in keys]
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; give an .npz file that can be read"
        ) from error
    # zipfile and NumPy raise many kinds of exceptions on damaged bytes.
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
            f"0; got {images.dtype} {images.shape}{_as_uint8(images)}"
        )
    return grey


def _as_uint8(images: np.ndarray) -> str:
    """The remedy for images of another type: how to scale them to 0 to 255."""
    advice = "; save grey or colour images from 0 to 255"
    if images.dtype == np.uint8 or images.dtype.kind not in "iuf" or not images.size:
        return advice
    low, high = images.min(), images.max()
    if not 0 <= low <= high < 2**16:  # NaN, too
        return advice
    white = 1 if images.dtype.kind == "f" and high <= 1 else 2 ** bits_of(int(high)) - 1
    return (
        f" with values {low:g} to {high:g}; if white is {white}, save "
        f"numpy.uint8(images * {255 / white:g})"
    )


def _npz_labels(path: Path, name: str, labels: np.ndarray, count: int) -> np.ndarray:
    """Labels as `(N,)`; Keras' colour sets have `(N, 1)`."""
    if labels.dtype.kind not in "biuU" or labels.shape not in ((count,), (count, 1)):
        raise UserError(
            f"{path}: {name} must be integers, booleans or strings ({count},), one per image; "
            f"got {labels.dtype} {labels.shape}; {_as_labels(labels)}"
        )
    return labels.ravel()


def _as_labels(labels: np.ndarray) -> str:
    """The remedy for labels of another type."""
    if labels.dtype.kind == "S":
        return "save labels.astype(str)"
    if labels.dtype.kind == "f":
        return "save whole numbers, as by labels.astype(int)"
    return "save one label for each image"


def _numbered(path: Path, labels: list[np.ndarray]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Names of the classes, and the labels as class numbers."""
    kinds = [part.dtype.kind.replace("u", "i") for part in labels]
    if len(set(kinds)) > 1:
        raise UserError(
            f"{path}: training and test labels must be of one kind; got "
            f"{' and '.join(str(part.dtype) for part in labels)}; save both as integers or strings"
        )
    found = [np.unique(part, return_inverse=True) for part in labels]
    # As Python integers: NumPy would combine signed and unsigned 64-bit integers as floats.
    values = sorted({value for unique, _ in found for value in unique.tolist()})
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"{path} has {len(values)} different labels; at most {MAX_CLASSES} classes are "
            "possible; give labels that are classes"
        )
    number = {value: index for index, value in enumerate(values)}
    classes = [
        np.array([number[value] for value in unique.tolist()], np.int16)[inverse]
        for unique, inverse in found
    ]
    return tuple(str(value) for value in values), classes
