"""What moves the quality of an approach, on validation images alone: `make study`.

A study is a file of `configs/studies`: an approach, and variants of its options in groups. Each
variant is trained by `train.py` on every normal class and seed of the study, and judged by the
AUROC on the validation images; the test set is not touched. Under protocol `unseen` the classes
that are held back here are those that the default shows in training, so that no choice is made by
the classes that a published figure holds back. Results are kept cell by cell, so a study that was
stopped goes on.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from anomaly_tf.command_line import load_config, parse_options
from anomaly_tf.config import CONFIGS, BalancedConfig, Checked, Config, UnseenConfig
from anomaly_tf.data.protocols import class_roles, make_split
from anomaly_tf.data.sources import open_dataset
from anomaly_tf.files import write_json
from anomaly_tf.run_directory import RunDirectory
from anomaly_tf.script import import_tensorflow, run_script
from benchmarks.measuring import script

STUDIES = Path("configs/studies")


@dataclass(frozen=True)
class StudyOptions(Checked):
    """Options of the studies.

    Attributes:
        studies: Names of files in configs/studies; by default all.
        data_dir: Folder with Fashion-MNIST.
        output: Folder for the results.
    """

    studies: tuple[str, ...] = ()
    data_dir: str = "data"
    output: str = "results/quality"


@dataclass(frozen=True)
class Study:
    """What a file of `configs/studies` holds.

    Attributes:
        approach: Name of the approach.
        protocol: Protocol.
        normal_classes: Classes that are normal in turn.
        seeds: Seeds, none of which is that of a published figure.
        options: Options of every variant, by name; `approach` may be one.
        variants: Group, variant, and its further options by name. The first is what the others are
            compared with.
        score_rules: Whether to compare ways of scoring, too.
    """

    approach: str
    protocol: str
    normal_classes: list[int]
    seeds: list[int]
    options: dict[str, Any]
    variants: dict[str, dict[str, dict[str, Any]]]
    score_rules: bool = False


def main(arguments: list[str]) -> None:
    """Runs the studies and prints their tables."""
    options = parse_options(StudyOptions, "quality.py", __doc__ or "", arguments)
    for name in options.studies or sorted(path.stem for path in STUDIES.glob("*.yaml")):
        study = Study(**yaml.safe_load((STUDIES / f"{name}.yaml").read_text("utf-8")))
        path = Path(options.output) / f"{name}.json"
        results = json.loads(path.read_text("utf-8")) if path.is_file() else {"cells": []}
        results["study"] = dataclasses.asdict(study)
        done = {_key(cell): cell for cell in results["cells"]}
        results["cells"] = []
        for cell in _cells(study):
            found = done.get(_key(cell)) or cell | _measured(study, cell, options.data_dir)
            results["cells"].append(found)
            write_json(path, results | {"cells": [*results["cells"], *_later(done, results)]})
            print(f"{name}: {found}", flush=True)
        if study.score_rules and "score_rules" not in results:
            results["score_rules"] = [
                {"normal_class": number, "seed": seed} | score_rules(study, number, seed, options)
                for number in study.normal_classes
                for seed in study.seeds
            ]
        write_json(path, results)
        print(table(results))


def _cells(study: Study) -> list[dict[str, Any]]:
    return [
        {
            "group": group,
            "variant": variant,
            "options": study.options | options,
            "normal_class": number,
            "seed": seed,
        }
        for group, variants in study.variants.items()
        for variant, options in variants.items()
        for number in study.normal_classes
        for seed in study.seeds
    ]


def _key(cell: dict[str, Any]) -> str:
    """What makes a cell, whatever it is called."""
    return json.dumps([cell[name] for name in ("options", "normal_class", "seed")], sort_keys=True)


def _later(done: dict[str, Any], results: dict[str, Any]) -> list[dict[str, Any]]:
    """Kept cells whose turn has not come yet."""
    known = {_key(cell) for cell in results["cells"]}
    return [cell for key, cell in done.items() if key not in known]


def configured(study: Study, number: int, seed: int, data_dir: str) -> Config:
    """The study's approach and protocol for a normal class and a seed, otherwise by default."""
    config = CONFIGS[study.approach](
        protocol=study.protocol,  # type: ignore[arg-type]
        normal_class=(number,),
        seed=seed,
        data_dir=data_dir,
    )
    if isinstance(config, BalancedConfig) and study.protocol == "unseen":
        names = open_dataset(config).class_names
        unseen = class_roles(config, names)
        swapped = UnseenConfig(seen_classes=unseen.unseen, unseen_classes=unseen.seen)
        config = dataclasses.replace(config, unseen=swapped)
    return config


def _measured(study: Study, cell: dict[str, Any], data_dir: str) -> dict[str, Any]:
    """Trains a cell and judges it by validation images."""
    import_tensorflow()
    from anomaly_tf.deploy.trained import TrainedDetector

    config = configured(study, cell["normal_class"], cell["seed"], data_dir)
    run = RunDirectory(Path("runs/study") / study.approach)
    shutil.rmtree(run.path, ignore_errors=True)
    chosen = {
        "approach": study.approach,
        "protocol": study.protocol,
        "normal-class": cell["normal_class"],
        "seed": cell["seed"],
        "data-dir": data_dir,
        "run-dir": run.path,
    } | cell["options"]
    if isinstance(config, BalancedConfig) and study.protocol == "unseen":
        for name in ("seen_classes", "unseen_classes"):
            chosen[f"unseen.{name}"] = ",".join(map(str, getattr(config.unseen, name)))
    flags = [part for name, value in chosen.items() for part in (f"--{name}", value)]
    script("train.py", *flags)
    trained = load_config(run.config)
    detector = TrainedDetector.load(run.path)
    # Every class, those that are held back, too.
    whole = CONFIGS["supervised"](
        normal_class=trained.normal_class, seed=trained.seed, data_dir=data_dir
    )
    if study.protocol == "one_class":
        whole = trained
    validation = make_split(whole, open_dataset(whole)).validation
    scores, normal = detector.score(validation.images[:]), validation.labels == 0

    def auroc(classes: tuple[int, ...] | None = None) -> float:
        told = normal | (True if classes is None else np.isin(validation.classes, classes))
        return round(float(roc_auc_score(~normal[told], scores[told])), 5)

    found: dict[str, Any] = {"seconds": detector.info["training"]["train_seconds"]}
    if study.protocol == "unseen":
        roles = detector.info["roles"]
        return found | {"auroc": auroc(roles["unseen"]), "auroc_seen": auroc(roles["seen"])}
    return found | {"auroc": auroc()}


