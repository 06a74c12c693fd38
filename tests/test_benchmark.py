"""The benchmark: cells, resuming, failures, tables and plots."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import signal
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_command
from matplotlib.backends.backend_agg import FigureCanvasAgg

from anomaly_tf import benchmark, commands
from anomaly_tf.approaches.vae.options import VaeConfig, VaeLosses
from anomaly_tf.benchmark import BenchmarkOptions, Cell, cells_of, kept_results, run_cells
from anomaly_tf.cli import benchmark as script
from anomaly_tf.command_line import parse_train_options
from anomaly_tf.errors import UserError
from anomaly_tf.reporting import comparison_plots
from anomaly_tf.reporting.comparison import (
    HEAD,
    class_tables,
    table_rows,
    write_benchmark,
    write_table,
)
from anomaly_tf.reporting.page import MAX_SHADE, TableCell, shaded
from anomaly_tf.runs.cells import read_cell
from measurements import export, folders, quality, reliability, training


def result(approach="gan", protocol="imbalance", normal=0, seed=0, **metrics) -> dict:
    """A finished cell with plausible numbers."""
    return {
        "cell": {"approach": approach, "protocol": protocol, "normal_class": normal, "seed": seed},
        "settings": {"epochs_share": 1.0, "data": "fashion_mnist"},
        "status": "completed",
        "wall_seconds": 60.0,
        "versions": {"keras": "3.15.1"},
        "metrics": {
            "auroc": 0.9,
            "auroc_by_class": {"Trouser": 0.95, "Shirt": 0.8},
            "roc_curve": {"false_alarm_rate": [0, 0.5, 1], "detection_rate": [0.2, 0.9, 1]},
            "normal_class": normal,
            "seed": seed,
            "test_false_alarm_rate": 0.05,
            "test_detection_rate": 0.75,
            "train_seconds": 40.0,
            "n_weights": 123456,
            "hardware": "CPU: a processor",
            "dataset": "fashion_mnist",
            **metrics,
        },
    }


def failed(reason: str, **cell) -> dict:
    done = result(**cell)
    return {key: done[key] for key in ("cell", "settings")} | {"status": "failed", "reason": reason}


def test_cells_are_the_combinations_that_make_sense():
    options = BenchmarkOptions(
        approaches=("baseline", "autoencoder", "cnn"),
        protocols=("imbalance", "one_class", "corruption"),
        normal_classes=(0, 3),
        seeds=(0, 1),
    )
    cells = cells_of(options)
    assert len(cells) == len(set(cells)) == 2 * (2 + 1 + 2 + 1 + 1)
    assert Cell("gan", "imbalance", 3, 1) in cells
    assert Cell("autoencoder", "one_class", 0, 0) in cells
    assert Cell("cnn", "corruption", None, 1) in cells
    assert not [cell for cell in cells if cell.approach == "cnn" and cell.normal_class is not None]


def test_settings_hold_the_defaults_of_the_protocol():
    options = BenchmarkOptions()
    weights = [
        benchmark.settings_of(Cell("sota", protocol, 0, 0), options)["configuration"]
        for protocol in ("imbalance", "unseen")
    ]
    assert [each["losses"]["gradient_score_weight"] for each in weights] == [0, 2]
    assert [each["sampling"]["synthetic"] for each in weights] == [0, 0.4]


def test_a_change_of_defaults_is_a_change_of_settings(monkeypatch):
    options = BenchmarkOptions(approaches=("vae",), protocols=("one_class",))
    (cell,) = cells_of(options)
    settings = benchmark.settings_of(cell, options)
    assert settings == json.loads(json.dumps(settings))
    other = dataclasses.make_dataclass(
        "Other", [("losses", VaeLosses, VaeLosses(noise=0.2))], bases=(VaeConfig,), frozen=True
    )
    monkeypatch.setattr(benchmark, "options_of", lambda approach: other)
    assert benchmark.settings_of(cell, options) != settings


def test_results_are_not_those_of_data_that_was_replaced(tmp_path):
    options = BenchmarkOptions(
        approaches=("vae",),
        protocols=("one_class",),
        normal_classes=(0,),
        data=str(tmp_path / "photos"),
        data_dir=str(tmp_path / "photos" / "cache"),
        output=str(tmp_path / "photos" / "output"),
    )
    (tmp_path / "photos" / "cache").mkdir(parents=True)
    (tmp_path / "photos" / "1.png").write_bytes(b"one")
    (cell,) = cells_of(options)
    settings = benchmark.settings_of(cell, options, benchmark.content_of(options))
    done = result("vae", "one_class") | {"settings": settings}
    file = tmp_path / "photos" / "output" / "cells" / f"{cell.name}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(done))
    (tmp_path / "photos" / "cache" / "clusters.npy").write_bytes(b"made by training")
    assert kept_results(options) == {cell: done}
    (tmp_path / "photos" / "1.png").write_bytes(b"two")
    assert kept_results(options) == {cell: None}


def test_only_repeated_approaches_take_every_seed():
    options = BenchmarkOptions(
        approaches=("gan", "sota"), protocols=("imbalance",), seeds=(3, 4), repeated=("sota",)
    )
    chosen = [(cell.approach, cell.seed) for cell in cells_of(options)]
    assert chosen == [("gan", 3), ("sota", 3), ("sota", 4)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"approaches": ("sofa",)}, "unknown approach 'sofa'; did you mean 'sota'"),
        ({"repeated": ("sofa",)}, "unknown approach 'sofa'; did you mean 'sota'"),
        ({"normal_classes": (0, 12)}, "normal class 12 does not exist"),
        ({"approaches": ("vae",), "protocols": ("unseen",)}, "none of the approaches vae serves"),
    ],
)
def test_a_benchmark_that_makes_no_sense(options, words):
    with pytest.raises(UserError, match=words):
        cells_of(BenchmarkOptions(**options))


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (script, ()),
        (export, ()),
        (folders, ("--parts", "digits")),
        (quality, ("--studies", "sota")),
        (reliability, ("--parts", "thresholds")),
        (training, ("--parts", "steps", "--approaches", "autoencoder")),
    ],
)
def test_results_that_could_not_be_kept_are_not_measured(module, options, tmp_path):
    (tmp_path / "file").write_text("keep me")
    arguments = [*options, "--data-dir", str(tmp_path), "--output", str(tmp_path / "file" / "new")]
    with pytest.raises(UserError, match=r"cannot write to .*file.*choose another --output"):
        module.main(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# A program that writes what it was called with, and the little that a benchmark reads.
RECORDER = """
import json, sys
from pathlib import Path

