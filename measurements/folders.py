"""Measures training on folders of images: `make bench-folders`.

- Peak memory of training on 10,000 and on 100,000 colour images of 64 x 64, read from disk.
- scikit-learn's digits as PNG files: train, evaluate, export and predict, AUROC and seconds.
- Generated surfaces with defects in MVTec AD's layout: AUROC of images and of pixels, and seconds.
- Fashion-MNIST as 70,000 PNG files read from disk, compared with arrays: test AUROC of `sota`, and
  training throughput of both, alternating in one process.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from anomaly_tf.approaches.dual_gan.options import DualGanConfig
from anomaly_tf.command_line import parse_options
from anomaly_tf.config import Checked, FolderConfig
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.sources import load_dataset, open_dataset
from anomaly_tf.runs.files import require_writable
from anomaly_tf.script import import_tensorflow, run_script
from measurements.measuring import keep_results, kept_results, peak_memory, script
from measurements.surfaces import write_surfaces

STEPS, ROUNDS = 60, 5
SIDE = 64


@dataclass(frozen=True)
class FolderBenchmarkOptions(Checked):
    """Options of this benchmark.

    Attributes:
        data_dir: Folder with Fashion-MNIST.
        output: JSON file for the results.
        parts: Measurements to make.
    """

    data_dir: str = "data"
    output: str = "results/folders.json"
    parts: tuple[Literal["memory", "digits", "surfaces", "auroc", "throughput"], ...] = (
        "memory",
        "digits",
        "surfaces",
        "auroc",
        "throughput",
    )


def main(arguments: list[str]) -> None:
    """Runs the measurements, prints and saves the results."""
    options = parse_options(FolderBenchmarkOptions, "folders.py", __doc__ or "", arguments)
    output = Path(options.output)
    require_writable(output.parent, "--output")
    results = kept_results(output)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if "memory" in options.parts:
            results["peak_memory_mb"] = dict(peak_memories(place))
        if "digits" in options.parts:
            results["digits"] = dict(digits(place))
        if "surfaces" in options.parts:
            results["surfaces"] = surfaces(place)
        if {"auroc", "throughput"} & set(options.parts):
            write_fashion_mnist(place / "photos", Path(options.data_dir))
        if "auroc" in options.parts:
            results["fashion_mnist_auroc"] = {
                "arrays": trained(place / "arrays", "sota", ["--data-dir", options.data_dir]),
                "files": trained(place / "files", "sota", files_options(place)),
            }
        if "throughput" in options.parts:
            results["images_per_second"] = throughput(place, Path(options.data_dir))
    keep_results(results, output)


def digits(place: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Test AUROC and total seconds by approach; digit 0 is normal."""
    images, classes = load_digits(return_X_y=True)
    for number, (image, digit) in enumerate(zip(images, classes, strict=True)):
        folder = place / "digits" / ("anomaly" if digit else "normal")
        folder.mkdir(parents=True, exist_ok=True)
        grey = np.round(image.reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{number:04}.png")
    data = ["--data", str(place / "digits"), "--data-dir", str(place / "cache")]
    for approach in ("sota", "autoencoder"):
        run, start = place / f"digits-{approach}", time.perf_counter()
        found = trained(run, approach, data)
        script("export.py", "--run-dir", run, "--format", "tflite", "--quantize", "int8")
        model = run / "export" / f"{approach}-int8.tflite"
        script("predict.py", "--model", model, place / "digits", allowed=(0, 1))
        yield approach, {**found, "seconds": time.perf_counter() - start}


def surfaces(place: Path) -> dict[str, float]:
    """AUROC of images and pixels of the best one-class approach for surfaces, and seconds."""
    write_surfaces(place / "surfaces", seed=2026, train=300, test=60)
    data = ["--data", str(place / "surfaces"), "--data-dir", str(place / "cache")]
    start = time.perf_counter()
    found = trained(place / "surfaces-run", "vae", data)
    return {**found, "seconds": time.perf_counter() - start}


def write_fashion_mnist(folder: Path, data_dir: Path) -> None:
    """Writes 70,000 PNG files, train/<class>/ and test/<class>/."""
    dataset = load_dataset("fashion_mnist", data_dir)
    names = [name.replace("/", " or ") for name in dataset.class_names]
    for part in ("train", "test"):
        for name in names:
            (folder / part / name).mkdir(parents=True)
        images, classes = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_classes")
        for number, image in enumerate(images[:]):
            file = folder / part / names[classes[number]] / f"{number:05}.png"
            Image.fromarray(image[..., 0]).save(file, compress_level=1)


def files_options(place: Path) -> list[str]:
    """Options of train.py for reading these files from disk."""
    return [
        *("--data", str(place / "photos"), "--data-dir", str(place / "cache")),
        *("--normal-class", "T-shirt or top", "--folder.storage", "disk"),
    ]


def trained(run: Path, approach: str, options: list[str]) -> dict[str, float]:
    """Test metrics of a complete training: AUROC, and with masks the pixel metrics."""
    script("train.py", "--approach", approach, "--run-dir", run, *options)
    script("evaluate.py", "--run-dir", run)
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    wanted = ("auroc", "auroc_by_class", "pixel_auroc", "aupro", "test_false_alarm_rate")
    return {name: metrics[name] for name in (*wanted, "train_seconds") if name in metrics}


def peak_memories(place: Path) -> Iterator[tuple[str, float]]:
    """Peak memory in MB of short trainings, by approach and number of images."""
    random = np.random.default_rng(0)
    folder = place / "many"
    written = 0
    for count in (10_000, 100_000):
        for label in ("normal", "anomaly"):
            (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(written, count):
            label = "anomaly" if number % 4 == 0 else "normal"
            blurred(random, SIDE).save(folder / label / f"{number:06}.jpg")
        written = count
        for approach in ("autoencoder", "sota"):
            command = ["train.py", "--approach", approach, "--data", str(folder)]
            command += ["--data-dir", str(place / "cache"), "--folder.storage", "disk"]
            command += ["--run-dir", str(place / f"{approach}{count}")]
            command += ["--training.epochs", "2", "--training.steps-per-epoch", "20"]
            yield f"{approach}, {count} images", peak_memory([sys.executable, *command])


def blurred(random: np.random.Generator, side: int) -> Image.Image:
    """A colour image of 4 x 4 random pixels, enlarged."""
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def throughput(place: Path, data_dir: Path) -> dict[str, float]:
    """Training images per second from memory, from the cache and from files, alternating."""
    import_tensorflow()
    from anomaly_tf.training.setup import TrainingSetup

    photos, cache = str(place / "photos"), str(place / "cache")
    configs = {"memory": DualGanConfig(data_dir=str(data_dir))}
    for name, cached in (("cache", True), ("files", False)):
        folder = FolderConfig(storage="disk", cache=cached)
        normal = ("T-shirt or top",)
        configs[name] = DualGanConfig(
            data=photos, data_dir=cache, normal_class=normal, folder=folder
        )
    batches = {}
    for name, config in configs.items():
        dataset = open_dataset(config)
        setup = TrainingSetup.of(config, dataset, make_split(config, dataset))
        batches[name] = setup.batches()
    model = setup.build()
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(ROUNDS + 1):
        for name, source in batches.items():
            start = time.perf_counter()
            model.fit(source, epochs=1, steps_per_epoch=STEPS, verbose=0, shuffle=False)
            seconds[name].append(time.perf_counter() - start)
    images = STEPS * (setup.config.training.batch_size or 0)
    # The first round compiles.
    speeds = {name: images / float(np.median(times[1:])) for name, times in seconds.items()}
    ratios = {
        f"{name} / memory": float(np.median(np.array(seconds["memory"]) / seconds[name]))
        for name in ("cache", "files")
    }
    return speeds | ratios


if __name__ == "__main__":
    run_script(main)