def score_rules(
    study: Study, number: int, seed: int, options: StudyOptions
) -> dict[str, dict[str, float]]:
    """Trains `sota` once and compares ways of scoring, among them those that need all networks."""
    import_tensorflow()
    import keras
    import tensorflow as tf

    from anomaly_tf.models import APPROACHES
    from anomaly_tf.models.losses import absolute_error
    from anomaly_tf.training.device import select_device
    from anomaly_tf.training.fit import resolve, training_batches

    config = configured(study, number, seed, options.data_dir)
    epochs = study.options.get("training.epochs", config.training.epochs)
    config = dataclasses.replace(
        config, training=dataclasses.replace(config.training, epochs=epochs)
    )
    split = make_split(config, open_dataset(config))
    config, device = resolve(config, split), select_device("auto")
    keras.utils.set_random_seed(seed)
    model = APPROACHES[study.approach](config, split.train.images.shape[1:], 10, device.jit_compile)
    batches = training_batches(config, split, device)
    steps = config.training.steps_per_epoch
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=0, shuffle=False)
    encoder = model.averaged.get_layer("encoder")
    images = split.validation.images[:].astype(np.float32) / 127.5 - 1
    rules: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(images), 500):
        part = tf.constant(images[start : start + 500])
        made = model.averaged(part, training=False)
        error = tf.abs(part - made)
        mirrored = part[:, :, ::-1]
        windows = tf.nn.avg_pool2d(error, 14, 7, "VALID")
        latents = [keras.tree.flatten(encoder(x, training=False))[0] for x in (part, made)]
        mean = tf.reduce_mean(error, [1, 2, 3])
        other = absolute_error(mirrored, model.averaged(mirrored, training=False))
        told = {
            "mean error": mean,
            "mean squared error": tf.reduce_mean(error**2, [1, 2, 3]),
            "largest window": tf.reduce_max(windows, [1, 2, 3]),
            "latent distance": tf.reduce_mean(tf.abs(latents[0] - latents[1]), 1),
            "D_N of the reconstruction": -tf.reduce_mean(
                model.normal_discriminator(made, training=False), [1, 2, 3]
            ),
            "D_A of the reconstruction": -tf.reduce_mean(
                model.anomaly_discriminator(made, training=False), [1, 2, 3]
            ),
            "mean error, also of the mirror image": mean + other,
        }
        for name, values in told.items():
            rules.setdefault(name, []).append(values.numpy())
    scores = {name: np.concatenate(parts) for name, parts in rules.items()}
    labels = split.validation.labels
    # Learnt on one half and judged on the other, both ways.
    features = np.stack([np.log(np.maximum(scores[n], 1e-6)) for n in list(scores)[:4]], axis=1)
    half = np.random.default_rng(seed).permutation(len(labels)) % 2 == 0
    learnt = []
    for one in (half, ~half):
        rule = LogisticRegression(class_weight="balanced").fit(features[one], labels[one])
        learnt.append(roc_auc_score(labels[~one], rule.decision_function(features[~one])))
    found = {name: round(float(roc_auc_score(labels, told)), 5) for name, told in scores.items()}
    halves = [roc_auc_score(labels[one], scores["mean error"][one]) for one in (half, ~half)]
    found["mean error, mean of two halves"] = round(float(np.mean(halves)), 5)
    found["combination learnt on the other half"] = round(float(np.mean(learnt)), 5)
    return {"auroc": found}


def table(results: dict[str, Any]) -> str:
    """A study's results as Markdown: each variant's mean over classes and seeds, and the rest."""
    study, cells = results["study"], results["cells"]
    unseen = study["protocol"] == "unseen"
    classes = study["normal_classes"]
    names = [*(["seen"] if unseen else []), *(f"class {number}" for number in classes)]
    lines = [
        "| what | variant | AUROC | change | " + " | ".join([*names, "seconds"]) + " |",
        "|---" * (5 + len(names)) + "|",
    ]
    first = None
    for group, variants in study["variants"].items():
        for variant in variants:
            chosen = [c for c in cells if (c["group"], c["variant"]) == (group, variant)]

            def mean(key: str, number: int | None = None, chosen: list = chosen) -> float:
                return statistics.mean(
                    c[key] for c in chosen if number in (None, c["normal_class"])
                )

            value = mean("auroc")
            first = value if first is None else first
            more = [f"{mean('auroc_seen'):.4f}"] if unseen else []
            more += [f"{mean('auroc', number):.4f}" for number in classes]
            change = f"{value - first:+.4f}" if value != first else ""
            more.append(f"{mean('seconds'):.0f}")
            lines.append(f"| {group} | {variant} | {value:.4f} | {change} | {' | '.join(more)} |")
    for cell in results.get("score_rules", ()):
        lines += ["", f"Class {cell['normal_class']}, seed {cell['seed']}:", ""]
        lines += ["| score | AUROC |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in cell["auroc"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
