"""Quality, size and speed of every export: `make bench-export`.

Uses one run of approach `sota` with the default configuration, which is trained if it is missing:

- every format exported by `export.py`, with its parity report on the test set;
- latency from one uint8 image to its verdict on one thread, for LiteRT in each precision and ONNX
  Runtime with the same weights in float32, alternating, medians of the rounds;
- duration of a `predict.py` process on one image with the int8 file, and images per second of a
  process on the 10,000 test images as PNG files, on all threads;
- the same latency of an untrained `vae` on one colour image of 256x256, whose error map is
  smoothed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomaly_tf.command_line import parse_options
from anomaly_tf.config import Checked
from anomaly_tf.data.sources import load_dataset
from anomaly_tf.runs.files import require_writable, write_json
from anomaly_tf.script import import_tensorflow, quiet_libraries, run_script
from measurements.measuring import kept_results

ROUNDS = 10
CALLS = 300
PROCESSES, BULK_PROCESSES = 7, 3
LARGE = (256, 256, 3)
EXPORTS = {
    "SavedModel": ("--format", "saved_model"),
    "float32": ("--format", "tflite"),
    "float16": ("--format", "tflite", "--quantize", "float16"),
    "dynamic": ("--format", "tflite", "--quantize", "dynamic"),
    "int8": ("--format", "tflite", "--quantize", "int8"),
    "int8, batch of 32": ("--format", "tflite", "--quantize", "int8", "--batch-size", "32"),
}


@dataclass(frozen=True)
class BenchOptions(Checked):
    """Options of this benchmark.

    Attributes:
        run_dir: The run; trained with the defaults of `sota`, seed 0, if it does not exist.
        output: JSON file for the results.
        data_dir: Folder in which downloaded data is cached.
    """

    run_dir: str = "runs/bench-export"
    output: str = "runs/bench-export.json"
    data_dir: str = "data"


def main(arguments: list[str]) -> None:
    """Runs the measurements, prints and saves the results."""
    options = parse_options(BenchOptions, "bench-export", __doc__ or "", arguments)
    run, output = Path(options.run_dir), Path(options.output)
    require_writable(output.parent, "--output")
    results = kept_results(output)
    data = ("--data-dir", options.data_dir)
    if not run.exists():
        _script("train.py", "--approach", "sota", "--run-dir", run, *data)
    with tempfile.TemporaryDirectory() as folder:
        reports = {
            name: _export(run, Path(folder, str(number)), (*options_, *data))
            for number, (name, options_) in enumerate(EXPORTS.items())
        }
        results["parity"] = reports
        files = {name: Path(report.pop("path")) for name, report in reports.items()}
        import_tensorflow()
        results["latency_us"] = _latencies(run, files, options.data_dir)
        images = Path(folder, "images")
        count = write_images(images, options.data_dir)
        first = images / "00000.png"
        results["predict_process_seconds"] = predict_seconds(files["int8"], first, PROCESSES)
        results["predict_images_per_second"] = {
            name: round(count / predict_seconds(files[name], images, BULK_PROCESSES))
            for name in ("float32", "int8")
        }
        results["large_picture_ms"] = large_image_milliseconds()
    detector = json.loads((run / "detector.json").read_text("utf-8"))
    results["hardware"] = detector["training"]["hardware"]
    write_json(output, results)
    print(_table(results))
    print(f"written: {output}")


def _script(*arguments: object) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], check=False)
    if done.returncode not in (0, 3):
        sys.exit(done.returncode)


def _export(run: Path, folder: Path, options: tuple[str, ...]) -> dict[str, Any]:
    _script("export.py", "--run-dir", run, "--output", folder, *options)
    (report,) = folder.glob("*-parity.json")
    return json.loads(report.read_text("utf-8"))


def _latencies(run: Path, files: dict[str, Path], data_dir: str) -> dict[str, float]:
    """Microseconds from one image to its verdict, median over rounds of the rounds' medians."""
    from anomaly_tf.deploy.litert import LiteRTDetector

    images = load_dataset("fashion_mnist", Path(data_dir)).test_images
    calls: dict[str, Callable[[np.ndarray], Any]] = {}
    with quiet_libraries():
        for name in ("float32", "float16", "dynamic", "int8"):
            calls[f"LiteRT {name}"] = LiteRTDetector.load(files[name], threads=1).predict
        calls["ONNX Runtime float32"] = _onnx_predict(run)
    medians: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            seconds = []
            for number in range(CALLS):
                image = images[number : number + 1]
                start = time.perf_counter()
                call(image)
                seconds.append(time.perf_counter() - start)
            medians[name].append(1e6 * float(np.median(seconds)))
    return {name: round(float(np.median(values)), 1) for name, values in medians.items()}


