"""The separate process in which a model computes its first score; see `trial.py`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from anomaly_tf.deploy import trial
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.loading import load_detector
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import available_threads
from anomaly_tf.runs.limits import memory_limit, seconds_limit
from anomaly_tf.script import import_tensorflow, printable

# Bytes that a runtime may map in addition to those it uses, in total and per thread.
MAPPED, MAPPED_BY_THREAD = 10**9, 10**8


def main(kind: str, path: str) -> int:
    """Loads a model and scores a blank image within the limits; returns the exit status."""
    if find_spec("resource") is None:  # on Windows, which has no such limits
        return 0
    trial.begin()
    if kind == trial.LITERT:
        from anomaly_tf.deploy import litert  # noqa: F401
    else:
        import_tensorflow()
        from anomaly_tf.deploy import keras_run, saved_model  # noqa: F401
    before = _limit_this_process()
    print(trial.READY, flush=True)
    try:
        _score_once(load_detector(path))
    except UserError as error:
        print(printable(str(error)), flush=True)
        return trial.REFUSED
    except MemoryError:
        return trial.TOO_LARGE
    return trial.TOO_LARGE if _peak() - before > memory_limit() else 0


def _score_once(detector: Detector) -> None:
    """Scores a blank image; an invalid output is not reported here, but when images are scored."""
    try:
        detector.score_blank()
    except UserError as error:
        if error.__cause__ is not None:  # raised by the runtime, such as for lack of memory
            raise


def _limit_this_process() -> int:
    """Sets the limits of memory and time; returns the peak memory so far, in bytes."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + seconds_limit()) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    statm = Path("/proc/self/statm")
    if statm.is_file():  # the limit has an effect on Linux only
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        limit = mapped + memory_limit() + MAPPED + MAPPED_BY_THREAD * available_threads()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return _peak()


def _peak() -> int:
    """Peak memory of this process, in bytes."""
    import resource

    status = Path("/proc/self/status")
    if status.is_file():  # on Linux `getrusage` starts with the peak of the parent process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
