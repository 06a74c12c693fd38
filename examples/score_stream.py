"""Scores pictures as a camera writes them into a folder, each as soon as it is complete.

    python examples/score_stream.py --model runs/mine --folder camera/
    python examples/score_stream.py

Without --model it trains a short model on scikit-learn's handwritten digits, zeros being normal,
and plays the camera: a thread writes ten digits, of which the last three are no zeros.

Prints a line per picture: its score, the verdict and its name. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import anomaly_tf


def arriving(folder: Path) -> Iterator[Path]:
    """Yields the pictures of a folder, each once its size no longer changes."""
    sizes: dict[Path, int] = {}
    done: set[Path] = set()
    while True:
        for file in sorted({*folder.glob("*.png"), *folder.glob("*.jpg")} - done):
            size = file.stat().st_size
            if size and sizes.get(file) == size:
                done.add(file)
                yield file
            sizes[file] = size
        time.sleep(0.1)


def play_camera(folder: Path, images: np.ndarray) -> None:
    """Writes an image into the folder every 0.1 seconds."""
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.png")
        time.sleep(0.1)


def main() -> None:
    """Scores what arrives, until `--count` pictures have."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a run directory, a SavedModel's folder or a .tflite file")
    parser.add_argument("--folder", type=Path, default="camera", help="where the camera writes")
    parser.add_argument("--count", type=int, help="end after so many pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, suppress(KeyboardInterrupt):
        if options.model:
            detector = anomaly_tf.Detector.load(options.model)
        else:
            options.folder, options.count, digits = Path(temporary), 10, load_digits()
            images = (digits.images * 255 / 16).astype(np.uint8)
            zeros, others = images[digits.target == 0], images[digits.target != 0]
            detector = anomaly_tf.train(zeros[:150], training__epochs=5, verbose=0)
            shown = np.concatenate([zeros[150:157], others[:3]])
            threading.Thread(target=play_camera, args=(options.folder, shown)).start()
        for number, file in enumerate(arriving(options.folder), 1):
            (score,) = detector.score_files([file], on_error="nan")
            verdict = "anomaly" if score >= detector.threshold else "normal"
            if np.isnan(score):
                verdict = "unreadable"
            print(f"{score:10.4f}  {verdict:<8} {file.name}", flush=True)
            if number == options.count:
                break


if __name__ == "__main__":
    main()
