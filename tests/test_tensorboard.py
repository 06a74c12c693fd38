"""TensorBoard: one entry per training, its headings, options and pictures."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import events_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.metadata import (
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
    parse_session_end_info_plugin_data,
    parse_session_start_info_plugin_data,
)

from anomaly_tf.approaches import options_of
from anomaly_tf.deploy.explained import Explained
from anomaly_tf.training.tensorboard import (
    MAX_PICTURES,
    chosen_options,
    draw,
    has_pictures,
    keep_events,
)

KINDS = ["anomaly", "normal"]


def accumulated(run: Path) -> EventAccumulator:
    """The events of a run as TensorBoard reads them; they are in one file."""
    (file,) = (run / "tensorboard").iterdir()
    return EventAccumulator(str(file)).Reload()


def cards_of(run: Path) -> dict[str, list[str]]:
    """The headings of a run and the cards under each, in TensorBoard's order."""
    tags = sorted(accumulated(run).Tags()["tensors"])
    parts = [tag.split("/", 1) for tag in tags if not tag.startswith("_hparams_")]
    groups = groupby(parts, lambda part: part[0])
    return {heading: [label for _, label in cards] for heading, cards in groups}


def test_a_training_shows_validation_then_losses_then_learning_rates(trained_run):
    networks = ["anomaly discriminator", "classifier", "generator", "normal discriminator"]
    assert cards_of(trained_run) == {
        "1 validation": ["AUROC", "normal score"],
        "2 losses": networks,
        "3 learning rates": networks,
        "4 pictures": KINDS,
        "5 validation scores": KINDS,
        "6 training details": [
            *("abc", "anomaly adversarial", "latent", "normal adversarial", "patch"),
            "reconstruction",
        ],
    }
    steps: dict[str, list[int]] = {}
    for tag, step, _ in events_of(trained_run):
        steps.setdefault(tag, []).append(step)
    options = {tag: steps.pop(tag) for tag in [*steps] if tag.startswith("_hparams_")}
    assert set(map(tuple, steps.values())) == {(1, 2)}
    assert options == {SESSION_START_INFO_TAG: [0], SESSION_END_INFO_TAG: [0]}


@pytest.mark.parametrize(
    ("approach", "protocol", "cards"),
    [
        (
            *("patchcore", "one_class"),
            {
                "1 validation": ["AUROC", "normal score"],
                "4 pictures": KINDS,
                "5 validation scores": KINDS,
                "6 training details": ["feature length"],
            },
        ),
        (
            *("cnn", "classification"),
            {
                "1 validation": ["accuracy", "loss", "normal score"],
                "2 losses": ["loss"],
                "3 learning rates": ["classifier"],
                "4 pictures": ["normal"],
                "5 validation scores": ["normal"],
                "6 training details": ["accuracy"],
            },
        ),
        (
            *("gan", "imbalance"),
            {
                "1 validation": ["AUROC", "normal score"],
                "2 losses": ["discriminator", "generator"],
                "3 learning rates": ["discriminator", "generator"],
                "4 pictures": KINDS,
                "5 validation scores": KINDS,
                "6 training details": ["adversarial", "anomaly", "normal"],
            },
        ),
    ],
)
def test_every_kind_of_training_has_the_same_headings(approach, protocol, cards, evaluated):
    assert cards_of(evaluated(approach, protocol).run) == cards


def test_the_options_of_a_training_are_under_its_own_name(trained_run, small_folder):
    events = accumulated(trained_run).summary_metadata
    content = events[SESSION_START_INFO_TAG].plugin_data.content
    start = parse_session_start_info_plugin_data(content)
    assert start.group_name == ""  # TensorBoard shows the name of the run
    values = {name: getattr(v, v.WhichOneof("kind")) for name, v in start.hparams.items()}
    sizes = {name: values.pop(name) for name in [*values] if name.startswith("networks.")}
    assert values == {
        **{"approach": "sota", "protocol": "imbalance", "data": str(small_folder)},
        **{"normal-class": "0", "seed": 0, "training.epochs": 2, "training.ema-decay": 0.9},
        **{"training.steps-per-epoch": 30, "training.batch-size": 64},
        "training.learning-rate": options_of("sota")().training.learning_rate,
    }
    assert set(sizes) == {"networks.filters", "networks.discriminator-filters"}
    content = events[SESSION_END_INFO_TAG].plugin_data.content
    assert parse_session_end_info_plugin_data(content).status == STATUS_SUCCESS


