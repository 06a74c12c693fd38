"""Training on real images: it learns, survives interruption, and detects non-finite losses."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import events_of, small_config
from sklearn.metrics import roc_auc_score
from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
from tensorflow.python.data.ops.iterator_ops import OwnedIterator

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.approaches.base import Approach
from anomaly_tf.approaches.classifier.options import ClassifierConfig
from anomaly_tf.approaches.dual_gan.options import DualGanConfig, DualGanLosses
from anomaly_tf.config import (
    AdversarialTrainingConfig,
    BalancedSamplingConfig,
    Config,
    CorruptionConfig,
    SamplingConfig,
    ThresholdConfig,
)
from anomaly_tf.data import pipelines
from anomaly_tf.data.contents import digest_of_sets
from anomaly_tf.data.image_set import ImageSet, LabelledImages
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roles import Roles
from anomaly_tf.data.split import Split
from anomaly_tf.data.stored import sample
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.errors import UserError
from anomaly_tf.networks import gradients, losses
from anomaly_tf.networks.sizes import ClassifierNetworks
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.training import loop, setup
from anomaly_tf.training.callbacks import NonFiniteLoss, StopOnNonFiniteLoss
from anomaly_tf.training.checkpoint import load_checkpoint, save_checkpoint
from anomaly_tf.training.device import Device, select_device

# A short training on 4,500 real images reaches 0.978, one that learns the wrong way 0.49.
AUROC_FLOOR = 0.95
CPU = Device(("/CPU:0",), jit_compile=False, reason="for a test")
SAMPLING = BalancedSamplingConfig(validation_fraction=0.25, anomaly_clusters=8)


@pytest.fixture(scope="module")
def split(small_dataset):
    return make_split(DualGanConfig(sampling=SAMPLING), small_dataset)


@pytest.fixture(scope="module")
def train(small_dataset, split, tmp_path_factory):
    """Trains for a short time; further keywords are those of `AdversarialTrainingConfig`."""

    def run(weights=DualGanLosses(), **keywords) -> tuple[loop.Outcome, RunDirectory]:  # noqa: B008
        short = {"epochs": 2, "steps_per_epoch": 30, "batch_size": 64, "ema_decay": 0.9}
        config = DualGanConfig(
            data_dir=str(tmp_path_factory.mktemp("data")),
            sampling=SAMPLING,
            training=AdversarialTrainingConfig(**short | keywords),
            losses=weights,
        )
        directory = RunDirectory(tmp_path_factory.mktemp("run"))
        return loop.train(config, small_dataset, split, directory, "test"), directory

    return run


@pytest.fixture(scope="module")
def trained(train) -> tuple[loop.Outcome, RunDirectory]:
    """One short training with the default losses, in float32."""
    return train()


def validation_auroc(outcome: loop.Outcome) -> float:
    return outcome.info.training.validation["val_auroc"]


def test_a_short_training_beats_the_floor(trained):
    outcome, _ = trained
    assert outcome.status == "completed"
    assert outcome.message == ""
    assert validation_auroc(outcome) > AUROC_FLOOR


def test_the_run_holds_the_best_epoch_and_its_threshold(trained, split):
    _, run = trained
    facts = json.loads(run.detector.read_text())
    assert facts["training"]["status"] == "completed"
    assert facts["training"]["epochs"] == 2
    rows = np.genfromtxt(run.history, delimiter=",", names=True)
    assert len(rows) == 2
    # The epoch that was kept is the one with the best validation AUROC.
    assert facts["training"]["best_epoch"] == 1 + np.argmax(rows["val_auroc"])
    assert facts["training"]["validation"]["val_auroc"] == pytest.approx(rows["val_auroc"].max())
    # The file on disk holds that epoch: it gives the validation scores of the record again.
    scores = Detector.load(run.path).score(split.validation.normal)
    np.testing.assert_allclose(np.sort(scores), facts["calibration"]["scores"], rtol=1e-4)
    assert facts["threshold"]["value"] == pytest.approx(np.percentile(scores, 95), rel=1e-4)


def test_heat_maps_are_scaled_by_the_maps_of_normal_validation_images(trained, split):
    detector = Detector.load(trained[1].path)
    scale = detector.info.heat_scale
    normal = split.validation.normal
    assert len(normal) <= 200  # of more a sample is taken
    maps = detector.explain(normal)
    assert scale.low == pytest.approx(np.quantile(maps, 0.9), rel=1e-4)
    assert scale.high == pytest.approx(np.quantile(maps, 0.999), rel=1e-4)
    assert (scale.low_quantile, scale.high_quantile, scale.unit) == (0.9, 0.999, "absolute error")
    # Reached by most of what is abnormal; of normal images little is coloured at all.
    anomalies = scale.strength(detector.explain(split.validation.anomalies))
    assert (anomalies == 1).any(axis=(1, 2)).mean() > 0.5
    assert (scale.strength(maps) == 0).mean() == pytest.approx(0.9, abs=0.01)


def test_the_loss_with_its_sign_flipped_fails_the_floor(train, monkeypatch):
    """The floor can fail: with the GAN's anomaly loss turned round, anomalies are learnt."""
    right = losses.abc_loss
    monkeypatch.setattr(losses, "abc_loss", lambda *arguments: -right(*arguments))
    outcome, _ = train(DualGanLosses(classifier_score_weight=0))
    assert validation_auroc(outcome) < AUROC_FLOOR - 0.05


