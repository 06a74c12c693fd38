"""`--refine`: training images that may be anomalies are left out of the training."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Evaluated

from anomaly_tf.approaches.vae.options import VaeConfig
from anomaly_tf.data import stored
from anomaly_tf.data.contents import digest_of_sets
from anomaly_tf.data.images import AS_USUAL
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roi import RegionFolder
from anomaly_tf.data.stored import StoredImages
from anomaly_tf.errors import UserError
from anomaly_tf.networks.gradients import gradient_features, least_usual
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.outputs import files_of_run, is_own_run
from anomaly_tf.runs.refinement import read_refinement
from anomaly_tf.training import loop, refinement
from anomaly_tf.training.setup import TrainingSetup

SHARE = 0.1


@pytest.fixture(scope="module")
def refined(evaluated) -> Evaluated:
    """A run on normal images of which a tenth are anomalies, and as many are left out."""
    return evaluated("vae", "contaminated", "--refine", str(SHARE))


def test_a_run_records_what_was_left_out(refined):
    metrics = refined.metrics
    total = metrics["n_train"] + metrics["n_left_out"]
    assert metrics["n_unlabelled"] == metrics["n_left_out"] == round(SHARE * total)
    # Three times as many as a random choice would find.
    assert metrics["n_unlabelled_left_out"] > 3 * SHARE * metrics["n_unlabelled"]
    found = read_refinement(RunDirectory(refined.run).refinement, total)
    assert len(found.left_out) == metrics["n_left_out"]
    scores = [one.score for one in found.left_out]
    assert scores == sorted(scores, reverse=True)
    hidden = sum(
        one.class_name != "0" and one.class_name != "T-shirt/top" for one in found.left_out
    )
    assert hidden == metrics["n_unlabelled_left_out"]
    assert not RunDirectory(refined.run).halves.exists()


def test_the_page_of_the_run_counts_them(refined):
    page = (refined.run / "report.html").read_text("utf-8")
    metrics = refined.metrics
    assert f"{metrics['n_left_out']} images with the highest scores, before training" in page
    assert f"{metrics['n_unlabelled_left_out']} of them are unlabelled anomalies" in page
    assert f"{metrics['n_unlabelled']} of {metrics['n_train'] + metrics['n_left_out']} " in page


def config_of(**changes: Any) -> VaeConfig:
    config = VaeConfig(protocol="contaminated", refine=SHARE, normal_class=(0,), **changes)
    few = dataclasses.replace(config.training, epochs=2, steps_per_epoch=2, batch_size=16)
    networks = dataclasses.replace(config.networks, filters=(4, 8), latent=4)
    return dataclasses.replace(config, training=few, networks=networks)


@pytest.fixture
def trained(small_dataset, tmp_path, monkeypatch) -> Callable[..., Any]:
    """Trains with a refinement, and records each training's split in the way."""
    splits: list[Any] = []
    original = loop.train

    def recorded(config, dataset, split, run, *arguments: Any, **keywords: Any) -> loop.Outcome:
        splits.append((config, split, run))
        return original(config, dataset, split, run, *arguments, **keywords)

    monkeypatch.setattr(loop, "train", recorded)

    def start(config: VaeConfig, resume: bool = False) -> tuple[loop.Outcome, list[Any]]:
        splits.clear()
        split = make_split(config, small_dataset)
        run = RunDirectory(tmp_path / "run")
        return refinement.train(config, small_dataset, split, run, "test", resume=resume), splits

    return start


def test_each_half_is_scored_by_a_detector_that_has_not_seen_it(trained, small_dataset, tmp_path):
    config = config_of()
    outcome, ((half, first, _), (_, second, _), (whole_length, last, run)) = trained(config)
    assert outcome.status == "completed"
    whole = make_split(config, small_dataset).train
    # Real images hold no image twice, so that their bytes identify them.
    halves = [{image.tobytes() for image in half.train.images} for half in (first, second)]
    assert not halves[0] & halves[1]
    # Neither learns from what is least usual.
    features = gradient_features(whole.images.shape[1:])(whole.images)
    unusual = least_usual(features, round(SHARE * len(whole)))
    usual = np.delete(whole.images, unusual, axis=0)
    assert halves[0] | halves[1] == {image.tobytes() for image in usual}
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    assert len(last.learnt) == len(whole) - round(SHARE * len(whole))
    assert (run.path, run.halves.exists()) == (tmp_path / "run", False)
    assert outcome.info.training.n_train == len(last.learnt)
    # Both together take as long as one training, and refine no further.
    assert (half.training.epochs, whole_length.training.epochs) == (1, 2)
    assert (half.refine, whole_length.refine) == (0.0, SHARE)


