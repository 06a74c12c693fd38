"""README and documentation: they build, no link is dead, and what they name is there."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from conftest import ROOT, run_command

import anomaly_tf
from anomaly_tf.approaches import APPROACHES, options_of
from anomaly_tf.config.run import flatten

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
MAX_README_LINES, MAX_PICTURE_BYTES = 150, 300_000
FOLDERS = ("anomaly_tf", "configs", "docs", "examples", "measurements", "results", "tests")


@dataclasses.dataclass
class Page:
    """A page of the built site.

    Attributes:
        links: What it leads to or shows.
        loaded: What a browser fetches with it.
        ids: Its anchors.
        text: What can be read on it.
    """

    links: list[str] = dataclasses.field(default_factory=list)
    loaded: list[str] = dataclasses.field(default_factory=list)
    ids: set[str] = dataclasses.field(default_factory=set)
    text: str = ""


class PageReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.page.ids.add(value)
            elif name in ("href", "src") and value:
                self.page.links.append(value)
                if tag in ("img", "script", "link"):
                    self.page.loaded.append(value)

    def handle_data(self, data: str) -> None:
        self.page.text += data


def is_elsewhere(link: str) -> bool:
    return bool(re.match(r"(?!data:)[a-z]+:|//", link))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    """The pages of the site, built by the command of `make docs`, which may not say a word."""
    lines = run_command("make", "-n", "docs").stdout.splitlines()
    [words] = [shlex.split(line) for line in lines if "-m sphinx" in line]
    output = tmp_path_factory.mktemp("site")
    assert words[0].endswith("/bin/python")
    assert words[-1] == "docs/_build/html"
    assert "--fail-on-warning" in words
    done = run_command(sys.executable, *words[1:-1], "-d", output / "doctrees", output / "html")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pages = {}
    for path in (output / "html").rglob("*.html"):
        if "_downloads" in path.parts:  # files of the repository, as they are
            continue
        reader = PageReader()
        reader.feed(path.read_text("utf-8"))
        pages[path.resolve()] = reader.page
    return pages


def page_of(site: dict[Path, Page], name: str) -> Page:
    [page] = [page for path, page in site.items() if path.as_posix().endswith(f"html/{name}.html")]
    return page


def cell(kind: str, source: str, *outputs: dict) -> dict:
    return {"cell_type": kind, "source": source.splitlines(True), "outputs": list(outputs)}


def test_a_notebook_is_a_page_with_its_outputs(tmp_path):
    encoded = base64.b64encode((DOCS / "images" / "scores.png").read_bytes()).decode()
    cells = [
        cell("markdown", "# Photos\n\nSee [below](#a-second-part)."),
        cell("code", "print(6 * 7)", {"output_type": "stream", "text": ["42\n"]}),
        cell("markdown", "## A second part"),
        cell("code", "shown()", {"output_type": "display_data", "data": {"image/png": encoded}}),
    ]
    (tmp_path / "index.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    output = tmp_path / "html"
    done = run_command(sys.executable, "-m", "sphinx", "-qWc", DOCS, tmp_path, output)
    assert (done.returncode, done.stderr) == (0, "")
    reader = PageReader()
    reader.feed((output / "index.html").read_text("utf-8"))
    assert "a-second-part" in reader.page.ids
    assert "print(6 * 7)" in reader.page.text
    assert "\n42\n" in reader.page.text
    assert f"data:image/png;base64,{encoded}" in reader.page.loaded


def test_no_internal_link_is_dead(site):
    assert len(site) > len(PAGES)
    for path, page in site.items():
        for link in page.links:
            if is_elsewhere(link) or link.startswith("data:"):
                continue
            place, fragment = urldefrag(link)
            target = (path.parent / unquote(place.split("?")[0])).resolve() if place else path
            assert target.is_file(), f"{path.name}: {link}"
            if fragment and target in site:
                assert unquote(fragment) in site[target].ids, f"{path.name}: {link}"


def test_pages_load_nothing_from_other_sites(site):
    for path, page in site.items():
        assert not [link for link in page.loaded if is_elsewhere(link)], path.name


def test_every_page_can_be_reached_from_the_first(site):
    first = next(path for path in site if path.name == "index.html" and path.parent.name == "html")
    found, waiting = {first}, [first]
    while waiting:
        path = waiting.pop()
        for link in site[path].links:
            target = (path.parent / unquote(urldefrag(link)[0])).resolve()
            if target in site and target not in found:
                found.add(target)
                waiting.append(target)
    built = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES}
    reached = {path.relative_to(first.parent).with_suffix("").as_posix() for path in found}
    assert built <= reached


def test_the_reference_has_every_public_name(site):
    ids = page_of(site, "reference/python").ids
    assert {f"anomaly_tf.{name}" for name in anomaly_tf.__all__} <= ids


def test_the_reference_has_every_option(site):
    text = page_of(site, "reference/train").text
    for approach in APPROACHES:
        assert f"--approach {approach}" in text
        for name in flatten(options_of(approach)()):
            assert f"--{name}".replace("_", "-") in text
    for command, option in (
        ("evaluate", "--threshold.false-alarm-rate"),
        ("export", "--quantize"),
        ("predict", "--false-discovery-rate"),
        ("search", "--trials"),
        ("benchmark", "--epochs-share"),
    ):
        assert option in page_of(site, f"reference/{command}").text


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES


def test_a_newcomer_reads_at_most_60_lines_before_a_verdict():
    text = (ROOT / "README.md").read_text("utf-8")
    verdict = text.index("above the threshold of")
    assert text[:verdict].count("\n") <= 60
    commands = re.findall(r"^(?:git clone|anomaly-tf|make|pip) .*$", text[:verdict], re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["git", "anomaly-tf", "anomaly-tf"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_named_files_are_there(path):
    text = path.read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        place = urldefrag(link)[0]
        assert is_elsewhere(link) or (path.parent / place).exists(), link
    everywhere = {file.name for file in ROOT.glob("*.*")}
    everywhere |= {file.name for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")}
    links_and_placeholders = r"\]\([^)]+\)|[\w/.-]*<[^>\n]+>[\w/.-]*"
    words = re.sub(links_and_placeholders, " ", text)
    for word in re.findall(r"(?<![\w/.:$~-])[\w.-]+(?:/[\w.-]+)*", words):
        name = word.rstrip(".-")
        if name.split("/")[0] in FOLDERS and "/" in name and "_build" not in name:
            assert (ROOT / name).exists(), name
        elif "/" in name and name.endswith(".py"):
            assert (ROOT / "anomaly_tf" / name).exists(), name
        elif name.endswith((".py", ".lock")) or re.fullmatch(r"requirements.*\.txt", name):
            assert name in everywhere, name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_no_line_is_hidden_as_a_comment(path):
    """A line that begins with % is none of the page's text, unless it stands for generated text."""
    lines = path.read_text("utf-8").splitlines()
    comments = {line for line in lines if line.startswith("%")}
    assert comments <= {"% approaches", "% public names", "% fields of detector.json"} | {
        f"% options: {path.stem}"
    }


def test_pictures_of_the_documentation_are_small_and_shown():
    shown = "".join(path.read_text("utf-8") for path in TEXTS)
    for picture in (DOCS / "images").iterdir():
        assert picture.stat().st_size <= MAX_PICTURE_BYTES, picture.name
        assert f"images/{picture.name}" in shown, picture.name


def test_the_size_of_an_installation_is_the_one_that_make_prints():
    [size] = re.findall(r"^SIZE := .*,([\d.]+)\)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for page in (ROOT / "README.md", DOCS / "tutorial.md"):
        assert f"{size} GB" in page.read_text("utf-8")