def test_bfloat16_gives_the_same_auroc(train, trained):
    """Mixed precision on the CPU: AUROC within 0.005 of float32's."""
    outcome, run = train(precision="mixed_bfloat16")
    encoder = Detector.load(run.path).model.get_layer("generator").get_layer("encoder")
    assert "bfloat16" in {layer.compute_dtype for layer in encoder.layers}
    assert validation_auroc(outcome) == pytest.approx(validation_auroc(trained[0]), abs=0.005)


def test_no_batches_wait_for_a_tuner_at_their_end(small_dataset, split):
    batches = setup.TrainingSetup.of(
        DualGanConfig(sampling=SAMPLING), small_dataset, split
    ).batches()
    assert batches.options().autotune.enabled is False


def test_every_epoch_sees_new_batches(train, split, monkeypatch):
    """`fit` continues the one sequence of batches instead of starting it again each epoch."""
    seen = []
    original = setup.build_model

    def build(*arguments, **keywords):
        model = original(*arguments, **keywords)
        step = model.train_step

        def recording(data):
            tf.py_function(lambda normal: seen.append(normal.numpy().tobytes()), [data[0]], [])
            return step(data)

        model.train_step = recording
        return model

    monkeypatch.setattr(setup, "build_model", build)
    train(epochs=3, steps_per_epoch=2, batch_size=8)
    assert len(seen) == 6
    assert len(set(seen)) == 6


@pytest.fixture
def step_watched(small_dataset, split, tmp_path, monkeypatch):
    """Trains a small classifier for three epochs of six steps, each of which a function follows.

    The function, called within the step's graph, takes the model and the batch. The trainings of
    a test share one folder.
    """
    original = setup.build_model
    config = dataclasses.replace(
        small_config(
            "supervised",
            **{"epochs": 3, "steps_per_epoch": 6, "batch_size": 64, "ema_decay": 0.5},
            **{"learning_rate": 0.01},
        ),
        seed=4,
        networks=ClassifierNetworks(filters=(8, 16), dense=32, dropout=0.0),
        data_dir=str(tmp_path),
        sampling=dataclasses.replace(SAMPLING, anomaly_clusters=1),
        threshold=ThresholdConfig(percentile=80),
    )
    directory = RunDirectory(tmp_path / "run")

    def run(after, **keywords) -> tuple[loop.Outcome, RunDirectory]:
        def build(*arguments):
            model = original(*arguments)
            step = model.train_step

            def followed(data):
                values = step(data)
                after(model, data)
                return values | {name: mean.result() for name, mean in model.trackers.items()}

            model.train_step = followed
            return model

        monkeypatch.setattr(setup, "build_model", build)
        outcome = loop.train(config, small_dataset, split, directory, "test", **keywords)
        return outcome, directory

    return run


