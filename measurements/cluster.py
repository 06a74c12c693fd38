"""Measures scoring and benchmarks on processes and on a Dask cluster: `make bench-cluster`.

The cluster is a scheduler and workers with one thread each, as processes on the loopback address.

- Speed: seconds of `predict.py --output` on 60,000 files with one process, two processes, one
  worker and two workers, in turn; only their ratios mean something on a machine that is not idle.
- Kills: 20,000 files on two workers, of which one is killed, then the driver, which is started
  again; the rows are compared with those of one process.
- Memory: peak of the driver of two workers for a folder of 1,000,000 files, of which one in ten is
  an image and the others are empty.
- Cells: a benchmark of four short cells on two workers, one of which is killed, compared with the
  same benchmark on this machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from anomaly_tf.command_line import parse_options
from anomaly_tf.config import Checked, number
from anomaly_tf.data.sources import load_dataset
from anomaly_tf.runs.files import require_writable
from anomaly_tf.script import run_script
from measurements.dask_processes import dask_cluster, wait_until
from measurements.measuring import ENVIRONMENT, keep_results, kept_results, peak_memory, script

FILES, BROKEN, NAMES, SHARD = 20_000, 2, 1_000_000, 500
# All training images of Fashion-MNIST, for which starting takes a small share of the time.
FILES_FOR_SPEED = 60_000
# ext4 takes no more hard links of one file.
MAX_LINKS = 60_000
CELLS = ("--approaches=autoencoder,vae", "--protocols=one_class", "--normal-classes=0,1")


@dataclass(frozen=True)
class ClusterOptions(Checked):
    """Options of this benchmark.

    Attributes:
        data_dir: Folder with Fashion-MNIST.
        output: JSON file for the results.
        rounds: How often each way is timed.
        parts: Measurements to make.
    """

    data_dir: str = "data"
    output: str = "results/cluster.json"
    rounds: int = number(3, 1)
    parts: tuple[Literal["speed", "kills", "memory", "cells"], ...] = (
        "speed",
        "kills",
        "memory",
        "cells",
    )


def main(arguments: list[str]) -> None:
    """Runs the measurements, prints and saves the results."""
    options = parse_options(ClusterOptions, "cluster.py", __doc__ or "", arguments)
    output = Path(options.output)
    require_writable(output.parent, "--output")
    results = kept_results(output)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if set(options.parts) - {"cells"}:
            model = exported(place / "run", options.data_dir)
        if {"kills", "memory"} & set(options.parts):
            write_files(place / "photos", Path(options.data_dir), FILES)
        if "speed" in options.parts:
            write_files(place / "all", Path(options.data_dir), FILES_FOR_SPEED)
            results["speed"] = speed(place, model, options.rounds)
        if "kills" in options.parts:
            results["kills"] = kills(place, model)
        if "memory" in options.parts:
            results["memory"] = memory(place, model, Path(options.data_dir))
        if "cells" in options.parts:
            results["cells_with_a_kill"] = cells(place, options.data_dir)
    keep_results(results, output)


def exported(run: Path, data_dir: str) -> Path:
    """A .tflite file of `sota` with its default networks, trained for seconds."""
    short = ("--training.epochs", 1, "--training.steps-per-epoch", 20)
    script("train.py", "--approach", "sota", "--data-dir", data_dir, "--run-dir", run, *short)
    script("export.py", "--run-dir", run, "--format", "tflite", allowed=(0, 3))
    return run / "export" / "sota.tflite"


def write_files(folder: Path, data_dir: Path, count: int) -> None:
    """Writes PNG files, two of which are broken."""
    folder.mkdir()
    images = load_dataset("fashion_mnist", data_dir).train_images[:count]
    for place, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{place:05}.png", compress_level=1)
    for place in range(BROKEN):
        (folder / f"{9_000 + place:05}.png").write_bytes(b"no picture")


def predict(model: Path, output: Path, photos: Path, *options: object) -> list[str]:
    """The command that scores a folder into another."""
    words = ("predict.py", "--model", model, "--output", output, *options, photos)
    return [*map(str, words)]


def speed(place: Path, model: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each way, in turn, and ratios of their medians."""
    seconds: dict[str, list[float]] = {}
    with dask_cluster(place / "one", 1) as one, dask_cluster(place / "two", 2) as two:
        ways = {
            "one process": ("--jobs", 1),
            "two processes": ("--jobs", 2),
            "one worker": ("--cluster", one.address),
            "two workers": ("--cluster", two.address),
        }
        for turn in range(rounds):
            for name, options in ways.items():
                output, start = place / f"{name} {turn}", time.perf_counter()
                script(*predict(model, output, place / "all", *options), allowed=(2,))
                seconds.setdefault(name, []).append(round(time.perf_counter() - start, 2))
    typical = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "files": FILES_FOR_SPEED,
        "shard_size": SHARD,
        "seconds": seconds,
        "two_workers_times_one_process": typical["one process"] / typical["two workers"],
        "two_processes_times_one": typical["one process"] / typical["two processes"],
        "overhead_of_the_engine": typical["one worker"] / typical["one process"] - 1,
    }


