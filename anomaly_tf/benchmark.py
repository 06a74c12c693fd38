"""Trains and evaluates every combination of approach, protocol, normal class and seed.

A cell is one combination. It runs the commands `train` and `evaluate`, each in a separate process,
and writes its result to one JSON file; a benchmark that was stopped resumes with the cells that
have none.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.approaches.configs import require_approach
from anomaly_tf.cluster import cluster_of
from anomaly_tf.commands import Commands, Ended, run_elsewhere, run_here
from anomaly_tf.config import (
    ALL_CLASSES_NORMAL,
    Checked,
    NormalImagesConfig,
    Protocol,
    number,
    plain,
)
from anomaly_tf.data.contents import digest_of_source
from anomaly_tf.data.search import Search, folders_of
from anomaly_tf.data.sources import known_class_names
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import executor, run_jobs
from anomaly_tf.program import command_line, program
from anomaly_tf.runs.cells import read_cell
from anomaly_tf.runs.files import locked, require_writable, write_json
from anomaly_tf.runs.outputs import (
    REPORTS,
    IsOwn,
    is_benchmark_report,
    is_own_run,
    json_with,
    require_own_place,
)


@dataclass(frozen=True)
class BenchmarkOptions(Checked):
    """Options of `benchmark`.

    Attributes:
        approaches: Names of the approaches.
        protocols: Protocols; an approach skips those that it does not support.
        normal_classes: Classes that are normal, one at a time; corruption and classification use
            all classes and run once.
        seeds: Seeds.
        repeated: Approaches that run with every seed, while the others run with the first only; by
            default all.
        epochs_share: Share of each approach's epochs to train for; below 1 for a quick overview.
        data: Data set, as for `train`.
        data_dir: Folder for downloaded data.
        output: Folder for results and runs; a benchmark that was stopped resumes there.
        jobs: Number of cells that run at the same time, each on its share of the processor's
            threads; each cell takes longer, all of them together less.
        cluster: Address of the scheduler of a Dask cluster whose workers run the cells, such as
            tcp://HOST:8786; by default they run on this machine.
        certificates: Folder with ca.pem, cert.pem and key.pem for a cluster at tls://; by default
            as Dask's own configuration says.
    """

    section: ClassVar[str] = ""

    approaches: tuple[str, ...] = tuple(APPROACHES)
    protocols: tuple[Protocol, ...] = ("imbalance", "one_class", "classification")
    normal_classes: tuple[int, ...] = number((0,), 0, 255)
    seeds: tuple[int, ...] = number((0,), 0, 2**31 - 1)
    repeated: tuple[str, ...] | None = None
    epochs_share: float = number(1.0, 0, 1, above=True)
    data: str = "fashion_mnist"
    data_dir: str = "data"
    output: str = "runs/benchmark"
    jobs: int = number(1, 1, 64)
    cluster: str | None = None
    certificates: str | None = None


@dataclass(frozen=True)
class Cell:
    """One combination.

    Attributes:
        approach: Name of the approach.
        protocol: Name of the protocol.
        normal_class: The normal class, or None where the protocol takes all.
        seed: Seed.
    """

    approach: str
    protocol: Protocol
    normal_class: int | None
    seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        normal = () if self.normal_class is None else (f"class{self.normal_class}",)
        return "-".join((self.approach, self.protocol, *normal, f"seed{self.seed}"))


def cells_of(options: BenchmarkOptions) -> list[Cell]:
    """Every supported combination, in the order of the options.

    Raises:
        UserError: If an approach or a class does not exist, or nothing makes sense.
    """
    names = known_class_names(options.data)
    for normal_class in options.normal_classes:
        if names and normal_class >= len(names):
            raise UserError(
                f"normal class {normal_class} does not exist; choose 0 to {len(names) - 1}"
            )
    approaches = [require_approach(name) for name in options.approaches]
    repeated = approaches
    if options.repeated is not None:
        repeated = [require_approach(name) for name in options.repeated]
    cells = [
        Cell(approach, protocol, normal_class, seed)
        for seed in options.seeds
        for approach in approaches
        if seed == options.seeds[0] or approach in repeated
        for protocol in options.protocols
        if protocol in options_of(approach).protocols
        for normal_class in ((None,) if protocol in ALL_CLASSES_NORMAL else options.normal_classes)
    ]
    if not cells:
        raise UserError(
            f"none of the approaches {', '.join(options.approaches)} serves any of the protocols "
            f"{', '.join(options.protocols)}; see {program('train')} --help"
        )
    return list(dict.fromkeys(cells))


def run_cells(options: BenchmarkOptions) -> Iterator[tuple[Cell, dict[str, Any], str]]:
    """Runs the cells without a result and yields all cells.

    Args:
        options: What to run.

    Yields:
        Each cell, its result, and a line on the progress: first those that were kept, then the
        others as they end. A result holds `cell`, `settings`, `status` (`completed` or `failed`),
        and then `metrics` (as in `metrics.json`), `versions` and `wall_seconds`, or the `reason`.

    Raises:
        UserError: If the folder for the results cannot be written, or a file in it is damaged.
    """
    output = Path(options.output)
    _require_own_place(options)
    require_writable(output, "--output")
    output.mkdir(parents=True, exist_ok=True)
    with locked(output, "benchmark"):
        yield from _run_waiting(options, output)


def _run_waiting(
    options: BenchmarkOptions, output: Path
) -> Iterator[tuple[Cell, dict[str, Any], str]]:
    content = content_of(options)
    results = _kept(options, content)
    kept = {cell: result for cell, result in results.items() if result is not None}
    for place, (cell, result) in enumerate(kept.items(), 1):
        yield cell, result, f"[{place}/{len(results)}] {cell.name}: {_describe(result)} (kept)"
    waiting = {cell.name: cell for cell in results if cell not in kept}

    def work() -> Iterator[Commands]:
        for cell in waiting.values():
            # What a stopped benchmark left half-trained.
            shutil.rmtree(_run_folder(output, cell), ignore_errors=True)
            yield _commands(cell, options, content)

    cluster = cluster_of(options.cluster, options.certificates, options.jobs)
    with executor(options.jobs, cluster) as workers:
        done = run_jobs(run_here if cluster is None else run_elsewhere, work(), workers)
        for place, (commands, ended) in enumerate(done, len(kept) + 1):
            cell = waiting[commands.run.name]
            outcome = _outcome(ended, _run_folder(output, cell))
            settings = settings_of(cell, options, content)
            result = {"cell": asdict(cell), "settings": settings, **outcome}
            write_json(_file(output, cell), result)
            results[cell] = result
            left = _seconds_left(results, workers.parallel)
            yield cell, result, f"[{place}/{len(results)}] {cell.name}: {_describe(result)}{left}"


def _require_own_place(options: BenchmarkOptions) -> None:
    """Refuses an output folder inside the data, or one with other files of the same names."""
    output, data = Path(options.output), Path(options.data)
    outputs: dict[Path, IsOwn] = {output / name: is_benchmark_report for name in REPORTS}
    for cell in cells_of(options):
        outputs[_file(output, cell)] = json_with("cell", "settings", "status")
        outputs[_run_folder(output, cell)] = is_own_run
    images = Search().images_below(data) if data.is_dir() else []
    read_from = [data, *folders_of(data / file for file in images)]
    require_own_place("--output", output, outputs, read_from)


def kept_results(options: BenchmarkOptions) -> dict[Cell, dict[str, Any] | None]:
    """Results of an earlier run of a benchmark.

    Args:
        options: What is asked for.

    Returns:
        For each cell its result; None if it has none, failed, or came from other settings.

    Raises:
        UserError: If a file is damaged.
    """
    return _kept(options, content_of(options))


def _kept(options: BenchmarkOptions, content: str | None) -> dict[Cell, dict[str, Any] | None]:
    output = Path(options.output)
    return {
        cell: read_cell(_file(output, cell), asdict(cell), settings_of(cell, options, content))
        for cell in cells_of(options)
    }


def content_of(options: BenchmarkOptions) -> str | None:
    """Digest of the user's own data, without the files that a benchmark writes there."""
    return digest_of_source(options.data, (options.data_dir, options.output))