_, command, *arguments = sys.argv
run = Path(arguments[arguments.index("--run-dir") + 1])
run.mkdir(parents=True, exist_ok=True)
(run / f"{command}.json").write_text(json.dumps(arguments))
(run / "detector.json").write_text('{"versions": {"keras": "3"}}')
(run / "metrics.json").write_text('{"auroc": 0.75, "accuracy": 0.5}')
"""


@pytest.mark.parametrize(
    ("share", "epochs"), [(1.0, {"gan": 8, "cnn": 22}), (0.5, {"gan": 4, "cnn": 11})]
)
def test_every_cell_trains_with_its_own_options_and_is_evaluated(
    share, epochs, tmp_path, monkeypatch
):
    (tmp_path / "recorder.py").write_text(RECORDER)
    monkeypatch.setattr(commands, "STARTED", (str(tmp_path / "recorder.py"),))
    options = BenchmarkOptions(
        approaches=("gan", "cnn"),
        protocols=("unseen", "corruption"),
        normal_classes=(2, 4),
        seeds=(0, 7),
        epochs_share=share,
        data="photos of cups",
        data_dir="fetched",
        output=str(tmp_path / "output"),
    )
    done = [cell for cell, outcome, _ in run_cells(options) if outcome["status"] == "completed"]
    assert len(done) == 8
    for cell in done:
        run = tmp_path / "output" / "runs" / cell.name
        trained = parse_train_options(json.loads((run / "train.json").read_text()))
        config = trained.config
        assert trained.run_dir == str(run)
        assert (config.approach, config.protocol) == (cell.approach, cell.protocol)
        normal = None if cell.protocol == "corruption" else (str(cell.normal_class),)
        assert config.normal_class == normal
        assert config.seed == cell.seed
        assert config.training.epochs == epochs[cell.approach]
        assert (config.data, config.data_dir) == ("photos of cups", "fetched")
        assert json.loads((run / "evaluate.json").read_text()) == ["--run-dir", str(run)]


def test_results_of_other_data_or_another_share_of_epochs_are_not_kept(tmp_path):
    options = BenchmarkOptions(
        approaches=("vae",), protocols=("one_class",), output=str(tmp_path / "output")
    )
    (cell,) = cells_of(options)
    settings = benchmark.settings_of(cell, options)
    kept = result("vae", "one_class") | {"settings": settings}
    (tmp_path / "output" / "cells").mkdir(parents=True)
    (tmp_path / "output" / "cells" / f"{cell.name}.json").write_text(json.dumps(kept))
    assert kept_results(options) == {cell: kept}
    for other in ({"data": "elsewhere"}, {"epochs_share": 0.5}):
        assert kept_results(dataclasses.replace(options, **other)) == {cell: None}
    (seed_of_another,) = kept_results(dataclasses.replace(options, seeds=(1,))).values()
    assert seed_of_another is None


@pytest.fixture
def small_options(small_folder, tmp_path) -> BenchmarkOptions:
    return BenchmarkOptions(
        approaches=("autoencoder",),
        protocols=("one_class",),
        normal_classes=(3, 77),  # the folder has no class 77, so its cell fails
        seeds=(5,),
        epochs_share=0.01,
        data=str(small_folder),
        data_dir=str(small_folder / "cache"),
        output=str(tmp_path / "output"),
    )


def test_cells_are_kept_and_a_failure_stops_nothing(small_options, tmp_path, monkeypatch):
    done = {cell.normal_class: (outcome, said) for cell, outcome, said in run_cells(small_options)}
    outcome, said = done[3]
    assert outcome["status"] == "completed"
    metrics = outcome["metrics"]
    assert 0.5 < metrics["auroc"] <= 1.0
    assert (metrics["epochs"], metrics["seed"], metrics["normal_class"]) == (1, 5, 3)
    assert metrics["dataset"] == small_options.data
    assert said.startswith("[1/2] autoencoder-one_class-class3-seed5: AUROC 0.")
    assert re.search(r"about \d+ min left$", said)
    outcome, said = done[77]
    assert outcome["status"] == "failed"
    assert "normal class 77 does not exist" in outcome["reason"]
    assert "failed: normal class 77 does not exist" in said
    kept = json.loads(
        (tmp_path / "output/cells/autoencoder-one_class-class3-seed5.json").read_text()
    )
    assert kept == done[3][0]

    # Again: the finished cell is kept, the failed one is tried again.
    ran = []
    original = benchmark._commands
    monkeypatch.setattr(
        benchmark, "_commands", lambda cell, *more: ran.append(cell) or original(cell, *more)
    )
    again = {cell.normal_class: (outcome, said) for cell, outcome, said in run_cells(small_options)}
    assert [cell.normal_class for cell in ran] == [77]
    assert again[3][0] == kept
    assert "(kept)" in again[3][1]


def test_cells_side_by_side_all_end(small_options):
    options = dataclasses.replace(small_options, normal_classes=(77, 78, 79), jobs=2)
    done = list(run_cells(options))
    assert {cell.normal_class for cell, _, _ in done} == {77, 78, 79}
    for cell, outcome, _ in done:  # neither gets the options of the other
        assert f"normal class {cell.normal_class} does not exist" in outcome["reason"]
    assert [said.split("]")[0] for _, _, said in done] == ["[1/3", "[2/3", "[3/3"]


def test_of_two_benchmarks_in_one_folder_the_second_is_refused(small_options):
    first = run_cells(dataclasses.replace(small_options, normal_classes=(77,)))
    next(first)
    with pytest.raises(UserError, match=r"another process is working on benchmark .*wait"):
        next(run_cells(small_options))
    first.close()
    next(run_cells(dataclasses.replace(small_options, normal_classes=(78,))))


def test_a_benchmark_with_a_failed_cell_ends_with_status_2(small_options, capsys):
    options = ["--approaches", "vae", "--normal-classes", "77", "--output", small_options.output]
    assert script.main([*options, "--data", small_options.data]) == 2
    assert capsys.readouterr().err == "error: 1 of 1 trainings failed\n"


WAITER = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
signal.signal(signal.SIGTERM, lambda *_: (folder / "ended").touch() or sys.exit(1))
folder.mkdir(parents=True)
(folder / "begun").touch()
if len(list(folder.parent.glob("*/begun"))) == 2:
    try:
        (folder.parent / "asked").mkdir()
        os.kill(os.getppid(), signal.SIGTERM)
    except FileExistsError:
        pass
signal.pause()
"""
TWO_CELLS = """
import sys
from anomaly_tf import commands
from anomaly_tf.cli import benchmark as script
commands.STARTED = (sys.argv[1],)
options = ["--normal-classes", "1,2", "--jobs", "2", "--output", sys.argv[2], "--data", sys.argv[3]]
script.main(["--approaches", "vae", *options])
"""


