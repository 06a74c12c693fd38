"""Fixtures of several tests: real images, small runs, and the scripts as a user runs them."""

from __future__ import annotations

import atexit
import dataclasses
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import damage  # noqa: F401 - registers the profiles of Hypothesis
import keras
import numpy as np
import pages
import pytest
from hypothesis import settings
from keras import layers

from anomaly_tf.approaches import APPROACHES, build_model, options_of
from anomaly_tf.cli import evaluate, export, train
from anomaly_tf.config import BalancedSamplingConfig, Config, OnePassConfig
from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.sources import ImageDataset, load_dataset
from anomaly_tf.deploy.keras_run import TrainedDetector
from anomaly_tf.runs.detector_info import DetectorInfo

if TYPE_CHECKING:
    from anomaly_tf.approaches.base import Approach

# The user's own caches stay as they are, but for matplotlib's fonts, which take it seconds. The
# processes of pytest-xdist inherit the folder.
if "PYTEST_XDIST_WORKER" not in os.environ:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    os.environ.setdefault("MPLCONFIGDIR", str(Path(caches, "matplotlib")))
    os.environ["USER_CACHE_HOME"] = str(caches)  # is read only
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="anomaly_tf-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# A user's environment, before the next line makes TensorFlow quiet in the tests' own process.
OWN = ("TF_CPP_MIN_LOG_LEVEL", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in OWN}
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
settings.load_profile("few")  # see damage.py
ROOT = Path(__file__).resolve().parents[1]
pytest_plugins = ["browsing"]
IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


# The slowest files come first, so that no process has to run one of them at the end.
LONGEST = ("test_export", "test_resume", "test_approaches", "test_training", "test_origin")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest in front."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of uint8 in the IDX format."""
    header = bytes((0, 0, 8, array.ndim))
    return header + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def run_script(script: str, *arguments: object, **keywords: object) -> subprocess.CompletedProcess:
    """Runs a script of the repository as a user would, in a process of its own."""
    return run_command(sys.executable, ROOT / script, *arguments, **keywords)


def run_command(*command: object, **keywords: object) -> subprocess.CompletedProcess:
    """Runs a command in the repository, in a user's environment."""
    return subprocess.run(
        [*map(str, command)],
        check=False,
        **{
            **{"text": True, "capture_output": True, "timeout": 300},
            **{"cwd": ROOT, "env": ENVIRONMENT, **keywords},
        },
    )


def assert_one_line(done: subprocess.CompletedProcess, *words: str) -> None:
    """A user's mistake: exit status 2 and one line with these words."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="session")
def fashion() -> ImageDataset:
    """The whole of Fashion-MNIST, from the repository's cache or fetched into it."""
    return load_dataset("fashion_mnist", ROOT / "data")


@pytest.fixture(scope="session")
def small_arrays(fashion: ImageDataset) -> tuple[np.ndarray, ...]:
    """Real images: 6,000 to train and 1,500 to test, drawn from all classes."""
    chosen = np.random.default_rng(0)
    train = chosen.choice(60000, 6000, replace=False)
    test = chosen.choice(10000, 1500, replace=False)
    return (
        fashion.train_images[train],
        fashion.train_classes[train],
        fashion.test_images[test],
        fashion.test_classes[test],
    )


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Fills a folder with what several tests read, for all processes that pytest-xdist starts."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, whole = base / name, base / f"{name}.whole"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def small_folder(small_arrays: tuple[np.ndarray, ...], made_once) -> Path:
    """The same as four IDX files, as `--data FOLDER` takes them."""

    def make(folder: Path) -> None:
        for name, array in zip(IDX_NAMES, small_arrays, strict=True):
            squeezed = array[..., 0] if array.ndim == 4 else array
            (folder / name).write_bytes(idx_bytes(squeezed))

    return made_once("idx", make)


@pytest.fixture(scope="session")
def small_dataset(small_folder: Path) -> ImageDataset:
    """The same, loaded."""
    return load_dataset(str(small_folder), small_folder)


@pytest.fixture(scope="session")
def trained_run(small_folder: Path, made_once) -> Path:
    """A run made by `train.py` and `evaluate.py`, trained for seconds on real images."""

    def make(run: Path) -> None:
        training = (
            *("train.py", "--approach", "sota", "--data", small_folder, "--run-dir", run),
            *("--data-dir", small_folder / "cache", "--training.epochs", 2),
            *("--training.steps-per-epoch", 30, "--training.batch-size", 64),
            *("--training.ema-decay", 0.9),
        )
        said = {}
        for script, *options in (training, ("evaluate.py", "--run-dir", run)):
            done = run_script(script, *options)
            assert done.returncode == 0, done.stderr
            said[script] = {"stdout": done.stdout, "stderr": done.stderr}
        (run / "said.json").write_text(json.dumps(said))

    return made_once("trained", make)


