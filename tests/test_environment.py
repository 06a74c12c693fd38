"""What `make` does before anything runs: chooses a Python, and creates or updates `.venv`."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, ROOT, run_command

from tools.environment import UNFINISHED, Environment, SetupError, main

# A Python that knows its version, and prints what it is asked to run.
PYTHON = """#!/bin/sh
case $1 in -c) ;; *) shift; echo "${{0##*/}} $*"; exit ;; esac
case $2 in *version_info*) echo {version} ;; *ensurepip*) exit {without_venv} ;; esac
"""
FAILS = "#!/bin/sh\nexit 127\n"


def write_python(path: Path, version: str) -> None:
    """A command like Python; version "" does not run, "3.13 bare" cannot create environments."""
    number, *bare = version.split() or [""]
    text = PYTHON.format(version=number, without_venv=len(bare))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if version else FAILS)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    """The repository as far as the setup needs it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__py*"))
    return folder


def run_setup(checkout: Path, pythons: dict[str, str], *arguments: str):
    """`make setup` where only these Pythons are there."""
    commands = checkout.parent / "bin"
    shutil.rmtree(commands, ignore_errors=True)
    commands.mkdir()
    for name, version in pythons.items():
        write_python(commands / name, version)
    for name in ("date", "dirname", "grep", "sh"):
        (commands / name).symlink_to(shutil.which(name))
    variables = {**ENVIRONMENT, "PATH": str(commands)}
    variables.pop("PYTHON", None)
    make = [shutil.which("make"), "--no-print-directory", "setup", *arguments]
    return run_command(*make, cwd=checkout, env=variables)


def assert_refused(done, checkout: Path, *words: str) -> None:
    """One line of ours, one of make's, status 2, and nothing created."""
    line, make, *more = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert make.endswith("Error 2")
    assert (done.returncode, done.stdout, more) == (2, "", [])
    assert all(word in line for word in words), line
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3.12": "3.12", "python3.11": "3.11", "python3": "3.11"}, "python3.12"),
        ({"python3.13": "", "python3.12": "3.12", "python3.11": "3.11"}, "python3.12"),
        ({"python3.13": "3.13 bare", "python3.11": "3.11"}, "python3.11"),
        ({"python3": "3.13", "python3.12": "3.12"}, "python3"),
        ({"python3": "3.14", "python3.14": "3.14", "python3.11": "3.11"}, "python3.11"),
        ({"python": "3.12"}, "python"),
    ],
)
def test_make_takes_the_newest_supported_python_that_runs(pythons, chosen, checkout):
    done = run_setup(checkout, pythons)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{chosen} create .venv requirements.lock 3.2\n"


@pytest.mark.parametrize(
    ("pythons", "arguments", "words"),
    [
        ({"python3": "3.10"}, (), ("python3 is Python 3.10", "3.11, 3.12 or 3.13")),
        ({"python3.14": "3.14"}, (), ("python3.14 is Python 3.14", "make PYTHON=")),
        ({}, (), ("no Python found", "3.11, 3.12 or 3.13")),
        ({"old": "3.10", "python3": "3.13"}, ("PYTHON=old",), ("PYTHON=old is Python 3.10",)),
        ({"new": "3.14", "python3": "3.13"}, ("PYTHON=new",), ("PYTHON=new is Python 3.14",)),
        ({"python3": "3.13"}, ("PYTHON=gone",), ("PYTHON=gone does not run", "3.13")),
        ({"python3": "3.13", "odd": "yes!"}, ("PYTHON=odd",), ("PYTHON=odd does not run",)),
        ({"python3": "3.13 bare"}, (), ("apt install python3.13-venv",)),
        ({"own": "3.12 bare"}, ("PYTHON=own",), ("own (Python 3.12)", "python3.12-venv")),
    ],
)
def test_without_a_supported_python_nothing_is_created(pythons, arguments, words, checkout):
    assert_refused(run_setup(checkout, pythons, *arguments), checkout, *words)


