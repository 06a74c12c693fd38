"""Speed and memory of training: `make bench`.

In one run on one machine, with the default configuration of `sota`:

- the cost of Keras and the input pipeline: `fit` on tf.data against a bare loop that calls the
  same compiled step on batches already in memory, in turn, ratio of each pair of rounds;
- images per second of `fit`;
- seconds of training until the validation AUROC reaches 0.97, scored every 20 steps (the time
  of scoring is not counted);
- peak memory of a `train.py` process (two short epochs with validation, pictures and saving).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from anomaly_tf.command_line import parse_train_options
from anomaly_tf.data.sources import load_dataset
from anomaly_tf.script import import_tensorflow, run_script
from benchmarks.measuring import peak_memory

ROUNDS = 8
STEPS = 65
WARM_UP = 5
TARGET = 0.97


def main(arguments: list[str]) -> None:
    """Measures and prints; takes the options of `train.py`."""
    config = parse_train_options(arguments).config
    memory = peak_memory_of_training(arguments, config.data_dir)
    dataset = load_dataset(config.data, Path(config.data_dir))
    import_tensorflow()
    import keras
    import tensorflow as tf
    from sklearn.metrics import roc_auc_score

    from anomaly_tf.data.protocols import make_split
    from anomaly_tf.detection.scoring import Scorer
    from anomaly_tf.training.callbacks import StopOnNonFiniteLoss
    from anomaly_tf.training.device import select_device
    from anomaly_tf.training.fit import build, resolve, training_batches

    class Clock(keras.callbacks.Callback):
        """Time from the end of the warm-up to the end of the last batch."""

        seconds = 0.0

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if batch == WARM_UP - 1:
                self.start = time.perf_counter()
            self.seconds = time.perf_counter() - getattr(self, "start", time.perf_counter())

    class StopAtTarget(keras.callbacks.Callback):
        """Scores every 20 steps, counts the time between, and stops at the target."""

        seconds = 0.0
        auroc = 0.0

        def on_train_begin(self, logs: dict | None = None) -> None:
            self.score = Scorer(self.model.detector)
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if (batch + 1) % 20:
                return
            self.seconds += time.perf_counter() - self.start
            scores = self.score(split.validation.images)["score"]
            self.auroc = roc_auc_score(split.validation.labels, scores)
            self.model.stop_training = self.auroc >= TARGET
            self.start = time.perf_counter()

    device = select_device(config.training.jit_compile)
    print(f"device: {device.name} ({device.reason})")
    split = make_split(config, dataset)
    config = resolve(config, split)
    batches = training_batches(config, split, device)

    model = build(config, dataset, split, device)
    step = tf.function(model.train_step, jit_compile=device.jit_compile)
    in_memory = list(batches.take(STEPS))

    def bare_loop() -> float:
        for batch in in_memory[:WARM_UP]:
            step(batch)
        start = time.perf_counter()
        for batch in in_memory[WARM_UP:]:
            losses = step(batch)
        float(next(iter(losses.values())))  # waits for the device
        return time.perf_counter() - start

    def fit() -> float:
        clock = Clock()
        callbacks = [StopOnNonFiniteLoss(), clock]
        model.fit(
            batches, epochs=1, steps_per_epoch=STEPS, callbacks=callbacks, verbose=0, shuffle=False
        )
        return clock.seconds

    bare_loop(), fit()  # compile
    ratios, speeds = [], []
    for number in range(1, ROUNDS + 1):
        # In turn one and the other first, so that a drift of the machine's speed cancels out.
        seconds = {run: run() for run in ((bare_loop, fit) if number % 2 else (fit, bare_loop))}
        ratios.append(seconds[fit] / seconds[bare_loop])
        speeds.append((STEPS - WARM_UP) * (config.training.batch_size or 0) / seconds[fit])
        print(
            f"round {number}: fit {speeds[-1]:.0f} images/s, time of fit / time of bare loop "
            f"{ratios[-1]:.3f}",
            flush=True,
        )
    print(
        f"fit / bare loop: median {np.median(ratios):.3f} "
        f"(min {min(ratios):.3f}, max {max(ratios):.3f}) of {ROUNDS} rounds of "
        f"{STEPS - WARM_UP} steps"
    )
    print(
        f"images/s: median {np.median(speeds):.0f} (min {min(speeds):.0f}, max {max(speeds):.0f})"
    )

    stop = StopAtTarget()
    untrained = build(config, dataset, split, device)
    untrained.fit(batches, epochs=1, callbacks=[stop], verbose=0, shuffle=False)
    reached = "reached" if stop.auroc >= TARGET else "not reached"
    print(
        f"validation AUROC {TARGET} {reached}: {stop.auroc:.4f} after {stop.seconds:.1f} s "
        "of training"
    )
    print(f"peak memory of train.py: {memory:.2f} GB")


def peak_memory_of_training(arguments: list[str], data_dir: str) -> float:
    """Largest resident size of a short training, clustering included, in 10^9 bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in Path(data_dir).glob("*.npz"):
            shutil.copy(file, folder)
        command = [sys.executable, "train.py", *arguments, "--data-dir", name]
        command += ["--run-dir", f"{name}/run"]
        command += ["--training.epochs", "2", "--training.steps-per-epoch", "20"]
        return peak_memory(command) / 1000


if __name__ == "__main__":
    run_script(main)