def settings_of(
    cell: Cell, options: BenchmarkOptions, content: str | None = None
) -> dict[str, Any]:
    """Settings that a result depends on besides its cell; with other settings it is not reused.

    The approach's configuration among it, so that a change of its defaults is measured anew.

    Args:
        cell: Whose result it is.
        options: What is asked for.
        content: Digest of the data, if it is the user's own.
    """
    hides = cell.protocol == "contaminated"
    return {
        "epochs_share": options.epochs_share,
        "data": options.data,
        **({"content": content} if content else {}),
        "configuration": defaults_of(cell.approach, cell.protocol),
        **({"contamination": NormalImagesConfig.contamination} if hides else {}),
    }


# The sections of a configuration that a cell does not set.
CONFIGURED = ("sampling", "training", "threshold", "corruption", "unseen", "networks", "losses")


def defaults_of(approach: str, protocol: Protocol) -> dict[str, Any]:
    """Default configuration of an approach under a protocol, as plain values."""
    configuration = plain(asdict(options_of(approach)(protocol=protocol).for_protocol()))
    return {name: configuration[name] for name in CONFIGURED if name in configuration}


def _commands(cell: Cell, options: BenchmarkOptions, content: str | None) -> Commands:
    """The training and the evaluation of a cell; on a cluster, of data at the same path."""
    run, data, data_dir = _run_folder(Path(options.output), cell), options.data, options.data_dir
    if options.cluster is not None:
        run, data_dir = Path("runs", cell.name), os.path.abspath(data_dir)
        data = os.path.abspath(data) if content else data
    epochs = options_of(cell.approach)().training.epochs
    train = ["train", "--approach", cell.approach, "--protocol", cell.protocol]
    if cell.normal_class is not None:
        train += ["--normal-class", str(cell.normal_class)]
    train += ["--seed", str(cell.seed)]
    if options.epochs_share < 1:
        train += ["--training.epochs", str(max(1, round(options.epochs_share * epochs)))]
    train += ["--data", data, "--data-dir", data_dir, "--run-dir", str(run)]
    without = (data_dir, os.path.abspath(options.output))
    commands = [train, ["evaluate", "--run-dir", str(run)]]
    return Commands(commands, run, data if content else None, content, without)


