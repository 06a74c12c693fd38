"""Training on real images: it learns, it survives interruption, and it notices bad numbers."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.config import (
    AdversarialTrainingConfig,
    AutoencoderConfig,
    BalancedSamplingConfig,
    DualGanLosses,
    SamplingConfig,
    SotaConfig,
)
from anomaly_tf.data.protocols import make_split
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.models import losses
from anomaly_tf.run_directory import RunDirectory
from anomaly_tf.training import fit
from anomaly_tf.training.callbacks import NonFiniteLoss, StopOnNonFiniteLoss
from anomaly_tf.training.device import select_device

# A short training on 4,500 real images reaches 0.978, one that learns the wrong way 0.49.
AUROC_FLOOR = 0.95
SAMPLING = BalancedSamplingConfig(validation_fraction=0.25, anomaly_clusters=8)


@pytest.fixture(scope="module")
def split(small_dataset):
    return make_split(SotaConfig(sampling=SAMPLING), small_dataset)


@pytest.fixture(scope="module")
def train(small_dataset, split, tmp_path_factory):
    """Trains for a short time; further keywords are those of `AdversarialTrainingConfig`."""

    def run(weights=DualGanLosses(), **keywords) -> tuple[fit.Outcome, RunDirectory]:  # noqa: B008
        short = {"epochs": 2, "steps_per_epoch": 30, "batch_size": 64, "ema_decay": 0.9}
        config = SotaConfig(
            data_dir=str(tmp_path_factory.mktemp("data")),
            sampling=SAMPLING,
            training=AdversarialTrainingConfig(**short | keywords),
            losses=weights,
        )
        directory = RunDirectory(tmp_path_factory.mktemp("run"))
        return fit.train(config, small_dataset, split, directory, "test"), directory

    return run


@pytest.fixture(scope="module")
def trained(train) -> tuple[fit.Outcome, RunDirectory]:
    """One short training with the default losses, in float32."""
    return train()


def validation_auroc(outcome: fit.Outcome) -> float:
    return outcome.info["training"]["validation"]["val_auroc"]


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


def test_no_batches_wait_for_a_tuner_at_their_end(split):
    config = fit.resolve(SotaConfig(sampling=SAMPLING), split)
    batches = fit.training_batches(config, split, select_device("auto"))
    assert batches.options().autotune.enabled is False


def test_every_epoch_sees_new_batches(train, split, monkeypatch):
    """`fit` continues the one sequence of batches instead of starting it again each epoch."""
    seen = []
    original = fit.APPROACHES["sota"]

    def build(*arguments, **keywords):
        model = original(*arguments, **keywords)
        step = model.train_step

        def recording(data):
            tf.py_function(lambda normal: seen.append(normal.numpy().tobytes()), [data[0]], [])
            return step(data)

        model.train_step = recording
        return model

    monkeypatch.setitem(fit.APPROACHES, "sota", build)
    train(epochs=3, steps_per_epoch=2, batch_size=8)
    assert len(seen) == 6
    assert len(set(seen)) == 6


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
    original = fit._callbacks
    monkeypatch.setattr(
        fit, "_callbacks", lambda *arguments: [*original(*arguments), _Interrupt(epoch, 5)]
    )
    outcome, run = train(steps_per_epoch=12)
    assert outcome.status == "interrupted"
    assert "interrupted" in outcome.message
    detector = Detector.load(run.path)
    assert detector.info["training"]["best_epoch"] == best
    assert detector.info["training"]["status"] == "interrupted"
    assert np.isfinite(detector.score(split.validation.images[:3])).all()


def test_any_non_finite_loss_stops_the_run_and_the_last_good_weights_stay(
    train, split, monkeypatch
):
    """A discriminator's loss that becomes NaN in the second epoch; which one it was is said."""
    loss = "anomaly_discriminator"
    original = fit.APPROACHES["sota"]

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

    monkeypatch.setitem(fit.APPROACHES, "sota", build)
    outcome, run = train(steps_per_epoch=12)
    assert outcome.status == "non_finite_loss"
    for words in (f"loss '{loss}' became nan", "epoch 2", "step 4", "kept the weights of epoch 1"):
        assert words in outcome.message
    detector = Detector.load(run.path)
    assert np.isfinite(detector.score(split.validation.images[:3])).all()
    assert detector.info["training"]["best_epoch"] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_every_kind_of_non_finite_number_is_noticed(value):
    callback = StopOnNonFiniteLoss()
    callback.on_epoch_begin(2)
    callback.on_train_batch_end(6, {"patch": 1.0, "abc": 0.0})
    with pytest.raises(NonFiniteLoss, match=r"loss 'abc' became .* in epoch 3, step 8"):
        callback.on_train_batch_end(7, {"patch": 1.0, "abc": tf.constant(value)})


def test_a_training_that_blows_up_at_once_keeps_nothing_and_says_so(train):
    outcome, run = train(learning_rate=1e30)
    assert outcome.status == "non_finite_loss"
    assert outcome.info is None
    assert "no epoch was finished" in outcome.message
    assert not run.model.exists()


def test_the_cpu_is_chosen_with_a_reason_and_without_xla(monkeypatch):
    device = select_device("auto")
    assert (device.name, device.is_gpu, device.jit_compile) == ("/CPU:0", False, False)
    assert "finds no GPU" in device.reason
    assert select_device("on").jit_compile
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES" in select_device("auto").reason


def test_a_gpu_is_taken_without_being_asked_for(monkeypatch):
    """No GPU here: TensorFlow's answers are played, the decisions are ours."""
    growth = []
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu])
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda *arguments: growth.append(arguments)
    )
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda device: {"device_name": "Tesla"}
    )
    device = select_device("auto")
    assert (device.name, device.is_gpu, device.jit_compile) == ("/GPU:0", True, True)
    assert growth == [(gpu, True)]
    assert "Tesla, the first of 1 found" in device.reason
    assert not select_device("off").jit_compile


def test_weights_and_batches_follow_the_seed(small_dataset):
    first, again, other = ([], [], [])
    for found, seed in ((first, 1), (again, 1), (other, 2)):
        sampling = SamplingConfig(flip=0, shift=0)
        split = make_split(AutoencoderConfig(), small_dataset)  # the same images for each seed
        config = fit.resolve(AutoencoderConfig(seed=seed, sampling=sampling), split)
        device = select_device(False)
        model = fit.build(config, small_dataset, split, device)
        batch = next(iter(fit.training_batches(config, split, device)))
        found += [model.detector.get_weights()[0], np.asarray(tf.nest.flatten(batch)[0])]
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, different)
