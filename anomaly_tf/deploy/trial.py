"""A model's first score in a process of its own: what no description foretells.

`bounds.py` computes from a model's description what it will take. A runtime may still take more:
for shapes that are known only as it runs, for its own workspace, or by a defect that ends the
process. So before a model is loaded for the first time on a machine, another process loads it and
scores a blank image (`trial_process.py`), within the limits of `runs/limits.py`. What was tried, or
made here, is noted by its digest in the user's folder of caches, and costs nothing from then on.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

from anomaly_tf.errors import UserError
from anomaly_tf.runs.caches import user_caches
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.limits import MAX_GB, MAX_SECONDS, memory_limit, seconds_limit

# Kinds of detectors, as they are named to the other process.
KERAS, SAVED_MODEL, LITERT = "keras", "saved_model", "litert"
# What the other process says before it loads the model, and its status for a refusal in one line.
READY, REFUSED, TOO_LARGE = "ready", 3, 4
PACKAGE = Path(__file__).parents[2]
MAIN = "import sys; from anomaly_tf.deploy.trial_process import main; sys.exit(main(*sys.argv[1:]))"

# Set in the other process, which would start one after the other.
_in_trial: list[bool] = []


def begin() -> None:
    """Says that this process is the other one."""
    _in_trial.append(True)


def remember(info: DetectorInfo) -> None:
    """Notes that a model was made or tried here; without a folder to write in, it is forgotten."""
    with suppress(OSError):
        place = _place(info)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def require_first_score(kind: str, path: Path, info: DetectorInfo) -> None:
    """Has a model that is new on this machine give a first score in another process.

    Args:
        kind: `KERAS`, `SAVED_MODEL` or `LITERT`.
        path: As the detector's `load` takes it.
        info: Its metadata, whose digest was compared with the model.

    Raises:
        UserError: If the model is refused there, takes more than the limits, or ends the process.
    """
    if _in_trial or _place(info).is_file():
        return
    seconds = seconds_limit()
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, kind, str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "-1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60 + 20 * seconds,
            encoding="utf-8",
            check=False,
        )
        said, status = done.stdout.splitlines(), done.returncode
    except subprocess.TimeoutExpired:
        said, status = [READY], TOO_LARGE
    except OSError:
        said, status = [], 1
    if status == 0:
        remember(info)
    elif status == REFUSED:
        raise UserError(said[-1])
    elif READY in said:
        raise UserError(
            f"the model in {path} takes more than {memory_limit() / 10**9:g} GB or {seconds:g} s "
            "of CPU until its first score, or ends the process that it runs in; if it is meant to, "
            f"set {MAX_GB} or {MAX_SECONDS} in the environment"
        )
    else:  # as in a program that brings a Python of its own
        warnings.warn(
            f"{path} could not be tried in a process of its own ({sys.executable})", stacklevel=2
        )


def _place(info: DetectorInfo) -> Path:
    """The file that notes a model as known."""
    parts = [info.model_sha256, info.image_shape, sorted((info.files_sha256 or {}).items())]
    name = hashlib.sha256(repr(parts).encode()).hexdigest()
    return user_caches() / "known-models" / name
