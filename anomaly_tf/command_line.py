"""Parsing that the commands share: from a command line to typed options, or one error line.

Imports no TensorFlow; `config/parser.py` has the parser itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_tf.approaches.auto.options import AutoConfig
from anomaly_tf.approaches.configs import (
    CONFIG_FOLDER,
    config_file,
    load_config,
    require_approach,
    require_own_options,
    train_options_of,
)
from anomaly_tf.config import Checked, Config
from anomaly_tf.config.parser import ANSWERS, OptionParser, Options, value_of
from anomaly_tf.config.yaml_files import dotted, read_yaml
from anomaly_tf.errors import UserError
from anomaly_tf.program import COMMANDS, program
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.paths import expand_home

__all__ = [
    "TrainOptions",
    "load_config",
    "parse_options",
    "parse_train_options",
    "require_approach",
]

# Options of `train` that are not part of a configuration.
BESIDE = {
    "config": ("FILE", "Your own YAML file of options."),
    "run_dir": ("DIR", "Folder of the run; must be new or empty."),
    "resume": ("RUN", "Resume an interrupted run; the only other option allowed is --data-dir."),
}


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train`.

    Attributes:
        config: Configuration of the training.
        run_dir: Folder of a new run, if one was given.
        resume: Folder of an interrupted run to continue, whose configuration `config` is.
    """

    config: Config
    run_dir: str | None = None
    resume: str | None = None


def parse_train_options(arguments: Sequence[str]) -> TrainOptions:
    """Reads the options of `train`.

    Args:
        arguments: The command line without the program's name.

    Raises:
        UserError: If an option or a configuration file is wrong.
    """
    resume = value_of("resume", arguments)
    if resume and not {"-h", *(f"--{name}" for name in ANSWERS)}.intersection(arguments):
        resume = expand_home(resume)
        return TrainOptions(_config_of_run(Path(resume), arguments), resume=resume)
    (config,), beside, _ = _parsed(arguments, "train", COMMANDS["train"], BESIDE)
    if beside["resume"] is not None:
        raise UserError("option --resume is empty; give the folder of an interrupted run")
    run_dir = beside["run_dir"]
    if run_dir == "":
        raise UserError("option --run-dir is empty; give it a folder or leave it out")
    return TrainOptions(config, expand_home(run_dir) if run_dir else None)


def parse_with_training(
    options: type[Options], name: str, description: str, arguments: Sequence[str]
) -> tuple[Options, Config, set[str]]:
    """Reads the options of a command that trains, its own and those of the trainings.

    Args:
        options: The dataclass of its own options.
        name: Name of the command.
        description: What it does, for `--help`.
        arguments: The command line without the program's name.

    Returns:
        Its own options, the configuration of the trainings, and the dotted names of the options
        that the command line or the file of `--config` gives.

    Raises:
        UserError: As `parse_train_options`.
    """
    beside = {"config": BESIDE["config"]}
    (config, own), _, given = _parsed(arguments, name, description, beside, options)
    return own, config, given


def _parsed(
    arguments: Sequence[str],
    command: str,
    description: str,
    beside: dict[str, tuple[str, str]],
    more: type[Checked] | None = None,
) -> tuple[list[Any], dict[str, str | None], set[str]]:
    """The configuration of a training, and what a command has beside it; names that are given."""
    for name in ("approach", "config"):
        if value_of(name, arguments) == "":
            raise UserError(f"option --{name} is empty; give it a value or leave it out")
    file = _named_file(arguments)
    named = value_of("approach", arguments) or (file and read_yaml(file).get("approach")) or "sota"
    record = train_options_of(named)
    parser = OptionParser(record, program(command), description, beside, more=more)
    source = file or CONFIG_FOLDER / f"{record.approach}.yaml"
    values = {} if record is AutoConfig and file is None else read_yaml(source)
    words = [word[2:].partition("=")[0] for word in arguments if word.startswith("--")]
    given = {name.replace("-", "_") for name in words}
    require_own_options(record, given)
    try:
        require_own_options(record, dotted(values))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    # Under the name of the registry, also if an alias was given.
    arguments = [*arguments, f"--approach={record.approach}"]
    return *parser.parse_both(arguments, values, source), given | {*dotted(values)}


def _config_of_run(folder: Path, arguments: Sequence[str]) -> Config:
    """The configuration of an interrupted run."""
    names = [argument.split("=")[0] for argument in arguments if argument.startswith("--")]
    others = [name for name in names if name not in ("--resume", "--data-dir", "--data_dir")]
    if others:
        raise UserError(
            f"--resume uses the configuration of the run; leave out {', '.join(others)}"
        )
    data_dir = value_of("data_dir", arguments)
    file = RunDirectory(folder).config
    if not file.is_file():
        raise UserError(f"{folder} holds no training to resume (no {file.name}); start a new one")
    return load_config(file, data_dir=data_dir)


def parse_options(
    options: type[Options],
    name: str,
    description: str,
    arguments: Sequence[str],
    takes_file: bool = False,
) -> Options:
    """Reads the options of a script that are the fields of one dataclass.

    Args:
        options: The dataclass.
        name: Name of the program, for `--help`.
        description: What it does, for `--help`.
        arguments: The command line without the program's name.
        takes_file: Whether `--config FILE` gives a YAML file of options.

    Raises:
        UserError: If an option is wrong or missing.
    """
    file = _named_file(arguments) if takes_file else None
    beside = {"config": ("FILE", "A YAML file of these options.")} if takes_file else {}
    parser = OptionParser(options, name, description, beside)
    return parser.parse(arguments, read_yaml(file) if file else {}, file)[0]


def _named_file(arguments: Sequence[str]) -> Path | None:
    name = value_of("config", arguments)
    return config_file(name) if name else None
