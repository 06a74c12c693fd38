"""Enables oneDNN for TensorFlow on x86 processors, and describes the kernels in use.

By default, TensorFlow enables oneDNN only on processors with AVX-512 VNNI or AMX; on others its
convolutions run in Eigen, which is up to twice as slow. Needs the standard library only.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

SWITCH = "TF_ENABLE_ONEDNN_OPTS"
X86 = ("x86_64", "amd64")
# Kernels of oneDNN for float32 and the processor flags that they need, fastest first; and the
# values of ONEDNN_MAX_CPU_ISA that limit the kernels to each.
INSTRUCTION_SETS = {
    "AVX-512": ("avx512f", "avx512bw", "avx512vl", "avx512dq"),
    "AVX2": ("avx2",),
    "AVX": ("avx",),
    "SSE4.1": ("sse4_1",),
}
LIMITS = {"SSE41": "SSE4.1", "AVX": "AVX", "AVX2": "AVX2", "AVX2_VNNI": "AVX2"}


def enable_onednn() -> None:
    """Enables oneDNN on x86, unless the user has set the environment variable.

    On other processors TensorFlow decides. The variable has no effect after TensorFlow is imported.
    """
    if platform.machine().lower() in X86 and "tensorflow" not in sys.modules:
        os.environ.setdefault(SWITCH, "1")


def describe_kernels() -> str:
    """Describes the kernels in use, such as `oneDNN, AVX2`; imports TensorFlow."""
    # TensorFlow has no public function that reports whether oneDNN is enabled.
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
        flags: Flags of the processor, with the names of Linux.
        limit: Value of ONEDNN_MAX_CPU_ISA.
    """
    names = list(INSTRUCTION_SETS)
    allowed = names[names.index(LIMITS.get(limit.upper(), names[0])) :]
    return [name for name in allowed if set(INSTRUCTION_SETS[name]) <= flags][:1]


def processor_info(name: str) -> str:
    """The first value of a name in Linux's /proc/cpuinfo; empty if there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")
