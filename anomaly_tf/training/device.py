"""Selects the device of a run."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from anomaly_tf.jobs import available_threads
from anomaly_tf.onednn import describe_kernels, processor_info


@dataclass(frozen=True)
class Device:
    """The device that training runs on.

    Attributes:
        name: TensorFlow's name, `/GPU:0` or `/CPU:0`.
        jit_compile: Whether the step is compiled by XLA.
        reason: A line for the user: the device, and why it was selected.
    """

    name: str
    jit_compile: bool
    reason: str

    @property
    def is_gpu(self) -> bool:
        """True for a GPU."""
        return "GPU" in self.name


def select_device(jit_compile: Literal["auto", "on", "off"]) -> Device:
    """Selects the first GPU, or the CPU if there is none.

    The memory of every GPU is allocated as needed. XLA is on by default on a GPU, and off on a CPU,
    where it was slower for networks of this size.
    """
    gpus = tf.config.list_physical_devices("GPU")
    memory = "memory grows as needed"
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # the process has already used the GPU
            memory = "memory as set by this process"
    xla = jit_compile == "on" or (jit_compile == "auto" and bool(gpus))
    note = f"XLA {'on' if xla else 'off'}"
    if gpus:
        model = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        reason = f"{model}, the first of {len(gpus)} found; {memory}; {note}"
        return Device("/GPU:0", xla, reason)
    if not tf.test.is_built_with_cuda():
        why = "this TensorFlow is built without CUDA"
    elif os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        why = "CUDA_VISIBLE_DEVICES hides every GPU"
    else:
        why = (
            "TensorFlow finds no GPU; an NVIDIA one needs 'make setup GPU=1' or the extra gpu, "
            "TF_CPP_MIN_LOG_LEVEL=0 shows the search"
        )
    return Device("/CPU:0", xla, f"{describe_cpu()} ({why}); {note}")


def describe_cpu() -> str:
    """CPU model, number of threads and kernels: `AMD EPYC, 2 threads, oneDNN, AVX2`."""
    name = processor_info("model name") or platform.processor() or platform.machine()
    threads = available_threads()
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}, {describe_kernels()}"
