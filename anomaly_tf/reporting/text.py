"""Text of users in plots: names of folders, classes and files, which may hold anything.

matplotlib takes `$` for mathematics, breaks lines at control characters, warns of letters that its
font lacks, and gives a long name more room than the picture has.
"""

from __future__ import annotations

import textwrap
import unicodedata
from functools import cache

from matplotlib.font_manager import findfont, get_font

from anomaly_tf.script import printable

# Letters of a name on one line, and of one below a small picture.
LONG, SHORT = 40, 17


def plain(text: str, length: int = LONG) -> str:
    """A text as matplotlib shows it literally, on one line.

    Args:
        text: Any.
        length: Letters that there is room for; of a longer text the middle is left out.

    Returns:
        What is no visible character, or has no glyph in the font, is escaped as in Python.
    """
    # A letter with an accent may come as two characters, of which the font has only the one.
    letters = [_drawn(letter) for letter in unicodedata.normalize("NFC", text)]
    if sum(map(len, letters)) > length:
        end = _fitting(letters[::-1], (length - 1) // 2)[::-1]
        letters = [*_fitting(letters, length // 2), "\u2026", *end]
    return "".join(letters).replace("$", r"\$")


def caption(text: str, lines: int = 2) -> str:
    """A text below or above a small picture, as `plain`.

    Args:
        text: Any, of one or several lines.
        lines: How many each of its lines may take.
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
    """The first letters that fit; an escaped one is whole or left out."""
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
