"""A training that is killed or runs out of disk space resumes from its last checkpoint."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import (
    assert_one_line,
    events_of,
    run_command,
    run_script,
    small_config,
)
from PIL import Image

from anomaly_tf.approaches import APPROACHES, build_model, options_of
from anomaly_tf.approaches.dual_gan.options import DualGanConfig
from anomaly_tf.cli import evaluate, train
from anomaly_tf.data.contents import digest_of_sets
from anomaly_tf.data.protocols import make_split
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.errors import UserError
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.training import loop
from anomaly_tf.training.callbacks import StopOnNonFiniteLoss, write_history
from anomaly_tf.training.checkpoint import Progress, load_checkpoint, save_checkpoint

# Runs train.py and kills it, as `kill -9` does, at the n-th call of a function.
KILLED_AT = """
import functools, importlib, os, signal, sys
from anomaly_tf.cli import train
from anomaly_tf.script import run_script

module, owner, name, count, *arguments = sys.argv[1:]
owner = getattr(importlib.import_module(module), owner)
original, left = getattr(owner, name), int(count)

@functools.wraps(original)
def deadly(*arguments, **keywords):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **keywords)

setattr(owner, name, deadly)
sys.argv = ["train.py", *arguments]
run_script(train.main)
"""
BETWEEN_BATCHES = ("anomaly_tf.training.callbacks", "StopOnNonFiniteLoss", "on_train_batch_end")
AT_VALIDATION = ("anomaly_tf.training.callbacks", "Validation", "measure")
# A file takes its final name; in an epoch that is better than those before, one after the other:
# the new model, detector.json, the model once more, history.csv, the checkpoint. When a training
# resumes, before: config.yaml, history.csv, the events of the finished epochs.
AT_RENAMING = ("pathlib", "Path", "replace")


def killed_at(moment: tuple[str, str, str], count: int, *arguments: object) -> None:
    done = run_command(sys.executable, "-c", KILLED_AT, *moment, count, *arguments)
    assert done.returncode == -9, done.stdout + done.stderr


@pytest.fixture(scope="module")
def options(small_folder: Path) -> list[object]:
    """A deterministic training of four epochs, which draws at random which units it drops.

    One network is enough: `test_a_checkpoint_holds_all_that_training_changes` takes every approach.
    """
    return [
        *("--approach", "supervised", "--data", small_folder, "--data-dir", small_folder / "cache"),
        *("--deterministic", "--training.epochs", 4, "--training.steps-per-epoch", 8),
        *("--training.batch-size", 32, "--training.ema-decay", 0.9),
    ]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory) -> Path:
    """That training without any interruption."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = run_script("train.py", *options, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    return run


def weights(run: Path) -> list[np.ndarray]:
    return keras.models.load_model(run / "model.keras", compile=False).get_weights()


def facts(run: Path) -> dict:
    """Content of `detector.json`, without the facts that differ between equal runs."""
    content = json.loads((run / "detector.json").read_text())
    content.pop("model_sha256")
    for name in ("command", "reproduce", "train_seconds", "images_per_second"):
        content["training"].pop(name)
    return content


