"""The reference of the command line, from the options' own docstrings.

In a page, `% options: evaluate` stands for the options of a command, `% approaches` for a section
with each approach's own options of `train`, `% public names` for the Python API, and
`% fields of detector.json` for a table of its fields.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, get_args, get_origin
from unittest.mock import patch

import docstring_parser
from docstring_parser import DocstringStyle
from sphinx.application import Sphinx

import anomaly_tf
from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.approaches.auto.options import AUTO
from anomaly_tf.benchmark import BenchmarkOptions
from anomaly_tf.command_line import BESIDE
from anomaly_tf.config import Config
from anomaly_tf.errors import as_option
from anomaly_tf.runs.detector_info import SECTIONS, DetectorInfo

PLACEHOLDER = re.compile(
    r"^% (options: (?P<command>\w+)|approaches|public names|fields of detector\.json)$",
    re.MULTILINE,
)
VALUES = {int: "N", float: "X", bool: "{true,false}", str: "TEXT"}


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: As a user types it.
        values: What it takes, in short.
        default: Its default; MISSING if it must be given.
        meaning: From the docstring, with its range.
    """

    name: str
    values: str
    default: Any
    meaning: str

    def described(self, default: str | None = None) -> str:
        """The option as a directive in Markdown."""
        if default is None and self.default not in (None, dataclasses.MISSING):
            default = f"Default: `{_shown(self.default)}`."
        required = "Required." if self.default is dataclasses.MISSING else ""
        text = " ".join(part for part in (self.meaning, required, default) if part)
        return f"```{{option}} {self.name} {self.values}\n\n{text}\n```\n"


def command_module(command: str) -> ModuleType:
    """The module of a command."""
    return import_module(f"anomaly_tf.cli.{command}")


def options_in(record: type[Any], prefix: str = "") -> Iterator[Option]:
    """The options that a dataclass and its sections stand for."""
    hints, meanings = typing.get_type_hints(record), _meanings(record)
    for item in dataclasses.fields(record):
        hint, default = hints[item.name], item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if dataclasses.is_dataclass(default):
            changed = dataclasses.asdict(default)
            for option in options_in(type(default), f"{prefix}{item.name}."):
                key = option.name.rpartition(".")[2].replace("-", "_")
                yield dataclasses.replace(option, default=changed.get(key, option.default))
            continue
        name = as_option(f"{prefix}{item.name}")
        meaning = _as_markdown(meanings.get(item.name, ""))
        if limits := _limits(item.metadata):
            meaning = f"{meaning} {limits}"
        yield Option(name, _values(hint), default, meaning)


def command_options(command: str) -> str:
    """All options of a command, in Markdown."""
    lines = [f"```{{program}} anomaly-tf {command}\n```\n"]
    if hasattr(command_module(command), "parse"):
        return "\n".join([*lines, *_of_parser(_parser_of(command))])
    if command == "train":
        lines += [
            _beside(f"{as_option(name)} {metavar}", meaning)
            for name, (metavar, meaning) in BESIDE.items()
        ]
        own = {
            name: {o.name: o.default for o in options_in(options_of(name))} for name in APPROACHES
        }
        for option in options_in(Config):
            defaults = {_shown(o[option.name]) for o in own.values() if option.name in o}
            if option.name == "--approach":
                values = _choices([AUTO, *APPROACHES])
                option = dataclasses.replace(option, values=values, default="sota")
                lines.append(option.described())
            else:
                several = "Default: depends on the approach." if len(defaults) > 1 else None
                lines.append(option.described(several))
        return "\n".join(lines)
    if command == "benchmark":
        lines.append(_beside("--config FILE", "A YAML file of these options."))
        record = BenchmarkOptions
    else:
        record = getattr(command_module(command), f"{command.title()}Options")
    return "\n".join([*lines, *(option.described() for option in options_in(record))])


def approach_sections() -> str:
    """A section for each approach: what it learns from, its own options, its other defaults."""
    common = {option.name: option for option in options_in(Config)}
    parts = []
    for name in APPROACHES:
        record = options_of(name)
        summary = (inspect.getdoc(record) or "").splitlines()[0].removeprefix("Configuration of ")
        protocols = ", ".join(f"`{protocol}`" for protocol in record.protocols)
        own = {option.name: option for option in options_in(record)}
        parts.append(
            f"## `--approach {name}`\n\n{summary[0].upper()}{summary[1:]} Learns from "
            f"{record.learns_from}; protocols: {protocols}.\n"
        )
        different = [
            f"`{option.name} {_shown(option.default)}`"
            for option in own.values()
            if option.name in common
            and option.name not in ("--approach", "--protocol")
            and option.default != common[option.name].default
        ]
        if different:
            parts.append(f"Defaults of its own: {', '.join(different)}.\n")
        parts.append("| option | default | meaning |\n|---|---|---|")
        for option in own.values():
            if option.name not in common:
                default = "" if option.default is None else f"`{_shown(option.default)}`"
                parts.append(f"| `{option.name}` | {default} | {option.meaning} |")
        parts.append("")
    return "\n".join(parts)


