"""Effect of options on the quality of an approach, on validation images only: `make study`.

A study is a file of `configs/studies`: an approach, and variants of its options in groups. Each
variant is trained by `train.py` on every normal class and seed of the study, and compared by the
AUROC on the validation images; the test set is not used. Under protocol `unseen`, the unseen
classes of a study are the default's seen classes, so that no choice depends on the unseen classes
of a published figure. Results are saved cell by cell, so that an interrupted study resumes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.metrics import roc_auc_score

from anomaly_tf.approaches import options_of
from anomaly_tf.approaches.configs import load_config
from anomaly_tf.benchmark import defaults_of
from anomaly_tf.cluster import cluster_of
from anomaly_tf.command_line import parse_options
from anomaly_tf.commands import Commands, run_elsewhere, run_here
from anomaly_tf.config import BalancedConfig, Checked, Config, Protocol, UnseenConfig, number
from anomaly_tf.data.protocols import make_split
from anomaly_tf.data.roles import class_roles
from anomaly_tf.data.sources import open_dataset
from anomaly_tf.errors import UserError
from anomaly_tf.jobs import executor, run_jobs
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.files import require_writable, write_json
from anomaly_tf.script import import_tensorflow, run_script
from measurements.measuring import hardware, kept_results

STUDIES = Path("configs/studies")


@dataclass(frozen=True)
class StudyOptions(Checked):
    """Options of the studies.

    Attributes:
        studies: Names of files in configs/studies. Default: all.
        data_dir: Folder with Fashion-MNIST.
        output: Folder for the results.
        jobs: Number of parallel trainings, each on its share of the processor's threads.
        cluster: Address of the scheduler of a Dask cluster whose workers train.
        certificates: Folder with ca.pem, cert.pem and key.pem for a cluster at tls://.
    """

    studies: tuple[str, ...] = ()
    data_dir: str = "data"
    output: str = "results/quality"
    jobs: int = number(1, 1, 64)
    cluster: str | None = None
    certificates: str | None = None


@dataclass(frozen=True)
class Study:
    """Content of a file of `configs/studies`.

    Attributes:
        approach: Name of the approach.
        protocol: Protocol.
        normal_classes: Classes that are normal in turn.
        seeds: Seeds, other than those of published figures.
        options: Options of every variant, by name, which may include `approach`.
        variants: Group, variant, and its further options by name. The first variant is the baseline
            of the others.
        score_rules: Whether to compare score rules as well.
    """

    approach: str
    protocol: Protocol
    normal_classes: list[int]
    seeds: list[int]
    options: dict[str, Any]
    variants: dict[str, dict[str, dict[str, Any]]]
    score_rules: bool = False


def main(arguments: list[str]) -> None:
    """Runs the studies and prints their tables."""
    options = parse_options(StudyOptions, "quality.py", __doc__ or "", arguments)
    known = sorted(path.stem for path in STUDIES.glob("*.yaml"))
    for name in options.studies:
        if name not in known:
            raise UserError(f"study {name!r} does not exist; choose one of {', '.join(known)}")
    require_writable(Path(options.output), "--output")
    for name in options.studies or known:
        study = read_study(name)
        path = Path(options.output) / f"{name}.json"
        results = results_so_far(study, path) | {"hardware": hardware()}
        done = {_key(cell): cell for cell in results["cells"]}
        cells = _cells(study)
        waiting = {_key(cell): cell for cell in cells if _key(cell) not in done}
        for cell, found in _measured(study, list(waiting.values()), options):
            done[_key(cell)] = cell | found
            write_json(path, results | {"cells": list(done.values())})
            print(f"{name}: {done[_key(cell)]}", flush=True)
        # Kept cells get the current names of the file.
        results["cells"] = [done[_key(cell)] | cell for cell in cells]
        if study.score_rules and "score_rules" not in results:
            results["score_rules"] = _score_rules(study, options.data_dir)
        write_json(path, results)
        print(table(results))


def read_study(name: str) -> Study:
    """Reads the study with a name."""
    return Study(**yaml.safe_load((STUDIES / f"{name}.yaml").read_text("utf-8")))


def results_so_far(study: Study, path: Path) -> dict[str, Any]:
    """Reads the results in a file, and adds the current study and defaults.

    Raises:
        UserError: If the results were measured with other defaults.
    """
    found = kept_results(path) or {"cells": []}
    approaches = {cell["options"].get("approach", study.approach) for cell in _cells(study)}
    current = {name: defaults_of(name, study.protocol) for name in sorted(approaches)}
    for name, before in found.get("defaults", {}).items():
        if current.get(name, before) != before:
            raise UserError(
                f"{path} was measured with other defaults of {name}; move it away to measure again"
            )
    return found | {"defaults": current, "study": dataclasses.asdict(study)}


def _cells(study: Study) -> list[dict[str, Any]]:
    return [
        {
            "group": group,
            "variant": variant,
            "options": study.options | options,
            "normal_class": normal_class,
            "seed": seed,
        }
        for group, variants in study.variants.items()
        for variant, options in variants.items()
        for normal_class in study.normal_classes
        for seed in study.seeds
    ]


def _key(cell: dict[str, Any]) -> str:
    """Key of a cell, independent of its name."""
    return json.dumps([cell[name] for name in ("options", "normal_class", "seed")], sort_keys=True)


def configured(study: Study, normal_class: int, seed: int, data_dir: str) -> Config:
    """The configuration of a study for a normal class and a seed, otherwise with defaults."""
    config = options_of(study.approach)(
        protocol=study.protocol,
        normal_class=(normal_class,),
        seed=seed,
        data_dir=data_dir,
    )
    if isinstance(config, BalancedConfig) and study.protocol == "unseen":
        names = open_dataset(config).class_names
        unseen = class_roles(config, names)
        swapped = UnseenConfig(seen_classes=unseen.unseen, unseen_classes=unseen.seen)
        config = dataclasses.replace(config, unseen=swapped)
    return config


def _measured(
    study: Study, cells: list[dict[str, Any]], options: StudyOptions
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Trains cells, and evaluates them on validation images in this process."""
    cluster = cluster_of(options.cluster, options.certificates, options.jobs)
    with tempfile.TemporaryDirectory() as folder, executor(options.jobs, cluster) as workers:
        runs = [Path(*(() if cluster else (folder,)), str(number)) for number in range(len(cells))]
        work = (
            Commands([["train", *_flags(study, cell, options.data_dir, run)]], run)
            for cell, run in zip(cells, runs, strict=True)
        )
        for commands, ended in run_jobs(run_elsewhere if cluster else run_here, work, workers):
            if ended.reason is not None:
                raise UserError(f"a training of study {study.approach} failed: {ended.reason}")
            run = RunDirectory(Path(folder, commands.run.name))
            ended.keep_run(run.path)
            yield cells[int(run.path.name)], _validated(study, run)
            shutil.rmtree(run.path)


