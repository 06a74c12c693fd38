"""Parses a command line and a YAML file into a dataclass; the only module that uses jsonargparse.

To find the wrong option, the parser is asked about each option separately; its messages are not
parsed.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin

from jsonargparse import ArgumentParser

from anomaly_tf.config.checked import Checked
from anomaly_tf.config.yaml_files import dotted
from anomaly_tf.errors import OptionError, UserError, as_option
from anomaly_tf.version import VERSION

Options = TypeVar("Options", bound=Checked)

FLAGS = ("--deterministic", "--trust")  # they need no value
ANSWERS = ("help", "version")  # options that print something and end
REFUSALS = (argparse.ArgumentError, TypeError, ValueError, OverflowError)
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class _HyphenParser(ArgumentParser):
    """A parser whose help shows hyphens, as the options are written in the documentation."""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        text = super().format_help(formatter)
        return re.sub(r"--[a-z_.]+", lambda name: name[0].replace("_", "-"), text)

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse hides a full disk and a closed pipe


class OptionParser(Generic[Options]):
    """Parses the fields of a dataclass and a few additional options.

    Args:
        options: The dataclass.
        program: Name of the script, for `--help`.
        description: Description of the script, for `--help`.
        beside: Additional options whose values are text: name to (metavar, help).
        more: A second dataclass, of options of the script itself; see `parse_both`.
        spelling: Function from the dotted name of an option to its form in messages.
    """

    def __init__(
        self,
        options: type[Options],
        program: str = "",
        description: str = "",
        beside: dict[str, tuple[str, str]] | None = None,
        spelling: Callable[[str], str] | None = None,
        more: type[Checked] | None = None,
    ) -> None:
        self._shown = spelling or as_option
        self._records = (options, more) if more else (options,)
        self._beside = beside or {}
        self._types: dict[str, Any] = dict.fromkeys(self._beside, str)
        for record in self._records:
            self._types |= option_types(record)
        self._sections = {name.split(".")[0] for name in self._types if "." in name}
        usage = f"{program} [--OPTION VALUE ...]"
        self._parser = _HyphenParser(
            prog=program,
            usage=usage,
            description=description,
            version=VERSION,
            exit_on_error=False,
        )
        for name, (metavar, explanation) in self._beside.items():
            self._parser.add_argument(f"--{name}", metavar=metavar, help=explanation)
        for record in reversed(self._records):
            self._parser.add_class_arguments(record, as_group=True)

    def parse(
        self, arguments: Sequence[str], values: dict[str, Any] | None = None, file: Any = None
    ) -> tuple[Options, dict[str, str | None]]:
        """Returns the dataclass and the values of the additional options.

        Args:
            arguments: The command line without the program's name; it overrides the file.
            values: Contents of a YAML file.
            file: Name of that file, for messages.

        Raises:
            UserError: If an option is unknown, missing or wrong.
        """
        (options, *_), beside = self.parse_both(arguments, values, file)
        return options, beside

    def parse_both(
        self, arguments: Sequence[str], values: dict[str, Any] | None = None, file: Any = None
    ) -> tuple[list[Any], dict[str, str | None]]:
        """As `parse`; returns a list of both dataclasses and the additional options."""
        values = values or {}
        self._refuse_unknown_keys(values, file)
        self._refuse_missing_values(values)
        values = self._listed(values)
        arguments = _with_underscores(arguments)
        self._refuse_unknown_options(arguments)
        arguments = self._bracketed(arguments)
        try:
            base = self._parser.parse_object(values, defaults=True) if values else None
            parsed = self._parser.parse_args(arguments, namespace=base)
            beside = {name: parsed.pop(name) for name in self._beside}
            options = self._parser.instantiate(parsed)
        except OptionError as error:  # out of the range that the dataclass allows
            raise error.as_user_error(self._shown) from error
        except REFUSALS as error:
            raise self._explained(arguments, values, error) from error
        try:
            return [
                record(**{item.name: options[item.name] for item in dataclasses.fields(record)})
                for record in self._records
            ], beside
        except OptionError as error:
            raise error.as_user_error(self._shown) from error

    def _refuse_unknown_keys(self, values: dict[str, Any], file: Path | None) -> None:
        known = [*self._types, *self._sections, "help"]
        for key in dotted(values):
            if key not in known and file is None:  # a keyword argument
                raise UserError(unknown("option", self._shown(key), map(self._shown, self._types)))
            if key not in known:
                raise UserError(f"{file}: {unknown('key', key, known)}")
            if key in self._sections:
                where = f"{file}: " if file else ""
                raise UserError(f"{where}'{key}' must hold options as 'key: value'")

    def _refuse_missing_values(self, values: dict[str, Any]) -> None:
        """Refuses None, `null` in YAML, for an option that needs a value."""
        for name, value in dotted(values).items():
            hint = self._types.get(name)
            if value is None and hint is not None and type(None) not in get_args(hint):
                raise UserError(f"option {self._shown(name)} {_must_be(hint, 'nothing')}")

    def _refuse_unknown_options(self, arguments: Sequence[str]) -> None:
        known = [*self._types, *self._sections, *ANSWERS]
        for argument in arguments:
            name = argument.removeprefix("--").split("=")[0]
            if argument.startswith("--") and name not in known:
                raise UserError(unknown("option", self._shown(name), map(self._shown, known)))

    def _explained(
        self, arguments: Sequence[str], values: dict[str, Any], refusal: Exception
    ) -> UserError:
        """The error message for the first option that the parser refuses."""
        given = _given(arguments)
        for name, value in [*dotted(values).items(), *given]:
            if name in ANSWERS:
                continue
            option = self._shown(name)
            if value is None and (name, None) in given:
                return UserError(f"option {option} has no value; give it one")
            if name in self._sections:
                return UserError(
                    f"option {option} is a section and takes no value; give one of its options, "
                    f"such as {self._shown(next(x for x in self._types if x.startswith(name)))}"
                )
            if reason := _refused(self._types[name], value):
                return UserError(f"option {option} {reason}")
        there = {*dotted(values), *(name for name, _ in given)}
        for item in (item for record in self._records for item in dataclasses.fields(record)):
            required = item.default is item.default_factory is dataclasses.MISSING
            if required and item.name not in there:
                return UserError(f"option {self._shown(item.name)} is missing; give it a value")
        said = " ".join(str(refusal).split())
        if said.lower().startswith("unrecognized arguments: "):
            word = said.split()[2]
            option = next((name for name in ("data", "run_dir") if name in self._types), "OPTION")
            return UserError(
                f"{word} does not follow an option; give it with one, such as "
                f"{self._shown(option)} {word}"
            )
        return UserError(said)

    def _bracketed(self, arguments: list[str]) -> list[str]:
        """Changes `--seeds 0,1` to `--seeds [0,1]`, for options with several values."""
        several = {f"--{name}": _element(hint) for name, hint in self._types.items()}

        def bracketed(value: str, option: str) -> str:
            if value == "null" and type(None) in get_args(self._types[option.strip("-")]):
                return value
            if str not in alternatives(several[option]):
                return f"[{value}]"
            # Quoted, so that a class named 007 does not become a number.
            return json.dumps([part.strip() for part in value.split(",")])

        changed, before = [], ""
        for argument in arguments:
            name, equals, value = argument.partition("=")
            if several.get(before) and not argument.startswith(("[", "--")):
                argument = bracketed(argument, before)
            elif several.get(name) and equals and not value.startswith("["):
                argument = f"{name}={bracketed(value, name)}"
            changed.append(argument)
            before = argument
        return changed

    def _listed(self, values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        """Changes `normal_class: 0` to `normal_class: [0]`, for options with several values."""
        changed = {}
        for key, value in values.items():
            if isinstance(value, dict):
                value = self._listed(value, f"{prefix}{key}.")
            elif isinstance(value, (int, str)) and _element(self._types.get(f"{prefix}{key}")):
                value = [value]
            changed[key] = value
        return changed


def read_value(hint: Any, value: Any, option: str) -> Any:
    """Reads a value of a type, from YAML or as text of a command line.

    Args:
        hint: The type, of `option_types`.
        value: The value.
        option: Form of the option in messages.

    Raises:
        UserError: If it does not have the type.
    """
    if isinstance(value, (int, str)) and _element(hint) and value != "null":
        value = _parts(value)
    if reason := _refused(hint, value):
        raise UserError(f"option {option} {reason}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--option", type=hint)
    if isinstance(value, str):
        return parser.parse_args([f"--option={value}"]).option
    return parser.parse_object({"option": value}).option


def as_argument(name: str, value: Any) -> str:
    """An option with its value, as an argument of a command line.

    >>> as_argument("networks.filters", (16, 32)), as_argument("folder.cache", True)
    ('--networks.filters=[16, 32]', '--folder.cache=true')
    """
    return f"{as_option(name)}={value if isinstance(value, str) else json.dumps(value)}"


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option that determines how the others are parsed."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument(f"--{option}", nargs="?")
    known, _ = first.parse_known_args(_with_underscores(arguments))
    return getattr(known, option)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name; it suggests the nearest known name."""

    def likeness(candidate: str) -> float:
        # "epoch" is close to "training.epochs": the last part is compared as well as the whole.
        last = re.split(r"\.|__", candidate)[-1].strip("-")
        pairs = ((name.lower(), candidate), (name.lower().strip("-"), last))
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    names = list(known)
    nearest = max(names, key=likeness)
    if likeness(nearest) > 0.6:
        return f"unknown {kind} '{name}'; did you mean '{nearest}'?"
    return f"unknown {kind} '{name}'; " + ("see --help" if len(names) > 10 else f"known: {names}")


