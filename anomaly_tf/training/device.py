"""Selects the device or devices of a run."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from functools import cached_property

import tensorflow as tf

from anomaly_tf.config import Config, OnePassConfig
from anomaly_tf.jobs import available_threads
from anomaly_tf.onednn import describe_kernels, processor_info

# Smallest share of a batch for a GPU. BatchNorm normalises by statistics of the share, which are
# too noisy for fewer images (Y. Wu, K. He: Group Normalization, ECCV 2018).
MIN_SHARE = 8


@dataclass(frozen=True)
class Device:
    """The device, or the GPUs that share every batch, that training runs on.

    Attributes:
        names: TensorFlow's names: `/CPU:0`, `/GPU:0`, or those of several GPUs.
        jit_compile: Whether the step is compiled by XLA.
        reason: A line for the user: the device, and why it was selected.
    """

    names: tuple[str, ...]
    jit_compile: bool
    reason: str

    @property
    def name(self) -> str:
        """The names in a line: `/GPU:0, /GPU:1`."""
        return ", ".join(self.names)

    @property
    def is_gpu(self) -> bool:
        """True for GPUs."""
        return "GPU" in self.names[0]

    @cached_property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy in whose scope the model is built; on one device TensorFlow's default."""
        if len(self.names) == 1:
            return tf.distribute.get_strategy()
        # TensorFlow's default, collective operations, fails when a process trains a second model.
        # These networks are small: one device sums the gradients in little time.
        reduction = tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy(self.names, cross_device_ops=reduction)


def select_device(config: Config) -> Device:
    """Selects the GPUs that share the batches of a training, or the CPU if there is no GPU.

    The memory of every GPU is allocated as needed. XLA is on by default on one GPU; off on several,
    which exchange gradients within a step; and off on a CPU, where it was slower for networks of
    this size.

    Args:
        config: The configuration with the batch size filled in.
    """
    gpus = tf.config.list_physical_devices("GPU")
    memory = "memory grows as needed"
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # the process has already used the GPU
            memory = "memory as set by this process"
    jit_compile = config.training.jit_compile
    if gpus:
        count, why = share_batches(config, len(gpus))
        xla = jit_compile == "on" or (jit_compile == "auto" and count == 1)
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus[:count]]
        models = dict.fromkeys(found.get("device_name", "GPU") for found in details)
        reason = f"{' and '.join(models)}, {why}; {memory}; {_xla(xla)}"
        return Device(tuple(f"/GPU:{number}" for number in range(count)), xla, reason)
    if not tf.test.is_built_with_cuda():
        why = "this TensorFlow is built without CUDA"
    elif os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        why = "CUDA_VISIBLE_DEVICES hides every GPU"
    else:
        why = (
            "TensorFlow finds no GPU; an NVIDIA one needs 'make setup GPU=1' or the extra gpu, "
            "TF_CPP_MIN_LOG_LEVEL=0 shows the search"
        )
    xla = jit_compile == "on"
    return Device(("/CPU:0",), xla, f"{describe_cpu()} ({why}); {_xla(xla)}")


def share_batches(config: Config, gpus: int) -> tuple[int, str]:
    """Number of GPUs that share the batches of a training, and why it is not all of them.

    The batch stays what it is on one GPU, so that a training can resume on any number of them. It
    is divided among as many as get equal shares of at least `MIN_SHARE` images.

    Args:
        config: The configuration with the batch size filled in.
        gpus: Number of GPUs, at least 1.

    Returns:
        The number, at least 1, and words for the user.
    """
    first = f"the first of {gpus} found"
    if gpus == 1:
        return 1, first
    if isinstance(config, OnePassConfig):
        return 1, f"{first} ({config.approach} takes no gradient steps that GPUs could share)"
    if config.training.jit_compile == "on":
        return 1, f"{first} (XLA compiles the step of one GPU; --training.jit-compile auto: all)"
    size = config.training.batch_size
    assert size  # filled in
    # Normal images and anomalies are divided each.
    unit = 2 if config.learns_from == "normal and anomalous images" else 1
    fitting = (n for n in range(gpus, 1, -1) if size % (n * unit) == 0 and size >= n * MIN_SHARE)
    count = next(fitting, 1)
    if count == gpus:
        return count, f"all {gpus} found, which share every batch"
    least = math.ceil(max(size, gpus * MIN_SHARE) / (gpus * unit)) * gpus * unit
    used = first if count == 1 else f"{count} of {gpus} found, which share every batch"
    return count, f"{used} (for all of them: --training.batch-size {least} instead of {size})"


def _xla(on: bool) -> str:
    return f"XLA {'on' if on else 'off'}"


def describe_cpu() -> str:
    """CPU model, number of threads and kernels: `AMD EPYC, 2 threads, oneDNN, AVX2`."""
    name = processor_info("model name") or platform.processor() or platform.machine()
    threads = available_threads()
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}, {describe_kernels()}"
