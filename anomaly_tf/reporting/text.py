"""Names of folders, classes and files in plots, which may contain any characters.

matplotlib interprets `$` as mathematics, breaks lines at control characters, warns about characters
that its font lacks, and lets a long name extend beyond the plot.

A letter that the font of the plots lacks, such as a Chinese one, is drawn in the first installed
font that has it. Without one it is escaped as in Python.
"""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from functools import cache

import matplotlib.figure
from matplotlib.backend_bases import RendererBase
from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text

from anomaly_tf.script import printable

# Characters of a name on one line, and of a caption of a small image.
LONG, SHORT = 40, 16
# A caption is broken behind one of these rather than elsewhere.
BREAKS = " -_"
FONT = "DejaVu Sans"
# A font whose letters are all a box.
PLACEHOLDER = "Last Resort"


class Figure(matplotlib.figure.Figure):
    """A figure that draws each text with the fonts that have its letters."""

    def draw(self, renderer: RendererBase) -> None:
        """Draws the figure, to any kind of file."""
        for text in self.findobj(Text):
            found = map(_family_with, filter(str.isprintable, text.get_text()))
            if more := sorted({family for family in found if family} - {FONT}):
                text.set_fontfamily([*text.get_fontfamily(), *more])
        super().draw(renderer)


def plain(text: str, length: int = LONG) -> str:
    """Converts a text so that matplotlib shows it literally, on one line.

    Args:
        text: Any text.
        length: Largest width in characters, of which wide ones such as Chinese count as two; the
            middle of a longer text is omitted.

    Returns:
        The text, with characters that are not visible or in no font escaped as in Python.
    """
    return _literal(_shortened(text, length))


def caption(text: str, lines: int = 2) -> str:
    """Converts the caption of a small image, as `plain` does.

    Args:
        text: Any text, of one or several lines.
        lines: Largest number of lines into which each line is wrapped. The middle of a longer one
            is omitted: the names of files often differ in their end only.
    """
    rows: list[str] = []
    for line in text.split("\n"):
        room = SHORT * lines
        while len(wrapped := _wrapped(_shortened(line, room))) > lines:
            room -= 1
        rows += [_literal(row).strip() for row in wrapped]
    return "\n".join(rows)


def _literal(letters: list[str]) -> str:
    return "".join(letters).replace("$", r"\$")


def _shortened(text: str, length: int) -> list[str]:
    """The characters of a text as they are drawn, without the middle if they are too wide."""
    # An accented letter may consist of two characters; the font has only the composed one.
    letters = [_drawn(letter) for letter in unicodedata.normalize("NFC", text)]
    if _width(letters) > length:
        end = _fitting(letters[::-1], (length - 1) // 2)[::-1]
        letters = [*_fitting(letters, length // 2), "\u2026", *end]
    return letters


def _wrapped(letters: list[str]) -> list[list[str]]:
    """Rows of at most `SHORT`, broken behind a space or a sign if there is one."""
    rows = []
    while letters:
        row = _fitting(letters, SHORT)
        ends = [place for place, letter in enumerate(row, 1) if letter in BREAKS]
        if len(row) < len(letters) and ends and ends[-1] > len(row) // 2:
            row = row[: ends[-1]]
        rows.append(row)
        letters = letters[len(row) :]
    return rows


def _width(letters: list[str]) -> int:
    """The width of drawn characters; escaped ones and wide ones take the room of several."""
    return sum(len(one) + (unicodedata.east_asian_width(one[0]) in "WF") for one in letters)


def _drawn(letter: str) -> str:
    shown = printable(letter)
    return shown if all(map(_family_with, shown)) else ascii(letter)[1:-1]


def _fitting(letters: list[str], length: int) -> list[str]:
    """The first characters that fit; an escaped one is complete or omitted."""
    fitting: list[str] = []
    for letter in letters:
        length -= _width([letter])
        if length < 0:
            break
        fitting.append(letter)
    return fitting


@cache
def _family_with(letter: str) -> str | None:
    """The font of the plots if it has a letter, else another installed one; None if none has it."""
    if ord(letter) in _glyphs(findfont(FONT)):
        return FONT
    return next((name for name in _others() if ord(letter) in _glyphs(findfont(name))), None)


@cache
def _others() -> list[str]:
    """Names of the other installed fonts, those without serifs first."""
    for file in {*findSystemFonts()} - {font.fname for font in fontManager.ttflist}:
        with suppress(OSError, RuntimeError, ValueError):  # no font that matplotlib can draw with
            fontManager.addfont(file)  # installed since matplotlib listed the fonts
    names = {font.name for font in fontManager.ttflist if not font.name.startswith(PLACEHOLDER)}
    return sorted(names - {FONT}, key=lambda name: ("Sans" not in name, name))


@cache
def _glyphs(file: str) -> frozenset[int]:
    """Characters that a font can draw."""
    return frozenset(get_font(file).get_charmap())