def test_a_training_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    options, whole, tmp_path
):
    run = tmp_path / "killed"
    # Before the first checkpoint; its first file is config.yaml.
    killed_at(AT_RENAMING, 2, *options, "--run-dir", run)
    assert_one_line(run_script("evaluate.py", "--run-dir", run), "--resume", "incomplete")
    resume = ("--resume", run)
    # In the second epoch; then between the new model and its detector.json, and right after that.
    killed_at(BETWEEN_BATCHES, 8 + 5, *resume)
    for count in (4, 5):
        killed_at(AT_RENAMING, count, *resume)
        assert np.isfinite(Detector.load(run).score(np.zeros((2, 28, 28), np.uint8))).all()
    # During the checkpoint of the second epoch, and at the validation of the third.
    killed_at(AT_RENAMING, 7, *resume)
    assert RunDirectory(run).checkpoint.is_file()
    killed_at(AT_VALIDATION, 2, *resume)
    done = run_script("train.py", *resume)
    assert done.returncode == 0, done.stderr
    assert facts(run) == facts(whole)
    assert (run / "history.csv").read_text() == (whole / "history.csv").read_text()
    for one, other in zip(weights(run), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    assert events_of(run) == events_of(whole)
    kept = {"config.yaml", "model.keras", "detector.json", "history.csv", "tensorboard"}
    assert {path.name for path in run.iterdir()} == kept
    done = run_script("train.py", *resume)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is complete" in done.stdout


def test_the_stored_command_reproduces_the_run(whole, tmp_path):
    """Bit by bit: weights, scores and thus every metric; the test set's, too."""
    again = tmp_path / "again"
    command = json.loads((whole / "detector.json").read_text())["training"]["reproduce"].split()
    assert command[:2] == ["python", "train.py"]
    assert run_script(*command[1:], "--run-dir", again).returncode == 0
    for one, other in zip(weights(whole), weights(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert facts(whole) == facts(again)
    evaluating = "import sys\nfrom anomaly_tf.cli import evaluate\n"
    evaluating += "for run in sys.argv[1:]: evaluate.main(['--run-dir', run])"
    assert run_command(sys.executable, "-c", evaluating, whole, again).returncode == 0
    metrics = []
    for run in (whole, again):
        content = json.loads((run / "metrics.json").read_text())
        for name in ("command", "train_seconds", "images_per_second"):
            content.pop(name)
        metrics.append(content)
    assert metrics[0] == metrics[1]


def built(approach: str) -> keras.Model:
    config = options_of(approach)()
    shape = (28, 28, 1)
    return build_model(
        dataclasses.replace(config, networks=config.networks.for_image(shape)),
        shape,
        10,
        False,
    )


def state(model: keras.Model) -> list[np.ndarray]:
    optimizers = [v for one in model.optimizers.values() for v in one.variables]
    return [np.array(variable) for variable in [*model.variables, *optimizers]]


@pytest.mark.parametrize("approach", APPROACHES)
def test_a_checkpoint_holds_all_that_training_changes(approach, tmp_path):
    """Weights, averages, optimizers, and the random generators, which Keras's files leave out."""
    model, path = built(approach), tmp_path / "checkpoint.npz"
    progress = Progress("digest", 1, 12.5, [{"epoch": 0, "loss": 1.0}])
    save_checkpoint(path, model, progress)
    other = built(approach)
    for variable in other.variables:
        variable.assign(np.array(variable) + 1)
    for optimizer in other.optimizers.values():
        for variable in optimizer.variables:
            variable.assign(np.array(variable) + 1)
    assert load_checkpoint(path, other, "digest") == progress
    for one, another in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(one, another)
    kinds = {variable.path.rsplit("/", 1)[-1] for variable in model.variables}
    if approach in ("cnn", "sota", "supervised", "transform", "vae"):  # samples, or drops units
        assert "seed_generator_state" in kinds


def test_a_damaged_or_strange_checkpoint_is_refused_in_one_line(tmp_path):
    model, path = built("contrastive"), tmp_path / "checkpoint.npz"
    save_checkpoint(path, model, Progress("digest"))
    with pytest.raises(UserError, match="the data has changed since it started"):
        load_checkpoint(path, model, "another")
    with pytest.raises(UserError, match=r"damaged .*belongs to another model"):
        load_checkpoint(path, built("gan"), "digest")
    content = path.read_bytes()
    middle = len(content) // 2
    for damaged in (
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        content[:middle],
        b"",
    ):
        path.write_bytes(damaged)
        before = state(model)
        with pytest.raises(UserError, match=r"checkpoint\.npz is damaged .*remove it"):
            load_checkpoint(path, model, "digest")
        for one, another in zip(before, state(model), strict=True):
            np.testing.assert_array_equal(one, another)
    # Zeros are packed to a thousandth: what would come out is counted before.
    bomb = {str(number): array for number, array in enumerate(state(model))}
    np.savez_compressed(path, progress=np.zeros(10**8, np.uint8), **bomb)
    with pytest.raises(UserError, match="would unpack to"):
        load_checkpoint(path, model, "digest")


def test_the_content_of_a_checkpoint_has_checked_types_and_ranges(tmp_path):
    model, path = built("contrastive"), tmp_path / "checkpoint.npz"
    save_checkpoint(path, model, Progress("digest", 1, history=[{"loss": 1.0}]))
    with np.load(path) as file:
        right = dict(file)
    assert load_checkpoint(path, model, "digest").epochs == 1
    before = state(model)
    number = next(name for name, value in right.items() if value.dtype == np.float32)
    weights = right[number]
    progress = json.loads(right["progress"].tobytes())
    wrong = [{number: value} for value in (weights * np.nan, weights * 1j, weights.astype(str))]
    wrong += [{number: weights.astype(np.float64)}, {"progress": np.zeros(3)}]
    texts = ["[" * 10**5, "[]", "{}", '{"epochs": 1}', '{"sets": NaN}']
    changes: tuple[dict[str, object], ...] = (
        {"epochs": -5},
        {"epochs": 1.5},
        {"epochs": 2},
        {"seconds": "1"},
        {"history": [1]},
        {"history": [{"loss": "x"}]},
        {"history": {}},
        {"epochs": 0, "history": {}},
        {"sets": 1},
        {"more": 1},
    )
    texts += [json.dumps(progress | change) for change in changes]
    wrong += [{"progress": np.frombuffer(text.encode(), np.uint8)} for text in texts]
    for change in wrong:
        np.savez(path, **(right | change))
        with pytest.raises(UserError, match=r"checkpoint\.npz is damaged .*remove it") as refused:
            load_checkpoint(path, model, "digest")
        assert str(refused.value).isprintable()
    for one, another in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, another)


def test_the_digest_of_the_sets_changes_with_an_image_and_with_a_class(small_dataset):
    split = make_split(DualGanConfig(), small_dataset)
    before = digest_of_sets(split)
    assert digest_of_sets(make_split(DualGanConfig(), small_dataset)) == before
    assert digest_of_sets(make_split(DualGanConfig(seed=1), small_dataset)) != before
    split.validation.images[0, 3, 3] ^= 1
    assert digest_of_sets(split) != before
    split.validation.images[0, 3, 3] ^= 1
    split.train.classes[0] += 1
    assert digest_of_sets(split) != before


def test_of_two_trainings_in_one_folder_the_second_is_refused(options, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    arguments = [*map(str, options), "--run-dir", str(run)]
    arguments.remove("--deterministic")  # which would hold for all tests of this process
    with (
        RunDirectory(run).locked(),
        pytest.raises(UserError, match="another process is working on run"),
    ):
        train.main(arguments)
    assert not list(run.iterdir())
    assert train.main(arguments) == 0
    with pytest.raises(UserError, match="already exists"):
        train.main(arguments)
    with (
        RunDirectory(run).locked(),
        pytest.raises(UserError, match="another process is working on run"),
    ):
        evaluate.main(["--run-dir", str(run), "--threshold.percentile", "50"])


# In a file system of its own, with room for one checkpoint and not for two: train, then make
# room and resume.
WITHOUT_ROOM = """
mount -t tmpfs -o size=7500k none "$1" || exit 77
"$2" train.py --run-dir "$1/run" "${@:3}"; echo "status $?" >&2
ls -A "$1/run" >&2
mount -o remount,size=99m "$1"
"$2" train.py --resume "$1/run" && cp -r "$1/run" "$1.out"
"""


def test_a_full_disk_leaves_the_last_checkpoint_and_one_line(options, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("needs the command unshare")
    own_mounts = ("unshare", "--user", "--map-root-user", "--mount")
    done = run_command(
        *own_mounts, "bash", "-c", WITHOUT_ROOM, "-", place, sys.executable, *options
    )
    if done.returncode in (1, 77) and "device:" not in done.stdout:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    line, status, *names = done.stderr.splitlines()
    assert status == "status 2"
    assert line.startswith("error: cannot write to ")
    assert "No space left on device" in line
    assert f"python train.py --resume {place}/run" in line
    assert "checkpoint.npz" in names
    assert not [name for name in names if name.startswith(".partial")]
    going_on = "resuming after epoch 1, the last finished one; the run keeps the weights of"
    assert re.search(rf"{going_on} epoch [12] \(validation AUROC \.?\d", done.stdout)
    run = Path(f"{place}.out")
    assert Detector.load(run).info.training.status == "completed"
    assert len((run / "history.csv").read_text().splitlines()) == 1 + 4


def test_a_model_that_was_not_yet_renamed_is_the_runs_if_its_digest_is(run_copy):
    run = RunDirectory(run_copy)
    images = np.zeros((2, 28, 28), np.uint8)
    before = Detector.load(run_copy).score(images)
    shutil.copy(run.model, run.new_model)
    run.model.write_bytes(b"of the epoch before")
    np.testing.assert_array_equal(Detector.load(run_copy).score(images), before)
    run.new_model.write_bytes(b"half of the next")
    with pytest.raises(UserError, match="is not the file that training saved"):
        Detector.load(run_copy)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume", "nowhere"], ("nowhere", "no config.yaml")),
        (["--resume", "nowhere", "--seed", "3"], ("leave out --seed",)),
        (["--resume="], ("--resume is empty",)),
    ],
)
def test_a_run_that_cannot_resume_is_reported_in_one_line(arguments, words, without_tensorflow):
    assert_one_line(run_script("train.py", *arguments, env=without_tensorflow), *words)


def test_a_folder_that_was_filled_before_training_began_is_kept(small_dataset, tmp_path):
    config = small_config("autoencoder")
    split = make_split(config, small_dataset)
    run = RunDirectory(tmp_path / "run")
    run.require_unused()
    run.path.mkdir()
    (run.path / "notes.txt").write_text("of another")
    with pytest.raises(UserError, match="already exists; choose a new --run-dir"):
        loop.train(config, small_dataset, split, run, "test")
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def interrupted(monkeypatch, batches: int, *arguments: object) -> None:
    """Runs train.py, in which Ctrl-C comes after so many batches."""
    seen = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        nonlocal seen
        seen += 1
        if seen == batches:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StopOnNonFiniteLoss, "on_train_batch_end", on_train_batch_end)
        assert train.main([str(argument) for argument in arguments]) == 130


def kept(run: Path) -> tuple[float, int, int | None, bytes]:
    """Of the run's detector its AUROC, epoch and steps, and its file."""
    training = Detector.load(run).info.training
    auroc = training.validation["val_auroc"]
    return auroc, training.best_epoch, training.steps, (run / "model.keras").read_bytes()


@pytest.fixture
def tiny(small_folder: Path) -> list[object]:
    """A training of three epochs of eight steps."""
    return [
        *("--data", small_folder, "--data-dir", small_folder / "cache", "--training.epochs", 3),
        *("--training.steps-per-epoch", 8, "--training.batch-size", 32),
    ]


def test_ctrl_c_never_replaces_a_detector_by_one_of_a_lower_auroc(
    tiny, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    options = ("--approach", "contrastive", *tiny, "--training.ema-decay", 0.5)
    interrupted(monkeypatch, 7, *options, "--run-dir", run)
    first = kept(run)
    assert "kept the weights of the unfinished first epoch (validation" in capsys.readouterr().err
    interrupted(monkeypatch, 1, "--resume", run)
    assert kept(run) == first


def test_ctrl_c_never_replaces_a_detector_by_one_that_learnt_less(
    tiny, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    resume = ("--resume", run)
    interrupted(monkeypatch, 7, "--approach", "autoencoder", *tiny, "--run-dir", run)
    capsys.readouterr()
    first = kept(run)
    assert first[1:3] == (0, 7)
    # Interrupted again after a single step; the message names the kept weights.
    interrupted(monkeypatch, 1, *resume)
    said = "no epoch was finished: training starts again"
    kept_first = f"{said}; the run keeps the weights of the unfinished first epoch (the last one; "
    assert kept_first in capsys.readouterr().out
    assert kept(run) == first
    # In the second epoch: the first one learnt longer.
    interrupted(monkeypatch, 8 + 4, *resume)
    second = kept(run)
    assert second[1:3] == (1, None)
    capsys.readouterr()
    # Begun again from the first epoch, because its checkpoint is gone.
    RunDirectory(run).checkpoint.unlink()
    interrupted(monkeypatch, 1, *resume)
    said = "there is no checkpoint of the last epoch: training starts again"
    assert f"{said}; the run keeps the weights of epoch 1 (" in capsys.readouterr().out
    assert kept(run) == second
    # Without model and checkpoint there is nothing to resume from.
    (run / "model.keras").unlink()
    with pytest.raises(UserError, match=r"has lost its model\.keras, and there is no checkpoint"):
        train.main(["--resume", str(run)])


def test_a_run_that_lost_its_model_resumes_with_its_own_images_only(tmp_path, monkeypatch):
    folder, run = tmp_path / "photos", RunDirectory(tmp_path / "run")
    noise = np.random.default_rng(0).integers(0, 255, (40, 16, 16), np.uint8)
    for number, image in enumerate(noise):
        path = folder / ("good", "bad")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    options = ("--data", folder, "--data-dir", tmp_path, "--training.steps-per-epoch", 2)
    chosen = ("--approach", "autoencoder", "--training.epochs", 2, "--run-dir", run.path)
    interrupted(monkeypatch, 3, *chosen, *options)
    run.model.unlink()
    for path in folder.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    before = run.split.read_bytes()
    with pytest.raises(UserError, match=r"images replaced under their names: 40"):
        train.main(["--resume", str(run.path)])
    assert run.split.read_bytes() == before
    for path in folder.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert train.main(["--resume", str(run.path)]) == 0


def test_before_the_first_step_there_is_nothing_to_keep(tiny, tmp_path, monkeypatch, capsys):
    def on_train_begin(self, logs: dict | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StopOnNonFiniteLoss, "on_train_begin", on_train_begin)
    run = tmp_path / "run"
    options = ["--approach", "autoencoder", *map(str, tiny), "--run-dir", str(run)]
    assert train.main(options) == 130
    assert not RunDirectory(run).model.exists()
    assert "so there is no detector to keep" in capsys.readouterr().err


def test_of_a_model_that_training_did_not_save_nothing_is_kept(tiny, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    interrupted(monkeypatch, 3, "--approach", "autoencoder", *tiny, "--run-dir", run)
    (run / "model.keras").write_bytes(b"another")
    capsys.readouterr()
    interrupted(monkeypatch, 1, "--resume", run)
    assert "no epoch was finished: training starts again\n" in capsys.readouterr().out
    assert kept(run)[1:3] == (0, 1)


def test_a_history_that_cannot_be_written_leaves_the_one_of_before(tmp_path):
    path = tmp_path / "history.csv"
    write_history(path, [{"epoch": 0, "loss": 1.0}])
    before = path.read_text()
    assert before == "epoch,loss\n0,1.0\n"
    with pytest.raises(ValueError, match="not in fieldnames"):
        write_history(path, [{"epoch": 0, "loss": 0.5}, {"epoch": 1, "other": 1.0}])
    assert path.read_text() == before