def option_types(options: Any, prefix: str = "") -> dict[str, Any]:
    """Maps each dotted option name to its type, in the order of the fields."""
    hints = typing.get_type_hints(options)
    found: dict[str, Any] = {}
    for item in dataclasses.fields(options):
        hint, name = hints[item.name], prefix + item.name
        found |= option_types(hint, f"{name}.") if dataclasses.is_dataclass(hint) else {name: hint}
    return found


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have, except None."""
    is_union = get_origin(hint) in (types.UnionType, typing.Union)
    return tuple(one for one in (get_args(hint) if is_union else (hint,)) if one is not type(None))


def _element(hint: Any) -> Any:
    """The element type of an option with several values; None for a single value."""
    return next((get_args(one)[0] for one in alternatives(hint) if get_origin(one) is tuple), None)


def _refused(hint: Any, value: Any) -> str | None:
    """The reason why a value does not have a type; None if it does."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--option", type=hint)
    try:
        if isinstance(value, str):
            parser.parse_args([f"--option={value}"])
        else:
            parser.parse_object({"option": value})
    except OverflowError:
        return "has a value whose number is too large; give a smaller one"
    except REFUSALS:
        pass
    else:
        return None
    element = _element(hint)
    if element is not None:
        for part in _parts(value):
            if reason := _refused(element, part):
                return reason
        return f"must be a list such as [16,32,64]; got {value}"
    return _must_be(hint, value if value != "" else "nothing")


def _must_be(hint: Any, got: Any) -> str:
    kinds = " or ".join(_kind(one) for one in alternatives(hint))
    return f"must be {kinds}; got {got}"


def _kind(hint: Any) -> str:
    if get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return KINDS.get(hint, str(hint))


def _parts(value: Any) -> list[Any]:
    """The values in `[1, two]`."""
    if isinstance(value, str):
        return [part.strip(" '\"") for part in value.strip("[]").split(",")]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _given(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    """Names and values on a command line; the value is None if it is missing."""
    given: list[tuple[str, str | None]] = []
    for argument, following in pairwise([*arguments, "--"]):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            absent = not equals and following.startswith("--")
            given.append((name, None if absent else value if equals else following))
    return given


def as_keyword(name: str) -> str:
    """The keyword of an option: `training__batch_size` for `training.batch_size`."""
    return name.replace(".", "__")


def _with_underscores(arguments: Sequence[str]) -> list[str]:
    """Changes `--run-dir=a-b` to `--run_dir=a-b`; values are unchanged."""
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