def _onnx_predict(run: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The same detector with batch size 1 in ONNX Runtime on one thread."""
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    from anomaly_tf.deploy.keras_run import TrainedDetector

    detector = TrainedDetector.load(run)
    images = tf.TensorSpec((1, *detector.image_shape), tf.uint8, name="images")

    @tf.function(input_signature=[images])
    def score(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"score": detector.model(images, training=False)["score"]}

    model, _ = tf2onnx.convert.from_function(score, input_signature=[images], opset=17)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )

    def predict(image: np.ndarray) -> np.ndarray:
        return session.run(["score"], {"images": image})[0] >= detector.threshold

    return predict


def write_images(folder: Path, data_dir: str) -> int:
    """Writes the test images as PNG files; returns their number."""
    folder.mkdir()
    images = load_dataset("fashion_mnist", Path(data_dir)).test_images[:]
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{number:05}.png")
    return len(images)


def predict_seconds(model: Path, images: Path, processes: int) -> float:
    """Median duration of a predict.py process on a file or a folder of files."""
    command = [sys.executable, "predict.py", "--model", str(model), str(images)]
    seconds = []
    for _ in range(processes):
        start = time.perf_counter()
        status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
        seconds.append(time.perf_counter() - start)
        if status not in (0, 1):  # normal, anomaly
            raise RuntimeError(f"{command} ended with status {status}")
    return float(np.median(seconds))


def large_image_milliseconds() -> float:
    """Median latency of an exported `vae` for one image of `LARGE`, on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    from anomaly_tf.approaches import build_model, options_of
    from anomaly_tf.deploy.conversion import convert
    from anomaly_tf.reporting.parity import median_seconds

    image = np.random.default_rng(0).integers(0, 256, (1, *LARGE), np.uint8)
    detector = build_model(options_of("vae")(), LARGE, 2, jit_compile=False).detector
    with quiet_libraries():
        model = convert(detector, 1, "none", image)
        interpreter = Interpreter(model_content=model, num_threads=1)
        score = interpreter.get_signature_runner("serve")
    seconds = median_seconds(lambda images: score(images=images), image)
    return round(1000 * seconds, 2)


def _table(results: dict[str, Any]) -> str:
    head = ("", "AUROC", "largest diff.", "changed", "false alarms", "size", "images/s")
    rows: list[tuple[str, ...]] = [head]
    for name, report in results["parity"].items():
        side = report["exported"]
        rows.append(
            (
                name,
                f"{side['auroc']:.4f}",
                f"{report['score_difference_largest']:.1g}",
                str(report["verdicts_changed"]),
                f"{side['false_alarm_rate']:.1%}",
                f"{side['size_bytes'] / 1e6:.2f} MB",
                f"{side['images_per_second']:.0f}",
            )
        )
    before = next(iter(results["parity"].values()))["trained"]
    rows.insert(1, ("Keras", f"{before['auroc']:.4f}", "", "", f"{before['false_alarm_rate']:.1%}"))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        for row in rows
    ]
    latencies = results["latency_us"]
    base = latencies["LiteRT float32"]
    lines += ["", "one image to its verdict, one thread:"]
    lines += [
        f"  {name:<22}{value:7.1f} us  {value / base:.2f} of LiteRT float32"
        for name, value in latencies.items()
    ]
    lines.append(f"one predict.py process, int8: {results['predict_process_seconds']:.2f} s")
    for name, speed in results["predict_images_per_second"].items():
        lines.append(f"predict.py on 10,000 PNG files, {name}: {speed} images/s")
    lines.append(f"vae, one image of 256x256: {results['large_picture_ms']} ms")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
