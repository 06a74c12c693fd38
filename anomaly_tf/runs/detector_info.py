"""`detector.json` and the metadata of exported files: one typed record, read, checked and written.

Metadata is stored beside the model in `detector.json`, or inside an exported file. It may be
damaged or untrusted: a file is refused if a number that a verdict depends on has a wrong type or
range. Needs NumPy only.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from anomaly_tf.runs.checks import (
    OUTPUTS,
    Check,
    are_files,
    are_outputs,
    is_list,
    is_shape,
    is_text,
    is_whole,
    parse_json,
)
from anomaly_tf.runs.limits import MAX_PIXELS_ON_REQUEST
from anomaly_tf.runs.sections import (
    COUNT,
    DIGEST,
    TEXT,
    THRESHOLD_SETTINGS,
    Calibration,
    DataFacts,
    HeatScale,
    KnownScore,
    RoiFacts,
    Threshold,
    Tiling,
    TrainingFacts,
    entry,
    model_shape,
    one_of,
)

# The scores of a million calibration images take 20 MB.
MAX_BYTES, MAX_VALUES = 64 * 2**20, 2_000_000

# Required fields of each kind of detector, with a dot after a section.
EXPORT_FIELDS = (
    "approach",
    "image_shape",
    "outputs",
    "threshold.value",
    "calibration.scores",
)
LITERT_FIELDS = (*EXPORT_FIELDS, "batch_size", "model_bytes", "model_sha256")
RUN_FIELDS = (
    "approach",
    "dataset",
    "class_names",
    "image_shape",
    "threshold.value",
    "threshold.method",
    "calibration.scores",
    "training.status",
    "training.command",
    "training.hardware",
    "training.chosen_by",
    "training.validation",
    "training.n_train",
    "training.n_validation",
    "training.n_weights",
    "training.epochs",
    "training.best_epoch",
    "training.train_seconds",
    "training.images_per_second",
)
_NAME: Check = (lambda value: is_text(value) and value.isprintable()), "a word"
_VERSIONS: Check = (
    (lambda value: isinstance(value, dict) and all(map(is_text, value.values()))),
    "names, each with its version",
)
_ROLES: Check = (
    (lambda value: isinstance(value, dict) and all(isinstance(p, list) for p in value.values())),
    "lists of class numbers",
)
_BIT_DEPTH: Check = (lambda value: is_whole(value, 8, 16)), "a whole number from 8 to 16"
_PIXELS: Check = (
    (lambda value: is_whole(value, 1, MAX_PIXELS_ON_REQUEST)),
    f"a whole number from 1 to {MAX_PIXELS_ON_REQUEST}",
)


@dataclass
class DetectorInfo:
    """The metadata of a detector.

    A field that a file does not hold is None here and is not written. `RUN_FIELDS`, `EXPORT_FIELDS`
    and `LITERT_FIELDS` list the required fields of each kind of detector.

    Attributes:
        format: `anomaly_tf detector`, in exported files.
        format_version: 1, in exported files.
        approach: Name of the approach.
        protocol: Name of the protocol.
        dataset: Name of the data set, file or folder.
        class_names: Name of each class number.
        roles: Numbers of the classes that are `normal`, `seen` and `unseen`.
        seed: Seed of the run.
        image_shape: Height, width and channels.
        tiling: How pictures are cut into tiles; None if the model takes whole images.
        bit_depth: Bit depth of the 16-bit files; None if there were none in training.
        max_pixels: Largest number of pixels of a file; None for runs of earlier versions.
        roi: The regions of images that count; None if everything does.
        data: Digests of its sets; runs only.
        image_score: How the score of an image, or of a tile, is computed from its map: `mean`,
            `maximum` or `none`.
        heat_scale: Colour scale of heat maps; None for runs of earlier versions.
        training: Facts about the training; runs only.
        versions: Versions of the libraries that trained it; runs only.
        threshold: Threshold on the anomaly score.
        calibration: Scores of normal validation images.
        score_statistics: Statistics of the scores of `normal` and `anomaly` validation images.
        outputs: Names of the outputs of an exported file; see `Detector.infer`.
        preprocessing: Preprocessing of images for an exported file.
        source: Digest, command and versions of the run behind an exported file.
        files_sha256: Digest of each file of a SavedModel.
        quantization: Quantization of a LiteRT file.
        batch_size: Images per call of a LiteRT file.
        model_sha256: Digest of the model; in a run that of `model.keras`.
        model_bytes: Length of the model in a LiteRT file.
        known: A picture with its score, of a page for the browser.
        others: Further keys of the file, unchanged.
    """

    format: str | None = entry()
    format_version: int | None = entry()
    approach: str = entry(_NAME)
    protocol: str | None = entry(_NAME)
    dataset: str = entry(TEXT)
    class_names: list[str] = entry(((lambda value: is_list(value, is_text)), "a list of names"))
    roles: dict[str, Any] | None = entry(_ROLES)
    seed: int | None = entry(COUNT)
    image_shape: list[int] = entry((is_shape, "height, width and channels, 1 or 3"))
    tiling: Tiling | None = None
    bit_depth: int | None = entry(_BIT_DEPTH)
    max_pixels: int | None = entry(_PIXELS)
    roi: RoiFacts | None = None
    data: DataFacts | None = None
    image_score: str | None = entry(one_of("mean", "maximum", "none"))
    heat_scale: HeatScale | None = None
    training: TrainingFacts = None  # type: ignore[assignment]
    versions: dict[str, str] | None = entry(_VERSIONS)
    threshold: Threshold = None  # type: ignore[assignment]
    calibration: Calibration = None  # type: ignore[assignment]
    score_statistics: dict[str, Any] | None = entry()
    outputs: list[str] = entry((are_outputs, f"score and others of {', '.join(OUTPUTS[1:])}"))
    preprocessing: dict[str, Any] | None = entry()
    source: dict[str, Any] | None = entry()
    files_sha256: dict[str, str] | None = entry(
        (are_files, "paths inside the folder, each with 64 hexadecimal digits")
    )
    quantization: str | None = entry()
    batch_size: int = entry(
        ((lambda value: is_whole(value, 1, 4096)), "a whole number from 1 to 4096")
    )
    model_sha256: str | None = entry(DIGEST)
    model_bytes: int = entry(((lambda value: is_whole(value, 1, 2**53)), "a whole number above 0"))
    known: KnownScore | None = None
    others: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, required: Sequence[str]) -> Self:
        """Reads a file of metadata; see `parse`.

        Raises:
            OSError: If the file cannot be read.
            ValueError: As `parse`.
        """
        with path.open("rb") as file:
            return cls.parse(file.read(MAX_BYTES + 1), required)

    @classmethod
    def parse(cls, content: bytes, required: Sequence[str]) -> Self:
        """Reads metadata and checks it.

        Args:
            content: JSON in UTF-8.
            required: Names of required fields, with a dot after a section.

        Raises:
            ValueError: If it is larger than `MAX_BYTES`, is not a JSON object, holds a number that
                is infinite or NaN, or a field is missing or has a wrong type or range.
        """
        info = parse_json(content, MAX_BYTES, MAX_VALUES)
        for name in SECTIONS:
            if not isinstance(info.get(name, {}), dict):
                raise ValueError(f"{name} must be an object; got {reprlib.repr(info[name])}")
        for name, (is_valid, words) in CHECKS.items():
            found, value = _look_up(info, name)
            if found and not is_valid(value):
                raise ValueError(f"{name} must be {words}; got {reprlib.repr(value)}")
        method = _look_up(info, "threshold.method")[1]
        if method in THRESHOLD_SETTINGS:
            required = (*required, f"threshold.{THRESHOLD_SETTINGS[method]}")
        for section, names in WHOLE.items():
            if section in info:
                required = (*required, *(f"{section}.{name}" for name in names))
        for name in required:
            if not _look_up(info, name)[0]:
                raise ValueError(f"no {name}")
        record = cls.from_json(info)
        heat = record.heat_scale
        if heat is not None and not heat.low < heat.high:
            raise ValueError(f"heat_scale.high must be above low; got {heat.low} and {heat.high}")
        if record.tiling is not None:
            _require_tiles(record.tiling, record.image_shape)
        scores, size = record.calibration.scores, record.calibration.size
        if size not in (None, len(scores)):
            raise ValueError(f"calibration.size is {size}, but there are {len(scores)} scores")
        return record

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that the model takes: of an image, or of a tile."""
        return model_shape(self.image_shape, self.tiling)

    @classmethod
    def from_json(cls, info: dict[str, Any]) -> Self:
        """Creates the record from the result of `json.loads`, without checks."""
        values = dict(info)
        for name, section in SECTIONS.items():
            if isinstance(values.get(name), dict):
                known = {item.name for item in dataclasses.fields(section)}
                values[name] = section(**{k: v for k, v in values[name].items() if k in known})
        known = {item.name for item in dataclasses.fields(cls)} - {"others"}
        others = {name: values.pop(name) for name in set(values) - known}
        return cls(**values, others=others)

    def to_json(self) -> dict[str, Any]:
        """Converts the record to a dictionary for `json.dumps`, without fields that are None."""
        values = dataclasses.asdict(self)
        others = values.pop("others")
        for name in SECTIONS:
            if isinstance(values[name], dict):
                values[name] = _without_none(values[name])
        return _without_none(values) | others


