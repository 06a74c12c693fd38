"""The page of a detector in Chromium and Firefox: `make bench-web`.

Uses the run of `make bench-export` (approach `sota` with the default configuration, trained if it
is missing), exported as a page in each precision. In each installed browser:

- 500 pictures of mixed sizes, formats and orientations, scored by the page and by Python's LiteRT
  with the same model: largest differences of scores, ranks and pixels, and changed verdicts;
- time until the page is ready, from a double click, median of several starts;
- milliseconds for each 28x28 picture, from the file to its card, median of several rounds.
"""

from __future__ import annotations

import base64
import gzip
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from anomaly_tf.command_line import parse_options
from anomaly_tf.config import Checked
from anomaly_tf.data.sources import load_dataset
from anomaly_tf.deploy.litert import LiteRTDetector
from anomaly_tf.errors import UserError
from anomaly_tf.runs.detector_info import LITERT_FIELDS, DetectorInfo
from anomaly_tf.runs.files import require_writable
from anomaly_tf.script import run_script
from measurements.browsers import BROWSERS, Browser, executable_of, start_browser
from measurements.measuring import keep_results, kept_results, script

PICTURES, SMALL_PICTURES, ROUNDS = 500, 500, 3
QUANTIZATIONS = ("none", "float16", "int8")
# Suffix, options of Pillow, and modes of the mixed pictures.
KINDS: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    (".png", {}, ("L", "RGB", "RGBA", "LA", "P", "1", "I;16")),
    (".jpg", {"quality": 90}, ("L", "RGB")),
    (".jpg", {"quality": 60, "subsampling": 2, "progressive": True}, ("RGB",)),
    (".webp", {"quality": 80}, ("RGB", "RGBA")),
    (".webp", {"lossless": True, "exact": True}, ("RGB", "RGBA")),
    (".gif", {}, ("L", "P")),
    (".bmp", {}, ("L", "RGB")),
)
WITH_EXIF = (".png", ".jpg", ".webp")
READY = """new Promise((resolve) => {
  const look = () => {
    const { ready } = document.body.dataset;
    if (ready) resolve(ready); else setTimeout(look, 10);
  };
  look();
})"""
# Until this many files have been scored or refused; the browser announces chosen ones later.
SCORED = """new Promise((resolve) => {{
  const look = () => {{
    const {{ grid, working, took }} = anomalyPage;
    const done = !working && grid.cards.length + grid.failed >= {0};
    if (done) resolve(took); else setTimeout(look, 10);
  }};
  look();
}})"""
ROWS = """(async () => {
  const rows = {};
  for (const { name, file, score, rank, isAnomaly, note } of anomalyPage.rows) {
    const { pixels } = await anomalyPage.detector.read(file);
    rows[name] = { score, rank, isAnomaly, note, pixels: btoa(String.fromCharCode(...pixels)) };
  }
  return rows;
})()"""


@dataclass(frozen=True)
class BenchOptions(Checked):
    """Options of this benchmark.

    Attributes:
        run_dir: The run; trained with the defaults of `sota`, seed 0, if it does not exist.
        output: JSON file for the results.
        data_dir: Folder in which downloaded data is cached.
    """

    run_dir: str = "runs/bench-export"
    output: str = "results/web.json"
    data_dir: str = "data"