def spoil(model: Approach, after: int) -> None:
    """Sets the averages to 0, so that every image scores alike, from a step on."""
    for variable in model.averaged.weights:
        late = model.optimizer.iterations > after
        variable.assign(tf.where(late, tf.zeros_like(variable), variable))


def test_a_later_epoch_that_is_worse_replaces_nothing(step_watched, split):
    outcome, run = step_watched(lambda model, batch: spoil(model, after=6))
    rows = np.genfromtxt(run.history, delimiter=",", names=True)
    np.testing.assert_allclose(rows["val_auroc"][1:], 0.5)
    assert rows["val_auroc"][0] > 0.6
    facts = json.loads(run.detector.read_text())
    assert (facts["training"]["best_epoch"], facts["training"]["epochs"]) == (1, 3)
    assert validation_auroc(outcome) == rows["val_auroc"][0]
    # Model, calibration, statistics and threshold are those of that epoch.
    detector = Detector.load(run.path)
    assert facts["training"]["n_weights"] == detector.model.count_params()
    scores = detector.score(split.validation.images)
    normal, anomalous = (scores[split.validation.labels == label] for label in (0, 1))
    assert roc_auc_score(split.validation.labels, scores) == pytest.approx(rows["val_auroc"][0])
    np.testing.assert_allclose(facts["calibration"]["scores"], np.sort(normal), rtol=1e-4)
    assert facts["calibration"]["size"] == len(normal)
    assert facts["threshold"]["value"] == pytest.approx(np.percentile(normal, 80), rel=1e-4)
    for name, part in (("normal", normal), ("anomaly", anomalous)):
        statistics = facts["score_statistics"][name]
        assert statistics["mean"] == pytest.approx(part.mean(), rel=1e-4)
        assert statistics["maximum"] == pytest.approx(part.max(), rel=1e-4)
    known = {name: facts[name] for name in ("approach", "protocol", "seed", "class_names")}
    names = [str(number) for number in range(10)]
    assert list(known.values()) == ["supervised", "imbalance", 4, names]
    assert (facts["roles"]["normal"], facts["roles"]["seen"]) == ([0], list(range(1, 10)))
    assert facts["training"]["n_train"] == len(split.train)
    assert facts["training"]["n_validation"] == len(split.validation)
    images = facts["training"]["images_per_second"] * facts["training"]["train_seconds"]
    assert images == pytest.approx(3 * 6 * 64, rel=0.2)  # the seconds are rounded


def test_a_resumed_training_keeps_its_best_epoch_and_continues_its_batches_and_rates(
    step_watched, split
):
    seen: list[bytes] = []
    models = []

    def record(model, batch):
        models.append(model)
        tf.py_function(lambda normal: seen.append(normal.numpy().tobytes()), [batch[0]], [])

    def record_and_fail(model, batch):
        record(model, batch)
        late = model.optimizer.iterations == 6 + 4
        model.trackers["loss"].update_state(tf.where(late, float("nan"), 0.0))

    def record_and_spoil(model, batch):
        record(model, batch)
        spoil(model, after=0)

    stopped, run = step_watched(record_and_fail)
    assert stopped.status == "non_finite_loss"
    before, scores = seen.copy(), Detector.load(run.path).score(split.validation.images)
    assert len(before) == 6 + 4
    seen.clear()
    # As if the first epoch had taken an hour.
    progress = load_checkpoint(run.checkpoint, models[-1], digest_of_sets(split))
    save_checkpoint(run.checkpoint, models[-1], dataclasses.replace(progress, seconds=3600.0))
    done, _ = step_watched(record_and_spoil, resume=True)
    assert done.status == "completed"
    # The second epoch starts again, with the same batches.
    assert len(seen) == 2 * 6
    assert seen[:4] == before[6:]
    assert len({*before[:6], *seen}) == 3 * 6
    # TensorBoard has each epoch once, and one end of the trial.
    events = [(tag, step) for tag, step, _ in events_of(run.path)]
    assert [step for tag, step in events if tag == "2 losses/loss"] == [1, 2, 3]
    assert [step for tag, step in events if tag == SESSION_END_INFO_TAG] == [0]
    # The optimizer, too, continues with the seventh step.
    assert int(models[-1].optimizer.iterations) == 3 * 6
    rows = np.genfromtxt(run.history, delimiter=",", names=True)
    assert rows["epoch"].tolist() == [0, 1, 2]
    # 0.01 on a cosine, after one, two and three thirds.
    np.testing.assert_allclose(rows["classifier_learning_rate"], [0.0075, 0.0025, 0], atol=1e-8)
    np.testing.assert_allclose(rows["val_auroc"][1:], 0.5)
    # The epochs after the interruption were worse.
    training = done.info.training
    assert training.train_seconds > 3600
    assert (training.best_epoch, training.epochs, training.status) == (1, 3, "completed")
    assert training.validation == stopped.info.training.validation
    np.testing.assert_array_equal(Detector.load(run.path).score(split.validation.images), scores)


