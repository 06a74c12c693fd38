"""What every script does around its work: consoles, pipes, statuses, and libraries kept quiet."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT, assert_one_line, run_command, run_script

from anomaly_tf.script import csv_cell
from anomaly_tf.version import VERSION

SCRIPTS = ("train.py", "evaluate.py", "export.py", "predict.py", "benchmark.py")
# A script of few words: prints a name, and with an argument ends with an error that has it.
PRINTING = """
import sys
from anomaly_tf.errors import UserError
from anomaly_tf.script import run_script

def main(arguments):
    print("\\u50b7 \\udcff")
    if arguments:
        raise UserError("class \\u50b7 does not exist; choose another")

run_script(main)
"""


def shell(command: str, **environment: str):
    """Runs PRINTING, which `command` calls $0, in bash."""
    script = shlex.join([sys.executable, "-c", PRINTING])
    variables = {**ENVIRONMENT, **environment}
    return run_command("bash", "-c", command.replace("SCRIPT", script), env=variables)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_without_a_letter_sees_it_escaped(encoding):
    done = shell("SCRIPT wrong", PYTHONIOENCODING=encoding)
    shown = "\u50b7" if encoding == "utf-8" else "\\u50b7"
    assert done.returncode == 2
    assert done.stdout == f"{shown} \\udcff\n"
    assert done.stderr == f"error: class {shown} does not exist; choose another\n"


def test_a_locale_without_letters(tmp_path):
    done = shell("SCRIPT wrong", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (done.returncode, done.stdout) == (2, "\\u50b7 \\udcff\n")
    assert done.stderr.startswith("error: class \\u50b7 does not exist")


@pytest.mark.parametrize("arguments", ["", " wrong 2>&1"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_ends_the_script_quietly(arguments, unbuffered):
    command = f"SCRIPT{arguments} | head -n 0; echo ${{PIPESTATUS[0]}}"
    done = shell(command, PYTHONUNBUFFERED=unbuffered)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_one_line():
    done = shell("SCRIPT > /dev/full")
    assert done.returncode == 2
    assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize(("closed", "status"), [(">&-", 0), ("wrong 2>&-", 2), (">&- 2>&-", 0)])
def test_closed_output_is_nowhere(closed, status):
    done = shell(f"SCRIPT {closed}")
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_version(script, without_tensorflow):
    done = run_script(script, "--version", env=without_tensorflow)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{script} anomaly_tf {VERSION}\n"


QUIET = """
import os, sys
from anomaly_tf.script import without_notes
with without_notes():
    os.write(2, b"I0000 00:00:1795 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"E0000 00:00:1795 cuda_platform.cc:52] failed call to cuInit\\nnot a note\\n")
    print("of the program", file=sys.stderr)
print("after it", file=sys.stderr)
"""


def test_only_notes_of_libraries_are_hidden():
    done = run_command(sys.executable, "-c", QUIET)
    assert done.stderr.splitlines() == ["not a note", "of the program", "after it"]
    done = run_command(
        sys.executable, "-c", QUIET, env={**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "1"}
    )
    assert "failed call to cuInit" in done.stderr


def test_detectors_load_without_notes(deployed):
    """Where a log level is set, too, which does not reach what is logged before it is read."""
    loading = "import sys; from anomaly_tf import Detector\nfor path in sys.argv[1:]: "
    loading += "print(Detector.load(path).threshold > 0)"
    environment = {**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = run_command(sys.executable, "-c", loading, *deployed.values(), env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n" * 3, "")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a/b.png", "a/b.png"),
        ("=1+1.png", "'=1+1.png"),
        ("@sum", "'@sum"),
        ("-2", "'-2"),
        ("\t=1", "'\\t=1"),
        ("a\x1b[31m", "a\\x1b[31m"),
    ],
)
def test_a_cell_is_no_formula_and_no_escape_sequence(text, cell):
    assert csv_cell(text) == cell


@pytest.mark.parametrize("run", ["runs/my run", "runs/it's; touch gone", 'runs/"a" & `b`'])
def test_make_takes_any_name_of_a_run(run, tmp_path):
    calls = tmp_path / "calls"
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {calls}\n")
    python.chmod(0o755)
    ready = ".venv/ready-requirements"
    done = run_command(
        *("make", "-C", ROOT, "-o", ready, "train", f"BIN={python.parent}", f"RUN={run}"),
        "ARGS=--seed 1",
    )
    assert done.returncode == 0, done.stderr
    train = ["train.py", "--approach", "sota", "--run-dir", run, "--seed", "1"]
    assert calls.read_text().splitlines() == [*train, "evaluate.py", "--run-dir", run]


def test_a_folder_that_is_gone_is_one_line(without_tensorflow, tmp_path):
    command = 'mkdir "$1" && cd "$1" && rmdir "$1" && exec "$0" "$2" --run-dir run'
    for script in ("train.py", "evaluate.py"):
        words = ("sh", "-c", command, sys.executable, tmp_path / "gone", ROOT / script)
        assert_one_line(run_command(*words, env=without_tensorflow), "current folder is gone")