def test_sigterm_ends_the_trainings_too(small_options, tmp_path):
    (tmp_path / "waiter.py").write_text(WAITER)
    arguments = (tmp_path / "waiter.py", small_options.output, small_options.data)
    done = run_command(sys.executable, "-c", TWO_CELLS, *arguments, cwd=ROOT)
    assert done.returncode == 128 + signal.SIGTERM
    assert len(list(Path(small_options.output).glob("runs/*/ended"))) == 2


def test_a_cell_with_other_settings_or_a_damaged_one_is_not_used(tmp_path):
    path, cell, settings = tmp_path / "cell.json", result()["cell"], result()["settings"]
    path.write_text(json.dumps(result()))
    assert read_cell(path, cell, settings) == result()
    assert read_cell(path, cell, settings | {"epochs_share": 0.5}) is None
    damaged = [
        *(result(auroc="high"), result(auroc=2.0), result(dataset=5), result(n_weights=None)),
        *(result(auroc_by_class=[1]), result(roc_curve={"x": ["a"]}), result(approach="vae")),
        *({k: v for k, v in result().items() if k != name} for name in ("wall_seconds", "cell")),
    ]
    for content in ('{"status": "comp', *map(json.dumps, damaged)):
        path.write_text(content)
        with pytest.raises(UserError, match=r"cell\.json is damaged .* remove it"):
            read_cell(path, cell, settings)


