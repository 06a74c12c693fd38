"""The frame of every script: consoles, pipes, exit statuses, and quiet libraries."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT, assert_one_line, run_command, run_script

from anomaly_tf.script import LOG_LEVEL, csv_cell, quiet_libraries, without_notes
from anomaly_tf.version import VERSION

SCRIPTS = (
    *("train.py", "evaluate.py", "report.py", "export.py", "predict.py", "search.py"),
    "benchmark.py",
)
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


FAILING = """
import errno
from anomaly_tf.errors import UserError
from anomaly_tf.script import run_script

def main(arguments):
    name = "a\\n\\x1b[31mb"
    raise {"said": UserError(name), "file": OSError(errno.ENOSPC, "full", name)}[arguments[0]]

run_script(main)
"""


@pytest.mark.parametrize("kind", ["said", "file"])
def test_an_error_with_an_escape_in_a_name_is_one_plain_line(kind):
    done = run_command(sys.executable, "-c", FAILING, kind)
    assert_one_line(done, r"a\n\x1b[31mb")


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
    assert done.stdout == f"{script} {VERSION}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_reports_in_one_line_that_its_output_cannot_be_written(
    script, without_tensorflow
):
    with Path("/dev/full").open("w") as full:
        done = run_script(
            *(script, "--help"),
            **{"capture_output": False, "stdout": full, "stderr": subprocess.PIPE},
            env=without_tensorflow,
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert re.match(r"error: cannot write.*: No space left on device", done.stderr)


QUIET = """
import os, sys
from anomaly_tf.script import without_notes
with without_notes():
    os.write(2, b"I0000 00:00:1795 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"2026-11-26 05:46:50.123456: W external/local_xla.cc:1] no GPU\\n")
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


def test_threads_that_hide_notes_leave_the_output_where_it_was(monkeypatch):
    monkeypatch.setenv(LOG_LEVEL, "3")
    kept, place = os.dup(2), os.fstat(2)
    first, second, left = (threading.Event() for _ in range(3))

    def leaves_later() -> None:
        first.wait()
        with without_notes():
            second.set()
            left.wait()

    thread = threading.Thread(target=leaves_later)
    thread.start()
    try:
        with without_notes():
            first.set()
            second.wait(0.3)  # which comes only if nobody holds it back
        left.set()
        thread.join()
        assert os.path.sameopenfile(2, kept)
        assert os.fstat(2) == place
    finally:
        left.set()
        thread.join()
        os.dup2(kept, 2)
        os.close(kept)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a list of what is open")
def test_hiding_notes_leaves_nothing_open(monkeypatch):
    monkeypatch.setenv(LOG_LEVEL, "3")
    before = len(os.listdir("/proc/self/fd"))
    for hide in (without_notes, quiet_libraries):
        for _ in range(20):
            with hide():
                pass
    assert len(os.listdir("/proc/self/fd")) < before + 20


@pytest.mark.parametrize(("level", "shown"), [("3", "an error\n"), ("0", "a note\nan error\n")])
def test_the_log_of_tensorflow_is_hidden_in_a_notebook_too(level, shown, monkeypatch):
    """Where `sys.stderr` is not the file descriptor."""
    monkeypatch.setenv(LOG_LEVEL, level)
    logger, stream = logging.getLogger("tensorflow"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "level", logging.INFO)
    try:
        with quiet_libraries():
            logger.info("a note")
            logger.error("an error")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == shown
    assert logger.level == logging.INFO


BLOCKED = """
import io
import logging
import os
from anomaly_tf.script import quiet_libraries
with quiet_libraries():
    os.write(2, b"what went wrong\\n")
    raise RuntimeError("it failed")
"""


def test_output_of_libraries_is_shown_if_they_fail():
    done = run_command(sys.executable, "-c", BLOCKED)
    assert done.returncode == 1
    assert done.stderr.startswith("what went wrong\n")
    assert done.stderr.endswith("RuntimeError: it failed\n")


@pytest.mark.parametrize("kind", ["run", "saved_model", "tflite"])
def test_detectors_load_without_notes(kind, deployed):
    """Where a log level is set, too, which does not reach what is logged before it is read."""
    loading = "import sys; from anomaly_tf import Detector\n"
    loading += "print(Detector.load(sys.argv[1]).threshold > 0)"
    environment = {**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = run_command(sys.executable, "-c", loading, deployed[kind], env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


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


def called_by_make(folder: Path, *arguments: object) -> list[str]:
    """The arguments of make's calls of Python, one call after the other."""
    calls, python = folder / "calls", folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {calls}\n")
    python.chmod(0o755)
    ready = ("-o", ".venv/ready-requirements")
    done = run_command("make", "-C", ROOT, *ready, f"BIN={python.parent}", *arguments)
    assert done.returncode == 0, done.stderr
    return calls.read_text().splitlines()


@pytest.mark.parametrize("run", ["runs/my run", "runs/it's; touch gone", 'runs/"a" & `b`'])
def test_make_takes_any_name_of_a_run(run, tmp_path):
    train = ["train.py", "--approach", "sota", "--run-dir", run, "--seed", "1"]
    called = called_by_make(tmp_path, "train", f"RUN={run}", "ARGS=--seed 1")
    assert called == [*train, "evaluate.py", "--run-dir", run]


def test_tensorboard_begins_without_notes(tmp_path):
    option, code, *more = called_by_make(tmp_path, "tensorboard")
    more[more.index("runs")] = tmp_path
    words = (sys.executable, option, code, *more, "--port", "0")
    said = []
    with subprocess.Popen(
        words, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            said.append(line)
            if " at http" in line:
                break
        process.terminate()
    local, address = said
    assert local.startswith("Serving TensorBoard on localhost")
    assert address.startswith("TensorBoard ")


def test_everything_is_checked_as_in_a_users_shell(tmp_path):
    make = tmp_path / "make"
    make.write_text("#!/bin/sh\nenv\n")
    make.chmod(0o755)
    unlike = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    path = f"{tmp_path}:{ENVIRONMENT['PATH']}"
    done = run_command(ROOT / ".ci" / "run", env={**ENVIRONMENT, **unlike, "PATH": path})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"PATH={path}\n") == 2
    assert not any(name in done.stdout for name in unlike)


def test_a_folder_that_is_gone_is_one_line(without_tensorflow, tmp_path):
    command = 'mkdir "$1" && cd "$1" && rmdir "$1" && exec "$0" "$2" --run-dir run'
    for script in ("train.py", "evaluate.py"):
        words = ("sh", "-c", command, sys.executable, tmp_path / "gone", ROOT / script)
        assert_one_line(run_command(*words, env=without_tensorflow), "current folder is gone")
