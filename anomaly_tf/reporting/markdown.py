"""Texts in Markdown that show every name literally."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from anomaly_tf.script import printable


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """A table: the head, a row of dashes, and the other rows."""
    return "\n".join("| " + " | ".join(map(inert, row)) + " |" for row in rows)


def code(text: str) -> str:
    """Formats text as code in Markdown, also if it contains backticks."""
    text = printable(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{space}{text}{space}{fence}"


def inert(text: str) -> str:
    """Escapes HTML, links, images and column separators in Markdown, except in code."""
    if re.fullmatch(r"`[^`<>|]*`(, on classes seen in training)?", text):
        return text
    shown = html.escape(printable(text), quote=False)
    return re.sub(r"([\\`\[\]|!])", r"\\\1", shown)
