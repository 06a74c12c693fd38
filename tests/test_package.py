"""The package as a stranger installs it: the wheel, the console command, an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT, assert_one_line, run_command
from PIL import Image

from anomaly_tf.program import COMMANDS, command_line, program
from anomaly_tf.version import VERSION

SHORT = ("--training.epochs", 1, "--training.steps-per-epoch", 3, "--training.batch-size", 16)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from what git would publish."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = run_command("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout
    for file in files.splitlines():
        if (ROOT / file).is_file():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_bytes((ROOT / file).read_bytes())
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", folder)
    done = run_command(sys.executable, "-m", "pip", "wheel", *options, source)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The console command in an environment of its own, beside the packages of this one."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(folder, with_pip=False)
    purelib = sysconfig.get_path("purelib")
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    # A .pth file in a folder that another one names is not followed: nothing of this checkout is.
    (own / "packages.pth").write_text(purelib)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    done = run_command(*pip, "install", "--no-deps", "--quiet", wheel)
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "anomaly-tf"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """An empty folder, but for a folder of photos."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0)
    for number in range(30):
        image = noise.integers(100, 140, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "photos" / f"{number}.png")
    return folder


def test_the_wheel_holds_every_module_and_every_configuration(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "anomaly_tf"
    pages = [*package.rglob("*.j2"), *(package / "deploy" / "web").iterdir()]
    for path in [*package.rglob("*.py"), *pages]:
        assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"anomaly_tf/{path.relative_to(ROOT).as_posix()}" in names
    assert "anomaly_tf/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"anomaly_tf", f"anomaly_tf-{VERSION}.dist-info"}


def test_from_photos_to_verdicts_in_an_empty_folder(installed, photos):
    def command(*words: object) -> subprocess.CompletedProcess:
        return run_command(installed, *words, cwd=photos)

    train = command("train", "--approach", "vae", "--data", "photos/", "--run-dir", "run", *SHORT)
    assert train.returncode == 0, train.stderr
    assert "next: anomaly-tf evaluate --run-dir run" in train.stdout
    assert command("evaluate", "--run-dir", "run").returncode == 0
    exported = command("export", "--run-dir", "run", "--format", "tflite")
    assert exported.returncode in (0, 3), exported.stderr
    next_line = "next: anomaly-tf predict --model run/export/vae.tflite IMAGES"
    assert next_line in exported.stdout
    for model in ("run", "run/export/vae.tflite"):
        done = command("predict", "--model", model, "photos")
        assert done.returncode in (0, 1), done.stderr
        assert "30 images" in done.stdout


def test_a_benchmark_by_a_shipped_configuration(installed, photos):
    options = ("--config", "configs/benchmarks/one_class.yaml", "--data", "photos/")
    more = ("--approaches", "vea", "--output", "out")
    done = run_command(installed, "benchmark", *options, *more, cwd=photos)
    assert_one_line(done, "did you mean 'vae'")
    done = run_command(installed, "benchmark", "--config", "configs/none.yaml", cwd=photos)
    assert_one_line(done, "cannot read configs/none.yaml")


def test_version_and_help(installed, photos):
    for words in (("--version",), *((command, "--version") for command in COMMANDS)):
        done = run_command(installed, *words, cwd=photos)
        name = " ".join(("anomaly-tf", *words[:-1]))
        assert (done.stdout, done.stderr) == (f"{name} {VERSION}\n", "")
    done = run_command(installed, "--help", cwd=photos)
    assert done.returncode == 0
    for command, summary in COMMANDS.items():
        assert f"  {command:<11}{summary}\n" in done.stdout
        helped = run_command(installed, command, "--help", cwd=photos)
        assert helped.stdout.startswith(f"usage: anomaly-tf {command} ")


@pytest.mark.parametrize("words", [["trian"], ["--verison"], ["traîn"], ["evaluate.py"]])
def test_an_unknown_command_names_the_nearest(words, installed, photos):
    done = run_command(installed, *words, cwd=photos)
    assert_one_line(done, "did you mean")


def test_without_a_command_the_help_is_shown(installed, photos):
    done = run_command(installed, cwd=photos)
    assert done.returncode == 2
    assert "usage: anomaly-tf COMMAND" in done.stdout


def test_the_module_is_the_command(photos):
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    options = {"cwd": photos, "env": environment}
    done = run_command(sys.executable, "-m", "anomaly_tf", "train", "--help", **options)
    assert done.stdout.startswith("usage: anomaly-tf train ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_script_is_its_command(command):
    done = run_command(sys.executable, f"{command}.py", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {command}.py ")
    assert not re.search(r"anomaly-tf \w+ \[", done.stdout)


LOADING = """
import sys
from anomaly_tf import cli

def interrupted(name):
    raise KeyboardInterrupt

cli.import_module = interrupted
sys.argv[1:] = ["train"]
cli.main()
"""


def test_ctrl_c_while_a_command_is_loaded_is_one_line():
    done = run_command(sys.executable, "-c", LOADING)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_command_is_named_as_it_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/anomaly-tf", "train"])
    assert program("train") == "anomaly-tf train"
    assert command_line("train", "--data", "my photos") == "anomaly-tf train --data 'my photos'"
    monkeypatch.setattr(sys, "argv", ["../evaluate.py"])
    assert command_line("export", Path("a")) == "python export.py a"
    monkeypatch.setattr(sys, "argv", ["prediction.py"])
    assert program("predict") == "anomaly-tf predict"