@pytest.fixture(scope="session")
def deployed(trained_run: Path, made_once) -> dict[str, Path]:
    """The trained run, and its exports: a SavedModel's folder and a .tflite file."""

    def make(folder: Path) -> None:
        for kind in ("saved_model", "tflite"):
            options = ["--run-dir", str(trained_run), "--output", str(folder / kind)]
            assert export.main([*options, "--format", kind]) in (0, 3)

    folder = made_once("deployed", make)
    return {
        "run": trained_run,
        "saved_model": folder / "saved_model" / "sota" / "1",
        "tflite": folder / "tflite" / "sota.tflite",
    }


def weighing_detector(
    image_shape: tuple[int, int, int], weights: tuple[float, ...], threshold: float = 0.5, **info
) -> TrainedDetector:
    """A detector whose scores can be worked out by hand.

    Its error map is the weighted sum of each pixel's channels in [0, 1], its score the mean of the
    map, its reconstruction the image, so little darker that it rounds to the same grey levels.
    """
    image = keras.Input(image_shape, dtype="uint8")
    pixels = layers.Rescaling(1 / 255)(image)
    weigh = layers.Conv2D(1, 1, use_bias=False)
    error_map = keras.ops.squeeze(weigh(pixels), -1)
    score = keras.ops.mean(error_map, axis=(1, 2))
    outputs = {"score": score, "error_map": error_map, "reconstruction": 1.998 * pixels - 1}
    model = keras.Model(image, outputs)
    weigh.set_weights([np.array(weights, np.float32).reshape(1, 1, -1, 1)])
    facts = {
        "approach": "autoencoder",
        "protocol": "one_class",
        "dataset": "drawn",
        "class_names": ["good", "bad"],
        "roles": {"normal": [0], "seen": [], "unseen": [1]},
        "seed": 0,
        "image_shape": list(image_shape),
        "image_score": "mean",
        "threshold": {"value": threshold, "method": "percentile", "percentile": 95},
        "calibration": {"size": 3, "scores": [0.1, 0.2, 0.3]},
        "heat_scale": {
            **{"low": 0.0, "high": 1.0, "low_quantile": 0.9, "high_quantile": 0.999},
            "unit": "brightness",
        },
        "training": {
            "command": "python train.py --data drawn",
            **{"status": "completed", "hardware": "CPU", "chosen_by": "val_auroc"},
            **dict.fromkeys(("n_train", "n_validation", "n_weights", "epochs", "best_epoch"), 1),
            **dict.fromkeys(("train_seconds", "images_per_second"), 1.0),
            "validation": {"val_auroc": 0.9},
        },
    }
    return TrainedDetector(model, DetectorInfo.from_json(facts | info))


def plain_images(greys: list[int], classes: list[int]) -> LabelledImages:
    """Images (8, 8, 1) of one grey each; class 0 is normal."""
    images = np.empty((len(greys), 8, 8, 1), np.uint8)
    images[:] = np.array(greys, np.uint8)[:, None, None, None]
    numbers = np.array(classes)
    return LabelledImages(images, numbers, labels=(numbers != 0).astype(np.int8))


def normal_set(images: np.ndarray) -> LabelledImages:
    """Normal images of one class."""
    classes = np.zeros(len(images), np.int16)
    return LabelledImages(images, classes, labels=classes.astype(np.int8))