def _flags(study: Study, cell: dict[str, Any], data_dir: str, run: Path) -> list[str]:
    """Arguments of train.py for a cell."""
    chosen = {
        "approach": study.approach,
        "protocol": study.protocol,
        "normal-class": cell["normal_class"],
        "seed": cell["seed"],
        "data-dir": os.path.abspath(data_dir),
        "run-dir": run,
    } | cell["options"]
    config = configured(study, cell["normal_class"], cell["seed"], data_dir)
    if isinstance(config, BalancedConfig) and study.protocol == "unseen":
        for name in ("seen_classes", "unseen_classes"):
            chosen[f"unseen.{name}"] = ",".join(map(str, getattr(config.unseen, name)))
    return [str(part) for name, value in chosen.items() for part in (f"--{name}", value)]


def _validated(study: Study, run: RunDirectory) -> dict[str, Any]:
    """AUROC on validation images, seconds of training, and the hardware."""
    import_tensorflow()
    from anomaly_tf.deploy.keras_run import TrainedDetector

    trained = load_config(run.config)
    detector = TrainedDetector.load(run.path)
    if study.protocol == "unseen":  # includes the unseen classes
        trained = dataclasses.replace(trained, protocol="imbalance")
    validation = make_split(trained, open_dataset(trained)).validation
    scores, normal = detector.score(validation.images[:]), validation.labels == 0

    def auroc(classes: tuple[int, ...] | None = None) -> float:
        chosen = normal | (True if classes is None else np.isin(validation.classes, classes))
        return round(float(roc_auc_score(~normal[chosen], scores[chosen])), 5)

    training = detector.info.training
    found: dict[str, Any] = {
        "seconds": training.train_seconds,
        "hardware": training.hardware,
    }
    if study.protocol == "unseen":
        roles = detector.info.roles or {}
        return found | {"auroc": auroc(roles["unseen"]), "auroc_seen": auroc(roles["seen"])}
    return found | {"auroc": auroc()}


