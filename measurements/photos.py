"""Measures detectors on photographs: `make bench-photos`.

Each part trains and evaluates the approaches of `ROWS` as a user does, by train.py and
evaluate.py, and keeps each result as soon as there is one. The time is that of the train.py
command, start included; the memory is the peak of its process.

- elpv: solar cells (`elpv.py`), trained on functional cells only.
- labelled: all solar cells, with ten defective ones among the training images, several draws.
- cloth: drawn cloth (`surfaces.py`) in two sizes.
- textures: crops of photographs of gravel, grass and bricks with drawn defects (`textures.py`).
- gravel: twelve crops of one photograph for training, tested on other crops of it, on other
  textures and on defects: how many of these score no higher than the highest good crop.
- exports: AUROC, size and time of .tflite files; one picture on one thread.
- tiles: a large picture, scored in tiles by an exported file.
- memory: training on 10,000 generated pictures of 256 x 256.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anomaly_tf.command_line import parse_options
from anomaly_tf.config import Checked
from anomaly_tf.errors import UserError
from anomaly_tf.reporting.parity import median_seconds
from anomaly_tf.runs.files import require_writable, write_json
from anomaly_tf.script import quiet_libraries, run_script
from measurements import elpv, photo_tables, textures
from measurements.folders import blurred
from measurements.measuring import (
    ENVIRONMENT,
    hardware,
    kept_results,
    package_folder,
    peak_memory,
    script,
)
from measurements.photo_tables import MISSED
from measurements.surfaces import write_surfaces

Rows = dict[str, tuple[str, ...]]
# A set, a row of its table, and what was measured.
Found = Iterator[tuple[str, str, dict[str, Any]]]


def by_name(*approaches: str) -> Rows:
    """Rows of approaches with their default options."""
    return {name: ("--approach", name) for name in approaches}


TILES = ("--tile", "256", "--overlap", "32")
# Rows of each part's table: options of train.py beside those of the data. `transform`, which takes
# minutes an epoch on images of this size, is left out.
ROWS: dict[str, Rows] = {
    "elpv": by_name("vae", "patchcore", "padim", "auto"),
    "labelled": by_name("padim", "auto"),
    "cloth": by_name("vae", "nsa", "patchcore", "padim", "auto"),
    "textures": by_name("nsa", "patchcore", "padim", "auto"),
    "gravel": by_name("vae", "nsa", "patchcore", "padim", "auto"),
    "exports": by_name("patchcore", "padim"),
    "tiles": {name: (*options, *TILES) for name, options in by_name("patchcore").items()},
    "memory": by_name("patchcore", "padim"),
}
LABELLED, DRAWS = 10, 3
# Training images, test images of each class, and their sizes.
CLOTH, CLOTH_SIZES = (300, 60), (128, 256)
CROPS = (200, 40)
EXPORT_SIZES, QUANTIZED = (128, 256), ("none", "float16")
MANY, MANY_SIZE = 10_000, 256
PACKAGES = {"elpv_dataset": "elpv-dataset", "skimage": "scikit-image"}
NEEDED = {
    "elpv_dataset": ("elpv", "labelled", "exports"),
    "skimage": ("textures", "gravel", "tiles"),
}
METRICS = (
    *("approach", "n_train", "n_validation", "n_test", "auroc", "auroc_ci95", "fpr_at_95_tpr"),
    *("average_precision", "pixel_auroc", "aupro", "auroc_by_class"),
    *("test_false_alarm_rate", "test_detection_rate"),
)


@dataclass(frozen=True)
class PhotoBenchmarkOptions(Checked):
    """Options of this benchmark.

    Attributes:
        output: JSON file for the results; results of other parts and approaches are kept.
        parts: Measurements to make.
        approaches: Rows of the tables to measure; by default all.
    """

    output: str = "results/photos.json"
    parts: tuple[
        Literal["elpv", "labelled", "cloth", "textures", "gravel", "exports", "tiles", "memory"],
        ...,
    ] = ("elpv", "labelled", "cloth", "textures", "gravel", "exports", "tiles", "memory")
    approaches: tuple[str, ...] = ()


def main(arguments: list[str]) -> None:
    """Runs the measurements, prints and saves the results."""
    options = parse_options(PhotoBenchmarkOptions, "photos.py", __doc__ or "", arguments)
    output = Path(options.output)
    require_writable(output.parent, "--output")
    results = kept_results(output)
    chosen = chosen_rows(options)
    results["packages"] = results.get("packages", {}) | required_packages(options.parts)
    results["hardware"] = hardware()
    with tempfile.TemporaryDirectory() as name:
        for part, rows in chosen.items():
            place = Path(name, part)
            place.mkdir()
            for group, row, found in PARTS[part](place, rows):
                results.setdefault(part, {}).setdefault(group, {})[row] = found
                write_json(output, results)
                print(f"{part}, {group}, {row}: {json.dumps(found)}", flush=True)
    print(photo_tables.tables(results))


def chosen_rows(options: PhotoBenchmarkOptions) -> dict[str, Rows]:
    """The rows to measure by part.

    Raises:
        UserError: If an approach is in no part that was asked for.
    """
    known = {row for part in options.parts for row in ROWS[part]}
    for name in options.approaches:
        if name not in known:
            parts = ", ".join(options.parts)
            raise UserError(
                f"{name!r} is no row of {parts}; choose from {', '.join(sorted(known))}"
            )
    return {
        part: {
            row: flags
            for row, flags in ROWS[part].items()
            if row in options.approaches or not options.approaches
        }
        for part in options.parts
    }


def required_packages(parts: tuple[str, ...]) -> dict[str, str]:
    """Versions of the packages whose photographs are measured; refuses if one is missing."""
    found = {}
    for package, users in NEEDED.items():
        if {*users} & {*parts}:
            package_folder(package)
            found[PACKAGES[package]] = version(PACKAGES[package])
    return found


def solar_cells(place: Path, rows: Rows) -> Found:
    """Functional cells of each kind, and of both."""
    for name in elpv.TRAINED:
        elpv.write_cells(place / name, elpv.choose_cells(name))
        yield from each(place / name, rows, name)


def labelled_cells(place: Path, rows: Rows) -> Found:
    """All cells, with defective ones in training that another seed draws each time."""
    for draw in range(DRAWS):
        data = place / str(draw)
        elpv.write_cells(data, elpv.choose_cells("all", LABELLED, draw))
        yield from each(data, rows, f"draw {draw}")


def cloth(place: Path, rows: Rows) -> Found:
    """The drawn cloth of docs/results.md, and the same twice as large."""
    for size in CLOTH_SIZES:
        train, test = CLOTH
        write_surfaces(place / str(size), seed=2026, train=train, test=test, size=size)
        yield from each(place / str(size), sized(rows, size), str(size))


def photographed_textures(place: Path, rows: Rows) -> Found:
    """Each photograph by itself."""
    for name in textures.TEXTURES:
        train, test = CROPS
        textures.write_textures(place / name, name, seed=2026, train=train, test=test)
        yield from each(place / name, rows, name)


def few_crops(place: Path, rows: Rows) -> Found:
    """How many images of each kind score no higher than the highest good crop."""
    data = place / "gravel"
    textures.write_gravel(data)
    for row, flags in rows.items():
        run = new_run(place)
        found = trained(run, data, flags)
        scores = {folder.name: scores_of(run, folder) for folder in (data / "test").iterdir()}
        highest = max(scores.pop("good"))
        missed = {
            kind: f"{sum(score <= highest for score in own)} of {len(own)}"
            for kind, own in sorted(scores.items())
        }
        yield "twelve crops", row, found | {MISSED: missed}


def exports(place: Path, rows: Rows) -> Found:
    """Exported detectors of monocrystalline cells in two sizes."""
    data = place / "mono"
    elpv.write_cells(data, elpv.choose_cells("mono"))
    for size in EXPORT_SIZES:
        for row, flags in sized(rows, size).items():
            run = new_run(place)
            trained(run, data, flags)
            for quantized in QUANTIZED:
                yield str(size), f"{row}, {quantized}", exported(run, quantized)[1]


def large_picture(place: Path, rows: Rows) -> Found:
    """Time and memory of predict.py on a picture of 4,000 x 3,000 with a float16 file."""
    data = place / "large"
    textures.write_large(data)
    for row, flags in rows.items():
        run = new_run(place)
        found = trained(run, data, flags)
        model, report = exported(run, "float16")
        if model is None:
            yield "4000 x 3000", row, found | report
            continue
        good, coin = (scores_of(model, data / "test" / kind)[0] for kind in ("good", "coin"))
        command = [sys.executable, "predict.py", "--model", str(model)]
        start = time.perf_counter()
        memory = peak_memory([*command, str(data / "test/coin/0.png")], allowed=(0, 1))
        facts = {"score_of_good": good, "score_with_coin": coin, "predict_peak_mb": memory}
        yield "4000 x 3000", row, found | facts | {"predict_seconds": time.perf_counter() - start}


def many_pictures(place: Path, rows: Rows) -> Found:
    """Memory and time of training on many pictures."""
    random = np.random.default_rng(0)
    data = place / "many"
    data.mkdir()
    for number in range(MANY):
        blurred(random, MANY_SIZE).save(data / f"{number:06}.jpg")
    for row, flags in sized(rows, MANY_SIZE).items():
        yield f"{MANY} images", row, fitted(new_run(place), data, flags)


PARTS: dict[str, Callable[[Path, Rows], Found]] = {
    "elpv": solar_cells,
    "labelled": labelled_cells,
    "cloth": cloth,
    "textures": photographed_textures,
    "gravel": few_crops,
    "exports": exports,
    "tiles": large_picture,
    "memory": many_pictures,
}


def each(data: Path, rows: Rows, group: str) -> Found:
    """Trains and evaluates each row on one set."""
    for row, flags in rows.items():
        yield group, row, trained(new_run(data.parent), data, flags)


def sized(rows: Rows, size: int) -> Rows:
    """Rows at a size that is not the default of train.py."""
    return {row: (*flags, "--image-size", str(size)) for row, flags in rows.items()}


def new_run(place: Path) -> Path:
    """A run directory that does not exist yet."""
    return Path(tempfile.mkdtemp(prefix="run-", dir=place)) / "run"


def fitted(run: Path, data: Path, flags: tuple[str, ...]) -> dict[str, float]:
    """Seconds and peak memory of a training, start included."""
    command = [sys.executable, "train.py", *flags, "--data", str(data)]
    command += ["--data-dir", str(run.parent / "cache"), "--run-dir", str(run)]
    start = time.perf_counter()
    memory = peak_memory(command)
    return {"seconds": time.perf_counter() - start, "peak_mb": memory}


def trained(run: Path, data: Path, flags: tuple[str, ...]) -> dict[str, Any]:
    """Test metrics of a training, with its seconds and peak memory."""
    costs = fitted(run, data, flags)
    script("evaluate.py", "--run-dir", run)
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    return {name: metrics[name] for name in METRICS if name in metrics} | costs


def scores_of(model: Path, images: Path) -> list[float]:
    """Scores of the images of a folder, by predict.py."""
    command = [sys.executable, "predict.py", "--model", str(model), "--format", "jsonl"]
    command.append(str(images))
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, env=ENVIRONMENT)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command} ended with status {done.returncode}")
    return [json.loads(line)["score"] for line in done.stdout.splitlines()]


def exported(run: Path, quantize: str) -> tuple[Path | None, dict[str, Any]]:
    """A .tflite file and its parity report; no file and the reason if export.py refuses it."""
    folder = run.parent / quantize
    command = [sys.executable, "export.py", "--run-dir", str(run), "--format", "tflite"]
    command += ["--quantize", quantize, "--output", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode == 2:
        return None, {"refused": done.stderr.splitlines()[-1].removeprefix("error: ")}
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{command} ended with status {done.returncode}: {done.stderr}")
    (model,) = folder.glob("*.tflite")
    (report,) = folder.glob("*-parity.json")
    parity = json.loads(report.read_text("utf-8"))
    return model, {
        "auroc_of_run": parity["trained"]["auroc"],
        "auroc": parity["exported"]["auroc"],
        "megabytes": model.stat().st_size / 1e6,
        "milliseconds": milliseconds(model),
    }


def milliseconds(model: Path) -> float:
    """Median time of one picture of noise on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet_libraries():
        interpreter = Interpreter(model_path=str(model), num_threads=1)
        score = interpreter.get_signature_runner("serve")
        (inputs,) = score.get_input_details().values()
        image = np.random.default_rng(0).integers(0, 256, inputs["shape"], np.uint8)
        return 1000 * median_seconds(lambda images: score(images=images), image)


if __name__ == "__main__":
    run_script(main)
