"""Data sets in one NumPy .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anomaly_tf.data.arrays import checked_images, checked_labels, dark_images, numbered
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.image_set import ImageSet
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
    images = [checked_images(f"{path}: {name}", arrays[name], "save") for name in names[::2]]
    labels = [
        checked_labels(f"{path}: {name}", arrays[name], len(part), "save")
        for name, part in zip(names[1::2], images, strict=True)
    ]
    if images[0].shape[1:] != images[-1].shape[1:]:
        raise UserError(
            f"{path}: {names[0]} and {names[2]} must hold images of one shape; "
            f"got {images[0].shape[1:]} and {images[-1].shape[1:]}; resize them to one shape"
        )
    class_names, classes = numbered(str(path), labels)
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
