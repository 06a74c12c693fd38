"""Score the test set with the detector of a run.

Writes `report.html`, `metrics.json`, `scores.csv` and `plots/*.png` to the run, or to the folder of
--output; then the run is unchanged. `--threshold.percentile P` or
`--threshold.method conformal --threshold.false-alarm-rate R` sets a new threshold for the run (with
--output, for this evaluation only) from the stored scores of normal validation images, without
retraining. The exit status is 3 if all metrics were written but a plot could not be drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from anomaly_tf.approaches.configs import foreign_cache, load_config
from anomaly_tf.command_line import parse_options
from anomaly_tf.config import Checked, ThresholdConfig
from anomaly_tf.data.split_file import folders_read, open_split
from anomaly_tf.detection.threshold import require_calibration
from anomaly_tf.errors import UserError
from anomaly_tf.program import program
from anomaly_tf.runs.caches import only_read
from anomaly_tf.runs.detector_info import DetectorInfo
from anomaly_tf.runs.directory import RunDirectory, open_run, unfinished_training
from anomaly_tf.runs.files import require_writable
from anomaly_tf.script import import_tensorflow, printable

# Exit status of an evaluation with all metrics and a missing plot.
PICTURE_MISSING = 3


@dataclass(frozen=True)
class EvaluateOptions(Checked):
    """Options of `evaluate`.

    Attributes:
        run_dir: Run directory of the detector.
        output: Folder for the page, metrics, scores and plots; by default the run directory.
        data: New location of the data that the run was trained on.
        roi: New location of the mask or the masks that the run was trained with.
        data_dir: Folder for cached data; by default the one used in training.
        threshold: A new threshold for the run; by default it keeps its own.
        trust: Load a model of unknown origin; it may run code.
    """

    run_dir: str
    output: str | None = None
    data: str | None = None
    roi: str | None = None
    data_dir: str | None = None
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    trust: bool = False


def main(arguments: list[str]) -> int:
    """Evaluates the run on the command line; returns the exit status."""
    options = parse_options(EvaluateOptions, program("evaluate"), __doc__ or "", arguments)
    with only_read(foreign_cache(options.run_dir, options.data_dir)):
        return _evaluate(options, arguments)


def _evaluate(options: EvaluateOptions, arguments: list[str]) -> int:
    run, info = open_run(options.run_dir)
    run.require_unlinked()
    new_threshold = _asks_for_threshold(options, arguments, info)
    config = load_config(run.config, options.data, options.data_dir, options.roi)
    split = open_split(config, run.split, info=info)
    if not len(split.test):
        raise UserError(
            f"run {options.run_dir} has no test images (trained on arrays from Python, or on all "
            "images); train with a test set, or score other images with predict"
        )
    output = plan_output(options.output, run, folders_read(config, split))
    for line in split.left_out:
        print(printable(line), file=sys.stderr)
    if note := unfinished_training(run, info):
        print(f"note: {printable(note)}", file=sys.stderr)

    # Imported late: TensorFlow takes seconds, and a wrong option should answer at once.
    import_tensorflow()
    import tensorflow as tf

    from anomaly_tf.deploy.keras_run import TrainedDetector
    from anomaly_tf.reporting.evaluation import evaluate, save_figures
    from anomaly_tf.reporting.pictures import draw
    from anomaly_tf.reporting.run_page import report_of
    from anomaly_tf.reporting.table import table

    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    saved = output == run and (new_threshold or info.heat_scale is None)
    with run.locked() if saved else nullcontext():  # training must not save in between
        detector = TrainedDetector.load(options.run_dir, options.trust)
        if split.masks and "error_map" not in detector.outputs:
            print(
                f"left out: {len(split.masks)} masks; approach {config.approach} has no error map "
                "to compare with them",
                file=sys.stderr,
            )
        if new_threshold:
            detector.set_threshold(options.threshold)
        if detector.info.heat_scale is None:  # a run of an earlier version
            detector.set_heat_scale(split.validation.normal_part, config.score_map.unit, split.roi)
        if saved:
            detector.save_info(run)
    # Figures first: whatever fails behind them leaves them on disk and on the screen.
    evaluation = evaluate(detector, split, config)
    try:
        save_figures(evaluation, detector, split, output)
    finally:
        print(table(evaluation.metrics), flush=True)
    failures = draw(detector, split, evaluation, run.history, output)
    failures += report_of(run, output)
    names = [path.name for path in (output.metrics, output.scores)]
    first = output.report if output.report.is_file() else output.path / names.pop(0)
    print(printable(f"written: {', '.join([str(first), *names])} and pictures in {output.plots}"))
    for failure in failures:
        print(f"error: {printable(failure)}", file=sys.stderr)
    return PICTURE_MISSING if failures else 0


def _asks_for_threshold(options: EvaluateOptions, arguments: list[str], info: DetectorInfo) -> bool:
    """Whether the command line sets a new threshold; refuses too few images for it."""
    if not any(argument.startswith("--threshold") for argument in arguments):
        return False
    stored = info.calibration
    n_anomalies = len(stored.anomaly_scores or ())
    require_calibration(options.threshold, len(stored.scores), n_anomalies)
    return True


def plan_output(path: str | None, run: RunDirectory, read_from: Iterable[Path]) -> RunDirectory:
    """Chooses the output folder; checks that it is writable and that nothing else is replaced.

    Args:
        path: The user's choice; else the run.
        run: The run.
        read_from: Folders of images.

    Raises:
        UserError: If the folder cannot be written, holds other files than an earlier evaluation,
            or is one that is read from.
    """
    output = RunDirectory(Path(path)) if path else run
    require_writable(output.path, "--output")
    if output.plots.exists():
        require_writable(output.plots, "--output")
    for file in (output.metrics, output.scores, output.examples, output.report):
        if file.is_dir():
            raise UserError(f"{file} is a folder; remove it or choose another --output")
    if output.path.resolve() == run.path.resolve():
        run.require_own_evaluation("--run-dir", read_from)
        return run
    folders, place = list(read_from), output.path.resolve()
    for folder in folders:
        if folder.is_dir() and place.is_relative_to(folder.resolve()):
            raise UserError(f"--output {path} lies in the data, {folder}; choose another folder")
    is_new = not output.path.is_dir() or not any(output.path.iterdir())
    if not is_new and (output.config.exists() or not output.metrics.is_file()):
        raise UserError(
            f"--output {path} holds other files than an evaluation; choose a new or empty folder"
        )
    output.require_own_evaluation("--output", [run.path, *folders])
    return output
