"""A training from its data to its run directory, for the command line and the Python API.

Imports TensorFlow only after the data is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from anomaly_tf.approaches.auto.options import AutoConfig
from anomaly_tf.choice import choose, describe_choice
from anomaly_tf.config import Config, Protocol
from anomaly_tf.data.advice import advice, findings
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.duplicates import copies
from anomaly_tf.data.protocols import MIN_LEARNT, make_split
from anomaly_tf.data.roles import describe_guess, describe_roles
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_file import require_same_split
from anomaly_tf.detection.threshold import require_calibration
from anomaly_tf.runs.directory import RunDirectory, open_run
from anomaly_tf.script import import_tensorflow
from anomaly_tf.training.console import Console

if TYPE_CHECKING:
    from anomaly_tf.training.loop import Outcome

# Beginning of the lines of a report that are warnings.
DOUBT = "WARNING"


def train_on(
    config: Config,
    dataset: ImageDataset,
    run: RunDirectory,
    command: str,
    console: Console,
    resume: bool = False,
    configured: Callable[[str, Protocol], Config] | None = None,
) -> Outcome:
    """Trains on a data set, after reporting how it was read and divided.

    Args:
        config: The configuration.
        dataset: The data set.
        run: The folder to write, new or empty; with `resume`, that of the interrupted training.
        command: The command that repeats the training, recorded with the run.
        console: Output of messages.
        resume: Whether to resume an interrupted training.
        configured: For `auto`: function from an approach and a protocol to a configuration with the
            other options of the user.

    Raises:
        UserError: If the data is not sufficient for the protocol or the threshold; also as
            `training.refinement.train`.
    """
    for line in dataset.report:
        if line in dataset.left_out:
            console.leave_out(line)
        else:
            (console.doubt if line.startswith(DOUBT) else console.say)(line)
    for line in copies(dataset):
        console.doubt(line)
    candidates: tuple[Config, ...] = ()
    if isinstance(config, AutoConfig):
        assert configured
        protocol: Protocol = config.protocol if config.protocol == "contaminated" else "one_class"
        found = findings(dataset, make_split(replace(config, protocol=protocol), dataset))
        # Tiles have no labels, and labelled images are not refined.
        without_labels = config.tiling is not None or bool(config.refine)
        choice = choose(found, config.protocol, without_labels)
        console.say(f"approach: {choice.reason}")
        candidates = tuple(configured(*candidate) for candidate in choice.candidates)
        config = candidates[0]
    split = _divided(config, dataset, run, resume)
    for line in split.left_out[len(dataset.left_out) :]:
        console.leave_out(line)
    n_normal, n_anomalies = (int((split.validation.labels == label).sum()) for label in (0, 1))
    require_calibration(config.threshold, n_normal, n_anomalies if split.roles.seen else 0)
    if (
        config.learns_anomalies
        and n_anomalies
        and split.roles.seen
        and not split.train.labels.any()
    ):
        reason = "tiles have no labels" if config.tiling else f"fewer than {MIN_LEARNT}"
        console.say(
            f"labels: {config.approach} learns from none of the {n_anomalies} labelled anomalies "
            f"({reason}); they are in the validation set"
        )
    for line in describe_guess(config, dataset, split.roles):
        (console.doubt if line.startswith(DOUBT) else console.say)(line)

    # Imported late: TensorFlow takes seconds, and wrong options should be reported immediately.
    import_tensorflow()
    from anomaly_tf.training import comparison, refinement

    hidden = int(split.hidden.sum())
    console.say(
        f"data: {dataset.name}, {describe_roles(split.roles, dataset.class_names)}, protocol "
        f"{config.protocol}: {len(split.train)} training"
        f"{f' ({hidden} of them unlabelled anomalies)' if hidden else ''}, "
        f"{len(split.validation)} validation, {len(split.test)} test images"
    )
    if config.tiling is not None:
        count = len(config.tiling.places(split.train.images.shape[1:]))
        console.say(f"tiles: {count} of {config.tile}x{config.tile} pixels in each image")
    if not resume:
        found = findings(dataset, split)
        choice_lines = () if candidates else describe_choice(config, found)
        for line in (*choice_lines, *advice(config, found)):
            console.say(line)
    if len(candidates) > 1:
        return comparison.train_best(candidates, dataset, run, command, console)
    return refinement.train(config, dataset, split, run, command, resume=resume, console=console)


def _divided(config: Config, dataset: ImageDataset, run: RunDirectory, resume: bool) -> Split:
    """The sets of the run; the original ones if the training resumes."""
    known = open_run(run.path)[1] if resume and run.holds_detector else None
    split = make_split(config, dataset, known)
    if resume and known is None:
        require_same_split(run.split, split, dataset)
    return split
