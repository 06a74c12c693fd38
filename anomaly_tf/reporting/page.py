"""The frame that all pages share: templates, and figures as pictures inside the page.

A page is one file that loads nothing. Every text is escaped: names of classes and files may contain
any characters. Pages and figures follow the reader's choice of light or dark.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from anomaly_tf.reporting.plots import ANOMALY, COLOURS, LINE, NORMAL
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.script import printable

# Colours of figures on a light ground, and on a dark one; others are the same on both.
DARK = {
    "#ffffff": "#14171b",
    "#000000": "#e6e9ee",
    LINE: "#c3c9d2",
    "#808080": "#9aa3af",
    **dict.fromkeys(("#b0b0b0", "#cccccc"), "#4a515b"),
    **dict(
        zip(
            COLOURS,
            (
                *("#6cb2f0", "#ff9a63", "#69c97c", "#f08ac6", "#b79cf5"),
                *("#d3a093", "#5fd0e0", "#aab2bd", "#e0c04a", "#ff8fb0"),
            ),
            strict=True,
        )
    ),
    NORMAL: "#6cb2f0",
    ANOMALY: "#ff9a63",
}
# Text stays text in the reader's font; as outlines it would be most of the page. The fixed salt
# gives equal figures equal bytes.
VECTOR: Any = {"svg.fonttype": "none", "svg.hashsalt": "anomaly_tf", "font.family": "sans-serif"}

# Strongest shade of a cell, in per cent; the text stays readable on it.
MAX_SHADE = 45


class Picture(NamedTuple):
    """A figure of a page.

    Attributes:
        caption: What it is, above the figure.
        alt: What it shows, in words, for readers who do not see it.
        source: A data URL.
    """

    caption: str
    alt: str
    source: str


class Drawing(NamedTuple):
    """A figure that is not drawn yet; `caption` and `alt` as in `Picture`."""

    caption: str
    alt: str
    draw: Callable[[], Figure]


def drawn(drawings: list[Drawing]) -> tuple[list[Picture], list[str]]:
    """Draws figures.

    Returns:
        The figures, and a line for each that could not be drawn and is left out.
    """
    pictures, failures = [], []
    for caption, alt, draw in drawings:
        try:
            pictures.append(Picture(caption, alt, embedded(draw())))
        except Exception as error:  # must not prevent the page
            failures.append(f"plot {caption!r} was not drawn ({type(error).__name__}: {error})")
    return pictures, failures


def embedded(figure: Figure) -> str:
    """Converts a figure to a data URL of SVG whose colours follow the reader's choice."""
    buffer = io.StringIO()
    with matplotlib.rc_context(VECTOR):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Type")))
    svg = re.sub(r"#[0-9a-f]{6}\b", _as_variable, buffer.getvalue())
    svg = svg.replace("<defs>", f"<style>{_colour_rules()}</style><defs>", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _as_variable(match: re.Match[str]) -> str:
    return f"var(--{match[0][1:]})" if match[0] in DARK else match[0]


@cache
def _colour_rules() -> str:
    light = ";".join(f"--{colour[1:]}:{colour}" for colour in DARK)
    dark = ";".join(f"--{colour[1:]}:{other}" for colour, other in DARK.items())
    text = "text{fill:var(--000000)}"  # which has no colour of its own
    return f":root{{{light}}}{text}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


class TableCell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: What it says.
        level: Strength of its shade in per cent; None without one.
        detail: A second line.
    """

    text: str
    level: int | None = None
    detail: str = ""


def shaded(value: float | None, digits: int = 4) -> TableCell:
    """A cell for a value from 0 to 1, shaded by how near to 1 it is.

    The scale is logarithmic in the distance from 1, from .5 to .999: the steps from .9 to .99 and
    from .99 to .999 are equally large.
    """
    if value is None:
        return TableCell("")
    share = math.log10(0.5 / max(1 - value, 0.001)) / math.log10(500)
    return TableCell(f"{value:.{digits}f}", round(MAX_SHADE * min(1.0, max(0.0, share))))


def render(template: str, values: Mapping[str, Any]) -> str:
    """Renders a template of this folder; every value is escaped.

    Args:
        template: Name of its file.
        values: Values by name; one that the template uses and that is missing is an error.
    """
    return _environment().get_template(template).render(values)


def write_page(template: str, values: Mapping[str, Any], path: Path) -> None:
    """Renders a template into a file, which is written whole or not at all."""
    page = render(template, values)
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("anomaly_tf.reporting", "."),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: Any) -> Any:
    """Escapes invisible characters of a text, such as those that change its direction."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return printable(value)