def rows_in(folder: Path) -> list[str]:
    """The lines of all parts, sorted."""
    parts = sorted(folder.glob("part-*.jsonl"))
    return sorted(line for part in parts for line in part.read_text("utf-8").splitlines())


def kills(place: Path, model: Path) -> dict[str, Any]:
    """Kills a worker, then the driver, and starts the driver again."""
    alone, output = place / "alone", place / "killed"
    script(*predict(model, alone, place / "photos", "--jobs", 1), allowed=(2,))
    with dask_cluster(place / "killed workers", 2) as cluster:
        command = predict(model, output, place / "photos", "--cluster", cluster.address)

        def parts() -> int:
            return len(list(output.glob("part-*.jsonl")))

        with subprocess.Popen([sys.executable, *command], env=ENVIRONMENT) as driver:
            wait_until(lambda: parts() >= FILES // SHARD // 4, driver)
            cluster.workers[0].process.kill()
            wait_until(lambda: parts() >= FILES // SHARD // 2, driver)
            driver.kill()
        before = parts()
        script(*command, allowed=(2,))
    rows = [json.loads(row) for row in rows_in(output)]
    return {
        "files": len(rows),
        "different_files": len({row["file"] for row in rows}),
        "broken": sum("error" in row for row in rows),
        "parts_at_the_kill_of_the_driver": before,
        "parts": parts(),
        "identical_to_one_process": rows_in(output) == rows_in(alone),
    }


def memory(place: Path, model: Path, data_dir: Path) -> dict[str, Any]:
    """Peak memory in MB of the driver, by number of files."""
    folder, sources = place / "million", place / "sources"
    folder.mkdir()
    sources.mkdir()
    image = load_dataset("fashion_mnist", data_dir).train_images[:1][0, ..., 0]
    for count in range(NAMES):
        source = sources / f"{count // MAX_LINKS}-{count % 10 == 0}.png"
        if not source.exists():
            if count % 10:
                source.touch()
            else:
                Image.fromarray(image).save(source)
        os.link(source, folder / f"picture-{count:07}.png")
    found = {}
    with dask_cluster(place / "memory workers", 2) as cluster:
        for files, photos in ((FILES, place / "photos"), (NAMES, folder)):
            output, options = place / f"of {files}", ("--cluster", cluster.address)
            command = [sys.executable, *predict(model, output, photos, *options)]
            found[str(files)] = peak_memory(command, (2,))
    return found


def cells(place: Path, data_dir: str) -> dict[str, Any]:
    """Test AUROC of four cells here, and on two workers of which one is killed."""
    options = [*CELLS, "--epochs-share", "0.01", "--data-dir", data_dir]
    here, away = place / "cells here", place / "cells away"
    script("benchmark.py", *options, "--output", here)
    with dask_cluster(place / "cell workers", 2) as cluster:
        command = ["benchmark.py", *options, "--output", str(away), "--cluster", cluster.address]
        with subprocess.Popen([sys.executable, *command], env=ENVIRONMENT) as driver:
            wait_until(lambda: any(away.glob("cells/*.json")), driver)
            cluster.workers[0].process.kill()
            if driver.wait() != 0:
                raise RuntimeError(f"{command} ended with status {driver.returncode}")
    found = {name: aurocs(folder) for name, folder in (("here", here), ("cluster", away))}
    return {"auroc": found, "equal": found["here"] == found["cluster"]}


def aurocs(folder: Path) -> dict[str, float]:
    """Test AUROC of each cell."""
    files = sorted((folder / "cells").glob("*.json"))
    return {file.stem: json.loads(file.read_text("utf-8"))["metrics"]["auroc"] for file in files}


if __name__ == "__main__":
    run_script(main)