def test_options_that_do_not_differ_from_the_defaults_are_left_out():
    config = options_of("vae")()
    usual = chosen_options(config)
    assert "normal-class" not in usual  # not known yet
    changed = dataclasses.replace(
        config,
        data_dir="elsewhere",
        normal_class=("a", "b"),
        sampling=dataclasses.replace(config.sampling, flip=0.25),
    )
    assert chosen_options(changed) == {**usual, "normal-class": "a,b", "sampling.flip": 0.25}


@pytest.mark.parametrize("epochs", [1, 2, 12, 30, 31, 59, 61, 200, 1001])
def test_tensorboard_gets_a_bounded_number_of_pictures(epochs):
    shown = [epoch for epoch in range(epochs) if has_pictures(epoch, epochs)]
    assert {0, epochs - 1} <= set(shown)
    assert min(epochs, MAX_PICTURES // 2) <= len(shown) <= MAX_PICTURES + 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("largest", [0.0, 1e-4, 37.0])
def test_the_maps_of_a_picture_are_not_saturated(channels, largest):
    images = np.full((2, 8, 8, channels), 100, np.uint8)
    maps = np.linspace(0, largest, 128, dtype=np.float32).reshape(2, 8, 8)
    without = draw(Explained(images, maps, None), "error", largest)
    drawn = draw(Explained(images, maps, images + 100), "error", largest)
    assert drawn.shape == (without.shape[0] // 2 * 3, *without.shape[1:])
    # The name of a row is above it; each pixel is 10 wide, and a white line is between the images.
    original, rebuilt, error = (row[-80:, :170][5::10, 5::10] for row in np.split(drawn, 3))
    assert (original == rebuilt - 100)[:, [*range(8), *range(9, 17)]].all()
    assert (original[:, 0] == 100).all()
    assert (original[:, 8] == 255).all()
    green = np.concatenate([error[:, :8, 1], error[:, 9:, 1]]).astype(int).ravel()
    if not largest:
        assert (error == 255).all()
        return
    assert (np.diff(green) <= 0).all()  # redder the larger
    assert len(set(green)) > 50
    assert green[0] == 255
    assert (green == green[-1]).sum() <= 2


def test_the_scale_of_a_single_map_is_legible():
    one, several = (
        draw(Explained(np.zeros((n, 28, 28, 1), np.uint8), np.ones((n, 28, 28)), None), "error", 1)
        for n in (1, 8)
    )
    assert one.shape[1] > 84  # the words take more room than the image
    np.testing.assert_array_equal(one[-84:, :84], several[-84:, :84])
    label = one[:-84][-16:]
    assert (label < 255).any()
    assert (label[:, -2:] == 255).all()  # not cut off


def test_a_resumed_training_keeps_the_events_of_finished_epochs_only(tmp_path):
    folder = tmp_path / "tensorboard"
    for epochs in ([1, 2], [3, 4], [5]):
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default():
            for epoch in epochs:
                tf.summary.scalar("loss", epoch / 10, epoch)
        writer.close()
    *_, last = files = sorted(folder.iterdir())
    assert len(files) == 3
    last.write_bytes(last.read_bytes()[:-3])  # killed while it wrote
    assert keep_events(folder, 3)
    assert [*folder.iterdir()] == files[:1]
    assert [(tag, step) for tag, step, _ in events_of(tmp_path)] == [("loss", n) for n in (1, 2, 3)]
    assert not keep_events(folder, 0)
    assert not any(folder.iterdir())
    assert not keep_events(tmp_path / "none", 3)