def test_defaults_follow_from_protocol_and_images(split):
    """Of 90 normal and 210 other images of 28 x 28, and of larger ones."""

    def resolved(config: Config, side: int = 28) -> Config:
        images, classes = np.zeros((300, side, side, 1), np.uint8), np.repeat([0, 1], [90, 210])
        train = LabelledImages.of(ImageSet(images, classes), (0,))
        return setup.resolve(config, dataclasses.replace(split, train=train))

    imbalance, unseen = (resolved(DualGanConfig(protocol=name)) for name in ("imbalance", "unseen"))
    assert (imbalance.sampling.synthetic, unseen.sampling.synthetic) == (0.0, 0.4)
    assert imbalance.losses.gradient_score_weight == 0.0
    assert unseen.losses.gradient_score_weight == 2.0
    assert imbalance.normal_class == ("0",)
    # Thirty times each of 90 normal images; a batch of 128 has 64 of them.
    assert imbalance.training.batch_size == 128
    assert imbalance.training.steps_per_epoch == 43
    alone = resolved(AutoencoderConfig())
    assert alone.training.steps_per_epoch == 22
    # At most 2^19 pixels, and what is asked for as it is.
    assert resolved(DualGanConfig(), 128).training.batch_size == 32
    few = AdversarialTrainingConfig(batch_size=10, steps_per_epoch=7)
    asked = resolved(DualGanConfig(training=few, normal_class=(0, 3)))
    assert (asked.training.batch_size, asked.training.steps_per_epoch) == (10, 7)
    assert asked.normal_class == (0, 3)
    assert len(resolved(DualGanConfig(), 64).networks.filters) == 4


def test_one_seed_decides_the_weights_of_every_build(small_dataset, split):
    def weights(seed: int) -> list[np.ndarray]:
        config = dataclasses.replace(small_config("contrastive"), seed=seed)
        return setup.TrainingSetup(config, small_dataset, split, CPU).build().averaged.get_weights()

    first, same, other = weights(1), weights(1), weights(2)
    for one, another in zip(first, same, strict=True):
        np.testing.assert_array_equal(one, another)
    assert any(not np.array_equal(*pair) for pair in zip(first, other, strict=True))


def test_precision_xla_and_the_classes_of_the_data_set_reach_the_model(small_dataset, split):
    config = small_config("cnn", precision="mixed_bfloat16")
    model = setup.TrainingSetup(
        config, small_dataset, split, dataclasses.replace(CPU, jit_compile=True)
    ).build()
    computed = {layer.compute_dtype for layer in model.networks["classifier"].layers}
    assert computed == {"bfloat16", "float32"}  # the logits stay precise
    assert keras.config.dtype_policy().name == "float32"
    assert model.jit_compile
    assert model.detector.output["probabilities"].shape[1] == 10


