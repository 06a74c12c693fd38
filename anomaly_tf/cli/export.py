"""Export the detector of a run.

Writes a SavedModel for TensorFlow Serving, a .tflite file for LiteRT or a page that scores
pictures in the browser, then scores the test set with the run and with the export, prints the
differences and saves them as JSON. The exit status is 3 if the AUROC (or the accuracy of a
classifier) falls by more than 0.002.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anomaly_tf.approaches.configs import foreign_cache, load_config
from anomaly_tf.command_line import parse_options
from anomaly_tf.config import Checked, number
from anomaly_tf.data.split_file import folders_read, open_split
from anomaly_tf.deploy.detector import Detector, Quantization
from anomaly_tf.deploy.web_page import require_page
from anomaly_tf.errors import UserError
from anomaly_tf.program import command_line, program
from anomaly_tf.runs.caches import only_read
from anomaly_tf.runs.directory import open_run, unfinished_training
from anomaly_tf.runs.files import require_writable, write_json
from anomaly_tf.runs.outputs import (
    IsOwn,
    export_outputs,
    json_with,
    require_own_place,
    site_outputs,
)
from anomaly_tf.script import import_tensorflow, printable, quiet_libraries


@dataclass(frozen=True)
class ExportOptions(Checked):
    """Options of `export`.

    Attributes:
        run_dir: Run directory of the detector.
        format: saved_model for TensorFlow and TensorFlow Serving, tflite for LiteRT, web for a page
            that opens by a double click and scores pictures in the browser.
        quantize: Quantization of a tflite file or a page. none: float32; float16: weights in half
            the size; dynamic: weights int8, not for a page; int8: weights and activations int8,
            the score in float32.
        batch_size: Batch size of a tflite file; a SavedModel accepts any.
        output: Output folder; by default the folder export in the run directory. With web the
            folder can be put on a web server; by default there is one file only.
        data: New location of the data that the run was trained on.
        roi: New location of the mask or the masks that the run was trained with.
        data_dir: Folder for cached data; by default the one used in training.
        trust: Load a model of unknown origin; it may run code.
    """

    run_dir: str
    format: Literal["saved_model", "tflite", "web"]
    quantize: Quantization = "none"
    batch_size: int = number(1, 1, 4096)
    output: str | None = None
    data: str | None = None
    roi: str | None = None
    data_dir: str | None = None
    trust: bool = False


def main(arguments: list[str]) -> int:
    """Exports the run on the command line; returns the exit status."""
    options = parse_options(ExportOptions, program("export"), __doc__ or "", arguments)
    with only_read(foreign_cache(options.run_dir, options.data_dir)):
        return _export(options)


def _export(options: ExportOptions) -> int:
    if options.format == "saved_model" and options.quantize != "none":
        raise UserError("--quantize is an option of --format tflite and web; leave it out")
    if options.format != "tflite" and options.batch_size != 1:
        raise UserError("--batch-size is an option of --format tflite; leave it out")
    run, info = open_run(options.run_dir)
    run.require_unlinked()
    folder = Path(options.output or run.path / "export")
    require_writable(folder, "--output")
    config = load_config(run.config, options.data, options.data_dir, options.roi)
    config.require_quantization(options.quantize)
    split = open_split(config, run.split, info=info)
    name, path = planned(options, config.approach, folder)
    parity = folder / f"{name}-parity.json"
    outputs: dict[Path, IsOwn] = {parity: json_with("format", "quantize", "lost")}
    outputs |= export_outputs(path)
    site = options.format == "web" and options.output is not None
    if site:
        outputs |= site_outputs(path)
    require_own_place("--output", folder, outputs, [run.path, *folders_read(config, split)])
    if options.format == "web":
        require_page(info, options.quantize)
    if note := unfinished_training(run, info):
        print(f"note: {printable(note)}", file=sys.stderr)

    # Imported late: TensorFlow takes seconds, and a wrong option should answer at once.
    import_tensorflow()
    from anomaly_tf.deploy.exporters import write_export
    from anomaly_tf.deploy.keras_run import TrainedDetector
    from anomaly_tf.reporting.parity import ALLOWED_LOSS, compare, parity_table

    trained = TrainedDetector.load(options.run_dir, options.trust)
    exported: Detector | None = write_export(
        trained, path, options.quantize, options.batch_size, split, config, site
    )
    if exported is None:
        with quiet_libraries():
            exported = Detector.load(path, options.trust)
    report: dict[str, Any] = {"format": options.format, "quantize": options.quantize}
    if not len(split.test):
        print(
            "note: the run has no test images; compared on its validation images", file=sys.stderr
        )
        split = dataclasses.replace(split, test=split.validation)
    report |= compare(trained, exported, split, path)
    write_json(parity, report)
    print(f"{printable(str(path))}\n{parity_table(report)}")
    print(printable(f"next: {_next_step(options, path, site)}"))
    if report["lost"] <= ALLOWED_LOSS:
        return 0
    print(
        f"error: the export lost {report['lost']:.4f}, more than {ALLOWED_LOSS}, of AUROC or "
        "accuracy; use another --quantize",
        file=sys.stderr,
    )
    return 3


def _next_step(options: ExportOptions, path: Path, site: bool) -> str:
    if options.format != "web":
        return f"{command_line('predict', '--model', path)} IMAGES"
    served = f", or put {path.parent} on a web server" if site else ""
    return f"open {path} in a browser{served}"


def planned(options: ExportOptions, approach: str, folder: Path) -> tuple[str, Path]:
    """The name of an export, and the file or folder that it becomes."""
    if options.format == "saved_model":
        return f"{approach}-saved_model", folder / approach / "1"
    parts = [approach]
    parts += [options.quantize] if options.quantize != "none" else []
    parts += [f"batch{options.batch_size}"] if options.batch_size > 1 else []
    name = "-".join(parts)
    if options.format == "web":
        return f"{name}-web", folder / f"{name}.html"
    return name, folder / f"{name}.tflite"