def test_a_stopped_benchmark_says_how_to_continue(small_options, monkeypatch, capsys):
    def interrupted(work):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run_here", interrupted)
    assert script.main(["--approaches", "vae", "--output", small_options.output]) == 130
    said = capsys.readouterr().err
    assert said == f"stopped; the same command continues in {small_options.output}\n"


def test_the_table_gives_means_and_the_spread_over_seeds():
    results = [
        result(normal=0, seed=0, auroc=0.90),
        result(normal=1, seed=0, auroc=0.94),
        result(normal=0, seed=1, auroc=0.92, train_seconds=90.0),
        result(normal=1, seed=1, auroc=0.96, train_seconds=90.0),
        failed("no space | left", normal=2, seed=1),
        result("cnn", "classification", None, auroc=None, accuracy=0.93, test_detection_rate=None),
    ]
    rows = [dict(zip(HEAD, row, strict=True)) for row in table_rows(results)]
    # Means over the classes are 0.92 and 0.94; their deviation is 0.02 / sqrt(2).
    assert rows[0]["AUROC"] == "0.9300 ± 0.0141"
    assert (rows[0]["normal class"], rows[0]["seeds"]) == ("0, 1", "0, 1")
    assert rows[0]["training"] == "40 s"
    assert (rows[0]["weights"], rows[0]["reported"]) == ("123,456", ".870")
    assert rows[1]["AUROC"] == "failed: no space / left"
    assert rows[1]["normal class"] == "2"
    assert (rows[2]["AUROC"], rows[2]["accuracy"], rows[2]["normal class"]) == ("", "0.9300", "all")
    assert rows[2]["on seen"] == ""


