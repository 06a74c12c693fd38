"""How Sphinx builds the documentation: `make docs`.

Sphinx is the generator of Keras's and scikit-learn's neighbours (NumPy, scikit-learn, PyTorch):
it reads the API from docstrings and checks every internal link. MyST lets pages be Markdown, so
that they read well in the repository, too. furo is kept up, works without JavaScript from
elsewhere, and is readable on a phone and in the dark.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from anomaly_tf.version import VERSION  # noqa: E402

project = "anomaly_tf"
author = "The authors of anomaly_tf"
project_copyright = "the authors of anomaly_tf, Apache 2.0"
version = release = VERSION

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "command_reference",
    "notebook",
]
exclude_patterns = ["_build", "_ext"]
nitpicky = True
# Types of other packages: their documentation is not at hand while this one is built.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(np|numpy|keras|tf|tensorflow|sklearn|os|pathlib|tempfile|collections|typing)\..*",
    ),
    (
        r"py:.*",
        r"(Any|Path|Self|Literal|Sequence|Callable|Iterable|Iterator|Mapping|NotFittedError)",
    ),
    # Types of this package that only annotations name.
    (
        r"py:class",
        r"(anomaly_tf\.(config|runs|data)\..*|Data|Threshold|ThresholdConfig|TrainedDetector|Verbose)",
    ),
]

default_role = "literal"  # a name in backticks, as in the docstrings
smartquotes = False  # "--" is the beginning of an option
highlight_language = "text"
autodoc_mock_imports = ["keras", "tensorflow"]  # seconds, and nothing of theirs is shown
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
napoleon_numpy_docstring = False

myst_heading_anchors = 4
myst_enable_extensions = ["deflist", "colon_fence"]

html_theme = "furo"
html_title = f"anomaly_tf {VERSION}"
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"

# `make linkcheck`: pages that answer programs with an error, and examples on this machine.
linkcheck_ignore = [r"http://localhost.*"]
linkcheck_timeout = 20


def shield_first_line(
    app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]
) -> None:
    """Keeps napoleon from reading the first words of a property, up to a colon, as its type."""
    if what == "property":
        lines.insert(0, "\\ ")


def draw_dashes(app: Sphinx, page: nodes.document) -> None:
    """Puts a dash between a parameter and its meaning, where Sphinx writes two hyphens."""
    for text in list(page.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def setup(app: Sphinx) -> None:
    """Registers what is small enough to stand here."""
    app.connect("doctree-read", draw_dashes)
    app.connect("autodoc-process-docstring", shield_first_line, priority=400)  # before napoleon
