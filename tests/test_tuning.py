"""Search over options: the space, the draws, the trials of a driver that is killed, the results."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, assert_one_line, run_script
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from anomaly_tf import commands
from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.cli import search, train
from anomaly_tf.command_line import parse_train_options
from anomaly_tf.config import flatten
from anomaly_tf.config.parser import as_argument
from anomaly_tf.detection.metrics import accuracy_limits, auroc_limits
from anomaly_tf.errors import UserError
from anomaly_tf.reporting.search_plots import Searched, what_mattered
from anomaly_tf.runs.outputs import SEARCH_OUTPUTS, is_plot
from anomaly_tf.tuning.space import Choices, Range, as_text, combinations, read_space
from anomaly_tf.tuning.study import Study, require_optuna
from measurements.dask_processes import dask_cluster, wait_until

VAE = options_of("vae")()


def space_of(text: str, path: Path, approach: str = "vae", given: tuple[str, ...] = ()) -> dict:
    path.write_text(text)
    return read_space(path, options_of(approach)(), given)


def test_a_space_has_sections_or_dots_hyphens_or_underscores(tmp_path):
    found = space_of(
        "losses.noise: {low: 1e-2, high: 0.5, log: true}\n"
        "networks:\n  latent: {low: 8, high: 64, step: 8}\n"
        "  filters: ['16,32', [32, 64, 128], null]\n"
        "training.jit-compile: ['on', 'off']\n"
        "training.batch_size: [null, 64]\n",
        tmp_path / "space.yaml",
    )
    assert found == {
        "losses.noise": Range(0.01, 0.5, True),
        "networks.filters": Choices({"16,32": (16, 32), "32,64,128": (32, 64, 128), "null": None}),
        "networks.latent": Range(8, 64, False, 8),
        "training.batch_size": Choices({"null": None, "64": 64}),
        "training.jit_compile": Choices({"on": "on", "off": "off"}),
    }
    assert list(found) == sorted(found)
    del found["losses.noise"]
    assert combinations(found) == 3 * 8 * 2 * 2


NOISE = "losses.noise: "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; give options with their values"),
        ("losses.nose: [1, 2]", "unknown option 'losses.nose'; did you mean 'losses.noise'?"),
        (
            "losses.abc_weight: [1, 2]",
            "vae has no option --losses.abc-weight, which is one of sota",
        ),
        ("losses: [1, 2]", "'losses' is a section; give options of it"),
        (f"{NOISE}3", "--losses.noise has neither a range .* nor a list of choices; got 3"),
        (f"{NOISE}[]", "--losses.noise has no choices"),
        (f"{NOISE}[3]", "--losses.noise has one value only"),
        (f"{NOISE}[0.1, '0.1']", "--losses.noise has the choice 0.1 twice"),
        (f"{NOISE}[0.1, a]", "--losses.noise must be a number; got a"),
        (f"{NOISE}[0.1, 11]", "--losses.noise must be above 0 and at most 10; got 11"),
        (f"{NOISE}{{low: 0, high: 1}}", "--losses.noise must be above 0 .* got 0"),
        (f"{NOISE}{{low: 0, high: 1, log: true}}", "logarithmic scale, and 'low' must be above 0"),
        (f"{NOISE}{{low: 2, high: 1}}", "'low' is 2.0, above 'high', 1.0"),
        (f"{NOISE}{{low: 1, high: 1}}", "--losses.noise has one value only"),
        (f"{NOISE}{{low: 1}}", "--losses.noise has a range without 'high'"),
        (f"{NOISE}{{low: 1, hihg: 2}}", "unknown key 'hihg'; did you mean 'high'?"),
        (f"{NOISE}{{low: 1, high: 2, log: 1}}", "'log' must be true or false; got 1"),
        (f"{NOISE}{{low: 1, high: 2, step: 0}}", "'step' must be above 0"),
        (f"{NOISE}{{low: 1, high: 2, step: 0.1, log: true}}", "a step and a logarithmic scale"),
        (f"{NOISE}{{low: .nan, high: .inf}}", "'low' must be at most 2.53; got nan"),
        (f"{NOISE}[1, 2]\nlosses: {{noise: [1, 2]}}", "--losses.noise is there twice"),
        ("networks.latent: {low: 1.5, high: 3}", "'low' must be a whole number; got 1.5"),
        ("networks.latent: {low: 8, high: 30, step: 8}", "got 30, and the last value .* is 24"),
        ("networks.latent: {low: 0, high: 8}", "--networks.latent must be at least 1; got 0"),
        ("networks.filters: {low: 8, high: 16}", "--networks.filters is no single number"),
        ("training.schedule: {low: 8, high: 16}", "give a list of choices, not a range"),
        ("training.schedule: [cosine, linear]", "must be one of 'cosine', 'constant'; got linear"),
        ("training.epochs: [5, 9]", "--training.epochs is searched, and given for all trials"),
    ],
)
def test_what_is_no_space_is_refused_before_anything_runs(text, words, tmp_path):
    with pytest.raises(UserError, match=rf"space\.yaml:? .*{words}"):
        space_of(text, tmp_path / "space.yaml", given=("training.epochs",))


def test_options_that_make_validation_incomparable_are_not_searched(tmp_path):
    searched = {}
    for approach in APPROACHES:
        names = []
        for name, value in flatten(options_of(approach)()).items():
            values = json.dumps([as_text(value), "1", "2"])
            try:
                space_of(f"{name}: {values}", tmp_path / "space.yaml", approach)
            except UserError as error:
                if "cannot be searched" in str(error):
                    continue
            names.append(name)
        searched[approach] = names
    shared = ("image_size", "training.batch_size", "training.precision", "training.jit_compile")
    assert set.intersection(*map(set, searched.values())) == set(shared)
    sections = {name.split(".")[0] for names in searched.values() for name in names}
    parts = {"sampling", "training", "networks", "losses", "defects"}
    assert sections == {"image_size", "refine"} | parts
    assert not any("sampling.validation_fraction" in names for names in searched.values())


def test_a_value_is_refused_if_no_combination_accepts_it(tmp_path):
    path = tmp_path / "space.yaml"
    with pytest.raises(UserError, match=r"--training\.batch-size must be even.*got 33"):
        space_of("training.batch_size: {low: 32, high: 64}", path, "sota")
    space_of("training.batch_size: {low: 32, high: 64, step: 2}", path, "sota")
    strides = "networks.strides: ['4,8', '16,32']"
    with pytest.raises(UserError, match=r"--networks\.grid must be one of 16, 32"):
        space_of(strides, path, "patchcore")  # the grid is 8
    space_of(f"{strides}\nnetworks.grid: [8, 16]", path, "patchcore")


@pytest.mark.parametrize("approach", APPROACHES)
def test_every_option_is_passed_on_as_an_argument(approach):
    config = options_of(approach)()
    arguments = [as_argument(name, value) for name, value in flatten(config).items()]
    assert parse_train_options(arguments).config == config


SPACE = {
    "losses.noise": Range(0.01, 0.5, True),
    "networks.filters": Choices({"4,8": (4, 8), "8,16": (8, 16), "null": None}),
    "networks.latent": Range(8, 64, False, 8),
}
DEFAULTS = {name: flatten(VAE)[name] for name in SPACE}


def goodness(values: dict) -> float:
    return 0.9 - abs(np.log10(values["losses.noise"] / 0.2)) / 4 + values["networks.latent"] / 1e4


def fill(study: Study, count: int) -> None:
    while len(study.trials) < count and (trial := study.begin()):
        study.finish(trial.number, goodness(trial.values), seconds=1.5)


def test_the_draws_depend_on_the_seed_and_not_on_a_stop(tmp_path):
    whole = Study(tmp_path / "whole.log", SPACE, DEFAULTS, 3)
    fill(whole, 16)
    path = tmp_path / "stopped.log"
    fill(Study(path, SPACE, DEFAULTS, 3), 5)
    begun = Study(path, SPACE, DEFAULTS, 3).begin()
    with path.open("a") as file:
        file.write('{"op_code":6,"work')  # its writer was killed
    (tmp_path / "stopped.log.lock").symlink_to(path)
    stopped = Study(path, SPACE, DEFAULTS, 3)
    assert [trial.number for trial in stopped.trials if not trial.is_finished] == [5]
    assert stopped.trials[5] == begun
    stopped.finish(5, goodness(begun.values), seconds=1.5)
    fill(stopped, 16)
    again = Study(path, SPACE, DEFAULTS, 3)
    assert again.trials == stopped.trials == whole.trials
    assert whole.trials[0].values == DEFAULTS
    assert whole.trials[0].facts == {"seconds": 1.5}
    other = Study(tmp_path / "other.log", SPACE, DEFAULTS, 4)
    fill(other, 3)
    assert [trial.values for trial in other.trials[1:]] != [t.values for t in whole.trials[1:3]]


def test_the_draws_find_what_is_good_and_what_mattered(tmp_path):
    study = Study(tmp_path / "journal.log", SPACE, DEFAULTS, 0)
    assert study.importances() == {}
    fill(study, 30)
    found = [goodness(trial.values) for trial in study.trials]
    assert np.mean(found[20:]) > np.mean(found[1:11])
    importances = study.importances()
    assert next(iter(importances)) == "losses.noise"
    assert importances["losses.noise"] > 0.9
    assert sum(importances.values()) == pytest.approx(1)


def test_no_combination_is_tried_twice_and_then_it_ends(tmp_path):
    space = {"networks.latent": Range(8, 24, False, 8), "losses.noise": Choices({"1": 1, "2": 2})}
    defaults = {"networks.latent": 32, "losses.noise": 0.1}  # outside the space
    study = Study(tmp_path / "journal.log", space, defaults, 0)
    fill(study, 100)
    tried = [(t.values["networks.latent"], t.values["losses.noise"]) for t in study.trials]
    assert tried[0] == (32, 0.1)
    assert sorted(tried[1:]) == [(a, b) for a in (8, 16, 24) for b in (1, 2)]
    assert Study(tmp_path / "journal.log", space, defaults, 0).trials == study.trials
    assert len(study.importances()) == 2


def test_trials_under_way_are_kept_away_from(tmp_path):
    study = Study(tmp_path / "journal.log", SPACE, DEFAULTS, 0)
    fill(study, 12)
    under_way = [study.begin().values for _ in range(6)]
    assert len({str(values) for values in under_way}) == 6


@pytest.mark.parametrize("content", ['{"op_code": 99}\n', "no journal\n", '{"op_code": 4}\n'])
def test_a_damaged_journal_is_one_line(content, tmp_path):
    path = tmp_path / "journal.log"
    path.write_text(content)
    with pytest.raises(UserError, match=r"journal\.log is damaged .*choose another --output"):
        Study(path, SPACE, DEFAULTS, 0)


def test_optuna_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"needs the package optuna.*requirements-search\.txt"):
        require_optuna()


def test_limits_of_a_measure():
    low, high = auroc_limits(0.9, 50, 100)
    assert low < 0.9 < high < 0.94
    assert auroc_limits(0.9, 5000, 5000)[1] - 0.9 < 0.004
    assert auroc_limits(0.9, 1, 100) == (0.0, 1.0)
    low, high = accuracy_limits(0.9, 100)  # the standard error is 0.03
    assert (0.9 - low, high - 0.9) == (pytest.approx(0.03, abs=0.006),) * 2


# Real trainings, of seconds: two trials, and the training of the best again.
PADIM = ("--approach", "padim", "--networks.enlarge-to", "32", "--networks.strides", "8,16")


@pytest.fixture(scope="module")
def searched(small_folder, made_once) -> Path:
    """The folder of a search by the command, and what it printed."""

    def make(folder: Path) -> None:
        space = "networks.dimensions: {low: 2, high: 22, step: 10}\nnetworks.kinds: [1, 2]\n"
        (folder / "space.yaml").write_text(space)
        options = ("--data", small_folder, "--data-dir", small_folder / "cache", "--trials", 2)
        places = ("--space", folder / "space.yaml", "--output", folder / "output")
        done = run_script("search.py", *PADIM, *options, *places, "--jobs", 2)
        assert done.returncode == 0, done.stderr
        (folder / "said").write_text(done.stdout)

    return made_once("searched", make)


def test_a_search_keeps_its_best_run_and_what_trains_it_again(searched, tmp_path, capsys):
    output, said = searched / "output", (searched / "said").read_text()
    assert {path.name for path in output.iterdir()} == {
        *("best.yaml", "journal.log", "runs", "search.json", "search.md", "search.png")
    }
    [run] = (output / "runs").iterdir()
    assert f"run: {run}\n" in said
    info = json.loads((run / "detector.json").read_text())
    measure = info["training"]["validation"]["val_auroc"]
    assert f"best: {run.name.replace('-', ' ')} of 2, validation AUROC {measure:.4f}" in said
    assert not (run / "metrics.json").exists()  # the test set is not scored
    assert is_plot(output / "search.png")
    assert said.count("validation AUROC 0.") == 3
    best = ["--config", str(output / "best.yaml"), "--run-dir", str(tmp_path / "again")]
    assert train.main(best) == 0
    again = json.loads((tmp_path / "again" / "detector.json").read_text())
    assert again["training"]["validation"]["val_auroc"] == pytest.approx(measure, abs=1e-6)
    assert again["data"] == info["data"]
    chosen = yaml.safe_load((output / "best.yaml").read_text())
    assert chosen["networks"]["enlarge_to"] == 32


# Stands for `python -m anomaly_tf`. Refuses some values, fails for others, and waits if asked to.
TRAINER = """
import json, math, os, signal, sys
from pathlib import Path