def test_a_table_for_each_protocol_with_several_normal_classes_or_corruptions():
    results = [
        result(normal=0, seed=0, auroc=0.90),
        result(normal=2, seed=0, auroc=0.94),
        result(normal=0, seed=1, auroc=0.92),
        result("vae", "one_class", auroc=0.9),
        *(result("sota", "unseen", n, auroc=0.8 + n / 10, auroc_seen=1.0) for n in (0, 1)),
        *(result("cnn", "corruption", None, seed, auroc=0.875) for seed in (0, 1)),
        result("cnn", "classification", None, auroc=None, accuracy=0.93),
    ]
    tables = class_tables(results)
    assert list(tables) == [
        "AUROC by normal class, imbalance",
        "AUROC by normal class, unseen",
        "AUROC by corruption, corruption",
    ]
    imbalance, unseen, corruption = tables.values()
    assert imbalance[0] == ("", "0", "2", "mean")
    # Seed 1 lacks class 2, so that the mean is that of seed 0 only.
    assert imbalance[2:] == [("`gan`", ".910", ".940", "0.9200")]
    assert unseen[2:] == [
        ("`sota`", ".800", ".900", "0.8500"),
        ("`sota`, on classes seen in training", "1.000", "1.000", "1.0000"),
    ]
    assert corruption[0] == ("", "Trouser", "Shirt", "mean")
    assert corruption[2:] == [("`cnn`", ".950", ".800", "0.8750 ± 0.0000")]
    row = dict(zip(HEAD, table_rows(results)[2], strict=True))
    assert (row["AUROC"], row["on seen"]) == ("0.8500", "1.0000")


def test_the_page_needs_no_other_file_and_shows_every_picture(tmp_path):
    results = [
        *(result(normal=normal, auroc=0.9 + normal / 100) for normal in (0, 1)),
        result("sota", auroc=0.98),
        result("autoencoder", "one_class", auroc=0.91),
        failed("<b>too large</b>", normal=2),
    ]
    table = write_table(results, "python benchmark.py --seeds 0", tmp_path)
    assert write_benchmark(results, "python benchmark.py --seeds 0", tmp_path) == []
    assert table in (tmp_path / "benchmark.md").read_text()
    page = (tmp_path / "benchmark.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for title in (
        "ROC, imbalance, normal class 0",
        "ROC, one_class, normal class 0",
        "AUROC against training time",
    ):
        assert f"<figcaption>{title}</figcaption>" in page
    for title in (
        "Results",
        "AUROC by normal class, imbalance",
        "AUROC by anomaly, imbalance, normal class 0",
        "AUROC by anomaly, one_class, normal class 0",
    ):
        assert f"<caption>{title}</caption>" in page
    pictures = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) == page.count("<figure>") == 3
    assert all(b"<svg" in base64.b64decode(picture) for picture in pictures)
    assert "areas: gan 0.9000, sota 0.9800" in page  # what is seen, in words
    # A message is shown as text.
    assert "<li>gan, imbalance, 2, 0: failed: &lt;b&gt;too large" in page
    assert "<b>" not in page


