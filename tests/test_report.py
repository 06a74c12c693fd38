"""Pages of runs: what they show, that they need nothing else, and what they say in doubt."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    ROOT,
    assert_one_line,
    plain_images,
    run_script,
    weighing_detector,
)
from pages import CHINESE, FILE, SCRIPT, Page, evaluated_run, read_page
from PIL import Image

from anomaly_tf.approaches.autoencoder.options import AutoencoderConfig
from anomaly_tf.cli import evaluate as evaluate_script
from anomaly_tf.cli import report as script
from anomaly_tf.data.roles import Roles
from anomaly_tf.data.split import Split
from anomaly_tf.deploy.explained import Explained
from anomaly_tf.detection.metrics import auroc_difference_interval
from anomaly_tf.errors import UserError
from anomaly_tf.reporting import run_page
from anomaly_tf.reporting.doubts import Rate, doubts, promise
from anomaly_tf.reporting.kept import Kept, Scored, read_kept
from anomaly_tf.reporting.tiles import MAX_BYTES, examples_of, outlined, write_examples
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.runs.outputs import SCORES_HEAD, is_own_run, is_report
from anomaly_tf.runs.sections import Calibration, HeatScale

KINDS = (
    *("imbalance", "one_class", "unseen", "corruption", "classification"),
    *("hostile", "comparison", "benchmark"),
)
MAX_PAGE = 2_000_000


@pytest.fixture(scope="module")
def pages_read(page_paths) -> dict[str, Page]:
    """Every kind of page, as a browser reads it."""
    assert set(page_paths) == set(KINDS)
    return {kind: read_page(path) for kind, path in page_paths.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_one_small_file_that_loads_nothing(kind, pages_read, page_paths):
    page, path = pages_read[kind], page_paths[kind]
    assert path.stat().st_size < MAX_PAGE
    tags = {name for name, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "background"):
            assert (attributes.get(name) or "data:image/").startswith("data:image/")
    text = path.read_text("utf-8")
    assert not re.search(r"url\(|@import", text)
    for content in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text):
        svg = base64.b64decode(content).decode()
        assert not re.search(r"href=\"(?!#|data:)|url\((?!#)|<script", svg)
        assert "prefers-color-scheme:dark" in svg


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_read_without_seeing_it(kind, pages_read):
    page = pages_read[kind]
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(image["alt"] for image in page.all("img"))
    assert page.all("img")
    assert len(page.all("table")) == len(page.all("caption")) > 0
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    # What scrolls can be reached by the keyboard.
    scrolled = [one for one in page.all("div") if one.get("class") == "wide"]
    assert len(scrolled) == len(page.all("table"))
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in scrolled)


def test_the_headline_is_that_of_the_metrics(trained_run, pages_read):
    metrics = json.loads((trained_run / "metrics.json").read_text())
    text = " ".join(pages_read["imbalance"].text.split())
    low, high = metrics["auroc_ci95"]
    (normal, alarms), (_, found) = metrics["confusion_matrix"]
    assert f"AUROC {metrics['auroc']:.4f} 95 % CI {low:.4f} to {high:.4f}" in text
    total = normal + alarms
    assert f"{metrics['test_false_alarm_rate']:.1%} {alarms} of {total}; 95 % CI" in text
    assert f"Anomalies found {metrics['test_detection_rate']:.1%} {found:,} of" in text
    with (trained_run / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    worst = min((row for row in rows if row["label"] == "anomaly"), key=lambda r: float(r["score"]))
    assert f"number {worst['number']}" in text
    by_class = sorted(metrics["auroc_by_class"].items(), key=lambda item: item[1])
    places = [text.index(f" {name} {value:.4f} ") for name, value in by_class]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("kind", "words", "without"),
    [
        ("classification", ["Accuracy", "Recall and precision by class", "Surest"], ["ROC curve"]),
        ("corruption", ["AUROC by strength", "are synthetic", "False alarms by normal class"], []),
        ("unseen", ["(unseen)", "(seen in training)", "classes seen in training"], []),
        ("one_class", ["ROC curve", "Worst misses", "the last one", "Losses"], ["Accuracy"]),
        ("hostile", ["Pixel AUROC", "Error map, and the outline of the mask"], ["Losses"]),
        ("comparison", ["same images", "protocols differ", "Options that differ"], ["Surest"]),
    ],
)
def test_a_page_shows_what_its_protocol_has(kind, words, without, pages_read):
    text = " ".join(pages_read[kind].text.split())
    assert [word for word in words if word not in text] == []
    assert [word for word in without if word in text] == []


def test_names_are_text_whatever_they_hold(page_paths, pages_read):
    page, source = pages_read["hostile"], page_paths["hostile"].read_text("utf-8")
    for name in (SCRIPT, CHINESE, r"a\u202eb", f"test/{CHINESE}/{FILE}.png"):
        assert name in page.text
    assert "\u202e" not in source
    assert not [image for image in page.all("img") if image["src"] == "x"]
    assert f"Heat map over test/{SCRIPT}/1.png, {SCRIPT}" in {i["alt"] for i in page.all("img")}
    assert SCRIPT in pages_read["benchmark"].text


def split_of(greys: list[int], classes: list[int]) -> Split:
    """A test set of images of one grey each; class 0 is normal."""
    empty = plain_images([], [])
    return Split(empty, empty, plain_images(greys, classes), Roles((0,), unseen=(1,)), ("a", "b"))


@pytest.mark.parametrize(
    ("greys", "classes"),
    [
        ([20], [0]),
        ([200], [0]),
        ([20, 80], [0, 1]),
        ([200, 20], [0, 1]),
        ([20, 20, 20], [0, 0, 1]),
        ([0] * 5, [0] * 5),
    ],
)
def test_few_images_one_class_and_no_anomalies_look_right(greys, classes, tmp_path):
    detector = weighing_detector((8, 8, 1), (1,))
    kept = evaluated_run(tmp_path, detector, split_of(greys, classes), AutoencoderConfig())
    page = read_page(kept.run.report)
    text = " ".join(page.text.split())
    assert not re.search(r"\b(nan|inf|None(?!\.))\b", text)
    assert ("the test set has no anomalies" in text.lower()) == (1 not in classes)
    assert bool(re.search(r"\bAUROC [01]\.\d{4}", text)) == (1 in classes)


def test_a_rate_has_its_exact_interval():
    # Without one alarm in 20 images: 1 - 0.025 ** (1 / 20), to be found in any table.
    assert Rate(0, 20).interval == pytest.approx((0, 0.1684), abs=1e-4)
    assert Rate(20, 20).interval == pytest.approx((0.8316, 1), abs=1e-4)
    assert Rate(50, 1000).interval == pytest.approx((0.0373, 0.0654), abs=1e-4)
    assert str(Rate(1, 2000)) == "1 of 2,000; 95 % CI 0.0% to 0.3%"


def calibrated(size: int, alarms: int, method: str) -> Kept:
    """A run whose threshold a twentieth of the calibration scores reach, and 100 test images."""
    info = weighing_detector((8, 8, 1), (1,)).info
    scores = [0.6] * (size // 20) + [0.1] * (size - size // 20)
    info.calibration = Calibration(size, sorted(scores))
    verdicts, normal = np.repeat([1, 0], [alarms, 100 - alarms]), np.zeros(100, int)
    names = tuple(map(str, range(100)))
    tested = Scored(names, normal, np.full(100, "a", object), verdicts * 0.7, verdicts, False)
    metrics = {
        **{"protocol": "one_class", "auroc": None, "auroc_ci95": None, "threshold": 0.5},
        **{"threshold_method": method, "epochs": 1, "best_epoch": 1},
    }
    return Kept(RunDirectory(Path("run")), info, {}, metrics, tested)


@pytest.mark.parametrize(
    ("size", "alarms", "surprising"),
    [(1000, 5, False), (1000, 9, False), (1000, 14, True), (40, 14, False), (40, 40, True)],
)
def test_more_false_alarms_than_chance_explains_are_doubtful(size, alarms, surprising):
    lines = doubts(calibrated(size, alarms, "percentile 95"))
    assert any("more than chance explains" in line for line in lines) == surprising


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("percentile 95", "95th percentile of the scores of 40 normal"),
        ("conformal 0.1", "is an alarm is at most 0.1"),
        ("labelled", "promises no false-alarm rate"),
    ],
)
def test_the_promise_is_that_of_the_threshold(method, words):
    lines = promise(calibrated(40, 7, method))
    assert words in lines[1]
    assert lines[-1].startswith("On the test set, 7.0% of the normal images are alarms (7 of 100;")
    # Two of 40 are at or above it: Beta(3, 38), whose 5 % and 95 % quantiles are known.
    between = "between 2.1% and 14.9%"
    assert any(between in line for line in lines) == (method != "labelled")


def test_many_classes_leave_the_page_small(run_copy):
    names = [f"class {number}" for number in range(200)]
    matrix = np.diag(np.full(200, 50))
    matrix[3, 4] = 7
    facts = json.loads((run_copy / "detector.json").read_text())
    (run_copy / "detector.json").write_text(json.dumps(facts | {"class_names": names}))
    metrics = json.loads((run_copy / "metrics.json").read_text())
    change = {"protocol": "classification", "accuracy": 0.9, "confusion_matrix": matrix.tolist()}
    (run_copy / "metrics.json").write_text(json.dumps(metrics | change))
    assert script.main([str(run_copy)]) == 0
    text = " ".join(read_page(run_copy / "report.html").text.split())
    assert "predicted class images class 3 class 4 7 " in text
    assert (run_copy / "report.html").stat().st_size < MAX_PAGE


def test_few_calibration_images_are_mentioned():
    lines = doubts(calibrated(10, 0, "percentile 95"))
    assert any("rests on 10 normal images" in line for line in lines)


def test_what_training_noticed_is_on_the_page(run_copy):
    facts = json.loads((run_copy / "detector.json").read_text())
    facts["training"]["status"] = "interrupted"
    (run_copy / "detector.json").write_text(json.dumps(facts))
    rows = [[epoch, 1 - 0.2 * epoch, 0.95 - 0.1 * epoch] for epoch in range(5)]
    lines = ["epoch,loss,val_auroc", *(",".join(map(str, row)) for row in rows)]
    (run_copy / "history.csv").write_text("\n".join(lines) + "\n")
    assert script.main([str(run_copy)]) == 0
    text = read_page(run_copy / "report.html").text
    assert "was interrupted after epoch 2" in text
    assert "val_auroc fell from 0.9500 (epoch 1) to 0.5500" in text


def test_scores_that_were_cut_off_are_refused(run_copy):
    lines = (run_copy / "scores.csv").read_text().splitlines(keepends=True)
    (run_copy / "scores.csv").write_text("".join(lines[:10]))
    with pytest.raises(UserError, match=r"counts \d+ test images, and scores.csv holds 9\b"):
        read_kept(run_copy)


def test_a_run_that_was_trained_further_is_doubtful(run_copy):
    metrics = json.loads((run_copy / "metrics.json").read_text())
    (run_copy / "metrics.json").write_text(json.dumps(metrics | {"epochs": 1}))
    assert "trained further after this evaluation" in doubts(read_kept(run_copy))[0]
    assert not any("kept no pictures" in line for line in doubts(read_kept(run_copy)))
    (run_copy / "examples.json").unlink()
    assert any("kept no pictures" in line for line in doubts(read_kept(run_copy)))


def test_the_page_of_a_run_is_written_again_without_tensorflow(run_copy, without_tensorflow):
    page = run_copy / "report.html"
    assert script.main([str(run_copy)]) == 0
    before = page.read_bytes()
    page.unlink()
    (run_copy / "said.json").unlink()  # which is the tests' own
    done = run_script("report.py", run_copy, env=without_tensorflow)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"written: {page}\n"
    assert page.read_bytes() == before
    assert is_own_run(run_copy)


def test_runs_are_compared_side_by_side(run_copy, trained_run, tmp_path, monkeypatch, capsys):
    metrics = json.loads((run_copy / "metrics.json").read_text())
    lines = (run_copy / "scores.csv").read_text().splitlines()
    parts = [line.split(",") for line in lines[1:]]
    for part in parts:  # a detector that knows nothing
        part[3] = str(int(part[0]) % 7)
    (run_copy / "scores.csv").write_text("\n".join([lines[0], *map(",".join, parts)]) + "\n")
    (run_copy / "metrics.json").write_text(json.dumps(metrics | {"auroc": 0.5}))
    (run_copy / "config.yaml").write_text(
        (run_copy / "config.yaml").read_text().replace("ema_decay: 0.9", "ema_decay: 0.8")
    )
    monkeypatch.chdir(tmp_path)
    assert script.main([str(trained_run), str(run_copy)]) == 0
    assert capsys.readouterr().out == "written: runs/comparison.html\n"
    page = read_page(tmp_path / "runs" / "comparison.html")
    text = " ".join(page.text.split())
    difference = f"{0.5 - metrics['auroc']:+.4f}"
    assert re.search(rf"Difference from trained {difference} 95 % CI -0\.[45]\d+ to -0\.4", text)
    assert "training.ema_decay 0.9 0.8" in text
    assert "do not compare" not in text
    # Again, over its own page.
    assert script.main([str(trained_run), str(run_copy)]) == 0


def test_the_interval_of_a_difference_is_that_of_delong():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 30])
    one, other = (labels + random.normal(size=70) * scale for scale in (1.0, 1.5))
    low, high = auroc_difference_interval(labels, one, other)

    def psi(scores: np.ndarray) -> np.ndarray:
        return (scores[labels == 1][:, None] > scores[labels == 0][None]).astype(float)

    matrices = psi(one), psi(other)
    difference = matrices[1].mean() - matrices[0].mean()
    variance = sum(
        np.cov(*(matrix.mean(axis) for matrix in matrices)) / matrices[0].shape[1 - axis]
        for axis in (0, 1)
    )
    error = np.sqrt(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1])
    assert (low, high) == pytest.approx(
        (difference - 1.96 * error, difference + 1.96 * error), abs=1e-4
    )
    assert auroc_difference_interval(labels, one, 2 * one) == (0, 0)


def damaged(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        (lambda run: (run / "metrics.json").unlink(), [], "is not evaluated (no metrics.json); "),
        (lambda run: (run / "scores.csv").unlink(), [], "is not evaluated (no scores.csv); "),
        (lambda run: damaged(run, "metrics.json", "{}"), [], "metrics.json is damaged (no "),
        (lambda run: damaged(run, "scores.csv", "a,b\n"), [], "scores.csv is damaged (it is no"),
        (
            lambda run: damaged(
                run, "scores.csv", f"file,{SCORES_HEAD}\na,anomaly,b,1,anomaly,0.5\n"
            ),
            [],
            "scores.csv is damaged (expected finite scores, and at least one normal image)",
        ),
        (lambda run: damaged(run, "examples.json", "[]"), [], "examples.json is damaged (expect"),
        (lambda run: damaged(run, "report.html", "mine"), [], "report.html exists and was not"),
        (lambda run: shutil.rmtree(run), [], "does not exist"),
        (lambda run: None, ["--output", "page.txt"], "must name an .html file; got page.txt"),
        (lambda run: None, ["--output", ""], "--output is empty"),
        (lambda run: None, ["--output", "copy/plots.html"], "which this command reads from"),
        (lambda run: None, ["--output", "mine.html"], "mine.html exists and was not written"),
        (lambda run: None, ["copy/"], "run copy/ is named twice"),
        (lambda run: None, [""], "a name among the runs is empty"),
        (lambda run: None, ["--outptu", "a.html"], "unrecognized arguments: --outptu"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(prepare, options, words, run_copy, monkeypatch):
    monkeypatch.chdir(run_copy.parent)
    (run_copy.parent / "mine.html").write_text("<title>mine</title>")
    prepare(run_copy)
    before = {path: path.read_bytes() for path in run_copy.parent.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=re.escape(words)) as refused:
        script.main(["copy", *options])
    assert "\n" not in str(refused.value)
    after = {path: path.read_bytes() for path in run_copy.parent.rglob("*") if path.is_file()}
    assert after == before


def test_a_wrong_call_of_the_script_is_one_line(without_tensorflow):
    assert_one_line(run_script("report.py", env=without_tensorflow), "RUN", "report.py --help")


def test_no_damaged_figure_ends_in_a_traceback(run_copy, monkeypatch):
    monkeypatch.setattr(run_page, "drawn", lambda drawings: ([], []))
    lines = (run_copy / "scores.csv").read_text().splitlines()[:40]
    (run_copy / "scores.csv").write_text("\n".join(lines) + "\n")
    (run_copy / "examples.json").unlink()
    file = run_copy / "metrics.json"
    metrics = json.loads(file.read_text())
    refused = 0
    for name in metrics:
        for value in (None, "x", -1, 2.5, [], [1], ["a"], {}, {"a": 1}, {"a": []}):
            file.write_text(json.dumps(metrics | {name: value}))
            try:
                run_page.write_report(read_kept(run_copy), run_copy / "report.html")
            except UserError as error:
                assert "metrics.json is damaged" in str(error)  # noqa: PT017 - one of many
                refused += 1
        file.write_text(json.dumps({key: metrics[key] for key in metrics if key != name}))
        try:
            run_page.write_report(read_kept(run_copy), run_copy / "report.html")
        except UserError:
            refused += 1
    assert refused > len(metrics)


def test_pictures_that_are_no_base64_are_refused(run_copy):
    file = run_copy / "examples.json"
    content = json.loads(file.read_text())
    content["groups"]["normal"]["images"][0]["original"] = '"><script>'
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"examples\.json is damaged \(original must be a picture"):
        read_kept(run_copy)


def test_a_page_that_cannot_be_drawn_costs_no_figure(run_copy, capsys, monkeypatch):
    def failing(*arguments: object) -> None:
        raise ValueError("of\n\x1b")

    monkeypatch.setattr(run_page, "write_page", failing)
    assert evaluate_script.main(["--run-dir", str(run_copy)]) == 3
    said, errors = capsys.readouterr()
    assert errors == f"error: {run_copy}/report.html was not written (ValueError: of\\n\\x1b)\n"
    assert said.endswith(
        f"written: {run_copy}/metrics.json, scores.csv and pictures in {run_copy}/plots\n"
    )
    assert not (run_copy / "report.html").exists()  # that of before has other figures


def shown(count: int, side: int) -> Explained:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3), np.uint8)
    return Explained(images, random.random((count, side, side), np.float32), images)


def test_pictures_fit_into_the_page_whatever_they_show(tmp_path):
    words = [{"name": str(number), "class": "a", "score": 0.5} for number in range(20)]
    scale = HeatScale(0.0, 1.0, 0.9, 0.999, "error")
    groups = {"normal": ("Normal", examples_of(words, shown(20, 300), scale))}
    write_examples(tmp_path / "examples.json", groups)
    content = json.loads((tmp_path / "examples.json").read_text())
    images = content["groups"]["normal"]["images"]
    encoded = [one[kind] for one in images for kind in ("original", "heat_map", "reconstruction")]
    assert sum(map(len, encoded)) <= MAX_BYTES * 4 / 3 + 4 * len(encoded)
    assert len(encoded) == 60
    assert content["size"] >= 64


def test_small_pictures_are_kept_exactly(tmp_path):
    explained, scale = shown(1, 28), HeatScale(0.0, 1.0, 0.9, 0.999, "error")
    words = [{"name": "a", "class": "b", "score": 0.5}]
    write_examples(tmp_path / "e.json", {"normal": ("", examples_of(words, explained, scale))})
    (one,) = json.loads((tmp_path / "e.json").read_text())["groups"]["normal"]["images"]
    picture = Image.open(io.BytesIO(base64.b64decode(one["original"])))
    assert np.array_equal(np.asarray(picture), explained.images[0])


def test_the_outline_of_a_mask_lies_around_it():
    mask = np.zeros((9, 9), bool)
    mask[3:6, 3:6] = True
    drawn = np.asarray(outlined(Image.new("RGB", (9, 9)), mask)).any(axis=-1)
    around = np.zeros((9, 9), bool)
    around[2:7, 2:7] = True
    assert np.array_equal(drawn, around & ~mask)


def test_only_pages_of_runs_are_replaced(page_paths):
    assert all(is_report(path) for kind, path in page_paths.items() if kind != "benchmark")
    assert not is_report(page_paths["benchmark"])
    assert not is_report(ROOT / "README.md")