def _score_rules(study: Study, data_dir: str) -> list[dict[str, Any]]:
    """AUROC of each score rule for each class and seed, with the epochs of the variants."""
    import_tensorflow()
    from measurements.score_rules import RULES

    found = []
    for normal_class in study.normal_classes:
        for seed in study.seeds:
            config = configured(study, normal_class, seed, data_dir)
            epochs = study.options.get("training.epochs", config.training.epochs)
            training = dataclasses.replace(config.training, epochs=epochs)
            rules = RULES[study.approach](dataclasses.replace(config, training=training))
            found.append({"normal_class": normal_class, "seed": seed, "auroc": rules})
            print(found[-1], flush=True)
    return found


def table(results: dict[str, Any]) -> str:
    """A study's results as Markdown: the mean of each variant over classes and seeds, and parts.

    Variants that are not measured in all classes and seeds are left out.
    """
    study, cells = results["study"], results["cells"]
    unseen = study["protocol"] == "unseen"
    classes = study["normal_classes"]
    names = [*(["seen"] if unseen else []), *(f"class {normal_class}" for normal_class in classes)]
    lines = [
        "| what | variant | AUROC | change | " + " | ".join(names) + " |",
        "|---" * (4 + len(names)) + "|",
    ]
    first = None
    for group, variants in study["variants"].items():
        if study["protocol"] == "contaminated":  # each group compares an approach with itself
            first = None
        for variant in variants:
            chosen = [c for c in cells if (c["group"], c["variant"]) == (group, variant)]
            if len(chosen) < len(classes) * len(study["seeds"]):
                continue  # not measured yet

            def mean(key: str, normal_class: int | None = None, chosen: list = chosen) -> float:
                return statistics.mean(
                    c[key] for c in chosen if normal_class in (None, c["normal_class"])
                )

            value = mean("auroc")
            first = value if first is None else first
            more = [f"{mean('auroc_seen'):.4f}"] if unseen else []
            more += [f"{mean('auroc', normal_class):.4f}" for normal_class in classes]
            change = f"{value - first:+.4f}" if value != first else ""
            lines.append(f"| {group} | {variant} | {value:.4f} | {change} | {' | '.join(more)} |")
    if rules := results.get("score_rules"):
        lines += ["", *_rules_table(rules)]
    return "\n".join(lines)


def _rules_table(rules: list[dict[str, Any]]) -> list[str]:
    """Score rules as Markdown.

    Args:
        rules: For each class and seed the AUROC by score; by `model: score` if several models are
            compared.

    Returns:
        A row for each score: the mean and each class, or the mean of each model.
    """
    rows: dict[str, dict[str, float]] = {}
    for name in rules[0]["auroc"]:
        classes: dict[str, list[float]] = {}
        for one in rules:
            classes.setdefault(f"class {one['normal_class']}", []).append(one["auroc"][name])
        mean = statistics.mean(one["auroc"][name] for one in rules)
        model, several, score = name.partition(": ")
        if several:
            rows.setdefault(score, {})[model] = mean
        else:
            by_class = {number: statistics.mean(values) for number, values in classes.items()}
            rows[name] = {"mean": mean} | by_class
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| score | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for score, row in rows.items():
        shown = (f"{row[column]:.4f}" if column in row else "" for column in columns)
        lines.append(f"| {score} | {' | '.join(shown)} |")
    return lines


if __name__ == "__main__":
    run_script(main)