def heads_of(page: str, caption: str) -> list[str]:
    """The names of the columns of a table."""
    table = page.split(f"<caption>{caption}</caption>")[1].split("</thead>")[0]
    return re.findall(r"<th[^>]*>([^<]*)</th>", table)


def test_the_page_names_classes_and_has_no_empty_column(tmp_path):
    names = {0: "T-shirt/top", 1: "<i>Trouser", 2: "Dress", 3: "Coat"}
    few = [result(normal=n, normal_class_name=names[n]) for n in (0, 1)]
    assert write_benchmark([*few, failed("gone", normal=1)], "", tmp_path) == []
    page = (tmp_path / "benchmark.html").read_text()
    columns = ["approach", "protocol", "normal class", "seeds", "AUROC", "false alarms", "found"]
    assert heads_of(page, "Results") == [*columns, "training", "weights", "reported"]
    assert ">T-shirt/top, &lt;i&gt;Trouser<" in page
    assert "gan, imbalance, &lt;i&gt;Trouser, 0: failed: gone" in page
    classes = heads_of(page, "AUROC by normal class, imbalance")
    assert classes == ["approach", "T-shirt/top", "&lt;i&gt;Trouser", "mean"]
    many = [result(normal=n, normal_class_name=names[n]) for n in names]
    write_benchmark([*many, result("vae", "one_class", accuracy=0.5)], "", tmp_path)
    page = (tmp_path / "benchmark.html").read_text()
    assert ">4 classes<" in page
    assert "accuracy" in heads_of(page, "Results")


def test_shades_show_differences_near_1():
    levels = [shaded(value).level for value in (0.3, 0.5, 0.9, 0.99, 0.999, 1.0)]
    assert levels[0] == levels[1] == 0
    assert levels[3] - levels[2] == pytest.approx(levels[4] - levels[3], abs=1)
    assert levels[3] - levels[2] > 15
    assert levels[5] == levels[4] == MAX_SHADE
    assert shaded(None) == TableCell("")


def test_scales_are_stretched_near_1():
    curve = {"false_alarm_rate": [0.0, 1.0], "detection_rate": [0.0, 1.0]}
    overlay = comparison_plots.roc_overlay({"vae": {"roc_curve": curve, "auroc": 0.9}}).axes[0]
    places = [overlay.transData.transform((0.5, y))[1] for y in (0, 0.9, 1)]
    assert (places[2] - places[1]) / (places[2] - places[0]) > 0.3
    points = {("vae", "one_class"): (10.0, 0.9), ("gan", "imbalance"): (20.0, 0.99)}
    perfect = points | {("sota", "imbalance"): (30.0, 1.0)}
    for case in (points, perfect, {("vae", "one_class"): (0.0, 0.3)}):
        figure = comparison_plots.auroc_against_time(case)
        low, high = figure.axes[0].get_ylim()
        shown = [min(auroc, comparison_plots.TICKS[-1]) for _, auroc in case.values()]
        assert low < min(shown)
        assert max(shown) < high <= 1
        FigureCanvasAgg(figure).draw()


def test_a_benchmark_in_which_everything_failed_still_reports(tmp_path):
    table = write_table([failed("no data")], "python benchmark.py", tmp_path)
    assert write_benchmark([failed("no data")], "python benchmark.py", tmp_path) == []
    assert "failed: no data" in table
    assert "failed: no data" in (tmp_path / "benchmark.html").read_text()


def test_a_picture_that_cannot_be_drawn_costs_neither_table_nor_page(tmp_path):
    curve = {"false_alarm_rate": [0.0], "detection_rate": [0.0, 1.0]}  # of two lengths
    results = [result(roc_curve=curve), result(normal=1)]
    failures = write_benchmark(results, "python benchmark.py", tmp_path)
    assert len(failures) == 1
    assert failures[0].startswith("plot 'ROC, imbalance, normal class 0' was not drawn (Value")
    page = (tmp_path / "benchmark.html").read_text()
    assert "<caption>AUROC by anomaly, imbalance" in page
    assert "<figcaption>AUROC against training time" in page
    assert "<figcaption>ROC" not in page