@pytest.fixture
def run_copy(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be changed or damaged."""
    return Path(shutil.copytree(trained_run, tmp_path / "copy"))


def events_of(run: Path) -> list[tuple[str, int, bytes]]:
    """Tag, step and value of each event that TensorBoard reads of a run, sorted.

    The values of a trial's begin and end, which hold the time, are left out.
    """
    import tensorflow as tf

    events = []
    for file in (run / "tensorboard").rglob("*"):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                timed = value.tag.startswith("_hparams_")
                content = b"" if timed else value.tensor.SerializeToString(deterministic=True)
                events.append((value.tag, event.step, content))
    return sorted(events)


@dataclass(frozen=True)
class Evaluated:
    """A run after train.py and evaluate.py."""

    run: Path
    metrics: dict[str, Any]

    @property
    def pictures(self) -> set[str]:
        """Names of the plots, without suffix."""
        return {path.stem for path in (self.run / "plots").iterdir()}


# Approaches whose networks learn by gradient steps; the others look at each image once.
WITH_GRADIENTS = [name for name in APPROACHES if not issubclass(options_of(name), OnePassConfig)]
# Each image takes 32 calls of the network, or is enlarged for a pretrained one.
SMALL = {
    "transform": ("--networks.filters", "4,8,8"),
    **dict.fromkeys(("padim", "patchcore"), ("--networks.enlarge-to", "32")),
}


@pytest.fixture(scope="session")
def evaluated(small_folder: Path, made_once) -> Callable[..., Evaluated]:
    """Trains and evaluates in this process, each combination once for all tests."""

    def run(approach: str, protocol: str, *more: str) -> Evaluated:
        def make(folder: Path) -> None:
            options = ["--approach", approach, "--protocol", protocol]
            options += [*SMALL.get(approach, ()), *more]
            options += ["--data", str(small_folder), "--data-dir", str(small_folder / "cache")]
            options += ["--run-dir", str(folder)]
            options += ["--training.batch-size", "64", "--corruption.sweep", "1,2"]
            if approach in WITH_GRADIENTS:
                options += ["--training.epochs", "2", "--training.steps-per-epoch", "60"]
                options += ["--training.ema-decay", "0.9"]
            assert train.main(options) == 0
            evaluate.main(["--run-dir", str(folder)])

        folder = made_once("".join((approach, "-", protocol, *more)), make)
        return Evaluated(folder, json.loads((folder / "metrics.json").read_text()))

    return run


@pytest.fixture(scope="session")
def page_paths(
    trained_run: Path, evaluated: Callable[..., Evaluated], made_once
) -> dict[str, Path]:
    """A page of every kind, by its kind: of runs under several protocols, compared, a benchmark."""
    seen = ("--unseen.seen-classes", "1,6,7", "--unseen.unseen-classes", "2,9")
    runs = {
        "imbalance": trained_run,
        "one_class": evaluated("autoencoder", "one_class").run,
        "unseen": evaluated("contrastive", "unseen", *seen).run,
        "corruption": evaluated("cnn", "corruption").run,
        "classification": evaluated("cnn", "classification").run,
    }

    def make(folder: Path) -> None:
        pages.hostile_run(folder / "hostile", weighing_detector)
        pages.make_comparison([*runs.values()], folder / "comparison.html")
        pages.make_benchmark(ROOT / "results" / "unseen" / "cells", folder)

    folder = made_once("pages", make)
    return {
        **{name: run / "report.html" for name, run in runs.items()},
        "hostile": folder / "hostile" / "run" / "report.html",
        **{name: folder / f"{name}.html" for name in ("comparison", "benchmark")},
    }


# Sizes of the networks of every approach in tests of a single step.
SMALL_IMAGE, SMALL_CLASSES = (16, 16, 1), 4
SMALL_NETWORKS = {
    "filters": (4, 8),
    "discriminator_filters": (4, 8),
    "hidden": (16,),
    "latent": 6,
    "dense": 8,
}


def small_config(approach: str, **training: Any) -> Config:
    """An approach's configuration with small networks; all of a batch is learnt from."""
    config = options_of(approach)()
    known = {field.name for field in dataclasses.fields(config.networks)}
    sizes = {name: size for name, size in SMALL_NETWORKS.items() if name in known}
    changes: dict[str, Any] = {
        "networks": dataclasses.replace(config.networks, **sizes),
        "training": dataclasses.replace(config.training, **training),
    }
    if isinstance(config.sampling, BalancedSamplingConfig):
        changes["sampling"] = BalancedSamplingConfig()
    return dataclasses.replace(config, **changes)


def small_model(config: Config, jit_compile: bool = False) -> Approach:
    """The model of a configuration for small images, always with the same weights."""
    import keras

    keras.utils.set_random_seed(0)
    return build_model(config, SMALL_IMAGE, SMALL_CLASSES, jit_compile)


def noise_batch(config: Config) -> Any:
    """Sixteen images of noise as the batch that the approach learns from."""
    import tensorflow as tf

    noise = np.random.default_rng(0).uniform(-1, 1, (16, *SMALL_IMAGE)).astype(np.float32)
    images = tf.constant(noise)
    return {
        "normal images": images,
        "normal and anomalous images": (images[:8], images[8:]),
        "classes": (images, tf.constant(np.arange(16) % SMALL_CLASSES, tf.int32)),
    }[config.learns_from]


@pytest.fixture
def silent_host() -> Iterator[str]:
    """A host on this machine that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def without_tensorflow(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing TensorFlow or Keras fails: no error needs them."""
    modules = tmp_path / "modules"
    for name in ("tensorflow", "keras"):
        (modules / name).mkdir(parents=True)
        (modules / name / "__init__.py").write_text("raise ImportError('must not be imported')")
    return {**ENVIRONMENT, "PYTHONPATH": str(modules)}
