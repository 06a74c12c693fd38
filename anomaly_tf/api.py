"""`anomaly_tf.train`: from images to a detector in one call."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.approaches.configs import config_of
from anomaly_tf.config import Config, flatten
from anomaly_tf.config.parser import as_keyword
from anomaly_tf.config.yaml_files import dotted
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.given import ANOMALY, NORMAL, dataset_of_arrays, dataset_of_files
from anomaly_tf.data.sources import ARRAYS, open_dataset
from anomaly_tf.deploy import Detector
from anomaly_tf.errors import UserError
from anomaly_tf.runs.caches import user_caches
from anomaly_tf.runs.directory import RunDirectory, plan_run
from anomaly_tf.runs.files import OwnedFolder
from anomaly_tf.script import errors_only
from anomaly_tf.training.console import ProgramConsole, Verbose, verbosity
from anomaly_tf.training.session import train_on

if TYPE_CHECKING:
    from anomaly_tf.deploy.keras_run import TrainedDetector

Data = str | os.PathLike[str] | np.ndarray | Sequence[str | os.PathLike[str]]


def train(
    data: Data,
    labels: Any = None,
    *,
    approach: str = "vae",
    run_dir: str | os.PathLike[str] | None = None,
    verbose: Verbose = "auto",
    **options: Any,
) -> TrainedDetector:
    """Trains a detector.

    The same as the command `anomaly-tf train`, with the same options. TensorFlow's random
    generator is seeded; those of Python and NumPy stay as they were.

    >>> import numpy as np
    >>> import anomaly_tf
    >>> images = np.random.default_rng(0).integers(90, 110, (40, 16, 16), dtype=np.uint8)
    >>> detector = anomaly_tf.train(
    ...     images, approach="vae", verbose=0, training__epochs=1, training__steps_per_epoch=2
    ... )
    >>> detector.score(images[:3]).shape
    (3,)

    Args:
        data: What to learn from. A folder of images or any other source that the option `--data`
            takes, which is divided into training, validation and test set; or uint8 images
            `(N, H, W)` or `(N, H, W, C)` with C 1 or 3, or a list of image files, which are divided
            into training and validation set.
        labels: Of arrays and lists: 0 normal and 1 anomaly, `(N,)`, or the names of classes; None:
            all images are normal.
        approach: Name of the approach, see the table of approaches; `auto` chooses one by the data.
        run_dir: A new or empty folder for the run directory. By default nothing is left on disk
            until `Detector.save`.
        verbose: 0: silent; 1: a progress bar; 2: one line for each epoch; `auto`: 1 on a terminal,
            else 2. What is doubtful or left out of the data is a `UserWarning` in any case.
        options: Options of the approach by name, those of a section with two underscores, such as
            `training__epochs=3`, or as a dictionary, such as `training={"epochs": 3}`. The
            default of `data_dir` is the user's folder of caches.

    Returns:
        The detector of the best epoch, ready to score.

    Raises:
        UserError: A `ValueError`; if there is no such approach or option (the message names the
            nearest), a value or an image is wrong, or a loss is no longer finite.
        TypeError: If `data` is something else.
        KeyboardInterrupt: After Ctrl-C; the message says where the best epoch so far is kept.
    """
    console = ProgramConsole(verbosity(verbose), _with_keywords)
    try:
        config, dataset = _opened(data, labels, approach, options)
        with _run_directory(run_dir, config.approach) as (run, folder), _own_randomness():
            command = _command(data, labels, approach, run_dir, options)
            with errors_only():
                outcome = train_on(
                    config,
                    dataset,
                    run,
                    command,
                    console,
                    configured=lambda chosen, protocol: _set_as(
                        config, config_of(chosen, options | {"protocol": protocol})
                    ),
                )
            if outcome.status == "interrupted":
                load = "; load it by anomaly_tf.Detector.load" if outcome.info else ""
                raise KeyboardInterrupt(f"{outcome.message}{load}")
            if outcome.status != "completed":
                raise UserError(f"{outcome.message}; {outcome.remedy}")
            detector = cast("TrainedDetector", Detector.load(run.path))
            if folder:
                detector._keep(folder)
            return detector
    except UserError as error:
        raise UserError(_with_keywords(str(error))) from error


def _opened(
    data: Data, labels: Any, approach: str, options: dict[str, Any]
) -> tuple[Config, ImageDataset]:
    """The configuration and the data set."""
    options = {"data_dir": str(user_caches() / "data")} | options
    if isinstance(data, (str, os.PathLike)):
        if labels is not None:
            raise UserError("labels are for arrays and lists of files; leave them out for a folder")
        config = config_of(approach, options | {"data": os.fspath(data)})
        return config, open_dataset(config)
    if "folder.test_fraction" not in {name.replace("__", ".") for name in dotted(options)}:
        options["folder.test_fraction"] = 0  # the caller keeps images for a test
    config = config_of(approach, options | {"data": ARRAYS})
    if isinstance(data, np.ndarray) and data.dtype.kind not in "USO":
        return _with_normal_class(config, dataset_of_arrays(data, labels, config))
    if not isinstance(data, (list, tuple, np.ndarray)) or not all(
        isinstance(file, (str, os.PathLike)) for file in data
    ):
        raise TypeError(
            "expected a folder, a uint8 array (N, H, W, C) or a list of image files; got "
            f"{_described(data)}"
        )
    dataset = dataset_of_files([*map(os.fspath, data)], labels, config)
    return _with_normal_class(dataclasses.replace(config, data=dataset.name), dataset)


def _set_as(opened: Config, config: Config) -> Config:
    """A configuration with what opening the data set."""
    return dataclasses.replace(
        config,
        data=opened.data,
        data_dir=opened.data_dir,
        normal_class=opened.normal_class,
        folder=opened.folder,
    )


def _with_normal_class(config: Config, dataset: ImageDataset) -> tuple[Config, ImageDataset]:
    """The same, with the normal class named where labels 0 and 1 said it: nothing is a guess."""
    if config.normal_class is None and dataset.class_names == (NORMAL, ANOMALY):
        config = dataclasses.replace(config, normal_class=(NORMAL,))
    return config, dataset


def _described(data: object) -> str:
    kind = type(data).__name__
    if isinstance(data, (list, tuple)):
        other = next(x for x in data if not isinstance(x, (str, os.PathLike)))
        return f"a {kind} of {type(other).__name__}; make images one array by numpy.stack"
    return kind


@contextmanager
def _run_directory(
    run_dir: str | os.PathLike[str] | None, approach: str
) -> Iterator[tuple[RunDirectory, OwnedFolder | None]]:
    """The run directory, temporary if the user names none; moved to `runs/` if training fails."""
    if run_dir == "":
        raise UserError("option run_dir is empty; give it a folder or leave it out")
    if run_dir is not None:
        yield plan_run(os.fspath(run_dir), approach), None
        return
    folder = OwnedFolder()
    run = RunDirectory(folder.path / "run")
    try:
        yield run, folder
    except (UserError, KeyboardInterrupt) as error:
        if not run.holds_detector:
            raise
        kept = plan_run(None, approach).path
        shutil.move(run.path, kept)
        raise type(error)(str(error).replace(str(run.path), str(kept))) from error


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Leaves the random generators of Python and NumPy as they were, which training seeds."""
    before = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _command(data: Data, labels: Any, approach: str, run_dir: Any, options: dict[str, Any]) -> str:
    """The call, as a reader of the run would repeat it."""
    words = [repr(os.fspath(data)) if isinstance(data, (str, os.PathLike)) else "images"]
    words += ["labels"] if labels is not None else []
    named = {"approach": approach, **({} if run_dir is None else {"run_dir": os.fspath(run_dir)})}
    words += [f"{name}={value!r}" for name, value in (named | options).items()]
    return f"anomaly_tf.train({', '.join(words)})"


def _with_keywords(message: str) -> str:
    """A message with options as keyword arguments: `--training.epochs` as `training__epochs`."""

    def as_python(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return as_keyword(name) if name in _option_names() else found[0]

    message = message.replace("see --help", "see 'anomaly-tf train --help'")
    return re.sub(r"--([a-z]+(?:[._-][a-z]+)*)", as_python, message)


@cache
def _option_names() -> frozenset[str]:
    """Names of the options of all approaches, and of the folder of a run."""
    options = (flatten(options_of(approach)()) for approach in APPROACHES)
    return frozenset({"run_dir"}.union(*options))