def test_what_is_left_out_is_not_trained_on(small_dataset):
    config = config_of()
    split = make_split(config, small_dataset)
    refined = split.hidden
    setup = TrainingSetup.of(config, small_dataset, dataclasses.replace(split, refined=refined))
    np.testing.assert_array_equal(setup.normal, split.train.images[~refined])
    assert digest_of_sets(setup.split) != digest_of_sets(split)


def stopped_in(number: int, monkeypatch) -> None:
    """Ctrl-C in the training with a number, from 1."""
    original, left = loop.StopOnNonFiniteLoss.on_epoch_begin, number

    def stop(self: Any, epoch: int, logs: dict | None = None) -> None:
        nonlocal left
        original(self, epoch, logs)
        left -= epoch == 0
        if not left:
            left = -1
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.StopOnNonFiniteLoss, "on_epoch_begin", stop)


def test_a_refinement_that_is_stopped_resumes_after_what_is_done(trained, monkeypatch):
    with monkeypatch.context() as patched:
        stopped_in(2, patched)
        outcome, splits = trained(config_of())
    run = RunDirectory(splits[0][2].path.parent.parent)
    assert (outcome.status, outcome.info, len(splits)) == ("interrupted", None, 2)
    assert outcome.message == "interrupted while refining: no detector yet"
    assert outcome.remedy.endswith(f"--resume {run.path}")
    assert is_own_run(run.path)
    outcome, splits = trained(config_of(), resume=True)
    assert (outcome.status, len(splits)) == ("completed", 2)  # the second half and the run
    assert outcome.info.training.n_left_out == round(SHARE * len(splits[-1][1].train))


def test_the_least_usual_images_are_kept_when_a_half_is_stopped(trained, monkeypatch):
    with monkeypatch.context() as patched:
        stopped_in(1, patched)
        outcome, splits = trained(config_of())
    run = RunDirectory(splits[0][2].path.parent.parent)
    assert (outcome.status, is_own_run(run.path)) == ("interrupted", True)
    whole = json.loads(run.unusual.read_text())
    for changed, words in (
        (whole | {"sets": "other"}, "the data has changed since it started"),
        (whole | {"numbers": whole["numbers"][1:]}, "is damaged .*it must hold "),
        (whole | {"numbers": [0, *whole["numbers"][1:-1], 0]}, "is damaged .*different"),
        (whole | {"numbers": [-1, *whole["numbers"][1:]]}, "is damaged .*different"),
        ({}, "is damaged .*no sets"),
    ):
        run.unusual.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=words):
            trained(config_of(), resume=True)
    run.unusual.write_text(json.dumps(whole))
    # Another machine might find others, of which the first half would not know.
    monkeypatch.setattr(refinement, "least_usual", None)
    outcome, splits = trained(config_of(), resume=True)
    assert (outcome.status, len(splits)) == ("completed", 3)


