"""What training says of figures that surprise, and what it does not say."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_tf.training.notes import PATIENCE, Notes


def said(logs: dict[str, list[float]], epochs: int = 0, **changes) -> list[tuple[int, str]]:
    """Epochs, counted from 1, and the notes after them."""
    length = len(next(iter(logs.values())))
    facts = {"n_normal": 100, "n_anomalies": 100, "keeps_last": True} | changes
    notes = Notes(epochs or length + 1, **facts)
    return [
        (epoch + 1, line)
        for epoch in range(length)
        for line in notes.notes_after(epoch, {name: values[epoch] for name, values in logs.items()})
    ]


def falling(length: int, first: float = 1.0, last: float = 0.3) -> list[float]:
    return np.geomspace(first, last, length).tolist()


def noisy(length: int, level: float = 0.7, noise: float = 0.001) -> list[float]:
    return (level + noise * np.random.default_rng(1).normal(size=length)).tolist()


def test_an_ordinary_training_is_left_without_comment():
    logs = {
        "loss": falling(30),
        "val_auroc": np.linspace(0.9, 0.95, 30).tolist(),
        "val_normal_score": falling(30, 2.0, 1.0),
    }
    assert said(logs, epochs=30) == []


def test_a_loss_that_never_moves():
    ((epoch, line),) = said({"loss": noisy(25)})
    assert epoch == PATIENCE + 1
    assert "no loss has fallen for 10 epochs (loss 0.7" in line
    assert "nothing has been learnt" in line
    assert "--training.learning-rate" in line


def test_a_loss_that_rises_does_not_count_as_moving():
    ((_, line),) = said({"loss": np.linspace(0.7, 5, 14).tolist()})
    assert "nothing has been learnt" in line


def test_a_loss_that_settles():
    ((epoch, line),) = said({"loss": [*falling(8), *[0.3] * 14]})
    assert epoch == 8 + PATIENCE
    assert "has settled" in line
    assert "learning-rate" not in line


def test_a_first_value_far_above_all_others_hides_no_progress():
    assert said({"loss": [50.0, *falling(20, 0.5, 0.1)]}) == []


def test_what_a_discriminator_does_is_no_matter():
    steady = {name: noisy(25) for name in ("discriminator", "adversarial", "generator", "kl")}
    assert said({"reconstruction": falling(25), **steady}) == []
    names = ("normal_discriminator", "generator_learning_rate", "val_loss")
    falls = {name: falling(25) for name in names}
    ((_, line),) = said({"reconstruction": noisy(25), "patch": noisy(25), **falls})
    assert "(reconstruction 0.7" in line
    assert said({"reconstruction": noisy(25), "patch": falling(25)}) == []
    assert said({"discriminator": noisy(25)}) == []


def test_validation_gets_worse_while_the_loss_falls():
    auroc = [0.90, 0.95, 0.97, 0.955, 0.95, 0.94, 0.93, 0.92]
    logs = {"loss": falling(8), "val_auroc": auroc}
    ((epoch, line),) = said(logs)
    assert epoch == 7
    assert "val_auroc fell from 0.9700 (epoch 3) to 0.9300" in line
    assert "fewer --training.epochs" in line
    ((_, line),) = said(logs, keeps_last=False)
    assert "epoch 3 is kept so far" in line


@pytest.mark.parametrize(
    ("logs", "changes"),
    [
        ({"loss": falling(8, 0.3, 1.0)}, {}),  # the loss rises, too
        ({"loss": falling(8)}, {"n_anomalies": 2}),  # two anomalies scatter more than that
    ],
)
def test_validation_that_gets_worse_for_another_reason(logs, changes):
    auroc = [0.90, 0.95, 0.97, 0.955, 0.95, 0.94, 0.93, 0.92]
    assert said({**logs, "val_auroc": auroc}, **changes) == []


def test_one_good_epoch_in_between_is_no_fall():
    assert said({"loss": falling(7), "val_auroc": [0.9, 0.97, 0.95, 0.95, 0.97, 0.95, 0.95]}) == []


def test_new_normal_images_score_higher_and_higher():
    scores = [0.5, 0.4, 0.55, 0.61, 0.62, 0.63, 0.9]
    ((epoch, line),) = said({"loss": falling(7), "val_normal_score": scores})
    assert epoch == 6
    assert "val_normal_score 0.4 in epoch 2, now 0.63" in line
    assert said({"loss": falling(7, 0.3, 1), "val_normal_score": scores}) == []
    assert said({"loss": falling(7, 1.0, 0.995), "val_normal_score": scores}) == []
    assert said({"loss": falling(7), "val_normal_score": [0.5, 0.4, *[0.55] * 5]}) == []


def test_chance_is_named_at_the_end():
    logs = {"loss": falling(5), "val_auroc": [0.5, 0.49, 0.51, 0.5, 0.52]}
    ((epoch, line),) = said(logs, epochs=5)
    assert epoch == 5
    assert "val_auroc is 0.5200, where 0.5 is chance" in line
    assert said(logs, epochs=6) == []


def test_anomalies_that_score_lower_than_normal_images():
    logs = {"loss": falling(3), "val_auroc": [0.3, 0.25, 0.2]}
    ((_, line),) = said(logs, epochs=3)
    assert "below 0.5" in line
    assert "--normal-class" in line
    # Of three anomalies 0.3 may be chance.
    ((_, line),) = said({"loss": falling(1), "val_auroc": [0.3]}, epochs=1, n_anomalies=3)
    assert "chance" in line


def test_what_is_above_chance_is_left_without_comment():
    fair = {"loss": falling(3), "val_auroc": [0.6, 0.62, 0.65]}
    assert said(fair, epochs=3) == []
    assert said(fair, epochs=3, n_normal=5, n_anomalies=2) == []
    # The best epoch is kept, whatever the last one gives.
    peak = {"loss": falling(3), "val_auroc": [0.5, 0.9, 0.5]}
    assert said(peak, epochs=3, keeps_last=False) == []
    assert said({"loss": falling(3)}, epochs=3, n_anomalies=0) == []


def test_each_is_said_once_and_a_resumed_training_does_not_say_it_again():
    logs = {"loss": noisy(40)}
    assert len(said(logs)) == 1
    notes = Notes(epochs=60, n_normal=9, n_anomalies=9, keeps_last=True)
    history = [notes.notes_after(epoch, {"loss": 0.7}) for epoch in range(20)]
    assert sum(map(len, history)) == 1
    assert [notes.notes_after(epoch, {"loss": 0.7}) for epoch in range(20, 40)] == [[]] * 20
