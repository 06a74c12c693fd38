"""Trial of a new model: its first score is computed in a separate process.

`bounds.py` computes the memory and time of a model from its description. A runtime may need more,
for shapes that are known only at run time, for its own workspace, or because of a defect that ends
the process. Before a model is loaded for the first time on a machine, another process therefore
loads it and scores a blank image (`trial_process.py`), within the limits of `runs/limits.py`. The
digests of models that were tried or created on the machine are stored in the user's cache folder;
these models are not tried again.
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

# Names of the kinds of detectors for the other process.
KERAS, SAVED_MODEL, LITERT = "keras", "saved_model", "litert"
# Line of the other process before it loads the model, and its exit statuses.
READY, REFUSED, TOO_LARGE = "ready", 3, 4
PACKAGE = Path(__file__).parents[2]
MAIN = "import sys; from anomaly_tf.deploy.trial_process import main; sys.exit(main(*sys.argv[1:]))"

# Set in the other process, which must not start a further one.
_in_trial: list[bool] = []


def begin() -> None:
    """Marks this process as the other one."""
    _in_trial.append(True)


def remember(info: DetectorInfo) -> None:
    """Records that a model was created or tried here, if the cache folder can be written."""
    with suppress(OSError):
        place = _place(info)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def require_first_score(kind: str, path: Path, info: DetectorInfo) -> None:
    """Computes the first score of a model that is new on this machine in another process.

    Args:
        kind: `KERAS`, `SAVED_MODEL` or `LITERT`.
        path: Path of the detector, as for its `load`.
        info: Its metadata, whose digest was compared with the model.

    Raises:
        UserError: If the model is refused there, exceeds the limits, or ends the process.
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
        lines, status = done.stdout.splitlines(), done.returncode
    except subprocess.TimeoutExpired:
        lines, status = [READY], TOO_LARGE
    except OSError:
        lines, status = [], 1
    if status == 0:
        remember(info)
    elif status == REFUSED:
        raise UserError(lines[-1])
    elif READY in lines:
        raise UserError(
            f"the model in {path} takes more than {memory_limit() / 10**9:g} GB or {seconds:g} s "
            "of CPU until its first score, or ends its process; if this is intended, set "
            f"{MAX_GB} or {MAX_SECONDS} in the environment"
        )
    else:  # such as in a program with an embedded Python
        warnings.warn(
            f"{path} could not be tried in a separate process ({sys.executable})", stacklevel=2
        )


def _place(info: DetectorInfo) -> Path:
    """The file that marks a model as known."""
    parts = [info.model_sha256, info.image_shape, sorted((info.files_sha256 or {}).items())]
    name = hashlib.sha256(repr(parts).encode()).hexdigest()
    return user_caches() / "known-models" / name