def test_a_cell_keeps_its_figures_without_a_picture_and_on_any_console(tmp_path, monkeypatch):
    # As `evaluate` ends without a picture, on a console that writes other bytes than UTF-8.
    ending = "if command == 'evaluate':\n    sys.stderr.buffer.write(b'\\xe4'); sys.exit(3)\n"
    program = tmp_path / "recorder.py"
    program.write_text(RECORDER + ending)
    monkeypatch.setattr(commands, "STARTED", (str(program),))
    options = BenchmarkOptions(approaches=("vae",), protocols=("one_class",), output=str(tmp_path))
    ((_, outcome, _),) = run_cells(options)
    assert (outcome["status"], outcome["metrics"]["auroc"]) == ("completed", 0.75)
    unmeasured = RECORDER.replace("metrics.json", "else.json")
    program.write_text(unmeasured + ending.replace("(3)", "(2)"))
    ((_, outcome, _),) = run_cells(dataclasses.replace(options, output=str(tmp_path / "other")))
    assert (outcome["status"], outcome["reason"]) == ("failed", "\\xe4")


def test_markdown_shows_names_and_reasons_as_text(tmp_path):
    hostile = "<b>x</b> | `c`\n\x1b"
    shown = r"&lt;b&gt;x&lt;/b&gt; \| \`c\`\\n\\x1b"
    results = [
        *(result(protocol=f"of {hostile}", normal=n, hardware=f"CPU: {hostile}") for n in (0, 1)),
        result("cnn", "corruption", None, auroc_by_class={hostile: 0.9, "b": 0.8}),
        failed(hostile.replace("|", "/"), normal=2),
    ]
    table = write_table(results, f"python benchmark.py {hostile}", tmp_path)
    text = (tmp_path / "benchmark.md").read_text()
    assert table in text
    assert text.replace("\n", "").isprintable()
    command = r"Command: ``  python benchmark.py <b>x</b> | `c`\n\x1b  ``".replace("  ", " ")
    assert command in text
    rest = text.replace(command, "")
    assert "<" not in rest
    assert f"Hardware: CPU: {shown}" in rest
    assert f"\n\nAUROC by normal class, of {shown}\n\n" in rest
    assert f"|  | {shown} | b | mean |" in rest
    assert f"| failed: {shown.replace(chr(92) + '|', '/')} |" in rest


def test_a_benchmark_prints_its_table_before_pictures_and_without_escapes(
    tmp_path, capsys, monkeypatch
):
    hostile, table_first = "a\n\x1b[31mb", []
    options = ["--approaches", "vae", "--normal-classes", "1", "--output", str(tmp_path / hostile)]
    (tmp_path / hostile).mkdir()
    done = result("vae", "one_class", 1)

    def measured(asked: BenchmarkOptions):
        yield cells_of(asked)[0], done, f"[1/1] {hostile}"

    def failing(*arguments):
        table_first.append(capsys.readouterr().out)
        raise ValueError(hostile)

    monkeypatch.setattr(script, "run_cells", measured)
    monkeypatch.setattr(comparison_plots, "roc_overlay", failing)
    assert script.main(options) == 3
    ((before,), (after, errors)) = table_first, capsys.readouterr()
    assert before.startswith("[1/1] a\\n\\x1b[31mb\n\n| approach")
    assert after == f"written: {tmp_path}/a\\n\\x1b[31mb/benchmark.md and benchmark.html\n"
    assert errors.startswith("error: plot 'ROC, one_class, normal class 1' was not drawn (Value")
    assert errors.endswith("(ValueError: a\\n\\x1b[31mb)\n")
