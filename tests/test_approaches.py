"""Every approach, trained for seconds on real images: it learns, and its evaluation is complete."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_tf import Detector
from anomaly_tf.networks import losses

LEARNT = {"losses", "scores", "confusion_matrix", "normal", "worst_false_alarms"}
DETECTED = {"roc", "precision_recall", "auroc_by_class", "anomaly", "worst_misses"}


# Shortly trained they reach about 0.89, 0.97, 0.97 and 0.85; a detector that learnt nothing has
# 0.5, and the untrained autoencoder 0.3.
@pytest.mark.parametrize(
    ("approach", "protocol", "floor"),
    [
        ("autoencoder", "one_class", 0.85),
        ("contrastive", "imbalance", 0.94),
        ("gan", "imbalance", 0.94),
        ("padim", "one_class", 0.85),
        ("patchcore", "one_class", 0.85),
        ("supervised", "imbalance", 0.9),
        ("transform", "one_class", 0.8),
        ("vae", "one_class", 0.7),
    ],
)
def test_it_separates_anomalies_from_normal_images(approach, protocol, floor, evaluated):
    done = evaluated(approach, protocol)
    assert done.metrics["auroc"] > floor
    assert done.metrics["approach"] == approach
    assert done.metrics["n_weights"] > 1000
    assert done.metrics["normal_class"] == 0
    assert set(done.metrics["auroc_by_class"]) == {str(number) for number in range(1, 10)}
    assert done.pictures == LEARNT | DETECTED


def test_contrastive_with_its_sign_flipped_fails_the_floor(evaluated, monkeypatch):
    right = losses.contrastive_loss
    monkeypatch.setattr(losses, "contrastive_loss", lambda *arguments: -right(*arguments))
    flipped = evaluated("contrastive", "imbalance", "--seed", "3")
    assert flipped.metrics["auroc"] < 0.9


def test_approaches_without_anomalies_select_the_epoch_without_them(evaluated):
    metrics = evaluated("vae", "one_class").metrics
    assert (metrics["chosen_by"], metrics["best_epoch"]) == ("last_epoch", 2)
    done = evaluated("gan", "imbalance")
    assert done.metrics["chosen_by"] == "val_auroc"
    history = np.genfromtxt(done.run / "history.csv", delimiter=",", names=True)
    assert done.metrics["best_epoch"] == 1 + np.argmax(history["val_auroc"])


def test_classification_reports_accuracy_and_separates_the_classes(evaluated):
    metrics = (done := evaluated("cnn", "classification")).metrics
    assert metrics["accuracy"] > 0.7  # chance is 0.1
    matrix = np.array(metrics["confusion_matrix"])
    assert matrix.shape == (10, 10)
    assert matrix.trace() / matrix.sum() == pytest.approx(metrics["accuracy"])
    assert metrics["classification_report"]["9"]["support"] == matrix[9].sum()
    assert metrics["auroc"] is None
    assert metrics["normal_class"] is None
    assert done.pictures == LEARNT | {"surest_mistakes", "most_unusual"}
    history = np.genfromtxt(done.run / "history.csv", delimiter=",", names=True)
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history.dtype.names)
    assert metrics["chosen_by"] == "val_accuracy"
    accuracies = history["val_accuracy"]
    assert accuracies[metrics["best_epoch"] - 1] == accuracies.max()


def test_a_classifier_explains_by_grad_cam_and_has_no_reconstruction(evaluated, small_arrays):
    detector = Detector.load(evaluated("cnn", "classification").run)
    images = small_arrays[2][:20]
    maps = detector.explain(images)
    assert maps.shape == (20, 28, 28)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert len({float(part.max()) for part in maps}) > 10  # not rescaled per image
    probabilities = detector.probabilities(images)
    # Near 1, float32 probabilities have a resolution of 1e-7.
    np.testing.assert_allclose(
        -np.log(probabilities.max(axis=1)), detector.score(images), rtol=1e-3, atol=1e-6
    )
    with pytest.raises(ValueError, match="expected a detector with reconstruction; approach cnn"):
        detector.reconstruct(images)


def test_a_reconstruction_has_no_probabilities(evaluated, small_arrays):
    detector = Detector.load(evaluated("autoencoder", "one_class").run)
    images = small_arrays[2][:20]
    np.testing.assert_allclose(
        detector.explain(images).mean(axis=(1, 2)), detector.score(images), rtol=1e-4
    )
    with pytest.raises(ValueError, match="expected a detector with probabilities"):
        detector.probabilities(images)


@pytest.mark.parametrize(
    ("approach", "floors"),
    [
        ("autoencoder", {"noise 0.2": 0.7, "noise 0.2 and rotation 45": 0.75}),
        ("cnn", {"rotation 45": 0.55}),
        ("sota", {"noise 0.2": 0.9, "rotation 45": 0.6, "noise 0.2 and rotation 45": 0.9}),
    ],
)
def test_corruption_gives_an_auroc_for_each_kind_and_strength(approach, floors, evaluated):
    metrics = (done := evaluated(approach, "corruption")).metrics
    assert metrics["n_test"] == 4 * 1500
    for name, floor in floors.items():
        assert metrics["auroc_by_class"][name] > floor, name
    sweep = metrics["auroc_by_strength"]
    assert sweep["noise"] == pytest.approx([0.2, 0.4])
    assert sweep["rotation"] == pytest.approx([45, 90])
    # Where the sweep begins is the test set itself.
    by_kind = {kind: values[0] for kind, values in sweep["auroc"].items()}
    assert list(by_kind.values()) == pytest.approx(list(metrics["auroc_by_class"].values()))
    assert done.pictures >= LEARNT | DETECTED | {"auroc_by_strength"}


def test_a_classifier_reports_its_accuracy_on_corrupted_images(evaluated):
    metrics = evaluated("cnn", "corruption").metrics
    accuracies = metrics["accuracy_by_corruption"]
    assert set(accuracies) == {"noise 0.2", "rotation 45", "noise 0.2 and rotation 45"}
    assert 0.05 < accuracies["noise 0.2 and rotation 45"] < accuracies["rotation 45"] + 0.05
    assert accuracies["rotation 45"] < metrics["accuracy"]


def test_unseen_reports_seen_and_unseen_classes_apart(evaluated, small_arrays):
    options = ("--unseen.seen-classes", "1,6,7", "--unseen.unseen-classes", "2,9")
    metrics = evaluated("contrastive", "unseen", *options).metrics
    assert metrics["seen_classes"] == ["1", "6", "7"]
    assert metrics["unseen_classes"] == ["2", "9"]
    by_class = metrics["auroc_by_class"]
    assert set(by_class) == {"1", "2", "6", "7", "9"}
    assert metrics["auroc"] == metrics["auroc_unseen"]
    # Each is the mean of its classes' AUROCs, weighted by how many images they have.
    counts = np.bincount(small_arrays[3], minlength=10)
    for name in ("seen", "unseen"):
        classes = metrics[f"{name}_classes"]
        aurocs = [by_class[one] for one in classes]
        expected = np.average(aurocs, weights=[counts[int(one)] for one in classes])
        assert metrics[f"auroc_{name}"] == pytest.approx(expected, abs=1e-9)
    (kept, alarmed), (missed, found) = metrics["confusion_matrix"]
    assert kept + alarmed + missed + found == metrics["n_test"] < 1500
