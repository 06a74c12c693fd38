"""Speed and memory of training: `make bench`; with `PEER=1` compared with PyTorch.

For each approach with its default configuration on Fashion-MNIST, in one run on one machine:

- a training step: floating-point operations by TensorFlow's profiler, operations per second, and
  their share of the speed of a matrix product of 2048 x 2048, measured alternately;
- the time of a step: shares of the kinds of operations by TensorFlow's profiler.

For `sota`:

- the overhead of Keras and the input pipeline: `fit` on tf.data compared with a bare loop that
  calls the same compiled step on batches in memory, alternately, ratio of each pair of rounds;
- seconds of training, first compilation included, until the AUROC on the test images reaches
  0.9727, which the earlier work's network reached; tested every 640 images (not counted). It
  measures speed only and is not used for any choice. With `--peer` also for that network in PyTorch
  (`peer.py`);
- peak memory of a `train.py` process (two short epochs with validation, images and saving).

ONEDNN_MAX_CPU_ISA=AVX2 shows the speed of a processor without AVX-512.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.command_line import parse_options, parse_train_options
from anomaly_tf.config import Checked, Config, OnePassConfig
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.sources import load_dataset
from anomaly_tf.data.split import Split
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.files import require_writable, write_json
from anomaly_tf.script import import_tensorflow, run_script
from measurements.measuring import hardware, kept_results, peak_memory

STEPS, ROUNDS = 12, 8
FIT_STEPS, WARM_UP = 65, 5
PRODUCT = 2048
TARGET, SCORED_EVERY = 0.9727, 5  # steps of 128 images
# The profiler names an operation by its name in the graph and its type.
OPERATION = re.compile(r"[^:\s]+:(\w+)$")
# Kinds of operations by parts of their types; the first match counts.
KINDS = {
    "convolutions, products": ("Conv2D", "MatMul"),
    "normalisation": ("BatchNorm",),
    "updates": ("ResourceApply", "Assign"),
}


WITH_STEPS = tuple(name for name in APPROACHES if not issubclass(options_of(name), OnePassConfig))


@dataclass(frozen=True)
class TrainingBenchmarkOptions(Checked):
    """Options of this benchmark.

    Attributes:
        approaches: Approaches to measure, of those that learn by gradient steps.
        data_dir: Folder with Fashion-MNIST.
        output: JSON file for the results; results of other parts and other kernels are kept.
        peer: Python of an environment with requirements-peer.txt, for the comparison.
        parts: Measurements to make; the target includes the peer, if there is one.
    """

    approaches: tuple[str, ...] = WITH_STEPS
    data_dir: str = "data"
    output: str = "results/training.json"
    peer: str | None = None
    parts: tuple[Literal["memory", "steps", "fit", "target"], ...] = (
        "memory",
        "steps",
        "fit",
        "target",
    )


@dataclass(frozen=True)
class Training:
    """An approach ready for training: its model, its batches, and its compiled step."""

    config: Config
    split: Split
    model: Any
    batches: Any
    in_memory: list[Any]
    step: Callable[[Any], dict[str, Any]]

    def run(self, steps: int) -> float:
        """Seconds of `steps` training steps on batches in memory."""
        start = time.perf_counter()
        for batch in self.in_memory[:steps]:
            losses = self.step(batch)
        float(next(iter(losses.values())))  # waits for the device
        return time.perf_counter() - start


def require_with_steps(approaches: tuple[str, ...]) -> None:
    """Refuses approaches that do not exist or do not learn by gradient steps.

    Raises:
        UserError: Naming them.
    """
    if unknown := set(approaches) - set(WITH_STEPS):
        raise UserError(
            f"--approaches: unknown {', '.join(sorted(unknown))}; choose from "
            f"{', '.join(WITH_STEPS)}"
        )


def main(arguments: list[str]) -> None:
    """Runs the measurements, prints and saves the results."""
    options = parse_options(TrainingBenchmarkOptions, "training.py", __doc__ or "", arguments)
    require_with_steps(options.approaches)
    output = Path(options.output)
    require_writable(output.parent, "--output")
    kept = kept_results(output)
    dataset = load_dataset("fashion_mnist", Path(options.data_dir))
    results: dict[str, Any] = {}
    if "memory" in options.parts:
        results["peak_memory_gb"] = peak_memory_of_training(options.data_dir)
    if "target" in options.parts and options.peer:
        results["peer"] = peer(options.peer, options.data_dir)
    import_tensorflow()
    results["hardware"] = hardware()
    print(results["hardware"], flush=True)

    if "steps" in options.parts:
        results["steps"] = {}
        for name in options.approaches:
            results["steps"][name] = step_speed(prepared(name, dataset, STEPS))
            print(f"{name}: {json.dumps(results['steps'][name])}", flush=True)
    if "fit" in options.parts:
        results["fit"] = fit_against_bare_loop(prepared("sota", dataset, FIT_STEPS))
    if "target" in options.parts:
        results["target"] = seconds_to_target(prepared("sota", dataset, 1))
    kernels = results["hardware"].rsplit(", ", 1)[-1]
    before = kept.get(kernels, {})
    if "target" in options.parts:
        before.pop("peer", None)  # compared with the target of another run
    results = before | results
    write_json(output, kept | {kernels: results})
    print(table(results))
    print(summary(results))


def prepared(name: str, dataset: ImageDataset, steps: int) -> Training:
    """An approach with its default configuration, compiled, and `steps` batches in memory."""
    import tensorflow as tf

    from anomaly_tf.training.setup import TrainingSetup

    config = parse_train_options(["--approach", name]).config
    split = make_split(config, dataset)
    setup = TrainingSetup.of(config, dataset, split)
    model, batches = setup.build(), setup.batches()
    in_memory = list(batches.take(steps))
    step = tf.function(model.train_step, jit_compile=setup.device.jit_compile)
    return Training(setup.config, split, model, batches, in_memory, step)


def step_speed(training: Training) -> dict[str, Any]:
    """Operations, speed and share of the matrix product's speed of a training step."""
    import tensorflow as tf

    matrix = tf.random.normal((PRODUCT, PRODUCT))
    product = tf.function(tf.matmul)

    def product_speed() -> float:
        start = time.perf_counter()
        float(product(matrix, matrix)[0, 0])
        return 2e-9 * PRODUCT**3 / (time.perf_counter() - start)

    training.run(2), product_speed()  # compile
    operations = floating_point_operations(training)
    rounds = []
    for _ in range(ROUNDS):
        peak = float(np.median([product_speed() for _ in range(3)]))
        rounds.append((training.run(STEPS) / STEPS, peak))
    seconds, peak = np.median(rounds, axis=0)
    shares = [operations / second / speed for second, speed in rounds]
    return {
        "gflop": round(operations, 2),
        "milliseconds": round(1e3 * seconds, 2),
        "gflop_per_second": round(operations / seconds),
        "product_gflop_per_second": round(peak),
        "share": round(float(np.median(shares)), 3),
        "images_per_second": round((training.config.training.batch_size or 0) / seconds),
        "time": time_by_kind(training),
    }


