"""Training on several GPUs; two logical CPU devices take their place (`two_devices.py`)."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ENVIRONMENT, ROOT, WITH_GRADIENTS, run_command, small_config

from anomaly_tf.data.pipelines import dealt
from anomaly_tf.training.device import MIN_SHARE, share_batches

CHECKS = [f"step of {name}" for name in WITH_GRADIENTS] + ["random numbers", "batches", "training"]


@pytest.fixture(scope="module")
def found(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The traceback of each check on two devices, empty if it passed."""
    paths = f"{ROOT}:{ROOT / 'tests'}"
    done = run_command(
        *(sys.executable, "-c", "import sys, two_devices; two_devices.main(*sys.argv[1:])"),
        *(small_folder, tmp_path_factory.mktemp("runs")),
        env={**ENVIRONMENT, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", CHECKS)
def test_on_two_devices(check, found):
    assert found.keys() == set(CHECKS)
    assert not found[check], found[check]


def test_each_share_has_the_composition_of_its_batch():
    """Eight blocks of eight images, as kinds of anomalies come, in batches of two tensors."""
    numbers = np.arange(2 * 64).reshape(2, 64)
    batches = tf.data.Dataset.from_tensor_slices((numbers, -numbers))
    shares = [tuple(map(np.array, share)) for share in dealt(batches, 4, seed=3)]
    assert len(shares) == 8
    for batch in range(2):
        of_batch = shares[4 * batch : 4 * batch + 4]
        assert sorted(np.concatenate([first for first, _ in of_batch])) == list(numbers[batch])
        for first, second in of_batch:
            np.testing.assert_array_equal(second, -first)  # an image keeps its class
            assert (np.diff(first) > 0).all()
            blocks = (first - 64 * batch) // 8
            assert np.bincount(blocks).tolist() == [2] * 8
    # Images that come in turn are not always dealt to the same device.
    assert len({int(number) % 4 for first, _ in shares[:1] for number in first}) > 1
    rest = batches.skip(1)
    again = [tuple(map(np.array, share)) for share in dealt(rest, 4, seed=3, first_step=1)]
    for one, other in zip(shares[4:], again, strict=True):
        np.testing.assert_array_equal(one, other)
    different = next(iter(dealt(batches, 4, seed=4)))[0]
    assert not np.array_equal(shares[0][0], different)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="batches of 10 images cannot be divided into 4 equal"):
        dealt(tf.data.Dataset.from_tensors(np.arange(10)), 4, seed=0)


@pytest.mark.parametrize(
    ("approach", "batch_size", "gpus", "count", "words"),
    [
        ("vae", 128, 1, 1, "the first of 1 found"),
        ("vae", 128, 2, 2, "all 2 found, which share every batch"),
        ("vae", 128, 3, 2, "2 of 3 found, .* --training.batch-size 129 instead of 128"),
        ("sota", 128, 3, 2, "2 of 3 found, .* --training.batch-size 132 instead of 128"),
        # Half of the batch are anomalies: 13 of each.
        ("vae", 26, 2, 2, "all 2"),
        ("sota", 26, 2, 1, "the first of 2 found .* --training.batch-size 28 instead of 26"),
        ("vae", 2 * MIN_SHARE, 2, 2, "all 2"),
        ("vae", 2 * MIN_SHARE - 2, 2, 1, f"--training.batch-size {2 * MIN_SHARE} instead of"),
        ("vae", 7, 4, 1, f"--training.batch-size {4 * MIN_SHARE} instead of 7"),
        ("padim", 128, 2, 1, "padim takes no gradient steps"),
        ("patchcore", 128, 8, 1, "patchcore takes no gradient steps"),
    ],
)
def test_as_many_gpus_share_a_batch_as_get_equal_shares(approach, batch_size, gpus, count, words):
    config = small_config(approach, batch_size=batch_size)
    found, why = share_batches(config, gpus)
    assert found == count
    assert re.search(words, why)
    if named := re.search(r"--training.batch-size (\d+)", why):
        better = small_config(approach, batch_size=int(named[1]))
        assert share_batches(better, gpus)[0] == gpus


def test_xla_compiles_the_step_of_one_gpu():
    count, why = share_batches(small_config("vae", batch_size=128, jit_compile="on"), 2)
    assert count == 1
    assert "--training.jit-compile auto" in why
    assert share_batches(small_config("vae", batch_size=128, jit_compile="off"), 2)[0] == 2
