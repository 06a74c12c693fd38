"""Sets of solar cells from `elpv-dataset`, which only `make bench-photos` installs."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from PIL import Image

from measurements import elpv

pytestmark = pytest.mark.skipif(
    find_spec("elpv_dataset") is None,
    reason="elpv-dataset (requirements-photos.txt) is not installed",
)


@pytest.mark.parametrize(
    ("name", "train", "good", "defective"),
    [("mono", 411, 177, 313), ("poly", 644, 276, 402), ("all", 1131, 377, 715)],
)
def test_the_cells_of_a_set_are_the_published_numbers(name, train, good, defective):
    cells = elpv.choose_cells(name)
    assert [len(part) for part in (cells.train, cells.good, cells.labelled, cells.defective)] == [
        *(train, good, 0, defective)
    ]
    assert len({*cells.train, *cells.good, *cells.defective}) == train + good + defective
    assert cells == elpv.choose_cells(name)
    # Both sets of functional cells are drawn from the whole package, not from its beginning.
    assert cells.train != tuple(sorted(cells.train))


def test_labelled_cells_are_taken_from_the_test():
    without, first, second = (elpv.choose_cells("all", *ten) for ten in ((), (10, 0), (10, 1)))
    assert (len(first.labelled), len(first.defective)) == (10, 705)
    assert {*first.labelled, *first.defective} == {*without.defective}
    assert {*first.labelled} != {*second.labelled}
    assert (first.train, first.good) == (without.train, without.good)


def test_cells_are_written_as_they_are(tmp_path):
    cells = elpv.choose_cells("mono", labelled=2)
    few = elpv.Cells(*(part[:2] for part in (cells.train, cells.good, cells.labelled)), ())
    elpv.write_cells(tmp_path, few)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    expected = {f"train/good/{path.name}" for path in few.train}
    expected |= {f"train/defective/{path.name}" for path in few.labelled}
    assert files == expected | {f"test/good/{path.name}" for path in few.good}
    name = few.train[0].name
    assert (tmp_path / "train/good" / name).read_bytes() == few.train[0].read_bytes()
    assert Image.open(tmp_path / "train/good" / name).size == (300, 300)
