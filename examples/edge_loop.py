"""Scores pictures with a .tflite file on an edge device, without TensorFlow and scikit-learn.

    pip install -r requirements-edge.txt && pip install --no-deps .
    python examples/edge_loop.py --model mine.tflite new/*.jpg
    python examples/edge_loop.py

Without --model another process, which needs the whole installation, makes one from scikit-learn's
handwritten digits: zeros are normal, and the last of five pictures is none.

Prints a line per picture: its score, the verdict, and the milliseconds for reading and scoring.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

import anomaly_tf


def make_model(folder: Path) -> None:
    """Trains on zeros for seconds; writes zeros.tflite and five pictures."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)
    zeros, other = images[digits.target == 0], images[digits.target == 7][0]
    anomaly_tf.train(zeros[:150], training__epochs=5, verbose=0).export(folder / "zeros.tflite")
    for number, image in enumerate([*zeros[150:154], other]):
        Image.fromarray(image).save(folder / f"{number}.png")


def main() -> None:
    """Loads the detector, then reads and scores one picture after another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a .tflite file")
    parser.add_argument("pictures", nargs="*", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model, pictures = options.model, options.pictures
        if model is None:
            folder = Path(temporary)
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pool.submit(make_model, folder).result()
            model, pictures = folder / "zeros.tflite", sorted(folder.glob("*.png"))
        detector = anomaly_tf.Detector.load(model)
        for picture in pictures:
            start = time.perf_counter()
            image = detector.read(picture)  # uint8 (H, W, C), as in training
            (score,) = detector.score(image[np.newaxis])
            milliseconds = 1000 * (time.perf_counter() - start)
            verdict = "anomaly" if score >= detector.threshold else "normal"
            print(f"{score:10.4f}  {verdict:<8} {milliseconds:6.1f} ms  {picture.name}", flush=True)
    assert not {"tensorflow", "keras", "sklearn"} & {*sys.modules}


if __name__ == "__main__":
    main()