def floating_point_operations(training: Training) -> float:
    """10^9 floating-point operations in a training step, as TensorFlow counts them."""
    from tensorflow.compat.v1 import profiler

    graph = training.step.get_concrete_function(training.in_memory[0]).graph  # type: ignore[attr-defined]
    builder = profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    return profiler.profile(graph, options=options).total_float_ops / 1e9


def time_by_kind(training: Training) -> dict[str, float]:
    """Share of each kind of operation in the time of all operations, summed over threads."""
    import tensorflow as tf

    # TensorFlow has no public reader for the files of its profiler.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        training.run(STEPS)
        tf.profiler.experimental.stop()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    spent: Counter[str] = Counter()
    for plane in space.planes:
        names = {number: event.name for number, event in plane.event_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            if operation := OPERATION.match(names[event.metadata_id]):
                fitting = (
                    kind
                    for kind, parts in KINDS.items()
                    if any(part in operation[1] for part in parts)
                )
                spent[next(fitting, "other")] += event.duration_ps
    return {kind: round(part / spent.total(), 3) for kind, part in spent.most_common()}


def fit_against_bare_loop(training: Training) -> dict[str, float]:
    """Images per second of `fit`, and its time relative to a bare loop."""
    import keras

    from anomaly_tf.training.callbacks import StopOnNonFiniteLoss

    class Clock(keras.callbacks.Callback):
        """Time from the end of the warm-up to the end of the last batch."""

        seconds = 0.0

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if batch == WARM_UP - 1:
                self.start = time.perf_counter()
            self.seconds = time.perf_counter() - getattr(self, "start", time.perf_counter())

    def bare_loop() -> float:
        training.run(WARM_UP)
        return training.run(FIT_STEPS - WARM_UP)

    def fit() -> float:
        clock = Clock()
        training.model.fit(
            training.batches,
            epochs=1,
            steps_per_epoch=FIT_STEPS,
            callbacks=[StopOnNonFiniteLoss(), clock],
            verbose=0,
            shuffle=False,
        )
        return clock.seconds

    bare_loop(), fit()  # compile
    ratios, speeds = [], []
    for number in range(ROUNDS):
        # The order alternates, so that a drift of the machine's speed cancels out.
        seconds = {run: run() for run in ((bare_loop, fit) if number % 2 else (fit, bare_loop))}
        ratios.append(seconds[fit] / seconds[bare_loop])
        size = training.config.training.batch_size or 0
        speeds.append((FIT_STEPS - WARM_UP) * size / seconds[fit])
    return {
        "images_per_second": round(float(np.median(speeds))),
        "over_bare_loop": round(float(np.median(ratios)), 3),
        "over_bare_loop_least": round(min(ratios), 3),
        "over_bare_loop_most": round(max(ratios), 3),
    }


def seconds_to_target(training: Training) -> dict[str, Any]:
    """Seconds of a default training until the AUROC on the test images reaches the target."""
    import keras
    from sklearn.metrics import roc_auc_score

    from anomaly_tf.detection.scoring import Scorer

    test = training.split.test

    class StopAtTarget(keras.callbacks.Callback):
        """Scores at intervals, sums the time between, and stops at the target."""

        seconds, auroc = 0.0, 0.0

        def on_train_begin(self, logs: dict | None = None) -> None:
            self.score = Scorer(self.model.detector)
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if (batch + 1) % SCORED_EVERY:
                return
            self.seconds += time.perf_counter() - self.start
            scores = self.score(test.images)["score"]
            self.auroc = float(roc_auc_score(test.labels, scores))
            self.model.stop_training = self.auroc >= TARGET
            self.start = time.perf_counter()

    stop = StopAtTarget()
    training.model.fit(training.batches, epochs=1, callbacks=[stop], verbose=0, shuffle=False)
    reached = stop.auroc >= TARGET
    return {"reached": reached, "auroc": round(stop.auroc, 4), "seconds": round(stop.seconds, 1)}


def peer(python: str, data_dir: str) -> dict[str, Any]:
    """Results of `peer.py` in an environment with PyTorch."""
    command = [python, str(Path(__file__).with_name("peer.py")), f"{data_dir}/fashion_mnist.npz"]
    command += [str(TARGET), "--threads", str(available_threads())]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"--peer {python}: {error.strerror}; run 'make bench PEER=1'") from error
    if done.returncode:
        raise UserError(f"--peer {python}: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout))


def peak_memory_of_training(data_dir: str) -> float:
    """Peak resident memory of a short training of `sota` with clustering, in 10^9 bytes."""
    with tempfile.TemporaryDirectory() as name:
        for file in Path(data_dir).glob("*.npz"):
            shutil.copy(file, name)
        command = [sys.executable, "train.py", "--approach", "sota", "--data-dir", name]
        command += ["--run-dir", f"{name}/run"]
        command += ["--training.epochs", "2", "--training.steps-per-epoch", "20"]
        return round(peak_memory(command) / 1000, 2)


def table(results: dict[str, Any]) -> str:
    """A Markdown table with a row for each approach."""
    kinds = [*KINDS, "other"]
    head = ["approach", "GFLOP a step", "ms", "GFLOP/s", "of the product's", *kinds]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name, row in results.get("steps", {}).items():
        times = [f"{row['time'].get(kind, 0.0):.0%}" for kind in kinds]
        lines.append(
            f"| `{name}` | {row['gflop']:.1f} | {row['milliseconds']:.1f} | "
            f"{row['gflop_per_second']} | {row['share']:.0%} | {' | '.join(times)} |"
        )
    return "\n".join(lines)


def summary(results: dict[str, Any]) -> str:
    """The results of `sota` and of the peer, in lines."""
    lines = []
    if fit := results.get("fit"):
        lines.append(
            f"sota, fit: {fit['images_per_second']} images/s, {fit['over_bare_loop']:.3f} of a "
            f"bare loop's time ({fit['over_bare_loop_least']:.3f} to "
            f"{fit['over_bare_loop_most']:.3f})"
        )
    if memory := results.get("peak_memory_gb"):
        lines.append(f"sota, peak memory of train.py: {memory:.2f} GB")
    if target := results.get("target"):
        lines.append(_reached("sota", target))
    if target and (peer := results.get("peer")):
        lines += [
            f"peer: {peer['images_per_second']:.0f} images/s",
            _reached("peer", peer),
            f"ratio: {target['seconds'] / peer['seconds']:.4f}, 1 / "
            f"{peer['seconds'] / target['seconds']:.1f}",
        ]
    return "\n".join(lines)


def _reached(name: str, found: dict[str, Any]) -> str:
    reached = "reached" if found["reached"] else "not reached"
    return (
        f"{name}, test AUROC {TARGET} {reached}: {found['auroc']:.4f} after "
        f"{found['seconds']:.1f} s of training"
    )


if __name__ == "__main__":
    run_script(main)
