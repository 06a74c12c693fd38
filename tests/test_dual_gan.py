"""The dual-discriminator GAN: the network that each loss trains."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_tf.approaches.dual_gan import model as dual_gan
from anomaly_tf.approaches.dual_gan.model import DualGan
from anomaly_tf.approaches.dual_gan.options import DualGanConfig, DualGanLosses, DualGanNetworks
from anomaly_tf.config import AdversarialTrainingConfig, BalancedSamplingConfig

SHAPE = (28, 28, 1)
NONE = DualGanLosses(
    **{
        field.name: 0.0
        for field in dataclasses.fields(DualGanLosses)
        if field.name.endswith("_weight")
    }
)
SMALL = DualGanNetworks(filters=(4, 8), latent=6, discriminator_filters=(4, 8))
NETWORKS = ("generator", "normal_discriminator", "anomaly_discriminator")


@pytest.fixture
def batch(small_dataset) -> tuple[tf.Tensor, tf.Tensor]:
    images = small_dataset.train_images / 127.5 - 1.0
    normal = images[small_dataset.train_classes == 0][:16]
    anomaly = images[small_dataset.train_classes != 0][:16]
    return tf.constant(normal, tf.float32), tf.constant(anomaly, tf.float32)


def build(losses: DualGanLosses = DualGanLosses(), ema_decay: float = 0.9) -> DualGan:  # noqa: B008
    keras.utils.set_random_seed(0)
    training = AdversarialTrainingConfig(ema_decay=ema_decay)
    sampling = BalancedSamplingConfig()  # all images of a batch are learnt from
    config = DualGanConfig(networks=SMALL, losses=losses, training=training, sampling=sampling)
    return dual_gan.build(config, SHAPE, 10, jit_compile=False)


def trainable(network: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in network.trainable_variables]


def numbers(network: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in network.weights]


def changed(before: list[np.ndarray], after: list[np.ndarray]) -> list[bool]:
    return [not np.array_equal(old, new) for old, new in zip(before, after, strict=True)]


@pytest.mark.parametrize(
    ("loss", "learner"),
    [
        ("reconstruction", "generator"),
        ("patch", "generator"),
        ("latent", "generator"),
        ("normal_adversarial", "generator"),
        ("abc", "generator"),
        ("anomaly_adversarial", "generator"),
        ("normal_discriminator", "normal_discriminator"),
        ("anomaly_discriminator", "anomaly_discriminator"),
    ],
)
def test_each_loss_teaches_exactly_its_network(loss, learner, batch):
    model = build(dataclasses.replace(NONE, **{f"{loss}_weight": 1.0}))
    before = {name: trainable(model.networks[name]) for name in NETWORKS}
    model.train_step(batch)
    for name in NETWORKS:
        moved = changed(before[name], trainable(model.networks[name]))
        # Every single weight of the learner moves (the decoder's too, where the loss goes
        # through it), and none of the others.
        assert all(moved) if name == learner else not any(moved), name


def test_the_encoder_and_the_decoder_both_learn_from_the_default_losses(batch):
    model = build()
    before = {name: trainable(getattr(model, name)) for name in ("encoder", "decoder")}
    model.train_step(batch)
    for name, weights in before.items():
        assert all(changed(weights, trainable(getattr(model, name)))), name


def worst_windows(difference: np.ndarray) -> float:
    """Mean of the three worst of nine windows of 14 x 14, 7 pixels apart, of each image."""
    error = np.abs(difference).mean(axis=3)
    windows = [
        error[:, row : row + 14, column : column + 14].mean(axis=(1, 2))
        for row in (0, 7, 14)
        for column in (0, 7, 14)
    ]
    return np.sort(windows, axis=0)[-3:].mean()


def test_the_step_reports_the_losses_that_the_networks_give(batch):
    model = build()
    normal, anomaly = (part.numpy() for part in batch)
    # BatchNorm's batch statistics depend on the batch only, so that a clone gives the same result.
    twin = build()
    reported = {name: float(value) for name, value in model.train_step(batch).items()}
    both = np.concatenate([normal, anomaly])
    latents, *maps = keras.tree.flatten(twin.encoder(both, training=True))
    rebuilt = twin.decoder([latents, *maps], training=True).numpy()
    first, second = rebuilt[:16], rebuilt[16:]
    again = keras.tree.flatten(twin.encoder(first, training=False))[0].numpy()
    # Of D_N real and fake normal images, of D_A real and fake anomalies.
    real_normal, fake_normal = np.split(
        twin.normal_discriminator(np.concatenate([normal, first]), training=True).numpy(), 2
    )
    real_anomaly, fake_anomaly = np.split(
        twin.anomaly_discriminator(np.concatenate([anomaly, second]), training=True).numpy(), 2
    )
    logits = twin.networks["classifier"](both, training=True)[0].numpy()[:, 0]
    error = np.abs(anomaly - second).mean(axis=(1, 2, 3))
    expected = {
        "reconstruction": np.abs(normal - first).mean(),
        "patch": worst_windows(normal - first),
        "latent": np.abs(latents.numpy()[:16] - again).mean(),
        "normal_adversarial": np.square(fake_normal - 1.0).mean(),
        "abc": -np.log(1 - np.exp(-4 * error)).mean(),
        "anomaly_adversarial": np.square(fake_anomaly).mean(),
        "normal_discriminator": np.square(real_normal - 0.9).mean() + np.square(fake_normal).mean(),
        "anomaly_discriminator": np.square(real_anomaly - 0.9).mean()
        + np.square(fake_anomaly).mean(),
        "classifier": np.log1p(np.exp(np.where(np.arange(32) < 16, logits, -logits))).mean(),
    }
    weights = DualGanLosses()
    expected["generator"] = sum(
        getattr(weights, f"{name}_weight") * expected[name] for name in dual_gan.GENERATOR_LOSSES
    )
    assert reported == pytest.approx(expected, rel=1e-3)


def test_the_averages_follow_weights_and_batch_norm_statistics(batch):
    model = build(ema_decay=0.9)
    assert set(model.averages) == {"generator", "classifier"}
    averages = {name: numbers(average) for name, average in model.averages.items()}
    for step in (1, 2, 3):
        model.train_step(batch)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, average in averages.items():
            current = numbers(model.networks[name])
            averages[name] = [
                decay * old + (1 - decay) * new for old, new in zip(average, current, strict=True)
            ]
    for name, average in averages.items():
        weights = model.averages[name].weights
        for variable, expected in zip(weights, average, strict=True):
            np.testing.assert_allclose(variable, expected, atol=1e-6, err_msg=variable.path)
        statistics = [variable for variable in weights if "moving_" in variable.path]
        assert statistics
        assert all(np.ptp(variable) > 0 for variable in statistics)


def test_scores_come_from_the_average_with_batch_norm_in_inference_mode(batch):
    model = build()
    model.train_step(batch)
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
    scaled = images.astype(np.float32) / 127.5 - 1.0
    error = np.abs(scaled - model.averaged(scaled, training=False)).mean(axis=(1, 2, 3))
    logits = model.averages["classifier"](scaled, training=False)[0].numpy()[:, 0]
    weight = DualGanLosses().classifier_score_weight
    expected = error + weight * np.log1p(np.exp(logits))
    np.testing.assert_allclose(model.detector(images)["score"], expected, rtol=1e-4)


def test_only_the_losses_show_up_as_metrics(batch):
    model = build()
    names = [*dual_gan.LOSS_NAMES, "classifier"]
    assert [metric.name for metric in model.metrics] == names
    assert set(model.train_step(batch)) == set(names)


def test_the_classifier_learns_from_its_own_loss_beside_the_gan(batch):
    model, without = build(), build(DualGanLosses(classifier_score_weight=0))
    assert "classifier" not in without.networks
    before = {name: trainable(network) for name, network in model.networks.items()}
    first = float(model.train_step(batch)["classifier"])
    for _ in range(15):
        mean = float(model.train_step(batch)["classifier"])
    assert mean < 0.8 * first
    assert all(
        all(changed(weights, trainable(model.networks[name]))) for name, weights in before.items()
    )


def test_gradients_of_normal_images_are_part_of_the_score_if_configured(batch):
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)
    without, model = build(), build(DualGanLosses(gradient_score_weight=0.5))
    assert without.adapts_to == 0 < model.adapts_to
    model.adapt(images)

    twice = build(DualGanLosses(gradient_score_weight=1.0))
    twice.adapt(images)
    scores = [each.detector(255 - images)["score"].numpy() for each in (without, model, twice)]
    np.testing.assert_allclose(scores[2] - scores[0], 2 * (scores[1] - scores[0]), rtol=1e-3)
    # Half a typical distance from the mean is the unit.
    assert (scores[1] - scores[0]).min() > 0.2
    # Each of so few images is a centre.
    score, plain = (each.detector(images)["score"] for each in (model, without))
    np.testing.assert_allclose(score, plain, atol=1e-2)


def test_a_large_image_is_scored_by_its_errors_only():
    networks = dataclasses.replace(SMALL, filters=None, discriminator_filters=None)
    config = DualGanConfig(networks=networks, losses=DualGanLosses(gradient_score_weight=0.5))
    small, large = (
        dual_gan.build(config, (side, 64, 3), 2, jit_compile=False) for side in (48, 64)
    )
    assert "classifier" in small.networks
    assert "classifier" not in large.networks
    assert small.adapts_to > large.adapts_to == 0


@pytest.mark.parametrize("skips", [False, True])
def test_skip_connections_exist_if_configured(skips, batch):
    networks = dataclasses.replace(SMALL, skip_connections=skips)
    model = dual_gan.build(DualGanConfig(networks=networks), SHAPE, 10, jit_compile=False)
    for generator in (model.networks["generator"], model.averaged):
        # Beside the latent the map of the first of the two halvings.
        assert len(generator.get_layer("encoder").outputs) == 1 + skips
        assert len(generator.get_layer("decoder").inputs) == 1 + skips
    assert np.isfinite(float(model.train_step(batch)["reconstruction"]))


def test_discriminators_return_a_grid_and_have_the_same_shape():
    model = build()
    images = tf.zeros([2, *SHAPE])
    for discriminator in (model.normal_discriminator, model.anomaly_discriminator):
        assert discriminator(images, training=False).shape == (2, 7, 7, 1)
    one, other = (
        [weight.shape for weight in model.networks[name].weights] for name in NETWORKS[1:]
    )
    assert one == other


def test_learning_rates_fall_on_a_cosine(batch):
    model = build()
    rates = model.learning_rates()
    assert rates["generator_learning_rate"] == pytest.approx(DualGanConfig().training.learning_rate)
    half = DualGanConfig().training.epochs * DualGanConfig().training.steps_per_epoch // 2
    model.optimizer.iterations.assign(half)
    assert model.learning_rates()["generator_learning_rate"] == pytest.approx(
        DualGanConfig().training.learning_rate / 2, rel=1e-3
    )


def test_a_constant_schedule_keeps_the_learning_rates(batch):
    training = AdversarialTrainingConfig(schedule="constant", learning_rate=0.01)
    config = DualGanConfig(networks=SMALL, training=training)
    model = dual_gan.build(config, SHAPE, 10, jit_compile=False)
    model.optimizer.iterations.assign(2000)
    assert model.learning_rates()["generator_learning_rate"] == pytest.approx(0.01)


def test_the_step_compiles_by_xla(batch):
    """XLA is the default on a GPU; here it is compiled and run on the CPU."""
    models = build(), build()
    for model in models:
        for layer in model.networks["classifier"].layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0  # or each would draw others
    compiled = tf.function(models[0].train_step, jit_compile=True)(batch)
    for name, value in models[1].train_step(batch).items():
        assert float(compiled[name]) == pytest.approx(float(value), rel=1e-3), name


def test_mixed_precision_keeps_weights_and_losses_in_float32(batch):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.encoder.layers[-1].compute_dtype == "float32"
    assert {layer.compute_dtype for layer in model.encoder.layers if "conv" in layer.name} == {
        "bfloat16"
    }
    values = model.train_step(batch)
    assert all(value.dtype == tf.float32 for value in values.values())
    assert all(weight.dtype == "float32" for weight in model.networks["generator"].weights)
    assert all(output.dtype == "float32" for output in model.detector.outputs)
    expected = float(build().train_step(batch)["reconstruction"])
    assert float(values["reconstruction"]) == pytest.approx(expected, rel=0.02)
