"""Sets of solar cells, in the folders of MVTec AD, from the package `elpv-dataset`.

The package holds 2,624 electroluminescence photographs of 300 x 300, each of one solar cell with
the probability that it is defective (0, 1/3, 2/3 or 1) and the kind of its module, mono- or
polycrystalline. Its licence, CC BY-NC-SA 4.0, allows no commercial use; the photographs are read
from the installed package and written to a temporary folder only. Sources:

- C. Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective Solar Cells in
  Electroluminescence Imagery, EU PVSEC 2018.
- S. Deitsch et al., Automatic classification of defective photovoltaic module cells in
  electroluminescence images, Solar Energy 185, 2019.
- S. Deitsch et al., Segmentation of photovoltaic module cells in uncalibrated electroluminescence
  images, Machine Vision and Applications 32, 2021.

Functional cells have the probability 0, defective ones 1; cells in between are left out. Set `all`
has the numbers of C. Ding et al., Catching Both Gray and Black Swans: Open-set Supervised Anomaly
Detection, CVPR 2022; which cells these were is not published, so here they are drawn.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from measurements.measuring import package_folder

# Functional cells for training: 70 % of each kind, and the published number of both together.
TRAINED = {"mono": 411, "poly": 644, "all": 1131}
SPLIT_SEED = 0


@dataclass(frozen=True)
class Cells:
    """The cells of one set.

    Attributes:
        train: Functional cells for training.
        good: Functional cells for the test.
        labelled: Defective cells for training.
        defective: Defective cells for the test.
    """

    train: tuple[Path, ...]
    good: tuple[Path, ...]
    labelled: tuple[Path, ...]
    defective: tuple[Path, ...]


def choose_cells(name: str, labelled: int = 0, draw: int = 0) -> Cells:
    """Divides the cells of a set.

    Args:
        name: A set of `TRAINED`.
        labelled: Number of defective cells that are moved from the test to training.
        draw: Seed of their choice. The functional cells are divided by `SPLIT_SEED` in any case.

    Raises:
        UserError: If the package is not installed.
    """
    functional, defective = (_cells(name, probability) for probability in (0.0, 1.0))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(functional))
    functional = [functional[number] for number in order]
    chosen = set(np.random.default_rng(draw).permutation(len(defective))[:labelled].tolist())
    count = TRAINED[name]
    return Cells(
        train=tuple(functional[:count]),
        good=tuple(functional[count:]),
        labelled=tuple(path for number, path in enumerate(defective) if number in chosen),
        defective=tuple(path for number, path in enumerate(defective) if number not in chosen),
    )


def write_cells(folder: Path, cells: Cells) -> None:
    """Copies a set to `train/good`, `train/defective`, `test/good` and `test/defective`."""
    for place, paths in (
        ("train/good", cells.train),
        ("train/defective", cells.labelled),
        ("test/good", cells.good),
        ("test/defective", cells.defective),
    ):
        for path in paths:
            (folder / place).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / place / path.name)


def _cells(name: str, probability: float) -> list[Path]:
    """The cells of a set that have a probability, in the order of the package."""
    data = package_folder("elpv_dataset") / "data"
    rows = [line.split() for line in (data / "labels.csv").read_text("utf-8").splitlines()]
    return [
        data / path
        for path, value, kind in rows
        if float(value) == probability and name in (kind, "all")
    ]
