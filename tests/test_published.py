"""Published results: README and docs show the saved results of the current defaults.

An approach is published when its figures stand in docs/ and results/; then its name stands here.
Registered approaches that are not published yet do not matter to these tests.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex

import pytest
import yaml
from conftest import ROOT

from anomaly_tf.approaches import APPROACHES
from anomaly_tf.benchmark import BenchmarkOptions, kept_results
from anomaly_tf.command_line import parse_options
from anomaly_tf.reporting.comparison import write_table
from measurements import quality, training, web

PUBLISHED = ("autoencoder", "cnn", "contrastive", "gan", "supervised", "transform", "vae", "sota")
RESULTS = ROOT / "results"
BENCHMARKS = sorted(path.parent.name for path in RESULTS.glob("*/benchmark.md"))
STUDIES = sorted(path.stem for path in (RESULTS / "quality").glob("*.json"))
README = (ROOT / "README.md").read_text("utf-8")
DOCS = ROOT / "docs"
PAGE = (DOCS / "results.md").read_text("utf-8")


def rows_of(table: str) -> set[str]:
    return {line for line in table.splitlines() if line.startswith("|")}


def test_published_results_are_registered_and_on_the_results_page():
    assert set(PUBLISHED) <= set(APPROACHES)
    for approach in PUBLISHED:
        assert f"| `{approach}` " in PAGE


def test_the_summary_in_the_readme_is_that_of_the_benchmarks():
    """Each row names its benchmark, whose table has the figure of that approach and protocol."""
    summary = re.findall(
        r"^\| `(\w+)`: .* \| `(\w+)` \| ([\d.± ]+) \| .* \| `(configs/benchmarks/\w+\.yaml)` \|$",
        README,
        re.MULTILINE,
    )
    assert len(summary) == 5
    for protocol, approach, figure, file in summary:
        output = yaml.safe_load((ROOT / file).read_text("utf-8"))["output"]
        table = (ROOT / output / "benchmark.md").read_text("utf-8")
        rows = [row for row in rows_of(table) if row.startswith(f"| {approach} | {protocol} |")]
        assert len(rows) == 1
        assert f"| {figure.strip()} |" in rows[0]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_page_of_results_shows_what_todays_defaults_gave(name, tmp_path):
    """Tables on the page, tables in `results`, and cells of the configuration as it is."""
    text = (RESULTS / name / "benchmark.md").read_text("utf-8")
    command = re.search(r"^Command: `python benchmark.py (.*)`$", text, re.MULTILINE)
    options = parse_options(
        BenchmarkOptions, "benchmark.py", "", shlex.split(command[1]), takes_file=True
    )
    assert set(options.approaches) <= set(PUBLISHED)
    assert options.output == f"results/{name}"
    options = dataclasses.replace(options, output=str(ROOT / options.output))
    results = list(kept_results(options).values())
    assert None not in results
    table = write_table(results, "", tmp_path)
    assert text.startswith(table)
    assert rows_of(table) <= rows_of(PAGE)


@pytest.mark.parametrize("name", STUDIES)
def test_the_document_on_quality_shows_what_todays_defaults_gave(name):
    """Tables on the page, and what was measured of the study as its file is now."""
    path = RESULTS / "quality" / f"{name}.json"
    results = json.loads(path.read_text("utf-8"))
    assert results == quality.results_so_far(quality.read_study(name), path)
    rows = rows_of(quality.table(results))
    variants = {(cell["group"], cell["variant"]) for cell in results["cells"]}
    assert len(variants) > 1
    assert len(rows) >= 2 + len(variants)  # below the head
    assert rows <= rows_of((DOCS / "explanation" / "quality.md").read_text("utf-8"))


@pytest.mark.parametrize("kernels", ["AVX-512", "AVX2"])
def test_the_document_on_speed_shows_the_kept_results(kernels):
    kept = json.loads((RESULTS / "training.json").read_text("utf-8"))[kernels]
    assert tuple(kept["steps"]) == PUBLISHED
    document = (DOCS / "explanation" / "speed.md").read_text("utf-8")
    assert training.table(kept) in document
    for line in training.summary(kept).splitlines():
        assert line in document


def test_the_document_on_the_page_shows_the_kept_results():
    results = json.loads((RESULTS / "web.json").read_text("utf-8"))
    assert web.table(results) in (DOCS / "how-to" / "browser.md").read_text("utf-8")
