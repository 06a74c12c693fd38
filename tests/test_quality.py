"""Studies: what they ask train.py for, what they keep, and their tables."""

from __future__ import annotations

import dataclasses
import json

import pytest

from anomaly_tf.command_line import parse_train_options
from anomaly_tf.errors import UserError
from benchmarks import quality
from benchmarks.quality import STUDIES, Study, configured, read_study, results_so_far, table

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
            chosen = {"approach": study.approach} | study.options | options
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
    assert lines[2] == "| all | as configured | 0.8500 |  | 0.8000 | 0.9000 | 10 |"
    assert lines[3] == "| networks | latent of 16 | 0.9000 | +0.0500 | 0.9000 | 0.9000 | 10 |"


def test_what_was_measured_is_not_trained_again(tmp_path, monkeypatch, capsys):
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


def test_a_study_that_does_not_exist():
    with pytest.raises(UserError, match="'sofa' does not exist; choose of one_class, sota, unseen"):
        quality.main(["--studies", "sofa"])
