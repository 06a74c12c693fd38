"""Names of folders, classes and files in plots, which may contain any characters.

matplotlib interprets `$` as mathematics, breaks lines at control characters, warns about characters
that its font lacks, and lets a long name extend beyond the plot.
"""

from __future__ import annotations

import textwrap
import unicodedata
from functools import cache

from matplotlib.font_manager import findfont, get_font

from anomaly_tf.script import printable

# Characters of a name on one line, and of a caption of a small image.
LONG, SHORT = 40, 17


def plain(text: str, length: int = LONG) -> str:
    """Converts a text so that matplotlib shows it literally, on one line.

    Args:
        text: Any text.
        length: Largest number of characters; the middle of a longer text is omitted.

    Returns:
        The text, with characters that are not visible or not in the font escaped as in Python.
    """
    # An accented letter may consist of two characters; the font has only the composed one.
    letters = [_drawn(letter) for letter in unicodedata.normalize("NFC", text)]
    if sum(map(len, letters)) > length:
        end = _fitting(letters[::-1], (length - 1) // 2)[::-1]
        letters = [*_fitting(letters, length // 2), "\u2026", *end]
    return "".join(letters).replace("$", r"\$")


def caption(text: str, lines: int = 2) -> str:
    """Converts the caption of a small image, as `plain` does.

    Args:
        text: Any text, of one or several lines.
        lines: Largest number of lines into which each line is wrapped.
    """
    wrapped = []
    for line in text.split("\n"):
        parts = textwrap.wrap(printable(line), SHORT, max_lines=lines, placeholder="\u2026")
        wrapped += [plain(part, SHORT) for part in parts]
    return "\n".join(wrapped)


def _drawn(letter: str) -> str:
    shown = printable(letter)
    return shown if all(ord(one) in _glyphs() for one in shown) else ascii(letter)[1:-1]


def _fitting(letters: list[str], length: int) -> list[str]:
    """The first characters that fit; an escaped one is complete or omitted."""
    fitting: list[str] = []
    for letter in letters:
        length -= len(letter)
        if length < 0:
            break
        fitting.append(letter)
    return fitting


@cache
def _glyphs() -> frozenset[int]:
    """Characters that the font of the plots can draw."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