def test_gradients_are_adapted_to_a_sample_of_the_normal_training_images(
    small_dataset, split, monkeypatch
):
    config = small_config("sota")
    weights = dataclasses.replace(config.losses, gradient_score_weight=1.0)
    config = dataclasses.replace(config, losses=weights, seed=5)
    middle = split.train.images[:, 10:18, 10:18]  # small, so that it is done in no time
    train = dataclasses.replace(split.train, images=middle)
    cropped = dataclasses.replace(split, train=train)

    def distances_by() -> Callable[[np.ndarray], np.ndarray]:
        model = setup.TrainingSetup(config, small_dataset, cropped, CPU).build()
        whitening = model.detector.get_layer("whitening").output
        scorer = keras.Model(model.detector.input, whitening)
        return lambda images: np.square(scorer(images)).sum(axis=1).mean()

    # The mean is 1 over the images that it learnt from: here all that are normal.
    mean_of, normal = distances_by(), train.normal
    assert mean_of(normal) == pytest.approx(1.0, abs=1e-3)
    assert mean_of(train.anomalies[:300]) > 1.1
    # Of more than are wanted, some are drawn by the seed.
    monkeypatch.setattr(gradients, "MAX_IMAGES", 100)
    mean_of = distances_by()
    assert mean_of(sample(normal, 100, 5)) == pytest.approx(1.0, abs=1e-3)
    for others in (sample(normal, 100, 6), normal[:100]):
        assert abs(mean_of(others) - 1.0) > 0.01


DARK, BRIGHT = range(100, 150), range(240, 250)


@pytest.fixture(scope="module")
def numbered_split() -> Split:
    """Training images of 28 x 28 whose every pixel is their number; those below 100 are normal."""
    numbers = np.random.default_rng(0).permutation([*range(40), *DARK, *BRIGHT]).astype(np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (100, 28, 28, 1)).copy()
    train = LabelledImages(images, numbers % 7, labels=(numbers >= 100).astype(np.int8))
    return Split(train, train, train, Roles((0,), (1,)), tuple("abcdefg"))


def batches_of(config: Config, split: Split, folder: Path, first_step: int = 0) -> list:
    """Numbers of the images in the batches of a training of two epochs of five steps."""
    training = dataclasses.replace(config.training, epochs=2, steps_per_epoch=5, batch_size=8)
    config = dataclasses.replace(config, training=training, data_dir=str(folder))
    batches = setup.TrainingSetup(config, None, split, CPU).batches(first_step)
    return [
        [
            np.rint((part.numpy()[:, 0, 0, 0] + 1) * 127.5).astype(int) if part.ndim == 4 else part
            for part in (batch if isinstance(batch, tuple) else (batch,))
        ]
        for batch in batches
    ]


STILL = {"flip": 0.0, "shift": 0}


def test_the_batches_follow_the_configuration(numbered_split, tmp_path):
    sampling = BalancedSamplingConfig(**STILL, candidates=3, synthetic=0.5, anomaly_clusters=2)
    batches = batches_of(DualGanConfig(sampling=sampling), numbered_split, tmp_path)
    assert len(batches) == 10
    for normal, anomalous in batches:
        # Of the four that are learnt from two are made of normal images; the rest are candidates,
        # in turn of both clusters, however many images these have.
        assert normal.shape == anomalous.shape == (12,)
        assert (normal < 100).all()
        assert (anomalous[:2] < 100).all()
        assert np.isin(anomalous[2:], DARK).sum() == np.isin(anomalous[2:], BRIGHT).sum() == 5


