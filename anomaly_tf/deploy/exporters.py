"""Exports a trained detector as a SavedModel, a LiteRT file or a page, with metadata.

The metadata is that of `detector.json` without the training facts, and with the fields of
`DetectorInfo` for exported files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from anomaly_tf.approaches.configs import foreign_cache, load_config
from anomaly_tf.config import Config
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.roi import Roi
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_file import open_split
from anomaly_tf.data.tiles import tiles_of
from anomaly_tf.deploy.conversion import convert
from anomaly_tf.deploy.detector import Quantization
from anomaly_tf.deploy.known_score import known_score
from anomaly_tf.deploy.litert import LiteRTDetector, write_file
from anomaly_tf.deploy.regions import score_set
from anomaly_tf.deploy.saved_model import METADATA
from anomaly_tf.deploy.trial import remember
from anomaly_tf.deploy.web_page import require_page, write_page, write_site
from anomaly_tf.detection.scoring import score_statistics
from anomaly_tf.errors import UserError
from anomaly_tf.runs.caches import only_read
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.files import atomic_folder, folder_error, require_writable, sha256
from anomaly_tf.runs.limits import count_within
from anomaly_tf.runs.outputs import (
    EXPORT_FORMAT,
    export_outputs,
    require_own_place,
)
from anomaly_tf.runs.paths import user_path
from anomaly_tf.runs.region import BLANK
from anomaly_tf.runs.sections import LABELLED, Calibration
from anomaly_tf.script import quiet_libraries

if TYPE_CHECKING:
    from anomaly_tf.deploy.keras_run import TrainedDetector

# Number of images for the calibration of the activation ranges of int8.
REPRESENTATIVE_IMAGES, REPRESENTATIVE_BYTES = 500, 2**29
# Suffix of a page for the browser.
PAGE = ".html"
# What a program without this package has to do with a model of tiles.
TILES = (
    "along each side a tile begins every (tile - overlap) pixels, and the last one ends at the "
    "border; the score of an image is the largest score of its tiles"
)


def export(detector: TrainedDetector, path: Path, quantization: Quantization, batch: int) -> None:
    """Exports a detector with the data of its run; see `TrainedDetector.export`.

    Raises:
        UserError: If the data of the run is missing or changed, or `path` holds other files.
    """
    path = user_path(path)
    run = detector.run
    if path.suffix not in (".tflite", PAGE) and quantization != "none":
        raise UserError("quantize is for a .tflite or .html file; leave it out")
    if path.suffix != ".tflite" and batch != 1:
        raise UserError("batch_size is for a .tflite file; leave it out")
    require_writable(path.parent, "path")
    require_own_place("path", path.parent, export_outputs(path), [run.path])
    config = load_config(run.config)
    config.require_quantization(quantization)
    with only_read(foreign_cache(str(run.path), None)):
        split = open_split(config, run.split, detector.info)
    write_export(detector, path, quantization, batch, split, config)


def write_export(
    detector: TrainedDetector,
    path: Path,
    quantization: Quantization,
    batch: int,
    split: Split,
    config: Config,
    site: bool = False,
) -> LiteRTDetector | None:
    """Writes a .tflite file, a page if `path` ends in .html, or the folder of a SavedModel.

    Args:
        detector: The trained detector.
        path: The file or folder.
        quantization: See `conversion.convert`.
        batch: Images per call of a .tflite file.
        split: The sets of the run.
        config: The configuration of the run.
        site: Whether a page is written for a web server as well, beside `path`.

    Returns:
        The detector of a page; None for the others, which can be loaded.

    Raises:
        UserError: As `require_page`, for a page.
        OSError: If the output cannot be written.
    """
    with quiet_libraries():
        if path.suffix not in (".tflite", PAGE):
            export_saved_model(detector, path)
            return None
        validation, roi = split.validation, split.roi
        samples = _representative(validation, config, roi)
        if path.suffix == ".tflite":
            export_tflite(detector, path, quantization, batch, validation, samples, roi)
            return None
        return export_page(detector, path, quantization, validation, samples, roi, site)


def _representative(validation: LabelledImages, config: Config, roi: Roi | None) -> np.ndarray:
    """Validation images for the activation ranges of int8, uint8 `(N, H, W, C)`."""
    # An approach that learns from normal images only uses no anomalies, not even for the ranges.
    learnt = config.learns_from == "normal images"
    images = tiles_of(validation.normal_part if learnt else validation, config.tiling, roi)
    count = count_within(REPRESENTATIVE_BYTES, math.prod(images.shape[1:]), REPRESENTATIVE_IMAGES)
    chosen = np.random.default_rng(0).permutation(len(images))[:count]
    return images[chosen]


def export_saved_model(detector: TrainedDetector, folder: Path) -> None:
    """Writes a SavedModel that can be used without this package.

    Signature `serve`, also `serving_default`: `images`, uint8 `(N, h, w, C)` of any N and any
    size (resized inside if it is not the detector's), or tiles, to the detector's outputs and
    `is_anomaly`, bool `(N,)`: score >= threshold. Signature `with_threshold` takes a scalar
    `threshold` as well.

    Args:
        detector: The trained detector; its threshold is stored in the model.
        folder: Output folder; an existing one is replaced, and unchanged if writing fails.

    Raises:
        OSError: If the folder cannot be written or is full.
    """
    folder = user_path(folder)
    model = _exported_model(detector)
    height, width, channels = detector.input_shape
    images = tf.TensorSpec((None, None, None, channels), tf.uint8, name="images")
    threshold = tf.TensorSpec((), tf.float32, name="threshold")
    own_threshold = detector.threshold

    def with_threshold(images: tf.Tensor, threshold: tf.Tensor) -> dict[str, tf.Tensor]:
        if detector.info.tiling is None:
            images = _resized(images, height, width)
        # A picture is not resized to a tile.
        images = tf.ensure_shape(images, (None, height, width, channels))
        outputs = model(images, training=False)
        if "reconstruction" in outputs:
            grey = tf.round((outputs["reconstruction"] + 1.0) * 127.5)
            outputs["reconstruction"] = tf.cast(tf.clip_by_value(grey, 0.0, 255.0), tf.uint8)
        return {**outputs, "is_anomaly": outputs["score"] >= threshold}

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return with_threshold(images, tf.constant(own_threshold, tf.float32))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=[images])
    archive.add_endpoint("with_threshold", with_threshold, input_signature=[images, threshold])
    with _full_disk_as_os_error(), atomic_folder(folder) as new:
        archive.write_out(str(new), verbose=False)
        files = sorted(file for file in new.rglob("*") if file.is_file())
        digests = {str(file.relative_to(new)): sha256(file) for file in files}
        metadata = dataclasses.replace(_metadata(detector), files_sha256=digests)
        (new / METADATA).parent.mkdir()
        (new / METADATA).write_text(_json(metadata), "utf-8")
    remember(metadata)


def export_tflite(
    detector: TrainedDetector,
    path: Path,
    quantization: Quantization,
    batch_size: int,
    validation: LabelledImages,
    samples: np.ndarray,
    roi: Roi | None = None,
) -> None:
    """Writes a LiteRT file with its own threshold, computed from the scores of the file itself.

    The metadata is stored beside the file as JSON, and inside it.

    Args:
        detector: The trained detector; the file's threshold uses the same method and value.
        path: The .tflite file to write; an existing one is replaced.
        quantization: See `conversion.convert`.
        batch_size: Images per call of the file.
        validation: The run's validation images.
        samples: uint8 `(M, H, W, C)`, for the calibration of the activation ranges of int8.
        roi: The regions of the images that count; None: everything.

    Raises:
        OSError: If the files cannot be written.
    """
    model, exported = _to_litert(detector, quantization, batch_size, validation, samples, roi)
    write_file(user_path(path), model, exported.info)


def export_page(
    detector: TrainedDetector,
    path: Path,
    quantization: Quantization,
    validation: LabelledImages,
    samples: np.ndarray,
    roi: Roi | None = None,
    site: bool = False,
) -> LiteRTDetector:
    """Writes a page that scores pictures in the browser; see `web_page`.

    Args:
        detector: As for `export_tflite`.
        path: The HTML file to write; an existing one is replaced.
        quantization: As for `export_tflite`.
        validation: As for `export_tflite`.
        samples: As for `export_tflite`.
        roi: As for `export_tflite`.
        site: Whether a page for a web server is written as well, beside `path`.

    Returns:
        The detector of the page.

    Raises:
        UserError: As `require_page`.
        OSError: If the files cannot be written.
    """
    path = user_path(path)
    require_page(detector.info, quantization)
    model, exported = _to_litert(detector, quantization, 1, validation, samples, roi)
    exported.info.known = known_score(exported)
    write_page(path, model, exported.info)
    if site:
        write_site(path.parent, path.stem, model, exported.info)
    return exported


def _to_litert(
    detector: TrainedDetector,
    quantization: Quantization,
    batch_size: int,
    validation: LabelledImages,
    samples: np.ndarray,
    roi: Roi | None,
) -> tuple[bytes, LiteRTDetector]:
    """The model of a LiteRT file, and its detector with its own threshold."""
    with _full_disk_as_os_error():
        model = convert(_exported_model(detector), batch_size, quantization, samples)
    metadata = dataclasses.replace(
        _metadata(detector),
        quantization=quantization,
        batch_size=batch_size,
        model_sha256=hashlib.sha256(model).hexdigest(),
        model_bytes=len(model),
    )
    exported = LiteRTDetector(model, metadata)
    scores = np.sort(score_set(exported, validation.normal_part, roi))
    metadata.calibration = Calibration(len(scores), scores.tolist())
    metadata.score_statistics = {"normal": score_statistics(scores)}
    threshold = detector.info.threshold
    if threshold.method == LABELLED:
        scores = np.sort(score_set(exported, validation.take(validation.labels == 1), roi))
        metadata.calibration.anomaly_scores = scores.tolist()
    exported.set_threshold(threshold)
    return model, exported


def _exported_model(detector: TrainedDetector) -> keras.Model:
    """The detector's model without the outputs for Grad-CAM."""
    outputs = {name: detector.model.output[name] for name in detector.outputs}
    return keras.Model(detector.model.input, outputs, name="detector")


def _resized(images: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resizes images to the detector's size, like `data/images.py` up to one grey level."""

    def resize() -> tf.Tensor:
        size = (height, width)
        resized = tf.image.resize(tf.cast(images, tf.float32), size, "bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)

    right = tf.reduce_all(tf.equal(tf.shape(images)[1:3], (height, width)))
    return tf.cond(right, lambda: images, resize)


def _metadata(detector: TrainedDetector) -> DetectorInfo:
    info = detector.info
    return dataclasses.replace(
        info,
        format=EXPORT_FORMAT,
        format_version=1,
        outputs=list(detector.outputs),
        preprocessing={
            "dtype": "uint8",
            "range": [0, 255],
            **({"bit_depth_of_16_bit_files": info.bit_depth} if info.bit_depth else {}),
            "colours": "grayscale" if detector.image_shape[-1] == 1 else "RGB",
            "resizing": "bilinear, averaging when it shrinks",
            "scaling": "inside the model",
            **({"level_outside_of_region": BLANK} if info.roi else {}),
            **({"tiles": TILES} if info.tiling else {}),
        },
        source={
            "model_sha256": info.model_sha256,
            "command": info.training.command,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("tensorflow", "keras", "ai-edge-litert")
            },
        },
        # Fields of runs only.
        data=None,
        training=None,  # type: ignore[arg-type]
        versions=None,
        model_sha256=None,
        others={},
    )


def _json(metadata: DetectorInfo) -> str:
    return json.dumps(metadata.to_json(), indent=2, allow_nan=False) + "\n"


@contextmanager
def _full_disk_as_os_error() -> Iterator[None]:
    """Converts TensorFlow's own exception for a full disk to an `OSError`."""
    try:
        yield
    except tf.errors.OpError as error:
        if (cause := folder_error(error)) is None:
            raise
        raise cause from error
