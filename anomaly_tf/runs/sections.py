"""Sections of `detector.json`, the metadata of a detector. Needs NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from anomaly_tf.runs.checks import (
    Check,
    are_measures,
    is_digest,
    is_list,
    is_number,
    is_text,
    is_whole,
)
from anomaly_tf.runs.region import MIN_PIXELS, Region

# Each threshold method with an option, and this option; and the method without one.
THRESHOLD_SETTINGS = {"percentile": "percentile", "conformal": "false_alarm_rate"}
LABELLED = "labelled"
# `training.chosen_by` of a run that keeps its last epoch, not the best by a validation metric.
LAST_EPOCH = "last_epoch"

# Smallest and largest side of a tile.
TILE_SIDES = 64, 1024


def entry(check: Check | None = None, default: Any = None) -> Any:
    """A field of the record, with the check of its value, if there is one."""
    return field(default=default, metadata={"check": check})


TEXT: Check = is_text, "text"
SCORE: Check = is_number, "a finite number"
NOT_NEGATIVE: Check = (lambda value: is_number(value, 0)), "a number of at least 0"
COUNT: Check = (lambda value: is_whole(value, 0, 2**53)), "a whole number of at least 0"
DIGEST: Check = is_digest, "64 hexadecimal digits"


def one_of(*values: str) -> Check:
    """The check of a text that must be one of the values."""
    return (lambda value: value in values), f"one of {', '.join(values)}"


def number_to(high: float) -> Check:
    """The check of a number from 0 to `high`."""
    return (lambda value: is_number(value, 0, high)), f"a number from 0 to {high:g}"


@dataclass
class Threshold:
    """Threshold on the anomaly score.

    Attributes:
        value: Scores of at least this value are anomalies.
        method: How it was computed, `percentile`, `conformal` or `labelled`.
        percentile: The percentile of the calibration scores, for method `percentile`.
        false_alarm_rate: The guaranteed false-alarm rate, for method `conformal`.
    """

    value: float = entry(SCORE)
    method: str = entry(one_of(*THRESHOLD_SETTINGS, LABELLED))
    percentile: float | None = entry(number_to(100))
    false_alarm_rate: float | None = entry(number_to(1))

    @property
    def setting(self) -> float | None:
        """The percentile or the false-alarm rate from which it was computed; None without one."""
        return getattr(self, THRESHOLD_SETTINGS.get(self.method, ""), None)

    def __str__(self) -> str:
        """Method and setting, in words: `percentile 95`, `conformal 0.05`, `labelled`."""
        return self.method if self.setting is None else f"{self.method} {self.setting:g}"


@dataclass
class Calibration:
    """Scores of validation images, sorted.

    Attributes:
        size: Number of normal images.
        scores: Scores of the normal images.
        anomaly_scores: Scores of the labelled anomalies, if there are any.
    """

    size: int = entry(COUNT)
    scores: list[float] = entry(
        ((lambda value: is_list(value, is_number)), "finite numbers, at least one")
    )
    anomaly_scores: list[float] | None = entry(
        ((lambda value: is_list(value, is_number)), "finite numbers, at least one")
    )


@dataclass
class HeatScale:
    """Colour scale of heat maps, computed from the maps of normal validation images.

    Attributes:
        low: Values of the map up to this one are transparent.
        high: Values of the map from this one are full red.
        low_quantile: Share of the pixels of normal images up to `low`.
        high_quantile: Share of the pixels of normal images up to `high`.
        unit: Meaning of a value of the map, in words.
    """

    low: float = entry(NOT_NEGATIVE)
    high: float = entry(((lambda value: is_number(value) and value > 0), "a number above 0"))
    low_quantile: float = entry(number_to(1))
    high_quantile: float = entry(number_to(1))
    unit: str = entry(TEXT)

    def strength(self, heat: np.ndarray) -> np.ndarray:
        """Scales maps `(...)` to float32 in [0, 1], from transparent to full red."""
        width = self.high - self.low
        return np.clip((heat - self.low) / width, 0, 1).astype(np.float32)


@dataclass
class KnownScore:
    """A picture with its score, by which a page tests its browser before it opens.

    Attributes:
        picture: A PNG as base64; drawn, not one of the data.
        pixels_sha256: Digest of its pixels in the detector's shape.
        score: Its score.
        tolerance: Largest difference of the score.
    """

    picture: str = entry(TEXT)
    pixels_sha256: str = entry(DIGEST)
    score: float = entry(SCORE)
    tolerance: float = entry(NOT_NEGATIVE)


@dataclass(frozen=True)
class Tiling:
    """How large pictures are cut into square tiles, which are scored one by one.

    Attributes:
        tile: Side of the tiles in pixels.
        overlap: Pixels that neighbouring tiles share, at most half a tile.
    """

    tile: int = entry(
        ((lambda value: is_whole(value, *TILE_SIDES)), "a whole number from 64 to 1024")
    )
    overlap: int = entry(
        ((lambda value: is_whole(value, 0, TILE_SIDES[1] // 2)), "a whole number from 0 to 512")
    )

    def starts(self, side: int) -> list[int]:
        """First row or column of each tile along a side of a picture, at least a tile long.

        A tile begins every `tile - overlap` pixels; the last one ends at the border.

        >>> Tiling(64, 16).starts(200)
        [0, 48, 96, 136]
        """
        last = side - self.tile
        return [*range(0, last, self.tile - self.overlap), last]

    def places(self, image_shape: Sequence[int]) -> list[tuple[int, int]]:
        """First row and column of each tile of pictures `(H, W, ...)`, row by row."""
        tops, lefts = map(self.starts, image_shape[:2])
        return [(top, left) for top in tops for left in lefts]


def model_shape(image_shape: Sequence[int], tiling: Tiling | None) -> tuple[int, int, int]:
    """Height, width and channels that a model takes: of an image `(H, W, C)`, or of a tile."""
    height, width, channels = image_shape
    return (height, width, channels) if tiling is None else (tiling.tile, tiling.tile, channels)


@dataclass
class DataFacts:
    """Digests of the sets of a run, to check that its data is unchanged; see `data/contents.py`.

    Attributes:
        train: Digest of the training images and their classes.
        validation: Digest of the validation images and their classes.
        test: Digest of the test images and their classes.
        n_test: Number of test images.
    """

    train: str = entry(DIGEST)
    validation: str = entry(DIGEST)
    test: str = entry(DIGEST)
    n_test: int = entry(COUNT)


@dataclass
class TrainingFacts:
    """Facts about the training of a run.

    Attributes:
        status: `running`, `completed`, `interrupted` or `non_finite_loss`.
        command: The command line.
        reproduce: A command line that repeats it from the run's own configuration.
        hardware: The machine, in one line.
        n_train: Number of training images.
        n_unlabelled: Number of anomalies among the normal training images, before images are left
            out, under protocol `contaminated`; else None.
        n_left_out: Number of training images that `--refine` left out; None without it.
        n_unlabelled_left_out: Number of these anomalies that are among them.
        n_validation: Number of validation images.
        n_weights: Number of weights of the detector.
        chosen_by: Criterion by which the epoch was selected.
        epochs: Number of finished epochs.
        best_epoch: The selected epoch, from 1; 0 if the first one was not finished.
        steps: Number of finished steps of the first epoch, if it was not finished.
        validation: Metrics of the selected epoch on the validation set, by name.
        train_seconds: Duration of training.
        images_per_second: Training images per second.
    """

    status: str = entry(TEXT)
    command: str = entry(TEXT)
    reproduce: str | None = entry(TEXT)
    hardware: str = entry(TEXT)
    n_train: int = entry(COUNT)
    n_unlabelled: int | None = entry(COUNT)
    n_left_out: int | None = entry(COUNT)
    n_unlabelled_left_out: int | None = entry(COUNT)
    n_validation: int = entry(COUNT)
    n_weights: int = entry(COUNT)
    chosen_by: str = entry(TEXT)
    epochs: int = entry(COUNT)
    best_epoch: int = entry(COUNT)
    steps: int | None = entry(COUNT)
    validation: dict[str, float] = entry((are_measures, "names, each with a finite number"))
    train_seconds: float = entry(NOT_NEGATIVE)
    images_per_second: float = entry(NOT_NEGATIVE)


def _is_mask(value: Any) -> bool:
    try:
        return is_text(value) and bool(Region.from_png(value))
    except ValueError:
        return False


@dataclass
class RoiFacts:
    """The regions of images that count for a detector.

    Attributes:
        source: The mask or the folder of masks, as the user named it.
        sha256: Digest of the mask; for a folder that of the masks of all images of the run.
        mask: The mask of all images, a PNG of one bit per pixel as base64, white where pixels
            count; None if each image has its own.
    """

    source: str = entry(TEXT)
    sha256: str = entry(DIGEST)
    mask: str | None = entry(
        (_is_mask, f"a PNG of one bit per pixel, as base64, with {MIN_PIXELS} white ones or more")
    )

    @cached_property
    def region(self) -> Region | None:
        """The region of all images; None if each has its own."""
        return None if self.mask is None else Region.from_png(self.mask, self.source)
