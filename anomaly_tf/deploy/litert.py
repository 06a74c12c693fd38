"""Scores with the LiteRT runtime; needs ai-edge-litert, NumPy and Pillow, and no TensorFlow.

>>> from anomaly_tf.deploy.litert import LiteRTDetector
>>> detector = LiteRTDetector.load("sota.tflite")
>>> image = detector.read("photo.png")             # any size, grayscale or colour
>>> detector.score(image[None]).shape, detector.predict(image[None]).dtype
((1,), dtype('int8'))
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from anomaly_tf.deploy.answers import as_uint8, check_shapes
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.litert_bounds import trace_litert
from anomaly_tf.deploy.trial import LITERT, remember, require_first_score
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.arrays import PLAIN
from anomaly_tf.runs.detector_info import LITERT_FIELDS, MAX_BYTES, DetectorInfo
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.runs.limits import require_memory
from anomaly_tf.runs.outputs import EXPORT_METADATA, identity
from anomaly_tf.runs.paths import user_path
from anomaly_tf.script import printable

# Name of the metadata inside the file, in a zip archive after the model (LiteRT's convention of
# associated files); the same text is stored beside the file, as <its name>.json.
METADATA_NAME = EXPORT_METADATA
SIGNATURE = "serve"
# Copies in memory: the file, the model in it, and the weights in the processor's layout.
FILE_COPIES = 3


class LiteRTDetector(Detector):
    """An exported .tflite file with its threshold; see `Detector`.

    Images are divided among threads, and each thread has its own interpreter. Several threads may
    use one object at the same time.

    Args:
        model: The bytes of the model.
        info: Its metadata.
        threads: Number of CPU threads, at least 1. Default: all that this process may use.
    """

    loads_quickly = True
    survives_fork = True

    def __init__(self, model: bytes, info: DetectorInfo, threads: int | None = None) -> None:
        super().__init__(info)
        self._model = model
        self._threads = _thread_count(threads)
        interpreter = self._new_interpreter()
        self._idle = [interpreter]
        # Tensor indices are used, because a call of the signature copies all outputs each time.
        signature = interpreter.get_signature_runner(SIGNATURE)
        images, outputs = signature.get_input_details()["images"], signature.get_output_details()
        self._input = images["index"]
        self._batch_size, *image_shape = images["shape"].tolist()
        shapes = {name: tuple(output["shape"].tolist()[1:]) for name, output in outputs.items()}
        check_shapes(info, tuple(image_shape), shapes, info.outputs)
        self._indices = {name: outputs[name]["index"] for name in info.outputs}

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> LiteRTDetector:
        """Loads a .tflite file that `export.py` wrote.

        Args:
            path: The file.
            threads: Number of CPU threads, at least 1. Default: all that this process may use.

        Raises:
            UserError: A `ValueError`; if the file cannot be read, was not written by `export.py`,
                is truncated, or its metadata belongs to another file.
            ValueError: If `threads` is below 1.
        """
        _thread_count(threads)
        path = user_path(path)
        model, info = read_file(path)
        settings = {} if threads is None else {"_threads": threads}
        try:
            trace_litert(model).require_affordable(path)
            require_first_score(LITERT, path, info)
            return cls(model, info, threads)._loaded_from(path, settings=settings)
        except UserError:
            raise
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(
                f"{path} is damaged or not an anomaly_tf detector "
                f"({printable(' '.join(str(error).split()))}); export it again"
            ) from error

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of `infer`."""
        return tuple(self._indices)

    def save(self, path: str | Path) -> None:
        """As `Detector.save`: the `.tflite` file and the metadata beside it."""
        path = user_path(path)
        if path.suffix != ".tflite":
            raise UserError(f"{path} must end in .tflite; give such a name")
        origin = self._origin and identity(self._origin.path)
        if os.path.lexists(path) and (not origin or identity(path) != origin):
            raise UserError(f"{path} already exists; choose a new name")
        write_file(path, self._model, self.info)
        self._loaded_from(path, settings=self._origin.settings if self._origin else None)

    def single_threaded(self) -> Self:
        """A copy that uses one thread in the process that it is pickled to."""
        assert self._origin, "pickled by its path"
        return copy.copy(self)._loaded_from(self._origin.path, settings={"_threads": 1})

    def _infer(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        batches = -(-len(images) // self._batch_size)
        workers = min(self._threads, batches)
        # The share of each worker, in whole batches.
        ends = [self._batch_size * (batches * n // workers) for n in range(workers + 1)]
        shares = [images[start:end] for start, end in pairwise(ends)]
        if workers == 1:
            parts = [self._infer_share(images, names)]
        else:
            with ThreadPoolExecutor(workers) as pool:
                parts = list(pool.map(lambda share: self._infer_share(share, names), shares))
        whole = {name: np.concatenate([part[name] for part in parts]) for name in names}
        if "reconstruction" in names:
            whole["reconstruction"] = as_uint8(whole["reconstruction"])
        return whole

    def _infer_share(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Computes the outputs of at least one image with one interpreter."""
        size = self._batch_size
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        with self._interpreter() as interpreter:
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                missing = size - len(batch)
                if missing:
                    padding = np.zeros((missing, *images.shape[1:]), np.uint8)
                    batch = np.concatenate([batch, padding])
                interpreter.set_tensor(self._input, batch)
                interpreter.invoke()
                for name in names:
                    output = interpreter.get_tensor(self._indices[name])
                    parts[name].append(output[: size - missing])
        return {name: np.concatenate(part) for name, part in parts.items()}

    @contextmanager
    def _interpreter(self) -> Iterator[Interpreter]:
        """An interpreter that no other thread uses during the block."""
        try:
            interpreter = self._idle.pop()
        except IndexError:
            interpreter = self._new_interpreter()
        try:
            yield interpreter
        finally:
            self._idle.append(interpreter)

    def _new_interpreter(self) -> Interpreter:
        interpreter = Interpreter(model_content=self._model, num_threads=1)
        interpreter.allocate_tensors()
        return interpreter


def _thread_count(threads: int | None) -> int:
    if threads is not None and threads < 1:
        raise ValueError(f"expected at least 1 thread; got {threads}")
    return threads or available_threads()


def write_file(path: Path, model: bytes, metadata: DetectorInfo) -> None:
    """Writes a model with its metadata inside and beside it, atomically.

    The file is also a zip archive, by LiteRT's convention of associated files.

    Args:
        path: The `.tflite` file; an existing one is replaced.
        model: The bytes of the model.
        metadata: Its metadata.

    Raises:
        OSError: If the files cannot be written.
    """
    text = json.dumps(metadata.to_json(), indent=2, allow_nan=False) + "\n"
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive:
        # A fixed date, so that the same export gives the same bytes.
        archive.writestr(zipfile.ZipInfo(METADATA_NAME), text, zipfile.ZIP_DEFLATED)
    with atomic_path(path) as file, atomic_path(path.with_suffix(".json")) as beside:
        file.write_bytes(content.getvalue())
        beside.write_text(text, "utf-8")
    remember(metadata)


def read_file(path: Path) -> tuple[bytes, DetectorInfo]:
    """Reads the model in a .tflite file, and its metadata from inside the file or beside it.

    Raises:
        UserError: As `LiteRTDetector.load`.
    """
    try:
        require_memory(FILE_COPIES * path.stat().st_size, f"the file {path}")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give a file that export.py wrote"
        ) from error
    text = _metadata_inside(content) or _metadata_beside(path)
    if text is None:
        raise UserError(
            f"{path} is truncated or was not written by export.py (it holds no metadata, and there "
            f"is no {path.stem}.json beside it); export it again"
        )
    try:
        info = DetectorInfo.parse(text, LITERT_FIELDS)
    except ValueError as error:
        raise UserError(f"the metadata of {path} is damaged ({error}); export it again") from error
    model = content[: info.model_bytes]
    if hashlib.sha256(model).hexdigest() != info.model_sha256:
        raise UserError(
            f"{path} is not the model that its metadata describes (another SHA-256 digest); "
            "export it again"
        )
    return model, info


def _metadata_inside(content: bytes) -> bytes | None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = archive.getinfo(METADATA_NAME)
            if member.file_size > MAX_BYTES or member.compress_type not in PLAIN:
                return None
            return archive.read(METADATA_NAME)
    except Exception:  # zipfile and zlib raise many kinds on damaged bytes
        return None


def _metadata_beside(path: Path) -> bytes | None:
    beside = path.with_suffix(".json")
    if not beside.is_file() or beside.stat().st_size > MAX_BYTES:
        return None
    return beside.read_bytes()
