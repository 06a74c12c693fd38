"""Helpers of several measurements: running scripts as a user does, and keeping results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import write_json
from anomaly_tf.runs.outputs import is_measurement
from anomaly_tf.script import import_tensorflow

# Copied before this process sets a log level for TensorFlow.
ENVIRONMENT = dict(os.environ)
# Runs a command and prints its peak memory in kB and its exit status. Linux counts the memory of
# the process that starts a command as the command's, so this is a small process of its own.
METER = """
import os, sys
nowhere = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[nowhere])
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


def script(*arguments: object, allowed: tuple[int, ...] = (0,)) -> None:
    """Runs a script as a user does; raises `RuntimeError` if its exit status is not allowed."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    if done.returncode not in allowed:
        raise RuntimeError(f"{command} ended with status {done.returncode}")


def kept_results(output: Path) -> dict[str, Any]:
    """Reads earlier results; the parts that are measured again are replaced.

    Raises:
        UserError: If the file is damaged or has other content.
    """
    if not output.exists():
        return {}
    try:
        results = dict(json.loads(output.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{output} is damaged ({error}); move it away to measure again") from error
    if not is_measurement(output):
        raise UserError(
            f"{output} exists and holds no measurement; move it away or choose another --output"
        )
    return results


def package_folder(name: str) -> Path:
    """Folder of an installed package, which is not imported.

    Raises:
        UserError: If it is not installed.
    """
    found = find_spec(name)
    if found is None or not found.origin:
        raise UserError(
            f"package {name} is not installed; run make bench-photos, or "
            "pip install -r requirements-photos.txt"
        )
    return Path(found.origin).parent


def keep_results(results: dict[str, Any], output: Path) -> None:
    """Writes and prints results, with the hardware."""
    results["hardware"] = hardware()
    write_json(output, results)
    print(json.dumps(results, indent=2))


def hardware() -> str:
    """The processor and its threads."""
    import_tensorflow()
    from anomaly_tf.training.device import describe_cpu

    return f"CPU: {describe_cpu()}"


def peak_memory(command: list[str], allowed: tuple[int, ...] = (0,)) -> float:
    """Peak resident memory in MB of a process; raises as `script` does."""
    meter = [sys.executable, "-I", "-S", "-c", METER, *command]
    done = subprocess.run(meter, check=True, stdout=subprocess.PIPE, env=ENVIRONMENT)
    kilobytes, code = map(int, done.stdout.split())
    if code not in allowed:
        raise RuntimeError(f"{command} ended with status {code}")
    return kilobytes * 1024 / 1e6