def main(arguments: list[str]) -> None:
    """Runs the measurements, prints and saves the results."""
    options = parse_options(BenchOptions, "bench-web", __doc__ or "", arguments)
    run, output = Path(options.run_dir), Path(options.output)
    require_writable(output.parent, "--output")
    results = kept_results(output)
    installed = [name for name in BROWSERS if executable_of(name)]
    if not installed:
        raise UserError("no browser is installed; install chromium or firefox-esr")
    data = ("--data-dir", options.data_dir)
    if not run.exists():
        script("train.py", "--approach", "sota", "--run-dir", run, *data)
    images = load_dataset("fashion_mnist", Path(options.data_dir)).test_images[:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = write_pictures(folder / "pictures", images, PICTURES)
        small = write_small(folder / "small", images)
        for kind in QUANTIZATIONS:
            place = folder / kind
            wanted = ("--format", "web", "--quantize", kind, "--output", place)
            script("export.py", "--run-dir", run, *wanted, *data, allowed=(0, 3))
            (page,) = (path for path in place.glob("*.html") if path.name != "index.html")
            measured: dict[str, Any] = {"megabytes": round(page.stat().st_size / 1e6, 2)}
            for browser in installed:
                measured[browser] = measure(browser, page, pictures, small)
            results[kind] = measured
    keep_results(results, output)
    print(table(results))


def table(results: dict[str, Any]) -> str:
    """The results as a table in Markdown; docs/how-to/browser.md shows it."""
    head = (
        *("`--quantize`", "size", "browser", "largest score difference", "verdicts changed"),
        *("other pixels", "ready after", "a 28x28 picture"),
    )
    rows = [head, ("---",) * len(head)]
    for kind in QUANTIZATIONS:
        for browser in BROWSERS:
            if (found := results.get(kind, {}).get(browser)) is None:
                continue
            rows.append(
                (
                    *(f"`{kind}`", f"{results[kind]['megabytes']:.2f} MB", browser.capitalize()),
                    f"{found['score_difference_largest']:.1e}",
                    *(
                        str(found[key])
                        for key in ("verdicts_changed", "pictures_with_other_pixels")
                    ),
                    f"{found['ready_seconds']:.2f} s",
                    f"{found['milliseconds_a_picture']:.2f} ms",
                )
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_pictures(folder: Path, images: np.ndarray, count: int) -> list[Path]:
    """Writes pictures of mixed sizes, formats, modes and orientations.

    Args:
        folder: A new folder.
        images: Grayscale images uint8 `(N, 28, 28, 1)`, which the pictures show.
        count: Number of pictures.
    """
    folder.mkdir()
    draw = np.random.default_rng(0)
    written = []
    for number in range(count):
        suffix, options, modes = KINDS[number % len(KINDS)]
        mode = modes[int(draw.integers(len(modes)))]
        width, height = (28, 28) if number % 5 == 0 else map(int, draw.integers(16, 900, 2))
        image = _picture(images[number, ..., 0], (width, height), mode, draw)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = int(draw.integers(1, 9))
        more: dict[str, Any] = {"exif": exif} if suffix in WITH_EXIF else {}
        path = folder / f"{number:03}{suffix}"
        image.save(path, **options, **more)
        written.append(path)
    return written


def _picture(
    grey: np.ndarray, size: tuple[int, int], mode: str, draw: np.random.Generator
) -> Image.Image:
    """An image of the data in other colours and another size, with noise."""
    enlarged = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)
    levels = np.asarray(enlarged).astype(np.float32)
    if mode == "I;16":
        levels = levels * 256 + draw.integers(0, 256, levels.shape)
        levels[0, 0] = 2**16 - 1  # so that its bit depth is known
        return Image.fromarray(levels.astype(np.uint16))
    tint = draw.uniform(0.6, 1, 3).astype(np.float32)
    noise = draw.normal(0, 6, (*levels.shape, 3)).astype(np.float32)
    colours = np.clip(levels[..., np.newaxis] * tint + noise, 0, 255).astype(np.uint8)
    if mode in ("RGBA", "LA"):
        opacity = draw.integers(0, 256, levels.shape, np.uint8)
        return Image.fromarray(np.dstack([colours, opacity])).convert(mode)
    image = Image.fromarray(colours)
    return image.quantize(64) if mode == "P" else image.convert(mode)


def write_small(folder: Path, images: np.ndarray) -> list[Path]:
    """Writes images of the data as PNG files."""
    folder.mkdir()
    written = [folder / f"{number:04}.png" for number in range(SMALL_PICTURES)]
    for path, image in zip(written, images, strict=False):
        Image.fromarray(image[..., 0]).save(path)
    return written


def page_detector(page: Path) -> LiteRTDetector:
    """The detector inside a page, in Python's LiteRT."""
    text = page.read_text("utf-8")

    def part(name: str) -> bytes:
        found = re.search(rf'id="part-{re.escape(name)}">([^<]*)<', text)
        assert found, f"{name} is a part of a page"
        return gzip.decompress(base64.b64decode(found[1]))

    return LiteRTDetector(
        part("model.tflite"), DetectorInfo.parse(part("detector.json"), LITERT_FIELDS)
    )


def measure(name: str, page: Path, pictures: list[Path], small: list[Path]) -> dict[str, Any]:
    """Scores pictures on a page and in Python, and measures times."""
    ready = []
    for _ in range(ROUNDS):
        with start_browser(name) as browser:
            ready.append(open_page(browser, page))
    with start_browser(name) as browser:
        open_page(browser, page)
        rows = score_pictures(browser, pictures)
        each = []
        for _ in range(ROUNDS):
            browser.evaluate("anomalyPage.clear()")
            browser.choose("#files", small)
            each.append(browser.evaluate(SCORED.format(len(small)))["milliseconds"] / len(small))
        requests = browser.requests
    return {
        **compare(page_detector(page), pictures, rows),
        "ready_seconds": round(float(np.median(ready)) / 1000, 2),
        "milliseconds_a_picture": round(float(np.median(each)), 2),
        "requests": len(requests),
    }


def open_page(browser: Browser, page: Path) -> int:
    """Opens a page as a file; returns the milliseconds until it was ready.

    Raises:
        RuntimeError: If it stays closed.
    """
    browser.open(page.absolute().as_uri())
    ready = browser.evaluate(READY)
    if ready == "failed":
        raise RuntimeError(browser.evaluate("document.getElementById('message').textContent"))
    return int(ready)


def score_pictures(browser: Browser, pictures: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What an open page says of pictures, by their names; those without a score are missing."""
    browser.choose("#files", pictures)
    browser.evaluate(SCORED.format(len(pictures)))
    return browser.evaluate(ROWS)


def compare(
    detector: LiteRTDetector, pictures: Sequence[Path], rows: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Compares the answers of a page with those of Python's LiteRT."""
    scored = [path for path in pictures if path.name in rows]
    pixels = np.stack([detector.read(path) for path in scored])
    scores = detector.score(pixels)
    own = [rows[path.name] for path in scored]
    seen = [np.frombuffer(base64.b64decode(row["pixels"]), np.uint8) for row in own]
    levels = np.abs(np.stack(seen).reshape(pixels.shape).astype(int) - pixels)
    verdicts = scores >= detector.threshold
    return {
        "pictures": len(scored),
        "not_scored": len(pictures) - len(scored),
        "largest_score": float(scores.max()),
        "score_difference_largest": float(
            np.abs(scores - np.array([row["score"] for row in own])).max()
        ),
        "rank_difference_largest": float(
            np.abs(detector.p_values(scores) - [row["rank"] for row in own]).max()
        ),
        "verdicts_changed": int((verdicts != [row["isAnomaly"] for row in own]).sum()),
        "pictures_with_other_pixels": int((levels.max(axis=(1, 2, 3)) > 0).sum()),
        "pictures_with_a_note": sum(bool(row["note"]) for row in own),
    }


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run_script(main)
