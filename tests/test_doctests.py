"""The examples in docstrings do what they show, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import anomaly_tf

SOURCES = sorted(path for path in (ROOT / "anomaly_tf").rglob("*.py") if ">>>" in path.read_text())


@pytest.fixture
def names(deployed, small_arrays, tmp_path, monkeypatch) -> dict[str, object]:
    """What the examples use: a run, an export and a photo in the current folder, and images."""
    images = small_arrays[2][:8]
    shutil.copytree(deployed["run"], tmp_path / "runs" / "mine")
    shutil.copy(deployed["tflite"], tmp_path / "sota.tflite")
    Image.fromarray(images[0, ..., 0]).resize((50, 40)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return {"anomaly_tf": anomaly_tf, "np": np, "images": images}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_examples_of_a_module(path: Path, names):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    tests = [
        test for test in doctest.DocTestFinder().find(module, extraglobs=names) if test.examples
    ]
    assert tests
    for test in tests:
        report: list[str] = []
        failed = doctest.DocTestRunner().run(test, out=report.append).failed
        assert not failed, "".join(report)


@pytest.mark.parametrize("name", anomaly_tf.__all__)
def test_every_public_name_has_an_example(name):
    assert doctest.DocTestParser().get_examples(getattr(anomaly_tf, name).__doc__)
