"""The file of a search space: options of `train`, each with the values that may be tried.

An option has a range, `{low: 0.01, high: 0.5, log: true}` or with `step`, or a list of choices.
Everything is checked before anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_tf.approaches.configs import require_own_options
from anomaly_tf.config import Config, with_options
from anomaly_tf.config.parser import KINDS, alternatives, option_types, read_value, unknown
from anomaly_tf.config.yaml_files import read_yaml
from anomaly_tf.errors import OptionError, UserError, as_option

# Options, or sections of them, that are the same in all trials, and the reason.
_DATA = "decides which images there are, and values are compared on the same validation images"
_MEASURE = "does not change the order of the scores, by which values are compared"
FIXED = {
    **dict.fromkeys(
        ("protocol", "normal_class", "data", "max_pixels", "roi", "max_broken", "folder"), _DATA
    ),
    **dict.fromkeys(("tile", "overlap", "unseen", "corruption", "contamination"), _DATA),
    "sampling.validation_fraction": _DATA,
    "approach": "decides which options there are; search for one approach after the other",
    "data_dir": _MEASURE,
    "threshold": _MEASURE,
    "deterministic": _MEASURE,
    "seed": "would be a choice by chance; train the result with several seeds instead",
}
KEYS = ("low", "high", "log", "step")
# Ranges with at most this many values are checked value by value, others at their ends.
MAX_CHECKED = 1000
# Combinations with other options that are tried for a value before it is refused.
COMBINATIONS = 100
# Floats represent larger whole numbers inexactly.
MAX_NUMBER = 2**53


@dataclass(frozen=True)
class Range:
    """Numbers that may be tried.

    Attributes:
        low: The smallest; whole for an option that takes whole numbers.
        high: The largest.
        log: Whether they are drawn on a logarithmic scale.
        step: Distance of neighbouring values; None for any number in between.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def count(self) -> float:
        """Number of values, which may be infinite."""
        if self.step is None:
            return math.inf
        return round((self.high - self.low) / self.step) + 1

    def checked(self) -> Iterator[float]:
        """Values by which the range is checked."""
        yield from (self.low, self.high)
        if self.step is not None and self.count <= MAX_CHECKED:
            yield from (self.low + place * self.step for place in range(1, int(self.count) - 1))

    def drawn(self, noise: np.random.Generator) -> float:
        """A value at random, for checks."""
        if self.step is None:
            return float(noise.uniform(self.low, self.high))
        return self.low + int(noise.integers(int(self.count))) * self.step


@dataclass(frozen=True)
class Choices:
    """Values that may be tried.

    Attributes:
        values: The values, by the text that stands for each.
    """

    values: dict[str, Any]

    @property
    def count(self) -> float:
        """Number of values."""
        return len(self.values)

    def checked(self) -> Iterator[Any]:
        """All values."""
        yield from self.values.values()

    def drawn(self, noise: np.random.Generator) -> Any:
        """A value at random, for checks."""
        return list(self.values.values())[int(noise.integers(len(self.values)))]


# Dotted name of each option that is searched, and its values.
Space = dict[str, Range | Choices]


def combinations(space: Space) -> float:
    """Number of combinations of values, which may be infinite."""
    return math.prod(values.count for values in space.values())


def as_text(value: Any) -> str:
    """A value of an option as a user would type it: `16,32`, `true`, `null`, `0.1`."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(as_text, value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def described(values: Range | Choices) -> str:
    """What may be tried, in words: `0.01 to 0.5, logarithmic`."""
    if isinstance(values, Choices):
        return " | ".join(values.values)
    scale = ", logarithmic" if values.log else f", step {values.step}" if values.step else ""
    return f"{values.low} to {values.high}{scale}"


def read_space(path: Path, config: Config, given: Iterable[str] = ()) -> Space:
    """Reads a search space.

    Args:
        path: A YAML file: names of options, in sections or with dots, and their values.
        config: The other options of the trainings, and the defaults of those that are searched.
        given: Names of options that have a value for all trials.

    Raises:
        UserError: If an option does not exist, must not be searched, or is in `given`, or if its
            values are no range and no choices, out of its limits, or fewer than two.
    """
    content = read_yaml(path)
    try:
        return _checked(content, config, set(given))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _checked(content: dict[str, Any], config: Config, given: set[str]) -> Space:
    types = option_types(type(config))
    space: Space = {}
    for name, values in _entries(content, type(config)):
        option = as_option(name)
        if reason := next((FIXED[part] for part in _parts(name) if part in FIXED), None):
            raise UserError(f"option {option} cannot be searched: it {reason}")
        if name in space:
            raise UserError(f"option {option} is there twice; give it once")
        if name in given:
            raise UserError(
                f"option {option} is searched, and given for all trials; leave it out of the space "
                "or of the other options"
            )
        read = _range if isinstance(values, Mapping) else _choices
        space[name] = read(option, types[name], values)
        if space[name].count < 2:
            raise UserError(
                f"option {option} has one value only; give two or more, or leave it out and give "
                "it to the command"
            )
    if not space:
        raise UserError(
            "is empty; give options with their values, such as "
            "'training.learning_rate: {low: 0.0001, high: 0.01, log: true}'"
        )
    _require_possible(space, config)
    return dict(sorted(space.items()))


def _entries(
    content: Mapping[Any, Any], record: type[Config], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted names and values, of which a mapping may be a range."""
    types = option_types(record)
    sections = {name.rpartition(".")[0] for name in types if "." in name}
    for key, value in content.items():
        name = f"{prefix}{key}".replace("-", "_")
        if name in types:
            yield name, value
        elif name in sections and isinstance(value, Mapping):
            yield from _entries(value, record, f"{name}.")
        elif name in sections:
            raise UserError(f"'{name}' is a section; give options of it with their values")
        else:
            require_own_options(record, [name])
            raise UserError(unknown("option", name, types))


