"""Trains a detector: `python train.py --approach sota`.

Configuration, data, model, training, threshold, run directory. `--help` lists every option.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from anomaly_tf.command_line import TrainOptions, foreign_cache, parse_train_options
from anomaly_tf.config.parser import value_of
from anomaly_tf.data.dataset import ImageDataset
from anomaly_tf.data.duplicates import copies
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roles import class_roles, describe_guess, describe_roles
from anomaly_tf.data.sources import known_class_names, open_dataset
from anomaly_tf.data.split import Split
from anomaly_tf.data.split_file import require_same_split
from anomaly_tf.detection.threshold import require_calibration
from anomaly_tf.runs.caches import only_read
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory, open_run, plan_run
from anomaly_tf.runs.files import require_writable
from anomaly_tf.script import import_tensorflow, printable, run_script

# A 95th percentile of fewer is but the largest of them.
ENOUGH_CALIBRATION = 20


def main(arguments: list[str]) -> int:
    """Runs the training that the command line asks for; returns the exit status."""
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
        class_roles(config, names)  # a wrong class is told before anything is loaded
    dataset = open_dataset(config)
    for line in (*dataset.report, *copies(dataset)):
        print(
            printable(line),
            file=sys.stderr if line in dataset.left_out else sys.stdout,
            flush=True,
        )
    split = _divided(options, dataset, run)
    for line in split.left_out[len(dataset.left_out) :]:
        print(printable(line), file=sys.stderr)
    require_calibration(config.threshold, int((split.validation.labels == 0).sum()))
    for line in describe_guess(config, dataset, split.roles):
        print(printable(line), flush=True)

    # Imported late: TensorFlow takes seconds, and a wrong option should answer at once.
    import_tensorflow()
    from anomaly_tf.training.loop import train
    from anomaly_tf.training.recording import describe_choice, describe_epoch

    print(
        printable(
            f"data: {dataset.name}, {describe_roles(split.roles, dataset.class_names)}, protocol "
            f"{config.protocol}: {len(split.train)} training, {len(split.validation)} validation, "
            f"{len(split.test)} test images"
        )
    )
    command = shlex.join(["python", "train.py", *arguments])
    outcome = train(config, dataset, split, run, command, resume=bool(options.resume))
    if outcome.info:
        facts = outcome.info.training
        best = f"best epoch {facts.best_epoch} of {facts.epochs}"
        if not facts.best_epoch:
            best = describe_epoch(facts)
        print(
            f"{best}, {describe_choice(facts)}, "
            f"threshold {outcome.info.threshold.value:.4g}, "
            f"{facts.train_seconds:.0f} s, {facts.images_per_second:.0f} images/s\n"
            f"{_caution(outcome.info)}run: {printable(str(run.path))}\n"
            f"next: {_evaluation(run)}"
        )
    if outcome.message:
        print(f"error: {printable(outcome.message)}", file=sys.stderr)
    return {"completed": 0, "interrupted": 130, "non_finite_loss": 2}[outcome.status]


def _divided(options: TrainOptions, dataset: ImageDataset, run: RunDirectory) -> Split:
    """The sets of the run, which are those that it began with if it is resumed."""
    known = open_run(run.path)[1] if options.resume and run.holds_detector else None
    split = make_split(options.config, dataset, known)
    if options.resume and known is None:
        require_same_split(run.split, split, dataset)
    return split


def _evaluation(run: RunDirectory) -> str:
    return printable(shlex.join(["python", "evaluate.py", "--run-dir", str(run.path)]))


def _caution(info: DetectorInfo) -> str:
    """What few images for a percentile mean; the conformal method refuses too few by itself."""
    size = info.calibration.size
    if size >= ENOUGH_CALIBRATION or info.threshold.method == "conformal":
        return ""
    return (
        f"note: the threshold rests on {size} normal images only; expect more false alarms than "
        "it says until there are more\n"
    )


if __name__ == "__main__":
    run_script(main)
