"""What a source of images gives, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from anomaly_tf.data.stored import Images

# Training images and classes, test images and classes.
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class SourceUnavailable(Exception):
    """A source cannot serve; the message says why, and another one may be tried."""


@dataclass(frozen=True)
class ImageDataset:
    """Images and their classes, as their publisher divided them, or undivided.

    Attributes:
        name: What the user calls it.
        train_images: uint8 `(N, H, W, C)`.
        train_classes: Integers `(N,)`.
        test_images: uint8 `(M, H, W, C)`; M is 0 if a test set is still to be cut off.
        test_classes: Integers `(M,)`.
        class_names: Name of each class number.
        named_normal: Classes that are normal by their names; None if the names do not tell.
        train_files: Where each image lies in the folder `name`; empty if they are no files.
        test_files: Likewise.
        masks: Image file to a mask of where its anomaly is.
        report: What the user should know of how a folder was understood, line by line.
        skipped: Why files were left out, one for each.
    """

    name: str
    train_images: Images
    train_classes: np.ndarray
    test_images: Images
    test_classes: np.ndarray
    class_names: tuple[str, ...]
    named_normal: tuple[int, ...] | None = None
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    masks: Mapping[str, str] = field(default_factory=dict)
    report: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether the images are files of a folder."""
        return bool(self.train_files)