def test_the_seed_reaches_the_batches_and_the_clusters(numbered_split, tmp_path, monkeypatch):
    def batches(seed: int, first_step: int = 0) -> list:
        sampling = BalancedSamplingConfig(**STILL, anomaly_clusters=2)
        config = DualGanConfig(sampling=sampling, seed=seed)
        found = batches_of(config, numbered_split, tmp_path, first_step)
        return np.array(found).tolist()

    first = batches(1)
    assert batches(1, first_step=7) == first[7:]
    # Who clusters with another seed clusters again.
    monkeypatch.setattr(pipelines, "MiniBatchKMeans", None)
    assert batches(1) == first
    with pytest.raises(TypeError):
        batches(2)
    monkeypatch.undo()
    # Of the normal images: clusters numbered otherwise exchange the anomalies as well.
    assert [normal for normal, _ in batches(2)] != [normal for normal, _ in first]


def test_who_learns_from_normal_images_gets_no_others(numbered_split, tmp_path):
    config = AutoencoderConfig(sampling=SamplingConfig(**STILL))
    batches = batches_of(config, numbered_split, tmp_path)
    assert [normal.shape for (normal,) in batches] == [(8,)] * 10
    assert sorted(np.concatenate(batches[:5], axis=None)) == list(range(40))
    assert batches_of(config, numbered_split, tmp_path, 8)[0][0].tolist() == batches[8][0].tolist()


def test_who_learns_classes_gets_them_with_their_images(numbered_split, tmp_path):
    config = ClassifierConfig(sampling=SamplingConfig(**STILL))
    batches = batches_of(config, numbered_split, tmp_path)
    for numbers, classes in batches:
        np.testing.assert_array_equal(classes, numbers % 7)
    assert batches_of(config, numbered_split, tmp_path, 8)[0][0].tolist() == batches[8][0].tolist()


def test_under_corruption_anomalies_are_generated_from_normal_images_as_configured(
    numbered_split, tmp_path
):
    sampling = BalancedSamplingConfig(**STILL, candidates=2)
    config = DualGanConfig(
        protocol="corruption",
        sampling=sampling,
        corruption=CorruptionConfig(kinds=("noise",), noise=0),
    )
    batches = batches_of(config, numbered_split, tmp_path)
    assert all(clean.shape == changed.shape == (8,) for clean, changed in batches)
    # Five batches are two passes over the normal images.
    assert sorted(np.concatenate(batches[:5], axis=None)) == sorted([*range(40), *range(40)])


class _Interrupt(keras.callbacks.Callback):
    """Ctrl-C at a given epoch (from 0) and batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        super().__init__()
        self.when = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.when:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("epoch", "best"), [(0, 0), (1, 1)])
def test_ctrl_c_leaves_a_usable_run(epoch, best, train, split, monkeypatch):
    monkeypatch.setattr(loop, "StopOnNonFiniteLoss", lambda: _Interrupt(epoch, 5))
    outcome, run = train(steps_per_epoch=12)
    assert outcome.status == "interrupted"
    assert "interrupted" in outcome.message
    detector = Detector.load(run.path)
    assert detector.info.training.best_epoch == best
    assert detector.info.training.status == "interrupted"
    assert SESSION_END_INFO_TAG not in {tag for tag, _, _ in events_of(run.path)}
    assert np.isfinite(detector.score(split.validation.images[:3])).all()


@pytest.mark.parametrize(
    "error", [OSError("no room"), KeyboardInterrupt(), None], ids=["disk", "Ctrl-C", "none"]
)
def test_a_training_leaves_no_iterator_to_the_garbage_collector(error, train, monkeypatch):
    class Failing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if error is not None:
                raise error

    monkeypatch.setattr(loop, "StopOnNonFiniteLoss", Failing)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(UserError, OSError):
            train(steps_per_epoch=12)
        # The error is held here with its traceback.
        assert error is None or error.__traceback__
        alive = [type(each) for each in gc.get_objects() if type(each) is OwnedIterator]
    finally:
        gc.enable()
    assert alive == []


def test_any_non_finite_loss_stops_the_run_and_the_last_good_weights_stay(
    train, split, monkeypatch
):
    """A discriminator's loss that becomes NaN in the second epoch; which one it was is said."""
    loss = "anomaly_discriminator"
    original = setup.build_model

    def build(*arguments, **keywords):
        model = original(*arguments, **keywords)
        step = model.train_step

        def broken(data):
            step(data)
            late = tf.cast(model.optimizer.iterations, tf.float32) > 15
            model.trackers[loss].update_state(tf.where(late, float("nan"), 0.0))
            return {name: tracker.result() for name, tracker in model.trackers.items()}

        model.train_step = broken
        return model

    monkeypatch.setattr(setup, "build_model", build)
    outcome, run = train(steps_per_epoch=12)
    assert outcome.status == "non_finite_loss"
    for words in (f"loss '{loss}' became nan", "epoch 2", "step 4", "kept the weights of epoch 1"):
        assert words in outcome.message
    detector = Detector.load(run.path)
    assert np.isfinite(detector.score(split.validation.images[:3])).all()
    assert detector.info.training.best_epoch == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_every_kind_of_non_finite_number_is_noticed(value):
    callback = StopOnNonFiniteLoss()
    callback.on_epoch_begin(2)
    callback.on_train_batch_end(6, {"patch": 1.0, "abc": 0.0})
    with pytest.raises(NonFiniteLoss, match=r"loss 'abc' became .* in epoch 3, step 8"):
        callback.on_train_batch_end(7, {"patch": 1.0, "abc": tf.constant(value)})


