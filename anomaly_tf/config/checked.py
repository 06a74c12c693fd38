"""Range checks for options: the base class of every dataclass of options."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from anomaly_tf.errors import OptionError
from anomaly_tf.runs.paths import expand_home


def number(default: Any, low: float, high: float = float("inf"), *, above: bool = False) -> Any:
    """A dataclass field whose value (or every element of it) must lie in `[low, high]`.

    Args:
        default: Default value: a number, a tuple of numbers, or None, which is not checked.
        low: Smallest allowed value.
        high: Largest allowed value.
        above: If True, `low` itself is excluded.
    """
    return field(default=default, metadata={"low": low, "high": high, "above": above})


@dataclass(frozen=True)
class Checked:
    """Base of the configuration dataclasses; checks the ranges declared by `number`.

    A string that begins with `~` is a path; `~` is expanded to the home folder.
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value == "":
                self._refuse(item.name, "is empty; give it a value or leave it out")
            if isinstance(value, str):
                object.__setattr__(self, item.name, expand_home(value))
            if "low" not in item.metadata:
                continue
            low, high, above = (item.metadata[key] for key in ("low", "high", "above"))
            if value is None:
                continue
            for part in value if isinstance(value, tuple) else (value,):
                # math.isinf raises OverflowError for very large integers.
                infinite = abs(part) == math.inf
                if not low <= part <= high or (above and part == low) or infinite:
                    bound = f"above {low:g}" if above else f"at least {low:g}"
                    limit = " and finite" if infinite else ""
                    limit = limit if math.isinf(high) else f" and at most {high:.10g}"
                    self._refuse(item.name, f"must be {bound}{limit}; got {part}")
            if value == ():
                self._refuse(item.name, "must hold at least one value; got none")

    def _refuse(self, name: str, reason: str) -> None:
        raise OptionError(f"{self.section}{name}", reason)
