"""Checks of a training on two devices, run by `test_replicas.py` in a process of its own.

Two logical CPU devices take the place of two GPUs; they have to be set before TensorFlow starts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from conftest import WITH_GRADIENTS, noise_batch, small_config, small_model

from anomaly_tf.approaches.base import Approach
from anomaly_tf.approaches.supervised.options import SupervisedConfig
from anomaly_tf.config import BalancedSamplingConfig, TrainingConfig
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.sources import load_dataset
from anomaly_tf.networks.replicas import vary_random_numbers
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.training import loop
from anomaly_tf.training.callbacks import StopOnNonFiniteLoss
from anomaly_tf.training.device import Device
from anomaly_tf.training.setup import TrainingSetup

ONE = Device(("/CPU:0",), jit_compile=False, reason="for a test")
TWO = Device(("/CPU:0", "/CPU:1"), jit_compile=False, reason="for a test")
EPOCHS, STEPS = 2, 8


def copies(variable: keras.Variable) -> list[np.ndarray]:
    """The value of a variable on each device."""
    return [np.array(copy) for copy in TWO.strategy.experimental_local_results(variable.value)]


def on_devices(shares: list[Any]) -> Any:
    """A batch of which each device has one share."""

    def of_parts(*parts: tf.Tensor) -> tf.distribute.DistributedValues:
        return TWO.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    return tf.nest.map_structure(of_parts, *shares)


def other(batch: Any) -> Any:
    """A batch of other images, with the same labels."""
    return tf.nest.map_structure(lambda x: -0.3 * x if x.dtype.is_floating else x, batch)


def check_step(approach: str) -> None:
    """A step is the mean of the steps that its shares would take alone, in every network."""
    config = small_config(approach, ema_decay=0.1)
    shares = [noise_batch(config), other(noise_batch(config))]
    alone = [small_model(config) for _ in shares]
    reported = [
        {name: float(value) for name, value in model.train_step(share).items()}
        for model, share in zip(alone, shares, strict=True)
    ]
    with TWO.strategy.scope():
        model = small_model(config)
    before = {part: average.get_weights() for part, average in model.averages.items()}
    losses = TWO.strategy.run(model.train_step, args=(on_devices(shares),))
    for name, value in losses.items():
        found = float(TWO.strategy.reduce("MEAN", value, axis=None))
        np.testing.assert_allclose(found, np.mean([x[name] for x in reported]), rtol=1e-4)
        np.testing.assert_allclose(float(model.trackers[name].result()), found, rtol=1e-6)

    def linear(one: Approach, part: str) -> list[keras.Variable]:
        """Adam's mean gradients, and moving statistics."""
        return [*one.optimizers[part]._momentums, *one.networks[part].non_trainable_weights]

    for part, network in model.networks.items():
        trios = zip(linear(model, part), *(linear(x, part) for x in alone), strict=True)
        for ours, *theirs in trios:
            first, second = (np.array(variable) for variable in theirs)
            scale = np.abs([first, second]).max()
            np.testing.assert_allclose(
                np.array(ours), (first + second) / 2, rtol=1e-3, atol=1e-4 * scale + 1e-7
            )
        assert copies(model.optimizers[part].iterations) == [1, 1]
        gradients = [np.array(mean) for mean in alone[0].optimizers[part]._momentums]
        assert max(np.abs(gradient).max() for gradient in gradients) > 0
        if part in before:
            current = network.get_weights()
            averages = model.averages[part].get_weights()
            for average, old, new in zip(averages, before[part], current, strict=True):
                np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, atol=1e-5)
    for part, optimizer in model.optimizers.items():
        kept = [*model.networks[part].weights, *optimizer.variables]
        for variable in (*kept, *model.detector.weights):
            first, second = copies(variable)
            np.testing.assert_array_equal(first, second, err_msg=variable.path)


def check_random_numbers() -> None:
    """Each device draws its own, from seeds that follow from those of the first."""
    config = small_config("vae")
    share = noise_batch(config)
    with TWO.strategy.scope():
        model = small_model(config)
    states = [variable for variable in model.variables if "seed" in variable.path]
    before = [copies(state)[0] for state in states]

    def losses() -> list[float]:
        for metric in model.metrics:
            metric.reset_state()
        found = TWO.strategy.run(model.train_step, args=(on_devices([share, share]),))["loss"]
        return [float(value) for value in TWO.strategy.experimental_local_results(found)]

    assert len(set(losses())) == 1
    for state, value in zip(states, before, strict=True):
        state.assign(value)
    vary_random_numbers(model)
    assert states
    for state, value in zip(states, before, strict=True):
        first, second = copies(state)
        np.testing.assert_array_equal(first, value)
        assert not np.array_equal(first, second)
    assert len(set(losses())) == 2


