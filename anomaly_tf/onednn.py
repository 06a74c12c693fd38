"""Kernels of oneDNN for TensorFlow on x86 processors, and what computes in the end.

TensorFlow turns oneDNN on by itself only where it finds AVX-512 VNNI or AMX; elsewhere its
convolutions run in Eigen, which is up to twice as slow. Needs the standard library only.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

SWITCH = "TF_ENABLE_ONEDNN_OPTS"
X86 = ("x86_64", "amd64")
# oneDNN's kernels for float32 by the processor's flags, the fastest first, and the names by which
# ONEDNN_MAX_CPU_ISA allows no more than each.
INSTRUCTION_SETS = {
    "AVX-512": ("avx512f", "avx512bw", "avx512vl", "avx512dq"),
    "AVX2": ("avx2",),
    "AVX": ("avx",),
    "SSE4.1": ("sse4_1",),
}
LIMITS = {"SSE41": "SSE4.1", "AVX": "AVX", "AVX2": "AVX2", "AVX2_VNNI": "AVX2"}


def enable_onednn() -> None:
    """Turns oneDNN on before TensorFlow is imported, on x86, unless the user has set the variable.

    Elsewhere TensorFlow decides by itself. Afterwards the switch would change nothing.
    """
    if platform.machine().lower() in X86 and "tensorflow" not in sys.modules:
        os.environ.setdefault(SWITCH, "1")


def describe_kernels() -> str:
    """What computes on this processor, for a reader: `oneDNN, AVX2`; imports TensorFlow."""
    # TensorFlow has no public function that says whether oneDNN is on.
    from tensorflow.python.util import _pywrap_util_port

    if _pywrap_util_port.IsMklEnabled():
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
        flags = set(processor_info("flags").split())
        return ", ".join(("oneDNN", *fastest_instructions(flags, limit)))
    if platform.machine().lower() not in X86:
        return "Eigen"
    if SWITCH in os.environ:
        return f"Eigen, because {SWITCH}={os.environ[SWITCH]}"
    return "Eigen, because TensorFlow was imported before anomaly_tf"


def fastest_instructions(flags: set[str], limit: str = "") -> list[str]:
    """The fastest of `INSTRUCTION_SETS` that a processor has; empty if it has none.

    Args:
        flags: What the processor can, by the names of Linux.
        limit: The value of ONEDNN_MAX_CPU_ISA.
    """
    names = list(INSTRUCTION_SETS)
    allowed = names[names.index(LIMITS.get(limit.upper(), names[0])) :]
    return [name for name in allowed if set(INSTRUCTION_SETS[name]) <= flags][:1]


def processor_info(name: str) -> str:
    """What Linux says of the processor under this name; empty where nothing is said."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")
