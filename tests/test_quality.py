"""Studies: their arguments of train.py, their saved results, and their tables."""

from __future__ import annotations

import dataclasses
import json

import pytest
from sklearn.metrics import roc_auc_score

from anomaly_tf.approaches import options_of
from anomaly_tf.command_line import parse_train_options
from anomaly_tf.errors import UserError
from measurements import quality, score_rules
from measurements.quality import STUDIES, Study, configured, read_study, results_so_far, table

NAMES = sorted(path.stem for path in STUDIES.glob("*.yaml"))
STUDY = Study(
    approach="vae",
    protocol="one_class",
    normal_classes=[2, 5],
    seeds=[101],
    options={"training.epochs": 3},
    variants={"all": {"as configured": {}}, "networks": {"latent of 16": {"networks.latent": 16}}},
)


def cell(variant: str, group: str, number: int, auroc: float, **options) -> dict:
    """A measured cell of the study above."""
    return {
        "group": group,
        "variant": variant,
        "options": {"training.epochs": 3, **options},
        "normal_class": number,
        "seed": 101,
        "seconds": 10.0,
        "auroc": auroc,
    }


MEASURED = [
    cell("as configured", "all", 2, 0.8),
    cell("as configured", "all", 5, 0.9),
    cell("latent of 16", "networks", 2, 0.9, **{"networks.latent": 16}),
    cell("latent of 16", "networks", 5, 0.9, **{"networks.latent": 16}),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_of_a_study_is_one_that_train_takes(name):
    study = read_study(name)
    assert 0 not in study.seeds
    for variants in study.variants.values():
        for options in variants.values():
            own = {"approach": study.approach, "protocol": study.protocol}
            chosen = own | study.options | options
            flags = [str(part) for key, value in chosen.items() for part in (f"--{key}", value)]
            config = parse_train_options(flags).config
            assert study.protocol in type(config).protocols


def test_a_study_holds_back_the_classes_that_published_figures_show():
    study = dataclasses.replace(STUDY, approach="sota", protocol="unseen")
    unseen = configured(study, 0, 101, "data").unseen
    # By default the four that follow the normal class are shown.
    assert unseen.unseen_classes == (1, 2, 3, 4)
    assert set(unseen.seen_classes) == {5, 6, 7, 8, 9}


def test_a_table_compares_with_the_first_variant():
    lines = table({"study": dataclasses.asdict(STUDY), "cells": MEASURED}).splitlines()
    assert lines[2] == "| all | as configured | 0.8500 |  | 0.8000 | 0.9000 |"
    assert lines[3] == "| networks | latent of 16 | 0.9000 | +0.0500 | 0.9000 | 0.9000 |"


def test_unlabelled_anomalies_are_compared_within_an_approach():
    study = dataclasses.asdict(dataclasses.replace(STUDY, protocol="contaminated"))
    lines = table({"study": study, "cells": MEASURED}).splitlines()
    assert lines[3] == "| networks | latent of 16 | 0.9000 |  | 0.9000 | 0.9000 |"


def test_a_variant_that_is_measured_in_part_is_not_in_the_table():
    lines = table({"study": dataclasses.asdict(STUDY), "cells": MEASURED[:3]}).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["as configured"]


def test_ways_of_scoring_are_compared_by_class_or_by_model():
    study = {"study": dataclasses.asdict(STUDY), "cells": MEASURED}
    # Of class 2 with two seeds.
    aurocs = ((2, 0.4), (2, 0.6), (5, 0.8))
    rules = [{"normal_class": number, "auroc": {"a": auroc}} for number, auroc in aurocs]
    shown = table(study | {"score_rules": rules}).split("\n\n")[1]
    assert shown.splitlines() == [
        "| score | mean | class 2 | class 5 |",
        "|---|---|---|---|",
        "| a | 0.6000 | 0.5000 | 0.8000 |",
    ]
    models = [
        {"normal_class": 2, "auroc": {"one: a": 0.5, "two: a": 0.6, "one: b: c": 0.8}},
        {"normal_class": 5, "auroc": {"one: a": 0.7, "two: a": 0.6, "one: b: c": 0.9}},
    ]
    shown = table(study | {"score_rules": models}).split("\n\n")[1]
    assert shown.splitlines() == [
        "| score | one | two |",
        "|---|---|---|",
        "| a | 0.6000 | 0.6000 |",
        "| b: c | 0.8500 |  |",
    ]


def test_measured_cells_are_not_trained_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quality, "read_study", lambda name: STUDY)
    path = tmp_path / "sota.json"
    path.write_text(json.dumps({"cells": MEASURED}), "utf-8")
    quality.main(["--studies", "sota", "--output", str(tmp_path)])
    results = json.loads(path.read_text("utf-8"))
    assert results["cells"] == MEASURED
    assert results["defaults"]["vae"]["networks"]["latent"] == 32
    assert "+0.0500" in capsys.readouterr().out