def training(data: Path) -> tuple[SupervisedConfig, Any, Any]:
    """A short training that mines hard examples and drops units at random, and its data."""
    config = SupervisedConfig(
        data_dir=str(data / "cache"),
        sampling=BalancedSamplingConfig(anomaly_clusters=4, candidates=2),
        deterministic=True,
    )
    short = TrainingConfig(
        epochs=EPOCHS, steps_per_epoch=STEPS, batch_size=64, ema_decay=0.9, schedule="constant"
    )
    config = dataclasses.replace(config, training=short)
    dataset = load_dataset(str(data), data)
    return config, dataset, make_split(config, dataset)


def check_batches(data: Path) -> None:
    """The batches are those of one device, also when a training resumes."""
    one, two = (TrainingSetup.of(*training(data), device) for device in (ONE, TWO))
    for first_step in (0, 3):
        whole = [next(iterator) for iterator in [iter(one.batches(first_step))] for _ in range(2)]
        shared = iter(two.batches(first_step))
        for batch in whole:
            parts = next(shared)
            for images, share in zip(batch, parts, strict=True):
                found = [x.numpy() for x in TWO.strategy.experimental_local_results(share)]
                assert [len(x) for x in found] == [len(images) // 2] * 2
                dealt = {image.tobytes() for image in np.concatenate(found)}
                assert dealt == {image.tobytes() for image in images.numpy()}


@contextmanager
def ctrl_c_after(batches: int) -> Iterator[None]:
    """Sends the process SIGINT after so many batches; each device draws its own numbers then."""
    original, seen = StopOnNonFiniteLoss.on_train_batch_end, 0

    def on_train_batch_end(self: Any, batch: int, logs: dict | None = None) -> None:
        nonlocal seen
        seen += 1
        if seen == batches:
            states = [copies(v) for v in self.model.variables if "seed" in v.path]
            assert states
            assert all(not np.array_equal(first, second) for first, second in states)
            os.kill(os.getpid(), signal.SIGINT)
        original(self, batch, logs)

    StopOnNonFiniteLoss.on_train_batch_end = on_train_batch_end
    try:
        yield
    finally:
        StopOnNonFiniteLoss.on_train_batch_end = original


def check_training(data: Path, folder: Path) -> None:
    """Interrupted by Ctrl-C it resumes: on two devices as if nothing had happened, and on one."""
    config, dataset, split = training(data)

    def train(run: str, device: Device, resume: bool = False) -> loop.Outcome:
        directory = RunDirectory(folder / run)
        device = dataclasses.replace(device)  # each training has a strategy of its own
        return loop.train(config, dataset, split, directory, "test", resume, device=device)

    def weights(outcome: loop.Outcome, run: str) -> list[np.ndarray]:
        assert outcome.status == "completed"
        return keras.models.load_model(folder / run / "model.keras", compile=False).get_weights()

    whole = train("whole", TWO)
    assert whole.info.training.validation["val_auroc"] > 0.9
    for run, batches, epoch, steps in (("early", 3, 0, 3), ("two", STEPS + 3, 1, None)):
        with ctrl_c_after(batches):
            outcome = train(run, TWO)
        kept = outcome.info.training
        assert (outcome.status, kept.best_epoch, kept.steps) == ("interrupted", epoch, steps)
    shutil.copytree(folder / "two", folder / "one")
    resumed = weights(train("two", TWO, resume=True), "two")
    for ours, expected in zip(resumed, weights(whole, "whole"), strict=True):
        np.testing.assert_array_equal(ours, expected)
    histories = [(folder / run / "history.csv").read_text() for run in ("whole", "two")]
    assert histories[0] == histories[1]
    outcome = train("one", ONE, resume=True)
    assert weights(outcome, "one")
    assert outcome.info.training.validation["val_auroc"] > 0.9


def main(data: str, folder: str) -> None:
    """Runs every check; prints a JSON object with the traceback of each, empty if it passed."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    checks: dict[str, tuple[Callable[..., None], tuple]] = {
        **{f"step of {approach}": (check_step, (approach,)) for approach in WITH_GRADIENTS},
        "random numbers": (check_random_numbers, ()),
        "batches": (check_batches, (Path(data),)),
        "training": (check_training, (Path(data), Path(folder))),
    }
    found = {}
    for name, (check, arguments) in checks.items():
        found[name] = ""
        try:
            check(*arguments)
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))
