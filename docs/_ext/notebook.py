"""Notebooks as pages: their text, code, and the outputs that are stored in them.

They are run by the tests and not while the site is built. What runs notebooks during a build
(myst-nb, nbsphinx) brings forty packages to every installation of the project; this needs none.
"""

from __future__ import annotations

import json
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx


def as_markdown(notebook: dict[str, Any]) -> str:
    """The cells of a notebook, nbformat 4, as Markdown for MyST."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            parts.append(_block("python", source))
            parts += [_shown(output) for output in cell["outputs"]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(output: dict[str, Any]) -> str:
    """What a cell left: the picture if there is one, else the text."""
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join("".join(data["image/png"]).split())
        return f"![Output of the cell above](data:image/png;base64,{picture})"
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return _block("text", text) if text else ""


def _block(language: str, text: str) -> str:
    return f"``````{language}\n{text}\n``````"


class NotebookParser(MystParser):
    """Parses `.ipynb` files."""

    supported = ("ipynb",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Fills a document with the cells of a notebook."""
        super().parse(as_markdown(json.loads(inputstring)), document)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the parser."""
    app.add_source_suffix(".ipynb", "ipynb")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
