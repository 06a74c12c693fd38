"""A drawn picture and its score, by which a page tests its browser before it opens.

Needs NumPy and Pillow only.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_tf.deploy.detector import Detector
from anomaly_tf.runs.sections import KnownScore

# Colours along each side, between which the picture is interpolated.
COLOURS = (12, 16)
# Largest difference of the score in a browser, as a share of the score or, if that is larger, of
# the threshold. Measured: below a millionth; a runtime that computes wrongly is far from it.
TOLERANCE = 1e-4


def known_score(detector: Detector) -> KnownScore:
    """Draws a picture, and scores it as a file.

    It is larger than the detector's images, and so high that Pillow resizes its rows first: a page
    has to do the same. With a region it has the size of the region.
    """
    height, width, _ = detector.image_shape
    region = detector.region
    size = (width + width // 2 + 5, 3 * height + 9) if region is None else region.size
    colours = np.random.default_rng(0).integers(0, 256, (*COLOURS, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "known.png")
        Image.fromarray(colours).resize(size, Image.Resampling.BILINEAR).save(file)
        pixels = detector.read(file)
        content = file.read_bytes()
    score = float(detector.score(pixels[np.newaxis])[0])
    return KnownScore(
        base64.b64encode(content).decode("ascii"),
        hashlib.sha256(pixels.tobytes()).hexdigest(),
        score,
        TOLERANCE * max(abs(score), abs(detector.threshold)),
    )
