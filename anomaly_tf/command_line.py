"""From a command line to a typed configuration, or to one line that says what is wrong."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, Namespace

from anomaly_tf.approaches import ALIASES, APPROACHES, options_of
from anomaly_tf.config import Checked, Config
from anomaly_tf.errors import OptionError, UserError
from anomaly_tf.runs.directory import RunDirectory

FLAGS = ("--deterministic", "--trust")  # they need no value
CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"

Options = TypeVar("Options", bound=Checked)


@dataclass(frozen=True)
class TrainOptions:
    """What the command line of `train.py` asks for.

    Attributes:
        config: What to train.
        run_dir: Folder of a new run, if one was given.
        resume: Folder of an interrupted run to go on with, whose configuration `config` is.
    """

    config: Config
    run_dir: str | None = None
    resume: str | None = None


def parse_train_options(arguments: Sequence[str]) -> TrainOptions:
    """Reads the options of `train.py`.

    Args:
        arguments: The command line without the program's name.

    Raises:
        UserError: If an option or a configuration file is wrong.
    """
    resume = _value_of("resume", arguments)
    if resume:
        return TrainOptions(_config_of_run(Path(resume), arguments), resume=resume)
    file = _named_file(arguments)
    approach = (
        _value_of("approach", arguments) or (file and read_yaml(file).get("approach")) or "sota"
    )
    approach = require_approach(approach)
    parser = _parser("train.py", "Trains a detector and writes its run directory.")
    parser.add_argument("--config", metavar="FILE", help="Your own YAML file of options.")
    parser.add_argument("--run_dir", metavar="DIR", help="Folder of the run; must be new or empty.")
    parser.add_argument(
        "--resume", metavar="RUN", help="Go on with an interrupted run, instead of all the others."
    )
    parser.add_class_arguments(options_of(approach), as_group=True)
    source = file or CONFIG_FOLDER / f"{approach}.yaml"
    options = _parse(parser, arguments, read_yaml(source) | {"approach": approach}, source)
    run_dir = options.pop("run_dir")
    options.pop("config")
    if options.pop("resume", None) is not None:
        raise UserError("option --resume is empty; give the folder of an interrupted run")
    options["approach"] = approach  # under its own name, whichever it was called by
    return TrainOptions(_build(options_of(approach), parser, options), run_dir)


def _config_of_run(folder: Path, arguments: Sequence[str]) -> Config:
    """The configuration of an interrupted run."""
    names = [argument.split("=")[0] for argument in arguments if argument.startswith("--")]
    others = [name for name in names if name != "--resume"]
    if others:
        raise UserError(
            f"--resume goes on with the configuration of the run; leave out {', '.join(others)}"
        )
    file = RunDirectory(folder).config
    if not file.is_file():
        raise UserError(
            f"{folder} holds no training to go on with (no {file.name}); start a new one"
        )
    return load_config(file)


def require_approach(name: Any) -> str:
    """The name under which an approach is kept.

    Raises:
        UserError: If there is none; the message suggests the nearest.
    """
    own = ALIASES.get(name, name) if isinstance(name, str) else None
    if own not in APPROACHES:
        raise UserError(_unknown("approach", str(name), [*APPROACHES, *ALIASES]))
    return own


def load_config(path: Path) -> Config:
    """Reads the configuration that a run was trained with.

    Raises:
        UserError: If the file is not a configuration.
    """
    values = read_yaml(path)
    try:
        approach = require_approach(values.get("approach"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    parser = _parser("", "")
    parser.add_class_arguments(options_of(approach), as_group=True)
    return _build(options_of(approach), parser, _parse(parser, [], values, path))


def parse_options(
    options: type[Options],
    program: str,
    description: str,
    arguments: Sequence[str],
    takes_file: bool = False,
) -> Options:
    """Reads the options of a script that are the fields of one dataclass.

    Args:
        options: The dataclass.
        program: Name of the script.
        description: What it does, for `--help`.
        arguments: The command line without the program's name.
        takes_file: Whether `--config FILE` gives a YAML file of options.

    Raises:
        UserError: If an option is wrong or missing.
    """
    parser = _parser(program, description)
    file = None
    if takes_file:
        parser.add_argument("--config", metavar="FILE", help="A YAML file of these options.")
        file = _named_file(arguments)
    parser.add_class_arguments(options, as_group=True)
    values = read_yaml(file) if file else {}
    parsed = _parse(parser, arguments, values, file)
    parsed.pop("config", None)
    return _build(options, parser, parsed)


class _WithoutAliases(yaml.SafeLoader):
    """Refuses aliases, by which a few lines stand for more than memory holds, or for themselves."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"*{event.anchor} stands for something else, write that out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        UserError: If the file cannot be read or is not such a file.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), _WithoutAliases)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give an existing YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file; give a YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{path}{place} is broken YAML ({problem}); mend it there") from error
    except Exception as error:  # what PyYAML raises on values that do not fit their kind
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is broken YAML ({reason}); mend it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold options as 'key: value'; got a {type(content).__name__}")
    return content


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option that decides how the others are read."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument(f"--{option}", nargs="?")
    known, _ = first.parse_known_args(_underscored(arguments))
    return getattr(known, option)


def _named_file(arguments: Sequence[str]) -> Path | None:
    name = _value_of("config", arguments)
    return Path(name) if name else None


class _Parser(ArgumentParser):
    """A parser whose help shows hyphens, as the options are written in the documentation."""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        text = super().format_help(formatter)
        return re.sub(r"--[a-z_.]+", lambda name: name[0].replace("_", "-"), text)