SECTIONS: dict[str, type[Any]] = {
    "roi": RoiFacts,
    "data": DataFacts,
    "tiling": Tiling,
    "heat_scale": HeatScale,
    "known": KnownScore,
    "training": TrainingFacts,
    "threshold": Threshold,
    "calibration": Calibration,
}


# Required fields of optional sections.
WHOLE = {
    "roi": ("source", "sha256"),
    "data": ("train", "validation", "test", "n_test"),
    "heat_scale": ("low", "high", "unit"),
    "known": ("picture", "pixels_sha256", "score", "tolerance"),
    "tiling": ("tile", "overlap"),
}


def _checks(record: type[Any], prefix: str = "") -> Iterator[tuple[str, Check]]:
    for item in dataclasses.fields(record):
        if check := item.metadata.get("check"):
            yield prefix + item.name, check


# Dotted name of each field that is checked.
CHECKS: dict[str, Check] = {
    **dict(_checks(DetectorInfo)),
    **{
        name: check
        for section, record in SECTIONS.items()
        for name, check in _checks(record, f"{section}.")
    },
}


def _require_tiles(tiling: Tiling, image_shape: list[int] | None) -> None:
    """Raises `ValueError` if tiles overlap too much or are larger than the images."""
    if tiling.overlap > tiling.tile // 2:
        raise ValueError(
            f"tiling.overlap must be at most half of tiling.tile; got {tiling.overlap} and "
            f"{tiling.tile}"
        )
    if image_shape is not None and tiling.tile > min(image_shape[:2]):
        raise ValueError(f"tiling.tile is {tiling.tile}, larger than the images {image_shape}")


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _look_up(info: dict[str, Any], name: str) -> tuple[bool, Any]:
    value: Any = info
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value
