"""Pages of runs and benchmarks are accessible, and `assert_accessible` finds what it is for."""

from __future__ import annotations

import pytest

GOOD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Scores</title>
<meta name="viewport" content="width=device-width"><main><h1>Scores</h1>
<p>Nine.</p></main></html>"""


def test_a_good_page_passes(assert_accessible, tmp_path):
    (tmp_path / "page.html").write_text(GOOD)
    assert_accessible(tmp_path / "page.html")


@pytest.mark.parametrize(
    "fault",
    [
        '<img src="data:,">',
        '<p style="color: #bbb; background: #fff">Pale.</p>',
        '<p style="width: 60rem">Wide.</p>',
        '<img alt="" src="http://127.0.0.1:9/dot.png">',
    ],
    ids=["without a text", "pale", "wide", "request"],
)
def test_a_fault_is_found(fault, assert_accessible, tmp_path):
    (tmp_path / "page.html").write_text(GOOD.replace("<p>", f"{fault}<p>"))
    with pytest.raises(AssertionError):
        assert_accessible(tmp_path / "page.html")


def test_the_pages_of_runs_and_benchmarks_are_accessible(assert_accessible, page_paths):
    assert len(page_paths) == 8
    for path in page_paths.values():
        assert_accessible(path)
