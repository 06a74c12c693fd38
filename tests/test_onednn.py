"""oneDNN is on by default on x86, the user can turn it off, and scores do not change."""

from __future__ import annotations

import os
import platform
import sys

import numpy as np
import pytest
from conftest import ENVIRONMENT, run_command

from anomaly_tf import Detector
from anomaly_tf.onednn import SWITCH, X86, describe_kernels, enable_onednn, fastest_instructions

ON_X86 = platform.machine().lower() in X86
WITHOUT = {name: value for name, value in ENVIRONMENT.items() if name != SWITCH}
# A user's program: it imports the library first, then loads a detector.
SCORE = """
import sys
import numpy as np
from anomaly_tf import Detector
from anomaly_tf.onednn import describe_kernels

images = np.load(sys.argv[1])
scores = [Detector.load(model).score(images) for model in sys.argv[3:]]
np.save(sys.argv[2], scores)
print(describe_kernels())
"""


@pytest.mark.skipif(not ON_X86, reason="nothing changes on other processors")
def test_scores_with_onednn_are_those_without_it(deployed, small_arrays, tmp_path):
    images = small_arrays[2][:200]
    np.save(tmp_path / "images.npy", images)
    models = [deployed["run"], deployed["saved_model"]]
    found = {}
    for name, environment in (("default", WITHOUT), ("off", {**WITHOUT, SWITCH: "0"})):
        scores = tmp_path / f"{name}.npy"
        done = run_command(
            *(sys.executable, "-c", SCORE, tmp_path / "images.npy", scores, *models),
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        found[name] = done.stdout.splitlines()[-1], np.load(scores)
    said, scores = found["default"]
    assert said.split(", ")[0] == "oneDNN"
    assert found["off"][0] == f"Eigen, because {SWITCH}=0"
    # Sums in another order, by other kernels: a few units in float32's last place.
    np.testing.assert_allclose(found["off"][1], scores, rtol=1e-4)
    assert not np.array_equal(found["off"][1], scores)  # so they were other kernels
    np.testing.assert_allclose(scores[0], Detector.load(deployed["run"]).score(images), rtol=1e-4)


@pytest.mark.parametrize(
    ("machine", "imported", "user", "expected"),
    [
        ("x86_64", False, None, "1"),
        ("AMD64", False, None, "1"),
        ("x86_64", False, "0", "0"),
        ("x86_64", True, None, None),
        ("aarch64", False, None, None),
        ("arm64", False, "1", "1"),
    ],
)
def test_the_switch_is_set_once_on_x86_before_tensorflow(
    machine, imported, user, expected, monkeypatch
):
    environment = {} if user is None else {SWITCH: user}
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(os, "environ", environment)
    if imported:
        monkeypatch.setitem(sys.modules, "tensorflow", os)
    else:
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    enable_onednn()
    assert environment.get(SWITCH) == expected


@pytest.mark.parametrize(
    ("machine", "user", "said"),
    [
        ("aarch64", None, "Eigen"),
        ("x86_64", "0", f"Eigen, because {SWITCH}=0"),
        ("x86_64", None, "Eigen, because TensorFlow was imported before anomaly_tf"),
    ],
)
def test_the_reason_why_it_is_off(machine, user, said, monkeypatch):
    from tensorflow.python.util import _pywrap_util_port

    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: False)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.delenv(SWITCH, raising=False)
    if user is not None:
        monkeypatch.setenv(SWITCH, user)
    assert describe_kernels() == said


AVX2 = {"sse4_1", "avx", "avx2", "fma"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        (AVX512, "", ["AVX-512"]),
        (AVX512, "AVX2", ["AVX2"]),
        (AVX512, "avx512_core", ["AVX-512"]),
        (AVX512 - {"avx512vl"}, "", ["AVX2"]),
        (AVX2, "", ["AVX2"]),
        (AVX2, "SSE41", ["SSE4.1"]),
        (set(), "", []),
    ],
)
def test_the_fastest_instructions(flags, limit, expected):
    assert fastest_instructions(flags, limit) == expected