def _outcome(ended: Ended, run: Path) -> dict[str, Any]:
    """The result of a cell after its commands."""
    if ended.reason is not None:
        assert ended.failed
        command = command_line(*ended.failed)
        return {"status": "failed", "reason": ended.reason, "command": command}
    ended.keep_run(run)
    return {
        "status": "completed",
        "wall_seconds": round(ended.seconds, 1),
        "versions": json.loads((run / "detector.json").read_text("utf-8"))["versions"],
        "metrics": json.loads((run / "metrics.json").read_text("utf-8")),
    }


def _file(output: Path, cell: Cell) -> Path:
    return output / "cells" / f"{cell.name}.json"


def _run_folder(output: Path, cell: Cell) -> Path:
    return output / "runs" / cell.name


def _describe(result: dict[str, Any]) -> str:
    if result["status"] == "failed":
        return f"failed: {result['reason']}"
    metrics = result["metrics"]
    value = (
        f"accuracy {metrics['accuracy']:.4f}"
        if metrics["auroc"] is None
        else f"AUROC {metrics['auroc']:.4f}"
    )
    return f"{value}, {result['wall_seconds']:.0f} s"


def _seconds_left(results: dict[Cell, dict[str, Any] | None], jobs: int) -> str:
    """Remaining time, estimated from the finished cells of the same approaches."""
    waiting = [cell for cell, result in results.items() if result is None]
    seconds: dict[str, list[float]] = {}
    for cell, result in results.items():
        if result and result["status"] == "completed":
            seconds.setdefault(cell.approach, []).append(result["wall_seconds"])
    if not waiting or not seconds:
        return ""
    typical = statistics.mean(value for part in seconds.values() for value in part)
    left = sum(statistics.median(seconds.get(cell.approach, [typical])) for cell in waiting)
    return f"; about {max(1, round(left / jobs / 60))} min left"
