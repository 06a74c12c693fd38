"""A page of every kind for tests, and a reader of pages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.config import Config, save_config
from anomaly_tf.data.folders import load_folder
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_file import open_split, save_split
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.reporting.comparison import write_benchmark
from anomaly_tf.reporting.evaluation import evaluate, save_figures
from anomaly_tf.reporting.kept import Kept, read_kept
from anomaly_tf.reporting.pictures import Explanations
from anomaly_tf.reporting.run_page import report_of
from anomaly_tf.reporting.runs_page import write_comparison
from anomaly_tf.reporting.tiles import write_examples
from anomaly_tf.runs.directory import RunDirectory

# Classes and a file whose names are markup, quotes, Chinese, and letters that turn the direction.
SCRIPT, CHINESE, TURNED = '<script>alert("x")<', "\u5212\u75d5 \u522e\u4f24", "a\u202eb"
FILE = "\"'><img src=x onerror=alert(1)>"


@dataclasses.dataclass
class Page:
    """A page as a browser reads it.

    Attributes:
        tags: Name and attributes of each tag, in order.
        text: What can be read on it, parts of two tags apart.
    """

    tags: list[tuple[str, dict[str, str | None]]] = dataclasses.field(default_factory=list)
    text: str = ""

    def all(self, name: str) -> list[dict[str, str | None]]:
        """Attributes of all tags of a name."""
        return [attributes for tag, attributes in self.tags if tag == name]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append((tag, dict(attrs)))
        self.page.text += " "

    def handle_data(self, data: str) -> None:
        self.page.text += data


def read_page(path: Path) -> Page:
    """Reads a page."""
    reader = _Reader()
    reader.feed(path.read_text("utf-8"))
    return reader.page


def evaluated_run(folder: Path, detector: TrainedDetector, split: Split, config: Config) -> Kept:
    """Writes a run and its evaluation, as `train` and `evaluate` do, but for the plots."""
    run = RunDirectory(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    save_config(config, run.config)
    detector.write(run)
    evaluation = evaluate(detector, split, config)
    save_figures(evaluation, detector, split, run)
    write_examples(run.examples, Explanations(detector, split, evaluation).small())
    assert report_of(run, run) == []
    return read_kept(folder)


def hostile_run(folder: Path, weighing_detector: Callable[..., TrainedDetector]) -> Kept:
    """A run on blue images with red defects, whose masks are known and whose names are hostile."""
    photos = folder / "photos"
    blue = np.zeros((10, 8, 3), np.uint8)
    blue[..., 2] = 255
    tested = {"good": [2, 10, 0], SCRIPT: [8, 4, 12], CHINESE: [1, 6], TURNED: [7]}
    for number in range(6):
        _save(blue - np.array([0, 0, number], np.uint8), photos / f"train/good/{number}.png")
    for name, counts in tested.items():
        for number, count in enumerate(counts):
            red = np.arange(80).reshape(10, 8) < count
            picture = np.where(red[..., np.newaxis], (255, 0, 0), blue).astype(np.uint8)
            picture[9, 7] = number  # no two are equal
            stem = FILE.replace("/", "") if number == 0 else str(number)
            _save(picture, photos / "test" / name / f"{stem}.png")
            if name != "good":
                mask = 255 * red.astype(np.uint8)
                _save(mask, photos / "ground_truth" / name / f"{stem}_mask.png")
    config = AutoencoderConfig(data=str(photos), data_dir=str(folder), image_size="10x8")
    dataset = load_folder(photos, config)
    run = RunDirectory(folder / "run")
    save_split(make_split(config, dataset), dataset, run.split)
    split = open_split(config, run.split)
    detector = weighing_detector((10, 8, 3), (1, 0, 0), threshold=5 / 80)
    detector.info.class_names = list(dataset.class_names)
    return evaluated_run(run.path, detector, split, config)


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_comparison(runs: list[Path], path: Path) -> Path:
    """Writes the page that compares runs."""
    assert write_comparison([read_kept(run) for run in runs], path) == []
    return path


def make_benchmark(cells: Path, folder: Path) -> Path:
    """Writes the page of a benchmark with kept cells, and one that failed."""
    results: list[dict[str, Any]] = [
        json.loads(path.read_text("utf-8")) for path in sorted(cells.glob("*.json"))
    ]
    failed = {"cell": results[0]["cell"], "status": "failed", "reason": f"no {SCRIPT}"}
    folder.mkdir(parents=True, exist_ok=True)
    assert write_benchmark([*results, failed], "python benchmark.py", folder) == []
    return folder / "benchmark.html"
