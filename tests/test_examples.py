"""The scripts in `examples/` and the notebook, run as a user runs them.

The code cells of the notebook run in one Python process, in their order. What runs notebooks with a
kernel (nbclient, ipykernel) brings thirty packages; the cells need none of it. To run it anew, with
its outputs:

    pip install nbconvert ipykernel
    jupyter nbconvert --to notebook --inplace --execute \
        --ExecutePreprocessor.record_timing=False docs/photos.ipynb
"""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT, run_command
from PIL import Image

from anomaly_tf import Detector

EXAMPLES = ROOT / "examples"
NOTEBOOK = ROOT / "docs" / "photos.ipynb"
MAX_BYTES = 300_000
# The package may be installed from elsewhere, or not at all.
FROM_ELSEWHERE = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
A_SCORE = re.compile(r" *(\d+\.\d{4})  (normal|anomaly) +(?:\d+\.\d ms  )?(\S+)")


def run_example(name: str, *arguments: object, folder: Path, **keywords: Any) -> list[str]:
    """Runs a script from another folder; returns the lines that it prints."""
    options = {"cwd": folder, "env": FROM_ELSEWHERE, **keywords}
    done = run_command(sys.executable, EXAMPLES / name, *arguments, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def verdicts(lines: list[str]) -> dict[str, tuple[float, str]]:
    """Score and verdict of each file in the output of a script that prints nothing else."""
    found = [A_SCORE.fullmatch(line) for line in lines]
    assert all(found), lines
    return {match[3]: (float(match[1]), match[2]) for match in found if match}


def digits() -> np.ndarray:
    """Four zeros, then four other digits, uint8 (8, 8, 8); the first of scikit-learn's."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    zero = bunch.target == 0
    chosen = np.concatenate([bunch.images[zero][-4:], bunch.images[~zero][:4]])
    return (chosen * 255 / 16).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """The same as PNG files, zero-*.png and other-*.png."""
    folder = tmp_path_factory.mktemp("digits")
    for number, image in enumerate(digits()):
        Image.fromarray(image).save(folder / f"{('zero', 'other')[number // 4]}-{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list[str]]:
    """A run on zeros that `rethreshold.py` made and gave a new threshold, and what it printed."""
    folder = tmp_path_factory.mktemp("rethreshold")
    return folder / "new", run_example("rethreshold.py", "--output", "new", folder=folder)


@pytest.fixture(scope="module")
def exported(run) -> Path:
    """The same run as a .tflite file."""
    path, _ = run
    Detector.load(path).export(path.parent / "zeros.tflite")
    return path.parent / "zeros.tflite"


def test_every_example_is_run_here_and_says_how_to_run_it():
    tests = Path(__file__).read_text("utf-8")
    for path in sorted(EXAMPLES.iterdir()):
        if path.name != "__pycache__":
            assert f'run_example("{path.name}"' in tests
            described = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            assert f"    python examples/{path.name}" in described
            assert "\nPrints " in described


def test_train_from_arrays(tmp_path):
    lines = run_example("train_from_arrays.py", folder=tmp_path)
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/2", "2/2"]
    figures = dict(line.rsplit(maxsplit=1) for line in lines[-3:])
    assert float(figures["AUROC"]) > 0.98
    assert float(figures["false alarms"].rstrip("%")) < 30
    assert float(figures["anomalies found"].rstrip("%")) > 90
    assert list(tmp_path.iterdir()) == []


def test_sklearn_pipeline(tmp_path):
    folds, mean = run_example("sklearn_pipeline.py", folder=tmp_path)
    scores = [float(score) for score in folds.partition(": ")[2].split()]
    assert len(scores) == 3
    assert min(scores) > 0.9
    assert float(mean.split()[-1]) == pytest.approx(np.mean(scores), abs=1e-3)


def test_rethreshold(run):
    path, lines = run
    before, after = (
        re.fullmatch(r"(.+): threshold ([\d.]+), alarms (\d+) of 59 normal .+", line)
        for line in lines
    )
    assert (before[1], after[1]) == ("percentile 95", "conformal 0.1")
    assert int(after[3]) <= 6  # (59 + 1) * 0.1
    detector = Detector.load(path)
    assert detector.threshold == pytest.approx(float(after[2]), abs=1e-4)
    assert detector.threshold_method == "conformal 0.1"


def test_rethreshold_of_an_export(exported, tmp_path):
    """Which stays as it is."""
    kept = exported.read_bytes()
    options = ("--run", exported, "--output", "strict.tflite", "--rate", 0.02)
    lines = run_example("rethreshold.py", *options, folder=tmp_path)
    assert lines[1].startswith("conformal 0.02: threshold ")
    assert exported.read_bytes() == kept
    threshold = Detector.load(tmp_path / "strict.tflite").threshold
    assert threshold > Detector.load(exported).threshold


def test_score_stream(tmp_path):
    found = verdicts(run_example("score_stream.py", folder=tmp_path))
    assert list(found) == [f"{number:03}.png" for number in range(10)]
    scores = [score for score, _ in found.values()]
    assert max(scores[:7]) < min(scores[7:])
    assert [verdict for _, verdict in found.values()][7:] == ["anomaly"] * 3


def test_score_stream_of_a_folder(exported, pictures, tmp_path):
    options = ("--model", exported, "--folder", pictures, "--count", 8)
    found = verdicts(run_example("score_stream.py", *options, folder=tmp_path))
    assert list(found) == sorted(file.name for file in pictures.iterdir())
    assert {name: verdict for name, (_, verdict) in found.items() if name[0] == "o"} == {
        f"other-{number}.png": "anomaly" for number in range(4, 8)
    }


def test_score_stream_waits_until_a_picture_is_complete(pictures, tmp_path, monkeypatch):
    arriving = runpy.run_path(str(EXAMPLES / "score_stream.py"))["arriving"]
    content = next(pictures.iterdir()).read_bytes()
    rest = [content[start : start + 20] for start in range(0, len(content), 20)]

    def write_more(seconds: float) -> None:
        with (tmp_path / "1.png").open("ab") as file:
            file.write(rest.pop(0) if rest else b"")

    monkeypatch.setattr(time, "sleep", write_more)
    found = next(arriving(tmp_path))
    assert found.read_bytes() == content
    assert len(content) > 40


def test_edge_loop(tmp_path):
    found = verdicts(run_example("edge_loop.py", folder=tmp_path))
    assert list(found) == [f"{number}.png" for number in range(5)]
    assert found["4.png"][1] == "anomaly"
    assert found["4.png"][0] > max(found[f"{number}.png"][0] for number in range(4))


def test_edge_loop_needs_neither_tensorflow_nor_scikit_learn(
    run, exported, pictures, without_tensorflow
):
    path, _ = run
    modules = Path(without_tensorflow["PYTHONPATH"])
    for name in ("sklearn", "scipy", "matplotlib", "yaml"):
        (modules / f"{name}.py").write_text("raise ImportError('must not be imported')")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{modules}:{ROOT}"}
    files = sorted(pictures.iterdir())
    lines = run_example(
        "edge_loop.py", "--model", exported, *files, folder=modules, env=environment
    )
    found = verdicts(lines)
    scores = [found[file.name][0] for file in files]
    np.testing.assert_allclose(scores, Detector.load(path).score_files(files), rtol=1e-3)


# Runs the code cells of the notebook that stdin holds; shows the last value of a cell as its repr.
CELLS = """
import ast, json, sys

space = {"__name__": "__main__"}
for number, cell in enumerate(json.load(sys.stdin)["cells"]):
    if cell["cell_type"] == "code":
        tree = ast.parse("".join(cell["source"]), f"cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), space)
        if last and (value := eval(compile(ast.Expression(last.value), "last", "eval"), space)):
            print(repr(value))
"""


def notebook() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text("utf-8"))


def test_the_notebook_runs(tmp_path):
    text = NOTEBOOK.read_text("utf-8")
    assert text.count("EPOCHS = 5") == 1
    done = run_command(
        *(sys.executable, "-c", CELLS),
        **{
            "cwd": tmp_path,
            "env": FROM_ELSEWHERE,
            "input": text.replace("EPOCHS = 5", "EPOCHS = 1"),
        },
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert float(re.search(r"^AUROC ([\d.]+)$", done.stdout, re.M)[1]) > 0.9
    assert len(re.findall(r"p 0\.\d{3}  (?:normal|anomaly)$", done.stdout, re.M)) == 18
    assert re.search(r"^alarms: \d+ of 12 good parts, \d of 6 defects$", done.stdout, re.M)
    assert "a rate of 0.01 needs 99 normal validation images" in done.stdout
    assert done.stdout.count("<PIL.Image.Image image mode=P") == 3
    assert "\nTrue\n" in done.stdout
    assert "same verdicts: True\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_notebook_is_stored_with_its_outputs():
    """Complete, in order, small, without errors, warnings and traces of a machine."""
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    stored = notebook()
    assert stored["metadata"]["kernelspec"]["name"] == "python3"
    cells = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert not any(cell["metadata"] for cell in stored["cells"])
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    for output in outputs:
        assert "image/jpeg" not in output.get("data", {})
    said = "".join(text for output in outputs for text in output.get("text", ()))
    assert not re.search(r"/(tmp|home|root|work|usr)/|Warning", said)


def test_the_notebooks_figures_are_those_of_its_cells():
    """Text and outputs agree: the AUROC, and a picture for each of twelve new files."""
    outputs = [output for cell in notebook()["cells"] for output in cell.get("outputs", ())]
    said = "".join(text for output in outputs for text in output.get("text", ()))
    rows = re.findall(r"^(\w+)-\d+\.png +([\d.]+)  p", said, re.M)
    good = [float(score) for name, score in rows if name == "good"]
    defects = [float(score) for name, score in rows if name != "good"]
    pairs = [(bad > other) + (bad == other) / 2 for bad in defects for other in good]
    assert float(re.search(r"AUROC ([\d.]+)", said)[1]) == pytest.approx(np.mean(pairs), abs=5e-3)
    sheet = next(
        data["image/png"] for out in outputs if "image/png" in (data := out.get("data", {}))
    )
    with Image.open(io.BytesIO(base64.b64decode("".join(sheet)))) as picture:
        assert picture.width == 6 * 126
