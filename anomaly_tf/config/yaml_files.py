"""YAML files of options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from anomaly_tf.errors import UserError

# The largest file in configs/ has 3 KB; parsing a megabyte takes seconds.
MAX_BYTES = 2**20
MAX_DIGITS = 40


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, with which a few lines can expand beyond memory, and huge numbers."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"*{event.anchor} is an alias, write its value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Parses an integer; refuses more digits than any option takes, and base 60."""
        if len(node.value) > MAX_DIGITS or ":" in node.value:
            problem = f"{node.value[:20]}... is not a whole number that an option takes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_yaml_int(node)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        UserError: If the file cannot be read or does not hold a mapping.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise UserError(
                f"{path} has more than {MAX_BYTES // 2**20} MB; give a YAML file of options"
            )
        content = yaml.load(text.decode("utf-8"), _PlainLoader)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give an existing YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file; give a YAML file") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or "not YAML"
        raise UserError(f"{path}{place} is broken YAML ({problem}); correct it there") from error
    except Exception as error:  # PyYAML raises various errors on values of a wrong type
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(
            f"{path} is broken YAML ({' '.join(str(reason).split())}); correct it"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold options as 'key: value'; got a {type(content).__name__}")
    return content


def dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens `{"training": {"epochs": 3}}` to `{"training.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= dotted(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
