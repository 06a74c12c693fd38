"""`train`: configuration, data, model, training, threshold, run directory."""

from __future__ import annotations

import sys
from pathlib import Path

from anomaly_tf.approaches.configs import foreign_cache
from anomaly_tf.command_line import TrainOptions, parse_train_options
from anomaly_tf.config.parser import value_of
from anomaly_tf.data.roles import class_roles
from anomaly_tf.data.sources import known_class_names, open_dataset
from anomaly_tf.program import command_line
from anomaly_tf.runs.caches import only_read
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory, plan_run
from anomaly_tf.runs.files import require_writable
from anomaly_tf.script import printable
from anomaly_tf.training.console import Console, verbosity
from anomaly_tf.training.session import train_on


def main(arguments: list[str]) -> int:
    """Trains by the options on the command line; returns the exit status."""
    options = parse_train_options(arguments)
    with only_read(foreign_cache(options.resume, value_of("data_dir", arguments))):
        return _train(options, arguments)


def _train(options: TrainOptions, arguments: list[str]) -> int:
    config = options.config
    if options.resume:
        run = RunDirectory(Path(options.resume))
        run.require_unlinked()
        if run.is_finished:
            where = printable(str(run.path))
            print(f"training of {where} is complete; next: {_evaluation(run)}")
            return 0
        run.require_resumable()
        require_writable(run.path, "run")
    else:
        run = plan_run(options.run_dir, config.approach)
    if names := known_class_names(config.data):
        class_roles(config, names)  # a wrong class is refused before anything is loaded
    dataset = open_dataset(config)
    command = command_line("train", *arguments)
    outcome = train_on(
        config,
        dataset,
        run,
        command,
        Console(verbosity()),
        bool(options.resume),
        lambda approach, protocol: (
            parse_train_options(
                [*arguments, f"--approach={approach}", f"--protocol={protocol}"]
            ).config
        ),
    )
    if outcome.info:
        print(describe_outcome(outcome.info))
        print(f"run: {printable(str(run.path))}\nnext: {_evaluation(run)}")
    if outcome.message:
        said = "; ".join(filter(None, (outcome.message, outcome.remedy)))
        print(f"error: {printable(said)}", file=sys.stderr)
    return {"completed": 0, "interrupted": 130, "non_finite_loss": 2}[outcome.status]


def describe_outcome(info: DetectorInfo) -> str:
    """Which epoch was kept, and how good and how fast it was, in one line."""
    # Imported late: it imports TensorFlow, which a training has imported by now.
    from anomaly_tf.training.recording import describe_choice, describe_epoch

    facts = info.training
    speed = facts.images_per_second
    kept = f"best epoch {facts.best_epoch} of {facts.epochs}"
    if not facts.best_epoch:
        kept = describe_epoch(facts)
    return (
        f"{kept}, {describe_choice(facts)}, threshold {info.threshold.value:.4g}, "
        f"{facts.train_seconds:.0f} s, {speed:.{0 if speed >= 10 else 1}f} images/s"
    )


def _evaluation(run: RunDirectory) -> str:
    return printable(command_line("evaluate", "--run-dir", run.path))
