"""Measures the guarantees of docs/explanation/reliability.md: `make bench-reliability`.

- Kills: `kill -9` at random moments of one training, twenty times, compared with the same training
  without kills: weights and test AUROC, with `--deterministic` and without.
- Repeat: two deterministic trainings and evaluations, and the cost of `--deterministic`.
- Memory of a training of 200 short epochs, and the size of its TensorBoard logs.
- Thresholds and drift: false-alarm rates over random splits (`measurements/conformal.py`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from anomaly_tf.command_line import parse_options
from anomaly_tf.config import Checked
from anomaly_tf.data.sources import load_dataset
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.runs.files import require_writable
from anomaly_tf.script import import_tensorflow, run_script
from measurements.measuring import ENVIRONMENT, keep_results, kept_results, script

KILLS = 20
EPOCHS = 200
# Facts in which equal trainings may differ.
INDIVIDUAL = ("command", "reproduce", "train_seconds", "images_per_second")


@dataclass(frozen=True)
class ReliabilityOptions(Checked):
    """Options of this benchmark.

    Attributes:
        data_dir: Folder with Fashion-MNIST.
        output: JSON file for the results.
        seed: Seed of the moments at which training is killed.
        parts: Measurements to make.
    """

    data_dir: str = "data"
    output: str = "results/reliability.json"
    seed: int = 0
    parts: tuple[Literal["kills", "repeat", "memory", "thresholds"], ...] = (
        "kills",
        "repeat",
        "memory",
        "thresholds",
    )


def main(arguments: list[str]) -> None:
    """Runs the measurements, prints and saves the results."""
    options = parse_options(ReliabilityOptions, "reliability.py", __doc__ or "", arguments)
    output = Path(options.output)
    require_writable(output.parent, "--output")
    results = kept_results(output)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        data = ["--data", str(small_set(place, Path(options.data_dir)))]
        data += ["--data-dir", options.data_dir]
        if "kills" in options.parts:
            moments = np.random.default_rng(options.seed)
            results["kills"] = {
                mode: killed(place / mode, [*data, *flags], moments)
                for mode, flags in (("deterministic", ["--deterministic"]), ("default", []))
            }
        if "repeat" in options.parts:
            results["repeat"] = repeated(place, data)
            results["cost_of_determinism"] = cost_of_determinism(place, options.data_dir)
        if "memory" in options.parts:
            results["long_training"] = long_training(place / "long", data)
        if "thresholds" in options.parts:
            results["thresholds"] = thresholds(place / "thresholds", options.data_dir)
    keep_results(results, output)


def small_set(place: Path, data_dir: Path) -> Path:
    """Writes 6,000 training and 1,500 test images of Fashion-MNIST, so that epochs are short."""
    dataset, chosen = load_dataset("fashion_mnist", data_dir), np.random.default_rng(0)
    train, test = (
        chosen.choice(60000, 6000, replace=False),
        chosen.choice(10000, 1500, replace=False),
    )
    np.savez(
        place / "small.npz",
        train_images=dataset.train_images[train],
        train_labels=dataset.train_classes[train],
        test_images=dataset.test_images[test],
        test_labels=dataset.test_classes[test],
    )
    return place / "small.npz"


def killed(place: Path, options: list[str], moments: np.random.Generator) -> dict[str, Any]:
    """Evaluates a training without kills and the same training killed `KILLS` times."""
    options = [*options, "--training.epochs", "150", "--training.steps-per-epoch", "10"]
    options += ["--training.batch-size", "64"]
    undisturbed, run = place / "undisturbed", place / "killed"
    script("train.py", *options, "--run-dir", undisturbed)
    epochs_at_death: list[int] = []
    arguments = [*options, "--run-dir", str(run)]
    while len(epochs_at_death) < KILLS:
        # Four of five kills are after the first epoch of the process, which compiles the step.
        first = len(epochs_at_death) % 5 == 0
        moment = moments.uniform(0, 5 if first else 2)
        status = kill_after(moment, ["train.py", *arguments], 1 if first else 2)
        if status != -9:
            raise RuntimeError(f"training ended with status {status} before {KILLS} kills")
        epochs_at_death.append(finished_epochs(run))
        arguments = ["--resume", str(run)]
    script("train.py", *arguments)
    found = [result(path) for path in (undisturbed, run)]
    return {
        "kills": len(epochs_at_death),
        "finished_epochs_at_kills": epochs_at_death,
        "auroc_left_alone": found[0]["metrics"]["auroc"],
        "auroc_killed": found[1]["metrics"]["auroc"],
        "identical": same(*found),
    }


def started(command: list[str]) -> subprocess.Popen:
    """Starts a training whose output can be read line by line."""
    command = [sys.executable, "-u", *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)


def kill_after(seconds: float, command: list[str], epochs: int) -> int:
    """Kills a training some seconds after an epoch began; returns its exit status."""
    with started(command) as process:
        for line in [b"device:", *[rb"epoch"] * (epochs - 1)]:
            wait_for(process.stdout, line)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    return process.returncode


def wait_for(lines: IO[bytes] | None, pattern: bytes) -> None:
    """Reads lines until one matches the pattern at its beginning."""
    for line in lines or ():
        if re.match(pattern, line):
            return
    raise RuntimeError(f"training ended before {pattern!r}")


def finished_epochs(path: Path) -> int:
    """Number of finished epochs of a killed training, whose files must be readable."""
    run = RunDirectory(path)
    if run.detector.is_file():
        _, info = open_run(path)
        if run.model_with(info.model_sha256 or "") is None:
            raise RuntimeError(f"{path} holds no model with its digest")
    if not run.checkpoint.is_file():
        return 0
    with np.load(run.checkpoint, allow_pickle=False) as arrays:
        return json.loads(arrays["progress"].tobytes())["epochs"]


def result(run: Path) -> dict[str, Any]:
    """Result of a run: weights, and facts without those that differ between equal runs."""
    script("evaluate.py", "--run-dir", run)
    info = json.loads((run / "detector.json").read_text("utf-8"))
    info.pop("model_sha256")
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    for name in INDIVIDUAL:
        info["training"].pop(name)
        metrics.pop(name, None)
    import_tensorflow()
    import keras

    weights = keras.models.load_model(run / "model.keras", compile=False).get_weights()
    return {"info": info, "metrics": metrics, "weights": weights}


def same(one: dict[str, Any], other: dict[str, Any]) -> dict[str, bool]:
    """The parts of two runs that are bit-identical."""
    return {
        "weights": all(map(np.array_equal, one["weights"], other["weights"])),
        "calibration_scores": one["info"]["calibration"] == other["info"]["calibration"],
        "metrics": one["metrics"] == other["metrics"],
    }


def repeated(place: Path, data: list[str]) -> dict[str, bool]:
    """Compares a deterministic training with its reproduction by the recorded command."""
    first, again = place / "first", place / "again"
    script("train.py", *data, "--deterministic", "--training.epochs", "3", "--run-dir", first)
    info = json.loads((first / "detector.json").read_text("utf-8"))
    script(*info["training"]["reproduce"].split()[1:], "--run-dir", again)
    return same(result(first), result(again))


def cost_of_determinism(place: Path, data_dir: str, rounds: int = 3) -> dict[str, Any]:
    """Seconds of an epoch of 150 default batches with and without the flag, alternating."""
    seconds: dict[str, list[float]] = {"deterministic": [], "default": []}
    for number in range(rounds):
        for mode, flags in (("deterministic", ["--deterministic"]), ("default", [])):
            command = ["train.py", "--data-dir", data_dir, *flags]
            command += ["--training.epochs", "3", "--training.steps-per-epoch", "150"]
            command += ["--run-dir", str(place / f"{mode}-{number}")]
            with started(command) as process:
                wait_for(process.stdout, rb"epoch 1/")
                start = time.perf_counter()
                wait_for(process.stdout, rb"epoch 2/")
                seconds[mode].append(time.perf_counter() - start)
                process.kill()
    ratios = [one / other for one, other in zip(*seconds.values(), strict=True)]
    return {"seconds_of_an_epoch": seconds, "ratio": float(np.median(ratios))}


def long_training(run: Path, data: list[str]) -> dict[str, float]:
    """Memory of a training process after 20 to 200 epochs, and size of its logs, in MB."""
    command = ["train.py", *data, "--run-dir", str(run)]
    command += ["--training.epochs", str(EPOCHS), "--training.steps-per-epoch", "2"]
    command += ["--training.batch-size", "32"]
    with started(command) as process:
        memory = {}
        for epoch in (20, EPOCHS // 2, EPOCHS):
            wait_for(process.stdout, b" *".join((b"epoch", b"%d/" % (epoch - 1))))
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            memory[f"memory_at_epoch_{epoch}"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        process.communicate()
    logs = sum(file.stat().st_size for file in (run / "tensorboard").rglob("*") if file.is_file())
    return {**memory, "tensorboard_logs": logs / 1e6}


def thresholds(run: Path, data_dir: str) -> dict[str, Any]:
    """`measurements/conformal.py` on simulated scores and on those of a short `sota` training."""
    script("train.py", "--data-dir", data_dir, "--training.epochs", 4, "--run-dir", run)
    command = [sys.executable, "-m", "measurements.conformal", "--run-dir", str(run)]
    command += ["--splits", "5000"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=ENVIRONMENT)
    return json.loads(done.stdout)


if __name__ == "__main__":
    run_script(main)
