"""Scores the test set with a trained run: `python evaluate.py --run-dir RUN`.

Writes `metrics.json` and `plots/*.png` into the run. With `--threshold.percentile P`, or with
`--threshold.method conformal --threshold.false-alarm-rate R`, the run gets a new threshold, from
the stored scores of normal validation images, without retraining.
"""

from __future__ import annotations

import dataclasses
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field

from anomaly_tf.command_line import foreign_cache, load_config, parse_options
from anomaly_tf.config import Checked, ThresholdConfig
from anomaly_tf.data.split_file import folders_read, open_split
from anomaly_tf.detection.threshold import require_calibration
from anomaly_tf.runs.caches import only_read
from anomaly_tf.runs.directory import open_run
from anomaly_tf.script import import_tensorflow, printable, run_script


@dataclass(frozen=True)
class EvaluateOptions(Checked):
    """Options of evaluate.py.

    Attributes:
        run_dir: Folder that train.py made.
        data: Another source of the same data than the run was trained on.
        data_dir: Another folder for cached data than the run was trained with.
        threshold: A new threshold for the run; without one of these options it keeps its own.
        trust: Load a model of unknown origin, which may run code.
    """

    run_dir: str
    data: str | None = None
    data_dir: str | None = None
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    trust: bool = False


def main(arguments: list[str]) -> None:
    """Evaluates the run that the command line names."""
    options = parse_options(EvaluateOptions, "evaluate.py", __doc__ or "", arguments)
    with only_read(foreign_cache(options.run_dir, options.data_dir)):
        _evaluate(options, arguments)


def _evaluate(options: EvaluateOptions, arguments: list[str]) -> None:
    run, info = open_run(options.run_dir)
    run.require_unlinked()
    new_threshold = any(argument.startswith("--threshold") for argument in arguments)
    if new_threshold:
        require_calibration(options.threshold, len(info.calibration.scores))
    config = load_config(run.config)
    config = dataclasses.replace(
        config, data=options.data or config.data, data_dir=options.data_dir or config.data_dir
    )
    split = open_split(config, run.split, info=info)
    run.require_apart(folders_read(config, split))
    for line in split.left_out:
        print(printable(line), file=sys.stderr)

    # Imported late: TensorFlow takes seconds, and a wrong option should answer at once.
    import_tensorflow()
    import tensorflow as tf

    from anomaly_tf.deploy.keras_run import TrainedDetector
    from anomaly_tf.reporting.evaluation import evaluate
    from anomaly_tf.reporting.table import table

    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    changed = new_threshold or info.heat_scale is None
    with run.locked() if changed else nullcontext():  # training must not save in between
        detector = TrainedDetector.load(options.run_dir, options.trust)
        if new_threshold:
            detector.set_threshold(options.threshold)
        if detector.info.heat_scale is None:  # a run of an earlier version
            detector.set_heat_scale(split.validation.normal, config.score_map.unit)
        if changed:
            detector.save_info(run)
    print(table(evaluate(detector, split, config, run)))
    print(printable(f"written: {run.metrics} and pictures in {run.plots}"))


if __name__ == "__main__":
    run_script(main)