def test_measured_with_other_defaults_it_is_refused(tmp_path):
    path = tmp_path / "study.json"
    kept = results_so_far(STUDY, path)
    path.write_text(json.dumps(kept), "utf-8")
    assert results_so_far(STUDY, path) == kept
    kept["defaults"]["vae"]["networks"]["latent"] = 33
    path.write_text(json.dumps(kept), "utf-8")
    with pytest.raises(UserError, match="other defaults of vae"):
        results_so_far(STUDY, path)


@pytest.mark.parametrize("content", ['{"cells": [', "[1]", "null"])
def test_damaged_results_are_refused_and_left_as_they_are(content, tmp_path):
    path = tmp_path / "sota.json"
    path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=r"sota\.json is damaged \(.*\); move it away"):
        quality.main(["--studies", "sota", "--output", str(tmp_path)])
    assert path.read_text("utf-8") == content


def test_a_study_that_does_not_exist():
    with pytest.raises(UserError, match="'sofa' does not exist; choose one of contaminated, "):
        quality.main(["--studies", "sofa"])


@pytest.fixture
def scored(small_folder, monkeypatch):
    """Compares ways of scoring after a step of training; with each model that was trained."""
    trained = score_rules._trained
    models = []

    def keep(*arguments):
        model, split = trained(*arguments)
        models.append((model, split.validation))
        return model, split

    monkeypatch.setattr(score_rules, "_trained", keep)

    def run(approach: str, **losses) -> tuple[dict[str, float], list]:
        config = options_of(approach)()
        training = dataclasses.replace(
            config.training, epochs=1, steps_per_epoch=2, batch_size=32, ema_decay=0.5
        )
        config = dataclasses.replace(
            config,
            data=str(small_folder),
            data_dir=str(small_folder / "cache"),
            training=training,
            losses=dataclasses.replace(config.losses, **losses),
        )
        found = score_rules.RULES[approach](config)
        assert all(0 <= value <= 1 for value in found.values())
        return found, models

    return run


def auroc_of_detector(model, images) -> float:
    scores = model.detector(images.images[:])["score"]
    return roc_auc_score(images.labels, scores)


def test_the_scores_of_the_gan_are_compared(scored):
    found, [(model, images)] = scored("sota", classifier_score_weight=0.0)
    own = pytest.approx(auroc_of_detector(model, images), abs=1e-5)
    assert found["mean error"] == found["its own score, with the classifier"] == own
    assert len(found) == 10
    # A combination fitted on one half of the images separates the other half at least as well.
    learnt = found["combination of six, learnt on the other half"]
    assert learnt > found["mean error, by halves"]


def test_the_scores_of_the_vae_are_compared_by_length_of_its_latent(scored, monkeypatch):
    monkeypatch.setattr(score_rules, "VAE_VARIANTS", ((16, 0.0), (8, 0.3)))
    found, models = scored("vae")
    for name, (model, images) in zip(
        ("latent 16", "latent 8, noise 0.3 removed"), models, strict=True
    ):
        own = auroc_of_detector(model, images)
        assert found[f"{name}: its own score"] == pytest.approx(own, abs=1e-5)
        # Errors separate well even after very little training.
        assert found[f"{name}: error, Mahalanobis"] > 0.8
    # Of a single one nothing else comes together.
    together = {name: value for name, value in found.items() if "together" in name}
    assert together == {
        f"the 1 without noise together: {name}": found[f"latent 16: {name}"]
        for name in ("squared error", "its own score")
    }
    assert len(set(found.values())) > 15
