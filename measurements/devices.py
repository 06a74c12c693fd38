"""Training on two devices compared with one: `make bench-devices`.

For each approach on Fashion-MNIST, normal class 0: the validation AUROC after a short training on
one device, and on two that share the same batches. Two logical CPU devices take the place of two
GPUs; they compute on the same processor, so that the speed is not measured. Prints a table.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_tf.command_line import parse_options, parse_train_options
from anomaly_tf.config import Checked, number
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.sources import load_dataset
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.script import import_tensorflow, run_script
from measurements.measuring import hardware
from measurements.training import require_with_steps


@dataclass(frozen=True)
class DeviceBenchmarkOptions(Checked):
    """Options of this benchmark.

    Attributes:
        approaches: Approaches to measure, of those that learn by gradient steps.
        seeds: Seeds of the trainings.
        epochs: Number of epochs of each training.
        steps_per_epoch: Number of batches per epoch.
        data_dir: Folder with Fashion-MNIST.
    """

    approaches: tuple[str, ...] = ("sota", "vae", "supervised")
    seeds: tuple[int, ...] = (0,)
    epochs: int = number(4, 1)
    steps_per_epoch: int = number(100, 1)
    data_dir: str = "data"


def main(arguments: list[str]) -> None:
    """Trains and prints the results."""
    options = parse_options(DeviceBenchmarkOptions, "devices.py", __doc__ or "", arguments)
    require_with_steps(options.approaches)
    dataset = load_dataset("fashion_mnist", Path(options.data_dir))
    import_tensorflow()
    divide_cpu()
    print(hardware(), flush=True)
    print("| approach | seed | one device | two devices | difference |")
    print("| --- | --- | --- | --- | --- |")
    for approach in options.approaches:
        for seed in options.seeds:
            one, two = (auroc(approach, seed, n, options, dataset) for n in (1, 2))
            row = f"`{approach}` | {seed} | {one:.4f} | {two:.4f} | {two - one:+.4f}"
            print(f"| {row} |", flush=True)


def divide_cpu() -> None:
    """Divides the CPU into two logical devices, before TensorFlow uses it."""
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def auroc(
    approach: str,
    seed: int,
    devices: int,
    options: DeviceBenchmarkOptions,
    dataset: ImageDataset,
) -> float:
    """Validation AUROC after the last epoch of a training on one or two logical devices."""
    from anomaly_tf.training import loop
    from anomaly_tf.training.console import Console
    from anomaly_tf.training.device import Device

    names = tuple(f"/CPU:{n}" for n in range(devices))
    device = Device(names, jit_compile=False, reason="for a comparison")
    with tempfile.TemporaryDirectory() as folder:
        given: list[Any] = [
            *("--approach", approach, "--seed", seed, "--data-dir", options.data_dir),
            *("--training.epochs", options.epochs),
            *("--training.steps-per-epoch", options.steps_per_epoch),
        ]
        config = parse_train_options([*map(str, given)]).config
        run = RunDirectory(Path(folder, "run"))
        split = make_split(config, dataset)
        loop.train(config, dataset, split, run, "", console=Console(0), device=device)
        rows = run.history.read_text().splitlines()
    return float(dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))["val_auroc"])


if __name__ == "__main__":
    run_script(main)