def public_names() -> str:
    """A section for each public name of the package, filled by autodoc."""
    order = ["train", "Detector", "AnomalyDetector"]
    names = [name for name in order if name in anomaly_tf.__all__]
    names += [name for name in anomaly_tf.__all__ if name not in order]
    parts = []
    for name in names:
        found = getattr(anomaly_tf, name)
        kind = "class" if inspect.isclass(found) else "function" if callable(found) else "data"
        members = "\n   :members:" if kind == "class" else ""
        if inspect.isabstract(found):
            members += "\n   :inherited-members: ABC"
        directive = f".. auto{kind}:: anomaly_tf.{name}{members}"
        parts.append(f"## `{name}`\n\n```{{eval-rst}}\n{directive}\n```\n")
    return "\n".join(parts)


def metadata_fields() -> str:
    """A table of what `detector.json` holds."""
    lines = ["| field | meaning |\n|---|---|"]
    for name, meaning in _meanings(DetectorInfo).items():
        if name in SECTIONS:
            lines += [
                f"| `{name}.{field}` | {_cell(text)} |"
                for field, text in _meanings(SECTIONS[name]).items()
            ]
        elif name != "others":
            lines.append(f"| `{name}` | {_cell(meaning)} |")
    return "\n".join(lines)


PAGES = {
    "approaches": approach_sections,
    "public names": public_names,
    "fields of detector.json": metadata_fields,
}


def fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    """Replaces the placeholders of a page; Sphinx calls it before the page is read."""

    def filled(match: re.Match[str]) -> str:
        if match["command"]:
            return command_options(match["command"])
        return PAGES[match[1]]()

    source[0] = PLACEHOLDER.sub(filled, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("source-read", fill_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _beside(option: str, meaning: str) -> str:
    return f"```{{option}} {option}\n\n{_as_markdown(meaning)}\n```\n"


def _parser_of(command: str) -> argparse.ArgumentParser:
    module = command_module(command)
    with patch.object(argparse.ArgumentParser, "parse_args", lambda parser, _: parser):
        return module.parse([])


def _of_parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if not action.option_strings:
            yield _beside(str(action.metavar), _sentence(action))
        elif action.help and action.dest not in ("help", "version"):
            values = action.metavar or action.dest.upper()
            if action.choices:
                values = _choices(action.choices)
            name = action.option_strings[0] + (f" {values}" if action.nargs != 0 else "")
            yield _beside(name, _sentence(action))


def _sentence(action: argparse.Action) -> str:
    """The help of an argument as a sentence."""
    text = action.help or ""
    return f"{text[:1].upper()}{text[1:]}."


def _meanings(record: type[Any]) -> dict[str, str]:
    """Name to meaning of the fields, those of the base classes included."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if dataclasses.is_dataclass(base) and base.__doc__:
            for item in docstring_parser.parse(base.__doc__, style=DocstringStyle.GOOGLE).params:
                found[item.arg_name] = " ".join((item.description or "").split())
    return found


def _as_markdown(text: str) -> str:
    """Words of a docstring in Markdown: options as code, no letter taken for markup."""
    parts = text.split("`")
    for place in range(0, len(parts), 2):
        escaped = re.sub(r"([*_<>\[\]])", r"\\\1", parts[place])
        parts[place] = re.sub(r"(?<![\w-])(--[a-z][a-z\\_.-]*[a-z])", _as_code, escaped)
    return "`".join(parts)


def _cell(text: str) -> str:
    return _as_markdown(text).replace("|", r"\|")


def _as_code(match: re.Match[str]) -> str:
    return "`" + match[1].replace("\\", "").replace("_", "-") + "`"


def _limits(metadata: Any) -> str:
    if "low" not in metadata:
        return ""
    low, high = metadata["low"], metadata["high"]
    start = f"Above {low:g}" if metadata["above"] else f"From {low:g}"
    return f"{start}." if high == float("inf") else f"{start} to {high:.10g}."


def _values(hint: Any) -> str:
    """What an option takes, in short: `N`, `{a,b}`, `X,X,...`."""
    alternatives = [one for one in get_args(hint) if one is not type(None)]
    if get_origin(hint) is Literal:
        return _choices(get_args(hint))
    if get_origin(hint) is tuple:
        element = _values(get_args(hint)[0])
        return f"{element},..."
    if alternatives:
        kinds = [_values(one) for one in alternatives]
        return "TEXT" if "TEXT" in kinds else kinds[0]
    return VALUES.get(hint, "VALUE")


def _choices(values: Iterable[Any]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _shown(value: Any) -> str:
    """A default as a user would type it."""
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
