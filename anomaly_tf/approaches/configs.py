"""Configuration of an approach, from a run's file or from keyword arguments.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.approaches import ALIASES, APPROACHES, options_of
from anomaly_tf.approaches.auto.options import AUTO, AutoConfig
from anomaly_tf.config import Config, flatten
from anomaly_tf.config.parser import OptionParser, as_keyword, unknown
from anomaly_tf.config.yaml_files import dotted, read_yaml
from anomaly_tf.errors import UserError, as_option
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.paths import user_path

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside an installed package, or beside it in a checkout.
CONFIG_FOLDER = next(
    folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()
)


def require_approach(name: Any, others: tuple[str, ...] = ()) -> str:
    """The name of an approach in the registry.

    Args:
        name: Its name or an alias.
        others: Further names to suggest.

    Raises:
        UserError: If there is no such approach; the message suggests the nearest.
    """
    own = ALIASES.get(name, name) if isinstance(name, str) else None
    if own not in APPROACHES:
        raise UserError(unknown("approach", str(name), [*APPROACHES, *ALIASES, *others]))
    return own


def train_options_of(name: Any) -> type[Config]:
    """The dataclass of the options of a training.

    Args:
        name: Name of an approach, an alias, or `auto`.

    Raises:
        UserError: As `require_approach`.
    """
    return AutoConfig if name == AUTO else options_of(require_approach(name, (AUTO,)))


def require_own_options(record: type[Config], names: Iterable[str]) -> None:
    """Refuses options that other approaches have; unknown names are left to the parser.

    Args:
        record: The dataclass of the options.
        names: Dotted names of the given options.

    Raises:
        UserError: If there is such an option.
    """
    own = flatten(record())
    for name in names:
        if name in own:
            continue
        having = [one for one in APPROACHES if name in flatten(options_of(one)())]
        if having:
            remedy = "name the approach" if record is AutoConfig else "choose another approach"
            raise UserError(
                f"approach {record.approach} has no option {as_option(name)}, which is one of "
                f"{', '.join(having)}; leave it out or {remedy}"
            )


def config_file(name: str) -> Path:
    """The YAML file that a user names: an own file, or else `configs/...` of this package."""
    path = user_path(name)
    shipped = CONFIG_FOLDER.parent / path
    if path.parts[:1] == (CONFIG_FOLDER.name,) and not path.exists() and shipped.is_file():
        return shipped
    return path


def load_config(
    path: Path, data: str | None = None, data_dir: str | None = None, roi: str | None = None
) -> Config:
    """Reads the configuration that a run was trained with.

    Args:
        path: `config.yaml` of the run.
        data: Another source of the same data, if one is given.
        data_dir: Another folder for cached data, if one is given.
        roi: Another location of the same masks, if one is given.

    Raises:
        UserError: If the file is not a configuration.
    """
    path = user_path(path)
    values = read_yaml(path)
    try:
        approach = require_approach(values.get("approach"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    config = OptionParser(options_of(approach)).parse([], values, path)[0]
    return dataclasses.replace(
        config,
        data=data or config.data,
        data_dir=data_dir or config.data_dir,
        roi=roi or config.roi,
    )


def foreign_cache(run: str | None, data_dir: str | None) -> Path | None:
    """The cache folder of a run's configuration, unless the user named one.

    Args:
        run: Folder of the run.
        data_dir: The folder that the user named, if any.
    """
    file = RunDirectory(Path(run or ".")).config
    if run is None or data_dir is not None or not file.is_file():
        return None
    named = read_yaml(file).get("data_dir", Config.data_dir)
    inside = Path(str(named)).resolve().is_relative_to(Path(run).resolve())
    return None if named == Config.data_dir or inside else Path(str(named))


def config_of(approach: str, options: Mapping[str, Any]) -> Config:
    """The configuration of an approach from keyword arguments.

    Args:
        approach: Its name, an alias, or `auto`.
        options: Option names to values. An option of a section is given with two underscores
            (`training__epochs`), with a dot, or in a dictionary (`{"training": {...}}`).

    Raises:
        UserError: A `ValueError`; if there is no such approach or option (the message suggests the
            nearest name), or a value is wrong.
    """
    record = train_options_of(approach)
    require_own_options(record, (name.replace("__", ".") for name in dotted(dict(options))))
    parser = OptionParser(record, spelling=as_keyword)
    return parser.parse([], _nested(options) | {"approach": record.approach})[0]


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Changes `{"training__epochs": 3}` to `{"training": {"epochs": 3}}`, with plain values.

    Raises:
        UserError: If an option is given twice.
    """
    nested: dict[str, Any] = {}
    for key, value in dotted({name: _plain(value) for name, value in options.items()}).items():
        *sections, name = key.replace("__", ".").split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"option {section} is given twice; give it once")
        if name in place:
            raise UserError(f"option {as_keyword(key)} is given twice; give it once")
        place[name] = value
    return nested


def _plain(value: Any) -> Any:
    """Converts NumPy numbers, paths and tuples to the plain types of YAML."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value