def _parser(program: str, description: str) -> ArgumentParser:
    usage = f"{program} [--OPTION VALUE ...]"
    return _Parser(prog=program, usage=usage, description=description, exit_on_error=False)


def _parse(
    parser: ArgumentParser, arguments: Sequence[str], values: dict[str, Any], file: Path | None
) -> Namespace:
    """Parses `arguments` on top of `values`; `file` is where the values came from."""
    known = [
        option.removeprefix("--")
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    ]
    sections = {key.split(".")[0] for key in known if "." in key}
    for key in _dotted_keys(values):
        if key not in known:
            raise UserError(f"{file}: {_unknown('key', key, known)}")
        if key in sections:
            raise UserError(f"{file}: '{key}' must hold options as 'key: value'")
    values = _listed(values, _types(parser))
    arguments = _underscored(arguments)
    for argument in arguments:
        name = argument.removeprefix("--").split("=")[0]
        if argument.startswith("--") and name not in known:
            options = [f"--{option}".replace("_", "-") for option in known]
            raise UserError(_unknown("option", f"--{name}".replace("_", "-"), options))
    arguments = _bracketed(arguments, parser)
    try:
        base = parser.parse_object(values, defaults=True) if values else None
        return parser.parse_args(arguments, namespace=base)
    except OverflowError as error:
        raise UserError(f"an option's number is too large ({error}); give a smaller one") from error
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(_one_line(str(error))) from error


def _build(options: type[Options], parser: ArgumentParser, values: Namespace) -> Options:
    """Makes the dataclass, whose range checks raise `ValueError`."""
    try:
        made = parser.instantiate(values)
        return options(**{item.name: made[item.name] for item in dataclasses.fields(options)})
    except OptionError as error:
        raise error.as_user_error() from error


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list such as [16,32,64]",
}


def _one_line(message: str) -> str:
    """The parser's message on a value of the wrong type, shortened to one line."""
    message = " ".join(message.split()).split(" - Parser key")[0]
    # A value that may also be absent: what it should be, if it is there.
    message = re.sub(
        r"Does not validate against any of the Union subtypes .*? Errors: - (.*?) - Expected a "
        r"<class 'NoneType'>.*",
        r"\1",
        message,
    )
    wrong = re.fullmatch(r'Parser key "(.+?)": Expected an? (.+?)\. Got value: ?(.*)', message)
    if wrong:
        name, kind, value = wrong.groups()
        kind = re.sub(r"<class '(.+)'>|typing\.", lambda found: found[1] or "", kind)
        kind = re.sub(r"Literal\[(.+)\]", r"one of \1", kind)
        name = name.replace("_", "-")
        return f"option --{name} must be {KINDS.get(kind, kind)}; got {value or 'nothing'}"
    missing = re.search(r"arguments are required: (\S+)", message)
    if missing:
        return f"option --{missing[1].replace('_', '-')} is missing; give it a value"
    return re.sub(r'Parser key "(.+?)":', r"option --\1:", message)


def _underscored(arguments: Sequence[str]) -> list[str]:
    """`--run-dir=a-b` as `--run_dir=a-b`; values stay as they are."""
    changed = []
    for index, argument in enumerate(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else "--"
        name, equals, value = argument.partition("=")
        if name in FLAGS and not equals and following.startswith("--"):
            equals, value = "=", "true"  # a flag, as well as an option with a value
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
        changed.append(name + equals + value)
    return changed


def _bracketed(arguments: list[str], parser: ArgumentParser) -> list[str]:
    """`--seeds 0,1` as `--seeds [0,1]`, for the options that hold several values."""
    several = {
        f"--{name}": hint for name, hint in _types(parser).items() if "tuple[" in hint.lower()
    }

    def bracketed(value: str, option: str) -> str:
        if "str" not in several[option]:
            return f"[{value}]"
        # In quotes, or a class called 007 would become a number.
        return json.dumps([part.strip() for part in value.split(",")])

    changed, before = [], ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if before in several and not argument.startswith(("[", "--")):
            argument = bracketed(argument, before)
        elif name in several and equals and not value.startswith("["):
            argument = f"{name}={bracketed(value, name)}"
        changed.append(argument)
        before = argument
    return changed


def _types(parser: ArgumentParser) -> dict[str, str]:
    """Option name, dots and underscores, to its type in words."""
    return {
        option.removeprefix("--"): str(getattr(action, "_typehint", ""))
        for action in parser._actions
        for option in action.option_strings
    }


def _listed(values: dict[str, Any], types: dict[str, str], prefix: str = "") -> dict[str, Any]:
    """`normal_class: 0` of a file as `normal_class: [0]`, for options that hold several values."""
    changed = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = _listed(value, types, f"{prefix}{key}.")
        elif isinstance(value, (int, str)) and "tuple[" in types.get(prefix + str(key), "").lower():
            value = [value]
        changed[key] = value
    return changed


def _dotted_keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        keys += _dotted_keys(value, f"{name}.") if isinstance(value, dict) else [name]
    return keys


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""

    def likeness(candidate: str) -> float:
        # "epoch" is near to "training.epochs": the last part counts as much as the whole.
        pairs = ((name, candidate), (name.strip("-"), candidate.split(".")[-1].strip("-")))
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    names = list(known)
    nearest = max(names, key=likeness)
    if likeness(nearest) > 0.6:
        return f"unknown {kind} '{name}'; did you mean '{nearest}'?"
    return f"unknown {kind} '{name}'; " + ("see --help" if len(names) > 9 else f"known: {names}")