def test_halves_leave_out_what_is_unusual_among_labelled_anomalies(small_dataset):
    config = config_of()
    split = make_split(config, small_dataset)
    labels = split.train.labels.copy()
    labels[: len(labels) // 2] = 1
    split = dataclasses.replace(split, train=dataclasses.replace(split.train, labels=labels))
    normal, anomalies = (np.flatnonzero(labels == label) for label in (0, 1))
    unusual = normal[::7]
    halves = refinement._halves(config, split, unusual)
    images = {image.tobytes(): number for number, image in enumerate(split.train.images)}
    learnt = [{images[image.tobytes()] for image in half.split.train.images} for half in halves]
    for own, other in zip(learnt, reversed(halves), strict=True):
        assert own == (set(other.scored) - set(unusual)) | set(anomalies)
    assert sorted(np.concatenate([half.scored for half in halves])) == normal.tolist()


def test_pictures_with_a_mask_each_are_not_compared_by_their_gradients(small_dataset, tmp_path):
    config = config_of()
    roi = RegionFolder(tmp_path, tmp_path, {}, AS_USUAL)
    split = dataclasses.replace(make_split(config, small_dataset), roi=roi)
    assert refinement._unusual(config, split, RunDirectory(tmp_path)).numbers == ()


def test_images_on_disk_are_compared_a_few_at_a_time(small_dataset, tmp_path, monkeypatch):
    config = config_of()
    split = make_split(config, small_dataset)
    images, sizes = split.train.images, []
    monkeypatch.setattr(stored, "PART", 30)
    kept = StoredImages(
        lambda numbers: sizes.append(len(numbers)) or images[numbers],
        np.arange(len(images)),
        images.shape[1:],
    )
    there = dataclasses.replace(split, train=dataclasses.replace(split.train, images=kept))
    (tmp_path / "disk").mkdir()
    found = [
        refinement._unusual(config, each, RunDirectory(folder)).numbers
        for each, folder in ((split, tmp_path), (there, tmp_path / "disk"))
    ]
    assert found[0] == found[1]
    assert max(sizes) == 30


def test_a_list_is_kept_when_the_training_after_it_is_stopped(trained, monkeypatch):
    with monkeypatch.context() as patched:
        stopped_in(3, patched)
        outcome, splits = trained(config_of())
    assert (outcome.status, len(splits)) == ("interrupted", 3)
    path = splits[-1][2].refinement
    whole = json.loads(path.read_text())
    for changed, words in (
        (whole | {"sets": "other"}, "the data has changed since it started"),
        (whole | {"left_out": whole["left_out"][:1] * 2}, "is damaged .*different numbers below"),
        (whole | {"left_out": whole["left_out"][1:]}, "is damaged .*it must hold "),
        (whole | {"left_out": [1]}, "is damaged .*must hold images"),
        ({}, "is damaged .*no sets"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=words):
            trained(config_of(), resume=True)
    path.write_text(json.dumps(whole))
    outcome, splits = trained(config_of(), resume=True)
    assert (outcome.status, len(splits)) == ("completed", 1)
    assert json.loads(path.read_text()) == whole


def test_remedies_name_the_run_and_not_a_half_of_it(trained, monkeypatch, tmp_path):
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_fit", full)
        with pytest.raises(UserError, match="No space left on device") as ended:
            trained(config_of())
    assert str(ended.value).endswith(f"--resume {tmp_path / 'run'}")

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # while the first half is scored
        patched.setattr(refinement, "score_set", stop)
        outcome, splits = trained(config_of(), resume=True)
    assert (outcome.status, outcome.info, len(splits)) == ("interrupted", None, 1)
    assert outcome.remedy.endswith(f"--resume {tmp_path / 'run'}")


def test_too_few_images_are_refused_before_anything_is_written(tmp_path, small_dataset):
    config = dataclasses.replace(config_of(), refine=0.0001)
    split = make_split(config, small_dataset)
    few = dataclasses.replace(split, train=split.train.take(slice(19)))
    run = RunDirectory(tmp_path / "run")
    for one, words in ((split, "0.0001 of .* is less than one image"), (few, "needs at least 20")):
        with pytest.raises(UserError, match=words):
            refinement.train(config, small_dataset, one, run, "test")
    assert not run.path.exists()


def test_without_the_option_nothing_is_refined(trained):
    outcome, splits = trained(dataclasses.replace(config_of(), refine=0.0))
    assert len(splits) == 1
    assert splits[0][1].refined is None
    assert outcome.info.training.n_left_out is None
    assert not splits[0][2].refinement.exists()


def test_files_of_others_in_the_folder_of_halves_are_kept(refined, tmp_path):
    run = Path(shutil.copytree(refined.run, tmp_path / "run"))
    (run / "refinement" / "1").mkdir(parents=True)
    shutil.copyfile(run / "config.yaml", run / "refinement" / "1" / "config.yaml")
    assert is_own_run(run)
    assert Path("refinement.json") in files_of_run(run)
    (run / "refinement" / "photo.png").write_bytes(b"")
    assert not is_own_run(run)