def _parts(name: str) -> tuple[str, ...]:
    """An option and its section."""
    return name, name.partition(".")[0]


def _choices(option: str, hint: Any, values: Any) -> Choices:
    if not isinstance(values, list):
        raise UserError(
            f"option {option} has neither a range such as {{low: 1, high: 8}} nor a list of "
            f"choices; got {values}"
        )
    found: dict[str, Any] = {}
    for value in values:
        value = read_value(hint, value, option)
        if as_text(value) in found:
            raise UserError(f"option {option} has the choice {as_text(value)} twice")
        found[as_text(value)] = value
    if not found:
        raise UserError(f"option {option} has no choices; give two or more")
    return Choices(found)


def _range(option: str, hint: Any, values: Mapping[Any, Any]) -> Range:
    for key in values:
        if key not in KEYS:
            raise UserError(f"option {option}: {unknown('key', str(key), KEYS)}")
    for key in ("low", "high"):
        if values.get(key) is None:
            raise UserError(f"option {option} has a range without '{key}'; give it")
    numbers = [one for one in (int, float) if one in alternatives(hint)]
    if not numbers:
        kind = KINDS.get(hint, "no single number")
        raise UserError(f"option {option} is {kind}; give a list of choices, not a range")
    low, high = (_number(option, key, numbers[0], values[key]) for key in ("low", "high"))
    log, step = values.get("log", False), values.get("step")
    if not isinstance(log, bool):
        raise UserError(f"option {option}: 'log' must be true or false; got {log}")
    if step is not None:
        step = _number(option, "step", numbers[0], step)
        if log:
            raise UserError(f"option {option} has a step and a logarithmic scale; give one of them")
        if step <= 0:
            raise UserError(f"option {option}: 'step' must be above 0; got {step}")
    if low > high:
        raise UserError(f"option {option}: 'low' is {low}, above 'high', {high}")
    if log and low <= 0:
        raise UserError(
            f"option {option} has a logarithmic scale, and 'low' must be above 0; got {low}"
        )
    if step is None and numbers[0] is int:
        step = 1
    if step is not None:
        count = (high - low) / step
        if abs(count - round(count)) > 1e-9 * max(1, count):
            last = low + math.floor(count) * step
            raise UserError(
                f"option {option}: 'high' is not 'low' plus a multiple of 'step'; got {high}, and "
                f"the last value before it is {last:.10g}"
            )
    elif low == high:
        step = 1.0  # one value
    return Range(low, high, log, step)


def _number(option: str, key: str, kind: type, value: Any) -> Any:
    """A number of a range."""
    number = read_value(kind, value, f"{option}: '{key}'")
    if not abs(number) <= MAX_NUMBER:
        raise UserError(f"option {option}: '{key}' must be at most 2^53; got {number}")
    return number


def _require_possible(space: Space, config: Config) -> None:
    """Refuses a value that no combination with the other options accepts."""
    for name, values in space.items():
        for value in values.checked():
            refusal = _refusal(config, {name: value})
            if refusal and not _some_accept(space, config, name, value):
                raise UserError(str(refusal.as_user_error()))


def _some_accept(space: Space, config: Config, name: str, value: Any) -> bool:
    others = {other: values for other, values in space.items() if other != name}
    noise = np.random.default_rng(0)
    return bool(others) and any(
        _refusal(
            config, {other: values.drawn(noise) for other, values in others.items()} | {name: value}
        )
        is None
        for _ in range(COMBINATIONS)
    )


def _refusal(config: Config, values: Mapping[str, Any]) -> OptionError | None:
    """The reason why a configuration does not accept some values; None if it does."""
    try:
        with_options(config, values)
    except OptionError as error:
        return error
    return None