shared, _, *arguments = sys.argv[1:]
options = dict(argument[2:].split("=", 1) for argument in arguments)
run, shared = Path(options["run-dir"]), Path(shared)
run.mkdir(parents=True)
(run / "config.yaml").write_text("approach: vae\\n")
noise, latent = float(options.get("losses.noise", 0.1)), int(options.get("networks.latent", 32))
begun = len(list(shared.glob("begun-*")))
(shared / f"begun-{begun}-{options['losses.noise'] if 'losses.noise' in options else ''}").touch()
if (shared / "wait").exists() and begun == 3:
    (shared / "wait").rename(shared / "waiting")
    signal.pause()
if latent == 64:
    sys.stderr.write("error: 64 is too long; give less\\n")
    sys.exit(2)
if latent == 56 and not (shared / "memory").exists():
    sys.exit("Killed")
info = json.loads((shared / "detector.json").read_text())
info["training"]["validation"] = {"val_auroc": 0.9 - abs(math.log10(noise / 0.2)) / 4}
(run / "model.keras").touch()
(run / "detector.json").write_text(json.dumps(info))
"""
TEXT = (
    "losses.noise: {low: 0.01, high: 0.5, log: true}\nnetworks.latent: {low: 8, high: 48, step: 8}"
)


@pytest.fixture
def trainer(searched, tmp_path) -> Path:
    """A folder with a program that answers at once in place of a training."""
    folder = tmp_path / "trainer"
    folder.mkdir()
    (folder / "trainer.py").write_text(TRAINER)
    [run] = (searched / "output" / "runs").iterdir()
    shutil.copy(run / "detector.json", folder)
    (folder / "space.yaml").write_text(TEXT)
    return folder


@pytest.fixture
def quick(trainer, small_folder, monkeypatch):
    """Searches in this process; returns the exit status."""
    monkeypatch.setattr(commands, "STARTED", (str(trainer / "trainer.py"), str(trainer)))

    def run(*more: object, output: str = "output", trials: int = 8) -> int:
        options = ["--approach=vae", f"--data={small_folder}", f"--data-dir={small_folder}/cache"]
        options += [f"--space={trainer / 'space.yaml'}", f"--output={trainer / output}"]
        return search.main([*options, f"--trials={trials}", *map(str, more)])

    return run


def study_in(folder: Path) -> Study:
    space = read_space(folder.parent / "space.yaml", VAE)
    return Study(folder / "journal.log", space, {n: flatten(VAE)[n] for n in space}, 0)


def values_in(folder: Path) -> list:
    return [(trial.values, trial.measure, trial.reason) for trial in study_in(folder).trials]


DRIVER = """
import sys
from anomaly_tf import commands
from anomaly_tf.cli import search
commands.STARTED = (sys.argv[1] + "/trainer.py", sys.argv[1])
sys.exit(search.main(sys.argv[2:]))
"""


def test_a_killed_search_continues_with_the_same_values(quick, trainer, small_folder, capsys):
    assert quick(output="whole") == 0
    for path in trainer.glob("begun-*"):
        path.unlink()
    (trainer / "wait").touch()
    options = ["--approach=vae", f"--data={small_folder}", f"--data-dir={small_folder}/cache"]
    options += [f"--space={trainer / 'space.yaml'}", f"--output={trainer / 'output'}"]
    command = [sys.executable, "-c", DRIVER, str(trainer), *options, "--trials=8"]
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as driver:
        wait_until((trainer / "waiting").exists, driver)
        with pytest.raises(UserError, match=r"another process is working on --output .*wait"):
            quick()
        driver.kill()
    assert [trial.is_finished for trial in study_in(trainer / "output").trials] == [True] * 3 + [
        False
    ]
    capsys.readouterr()
    assert quick() == 0
    said = capsys.readouterr().out
    assert f"kept: 3 trials in {trainer / 'output'}\n[4/8] trial 3: " in said
    assert values_in(trainer / "output") == values_in(trainer / "whole")
    begun = sorted(path.name.partition("-")[2] for path in trainer.glob("begun-*"))
    assert begun[3].partition("-")[2] == begun[4].partition("-")[2] != ""  # the one under way
    assert len(begun) == 9
    # More trials continue; fewer train nothing.
    assert quick(trials=9) == quick(trials=2) == 0
    assert len(list(trainer.glob("begun-*"))) == 10
    [run] = (trainer / "output" / "runs").iterdir()
    best = max(study_in(trainer / "output").trials, key=lambda trial: trial.measure)
    assert run.name == f"trial-{best.number}"


def test_refused_values_are_counted_and_failures_are_tried_again(quick, trainer, capsys):
    (trainer / "space.yaml").write_text("networks.latent: [16, 56, 64]\nlosses.noise: [0.1, 0.2]")
    assert quick(trials=9) == 2  # the defaults are outside the space of six
    said = capsys.readouterr()
    assert "all combinations of values were tried" in said.out
    assert "refused: 2 of 7 trials: 64 is too long; give less (2 times)" in said.out
    assert "failed: 2 of 7 trials: Killed (2 times)" in said.out
    assert said.err.endswith("error: 2 of 7 trainings failed\n")
    before = values_in(trainer / "output")
    (trainer / "memory").touch()
    begun = len(list(trainer.glob("begun-*")))
    assert quick(trials=9) == 0
    assert len(list(trainer.glob("begun-*"))) == begun + 2
    after = values_in(trainer / "output")
    assert [values for values, *_ in after] == [values for values, *_ in before]
    assert [r for *_, r in after if r] == ["64 is too long; give less"] * 2
    assert sum(measure is not None for _, measure, _ in after) == 5


def test_values_that_exclude_each_other_cost_no_training(quick, trainer, capsys):
    text = "networks.mirror: [0, 8, 16]\nnetworks.grid: [8, 16]"
    (trainer / "space.yaml").write_text(text)
    assert quick("--approach=patchcore", trials=7) == 0
    said = capsys.readouterr().out
    assert "refused: option --networks.mirror must be a multiple of --networks.grid, 16" in said
    assert len(list(trainer.glob("begun-*"))) == 6  # the defaults are outside the space


def test_a_search_without_any_result_is_one_line(quick, trainer):
    (trainer / "space.yaml").write_text("losses.noise: [0.1, 0.2]")
    with pytest.raises(UserError, match="none of 2 trials has a result; the last one: 64 is too"):
        quick("--networks.latent=64", trials=4)
    assert not (trainer / "output" / "best.yaml").exists()


@pytest.mark.parametrize(
    ("more", "space", "words"),
    [
        (("--training.epochs=3",), TEXT, r"another --training\.epochs \(20; now 3\)"),
        (("--seed=1",), TEXT, r"another --seed \(0; now 1\)"),
        ((), TEXT.replace("0.5", "0.6"), r"another --losses\.noise in its space \(0.01 to 0.5"),
        ((), TEXT + "\nsampling.flip: [0.0, 0.5]", r"another --sampling\.flip"),
        (("--approach=autoencoder",), "networks.latent: [1, 2]", r"another --approach \(vae; now"),
    ],
)
def test_another_search_in_the_same_folder_is_refused(more, space, words, quick, trainer, capsys):
    assert quick(trials=2) == 0
    (trainer / "space.yaml").write_text(space)
    before = sorted(path.name for path in trainer.rglob("*"))
    with pytest.raises(UserError, match=rf"output was begun with {words}.*choose another --output"):
        quick(*more)
    assert sorted(path.name for path in trainer.rglob("*")) == before


def test_files_of_others_are_not_written_over(quick, trainer):
    (trainer / "output").mkdir()
    for name in ("best.yaml", "search.json", "search.md", "search.png", "journal.log"):
        (trainer / "output" / name).write_text("mine")
        with pytest.raises(UserError, match=rf"{name} exists and was not written by this command"):
            quick()
        assert (trainer / "output" / name).read_text() == "mine"
        (trainer / "output" / name).unlink()


@pytest.mark.parametrize(
    ("content", "is_own"),
    [
        ('{"op_code":0,"worker_id":"1","study_name":"anomaly_tf search"}\n{"op', True),
        ('{"op_code":0,"worker_id":"1","study_name":"mine"}\n', False),
        ("", True),  # killed before, or at, the first line
        ('{"op_code":0,"wor', True),
        ("mine", False),
    ],
)
def test_a_journal_is_recognised(content, is_own, tmp_path):
    (tmp_path / "journal.log").write_text(content)
    assert SEARCH_OUTPUTS["journal.log"](tmp_path / "journal.log") == is_own


def test_what_was_gained_is_said(quick, trainer, capsys):
    # The validation set of 60 normal images and 540 anomalies has a standard error of 0.02.
    (trainer / "space.yaml").write_text("losses.noise: [0.1, 0.11]")
    assert quick(trials=3) == 0
    said = capsys.readouterr().out
    assert "nothing was gained: trial 0 is within a standard error of the largest" in said
    (trainer / "space.yaml").write_text("losses.noise: [0.1, 0.2]")
    assert quick(output="other", trials=3) == 0
    assert "gain: +0.0753, more than a standard error" in capsys.readouterr().out
    text = (trainer / "other" / "search.md").read_text()
    assert "is optimistic, because these images chose it" in text
    assert "| 0 (defaults) | 0.8247 |" in text


def test_on_a_cluster_the_trials_come_back(trainer, quick, tmp_path, capsys):
    program = (str(trainer / "trainer.py"), str(trainer))
    (tmp_path / "preload.py").write_text(
        f"from anomaly_tf import commands\ncommands.STARTED = {program!r}\n"
    )
    with dask_cluster(tmp_path / "dask", 0) as cluster:
        worker = cluster.start_worker("--preload", tmp_path / "preload.py")
        worker.logged("Registered to:")
        assert quick("--cluster", cluster.address, output="away", trials=4) == 0
    assert quick(output="here", trials=4) == 0
    assert values_in(trainer / "away") == values_in(trainer / "here")
    [away], [here] = ((trainer / name / "runs").iterdir() for name in ("away", "here"))
    assert away.name == here.name
    assert (away / "detector.json").read_bytes() == (here / "detector.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "--space is missing"),
        ("--approach=auto --space=SPACE", "--approach auto chooses by the data"),
        ("--space=SPACE --losses.noise=3", "--losses.noise is searched, and given for all"),
        ("--space=SPACE --config=CONFIG", "--losses.noise is searched, and given for all"),
        ("--space=none.yaml", "cannot read none.yaml"),
        ("--space=SPACE --run-dir=x", "unknown option '--run-dir'"),
        ("--space=SPACE --jobs=2 --cluster=tcp://h:1", "exclude each other"),
        ("--space=SPACE --trials=0", "--trials must be at least 1"),
    ],
)
def test_wrong_options_of_search(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text("losses.noise: [0.1, 0.2]")
    (tmp_path / "config.yaml").write_text("approach: vae\nlosses: {noise: 0.3}")
    options = options.replace("SPACE", "space.yaml").replace("CONFIG", "config.yaml")
    with pytest.raises(UserError, match=re.escape(words)):
        search.main(["--approach=vae", *options.split()])
    assert {path.name for path in tmp_path.iterdir()} == {"space.yaml", "config.yaml"}


def test_an_unknown_option_suggests_one_of_search_without_tensorflow(tmp_path, without_tensorflow):
    options = ("--approach", "vae", "--trails", 3)
    done = run_script("search.py", *options, cwd=tmp_path, env=without_tensorflow)
    assert_one_line(done, "unknown option '--trails'; did you mean '--trials'?")


def test_without_anomalies_nothing_can_be_compared(tmp_path):
    noise = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(30):
        image = noise.integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "space.yaml").write_text("losses.noise: [0.1, 0.2]")
    options = ["--approach=vae", f"--data={tmp_path / 'photos'}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=r"only normal images in the validation set of .*photos"):
        search.main([*options, f"--space={tmp_path / 'space.yaml'}"])
    assert not (tmp_path / "out").exists()


def test_a_picture_of_few_and_of_many_options():
    values = list(np.geomspace(0.001, 10, 12))
    names = ["16,32,64,128,256", "null"]
    options = [
        Searched("a" * 60, values, None, True),
        Searched("losses.$x$", [None, *values[1:]]),
        Searched("networks.filters", ["outside", *(names * 6)[:11]], names),
        *(Searched(f"networks.n{number}", [1] * 12) for number in range(6)),
    ]
    measures = [None, *np.linspace(0.8, 0.9, 10), None]
    importances = {"networks.n3": 0.9, "losses.$x$": 0.1}
    figure = what_mattered(options, measures, "validation AUROC", importances)
    FigureCanvasAgg(figure).draw()
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[:2] == ["networks.n3", r"losses.\$x\$"]
    assert len(titles) == 9
    few = what_mattered(options[:1], [None] * 12, "validation AUROC", {})
    FigureCanvasAgg(few).draw()
    labels = {text.get_text() for text in few.legends[0].get_texts()}
    assert "without a result" in labels