@pytest.mark.parametrize("name", ["my own/python", 'it\'s/a "python"', "`touch gone`/$HOME;x"])
def test_make_takes_a_python_of_any_name(name, checkout):
    write_python(checkout / name, "3.12")
    done = run_setup(checkout, {"python3": "3.13"}, f"PYTHON={name.replace('$', '$$')}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{Path(name).name} create .venv requirements.lock 3.2\n"
    assert not (checkout / "gone").exists()


def has_environment(checkout: Path, version: str, where: Path | None = None) -> None:
    """An environment of this Python, which lies where its scripts say."""
    write_python(checkout / ".venv" / "bin" / "python", version)
    pip = checkout / ".venv" / "bin" / "pip"
    pip.write_text(f"#!{where or checkout}/.venv/bin/python\n")


@pytest.mark.parametrize(
    ("version", "arguments", "runs"),
    [
        ("3.11", (), "python update"),
        ("3.12", ("PYTHON=python3.12",), "python update"),
        ("3.11", ("PYTHON=python3.12",), "python3.12 create"),
        ("3.10", (), "python3.13 create"),
        ("", (), "python3.13 create"),
    ],
)
def test_an_environment_keeps_its_python_unless_another_is_needed(
    version, arguments, runs, checkout
):
    has_environment(checkout, version)
    done = run_setup(checkout, {"python3.13": "3.13", "python3.12": "3.12"}, *arguments)
    assert done.stdout == f"{runs} .venv requirements.lock 3.2\n"


def test_an_environment_that_was_moved_or_not_finished_is_created_anew(checkout, tmp_path):
    has_environment(checkout, "3.13", where=tmp_path / "earlier")
    assert run_setup(checkout, {"python3": "3.12"}).stdout.startswith("python3 create")
    has_environment(checkout, "3.13")
    assert run_setup(checkout, {"python3": "3.12"}).stdout.startswith("python update")
    (checkout / ".venv" / UNFINISHED).touch()
    assert run_setup(checkout, {"python3": "3.12"}).stdout.startswith("python3 create")


def test_an_environment_may_be_a_link_to_another_disk(checkout, tmp_path):
    has_environment(checkout, "3.11", where=tmp_path)
    (checkout / ".venv").rename(tmp_path / ".venv")
    (checkout / ".venv").symlink_to(tmp_path / ".venv")
    assert run_setup(checkout, {"python3": "3.13"}).stdout.startswith("python update .venv")


def test_a_disk_that_is_too_small_is_one_line(checkout):
    done = run_setup(checkout, {}, f"PYTHON={sys.executable}", "SIZE=1e9")
    words = ("disk space", str(checkout / ".venv"), "1300000000.0 GB needed", "GB free")
    assert_refused(done, checkout, *words)


@pytest.fixture
def set_up(checkout, monkeypatch, capsys):
    """Sets up the environment as make does, but for what is printed instead of run."""

    def run(environment: Environment, lock: int, *command: object) -> None:
        if "venv" in command:
            (environment.folder / "pyvenv.cfg").touch()
        print("run", *command[1:])

    def set_up(mode: str, gigabytes: str = "0") -> list[str]:
        main(mode, ".venv", "requirements.lock", gigabytes)
        return capsys.readouterr().out.splitlines()

    monkeypatch.chdir(checkout)
    monkeypatch.setattr(Environment, "run", run)
    return set_up


def test_what_is_installed_is_announced_first(set_up, checkout):
    said, *runs, ready = set_up("create", "1e-6")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert said == f"Setting up .venv (Python {version}): 1e-06 GB on disk, a minute or several"
    assert runs[0] == f"run -m venv {checkout}/.venv"
    assert runs[1].startswith("run -m pip install ")
    assert runs[1].endswith("--require-hashes -r requirements.lock")
    assert runs[2].endswith("--no-deps --no-build-isolation --editable .")
    assert ready.startswith(".venv is ready after ")


def test_an_environment_is_updated_when_the_lock_or_the_project_changes(set_up, checkout):
    set_up("create")
    kept = checkout / ".venv" / "kept"
    kept.touch()
    assert set_up("update") == []
    for name in ("requirements.lock", "pyproject.toml", "setup.py"):
        with open(checkout / name, "a", encoding="utf-8") as file:
            file.write("# changed\n")
        said, packages, project, _ = set_up("update")
        assert said.startswith("Updating .venv (Python 3.")
        assert (packages[:18], project[:18]) == ("run -m pip install",) * 2
        assert set_up("update") == []
    assert kept.exists()


def test_another_python_replaces_everything(set_up, checkout):
    set_up("create")
    ready, old = checkout / ".venv" / "ready-requirements", checkout / ".venv" / "lib" / "old"
    ready.write_text(ready.read_text("utf-8").replace("Python 3", "Python 2"), "utf-8")
    old.mkdir(parents=True)
    assert set_up("create")[0].startswith("Replacing .venv (Python 3.")
    assert not old.exists()


def test_a_copy_of_the_checkout_gets_an_environment_of_its_own(set_up, checkout, monkeypatch):
    set_up("create")
    shutil.copytree(checkout, checkout.parent / "copy")
    monkeypatch.chdir(checkout.parent / "copy")
    assert set_up("create")[0].startswith("Replacing .venv (Python 3.")


def test_what_was_interrupted_is_not_ready(set_up, checkout, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    set_up("create")
    (checkout / "requirements.lock").write_text("", "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(Environment, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            set_up("update")
    assert (checkout / ".venv" / UNFINISHED).exists()
    assert "run -m venv" in "\n".join(set_up("create"))
    assert not (checkout / ".venv" / UNFINISHED).exists()


def test_a_folder_with_other_things_stays_as_it_is(set_up, checkout):
    mine = checkout / ".venv" / "mine.txt"
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(SetupError, match="not a virtual environment"):
        set_up("create")
    assert [*mine.parent.iterdir()] == [mine]


@pytest.mark.parametrize("reason", ["[Errno 28] No space left on device", "Disk quota exceeded"])
def test_a_disk_that_runs_full_is_one_line(reason, checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    environment = Environment("create", ".venv", "requirements.lock", "2")
    code = "import sys; sys.exit(sys.argv[1])"
    with environment.locked() as lock, pytest.raises(SetupError) as caught:
        environment.run(lock, sys.executable, "-c", code, f"ERROR: {reason}\nhint: 1\n")
    assert str(caught.value) == f"the disk is full; {checkout}/.venv needs 2.6 GB"
    assert capsys.readouterr() == ("", "")


def test_what_pip_says_is_shown_when_it_fails(checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    environment = Environment("create", ".venv", "requirements.lock", "2")
    with environment.locked() as lock:
        environment.run(lock, "sh", "-c", "echo WARNING: slow >&2")
        with pytest.raises(SetupError, match="see above"):
            environment.run(lock, "sh", "-c", "echo ERROR: no such package >&2; exit 1")
    assert capsys.readouterr() == ("", "ERROR: no such package\n")


def test_progress_is_shown_while_pip_works(checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    monkeypatch.setattr("tools.environment.SECONDS_BETWEEN_REPORTS", 0.01)
    environment = Environment("create", ".venv", "requirements.lock", "2")
    (environment.packages / "pip-1.dist-info").mkdir(parents=True)
    environment.downloads.mkdir()
    (environment.downloads / "wheel").write_bytes(bytes(3_000_000))
    shown: list[str] = []

    class Pip:
        """Installs one package while it is waited for, then ends."""

        def communicate(self, timeout: float) -> tuple[None, str]:
            shown.append(capsys.readouterr().out.strip())
            if len(shown) == 2:
                (environment.packages / "numpy-2.dist-info").mkdir()
            if len(shown) == 3:
                return None, ""
            raise subprocess.TimeoutExpired("pip", timeout)

    environment.watch(Pip())
    assert shown == ["", "downloaded: 3 MB", "packages installed: 1"]


def test_two_setups_do_not_work_at_once_and_pip_holds_the_lock(checkout, monkeypatch):
    """A pip that outlives its setup still holds the lock, because it inherits it."""
    monkeypatch.chdir(checkout)
    environment = Environment("update", ".venv", "requirements.lock", "0")
    command = (sys.executable, ROOT / "tools" / "environment.py", "update", ".venv")
    with environment.locked() as lock:
        environment.run(lock, sys.executable, "-c", f"import os; os.fstat({lock})")
        (environment.folder / "pyvenv.cfg").touch()
        with subprocess.Popen(
            [*map(str, command), "requirements.lock", "0"],
            stdout=subprocess.PIPE,
            text=True,
        ) as second:
            assert second.stdout.readline() == "Waiting for another setup of .venv\n"
            environment.ready.write_text(environment.state(), "utf-8")
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.stdout.read() == ""
    assert second.returncode == 0