def test_a_training_that_diverges_in_its_first_step_keeps_nothing_and_reports_it(train):
    outcome, run = train(learning_rate=1e30)
    assert outcome.status == "non_finite_loss"
    assert outcome.info is None
    assert "no epoch was finished" in outcome.message
    assert not run.model.exists()


def test_the_cpu_is_chosen_with_a_reason_and_without_xla(monkeypatch):
    device = select_device(small_config("vae"))
    assert (device.name, device.is_gpu, device.jit_compile) == ("/CPU:0", False, False)
    assert device.strategy is tf.distribute.get_strategy()
    assert "finds no GPU" in device.reason
    assert select_device(small_config("vae", jit_compile="on")).jit_compile
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES" in select_device(small_config("vae")).reason


def test_all_gpus_are_selected_by_default(monkeypatch):
    """No GPU here: TensorFlow's answers are played, the decisions are ours."""
    growth, gpus = [], []
    gpu, another = (
        tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU") for number in range(2)
    )
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda *arguments: growth.append(arguments)
    )
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda device: {"device_name": "Tesla"}
    )
    config = small_config("vae", batch_size=128)
    gpus.append(gpu)
    device = select_device(config)
    assert (device.name, device.is_gpu, device.jit_compile) == ("/GPU:0", True, True)
    assert growth == [(gpu, True)]
    assert "Tesla, the first of 1 found" in device.reason
    off, on = (small_config("vae", batch_size=128, jit_compile=x) for x in ("off", "on"))
    assert not select_device(off).jit_compile
    gpus.append(another)
    device = select_device(config)
    assert (device.names, device.name) == (("/GPU:0", "/GPU:1"), "/GPU:0, /GPU:1")
    assert (device.is_gpu, device.jit_compile) == (True, False)
    assert "Tesla, all 2 found, which share every batch; memory" in device.reason
    assert growth[-2:] == [(gpu, True), (another, True)]
    device = select_device(on)
    assert (device.name, device.jit_compile) == ("/GPU:0", True)
    assert "the first of 2 found (XLA" in device.reason


def test_weights_and_batches_follow_the_seed(small_dataset):
    first, again, other = ([], [], [])
    for found, seed in ((first, 1), (again, 1), (other, 2)):
        sampling = SamplingConfig(flip=0, shift=0)
        split = make_split(AutoencoderConfig(), small_dataset)  # the same images for each seed
        config = AutoencoderConfig(seed=seed, sampling=sampling)
        ready = setup.TrainingSetup.of(config, small_dataset, split)
        model, batch = ready.build(), next(iter(ready.batches()))
        found += [model.detector.get_weights()[0], np.asarray(tf.nest.flatten(batch)[0])]
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, different)
