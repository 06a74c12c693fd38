"""Plots of an evaluation: any text, few images, and their layout."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text
from PIL import Image

from anomaly_tf.reporting import comparison_plots, plots
from anomaly_tf.reporting.page import embedded
from anomaly_tf.reporting.text import SHORT, caption, plain
from anomaly_tf.runs.sections import HeatScale

SCALE = HeatScale(0.1, 0.9, 0.9, 0.999, "squared $error$")
# A letter of Linear A, of which fonts are rare.
UNDRAWN = "\U00010600"
NAMES = (
    "$$",
    "a\\$b$",
    "\u50b7 $\\frac{1}$",
    "w" * 255,
    "line\nbreak\x1b[31m \udcff",
    "\u05e2\u05d1 \u202e\u0627\u0644 <b>&amp;",
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def figures_with(names: tuple[str, ...]) -> dict[str, Figure]:
    """Every figure that shows names of users."""
    images, maps = noise(len(names), 8, 8, 3), noise(len(names), 8, 8) / np.float32(255)
    by_class = {name: 0.9 - 0.01 * place for place, name in enumerate(names)}
    curve = {"false_alarm_rate": [0.0, 1.0], "detection_rate": [0.0, 1.0]}
    history = {"epoch": np.arange(2.0)} | {name: np.arange(2.0) for name in names}
    return {
        "explanations": plots.explanations("few", images, images, maps, "error", SCALE, [*names]),
        "localisation": plots.localisation("few", images, maps, maps > 0.8, SCALE, [*names]),
        "auroc_by_class": plots.auroc_by_class(by_class, names[:2]),
        "confusion": plots.confusion(np.eye(len(names), dtype=int).tolist(), names),
        "losses": plots.loss_curves(history, 1, names[0]),
        "overlay": comparison_plots.roc_overlay(
            {name: {"roc_curve": curve, "auroc": 0.5} for name in names}
        ),
        "time": comparison_plots.auroc_against_time({(name, name): (1, 0.9) for name in names}),
    }


@pytest.mark.parametrize("kind", figures_with(("one", "two")))
def test_any_name_is_drawn_without_a_warning(kind, tmp_path):
    figure = figures_with(NAMES)[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(figure, tmp_path / "picture.png")
        if kind in ("overlay", "time"):
            embedded(figure)
    with Image.open(tmp_path / "picture.png") as picture:
        assert max(picture.size) < 5000
    shown = {text.get_text() for text in figure.findobj(Text)}
    # As matplotlib shows it: dollar signs without the backslash, and no mathematics.
    parts = [text.replace(r"\$", "$") for text in shown]
    for name in NAMES[:2]:
        assert any(name in part for part in parts), name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("T-shirt/top", "T-shirt/top"),
        ("$$", r"\$\$"),
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        (UNDRAWN, r"\U00010600"),
        ("e\u0301", "\u00e9"),
        ("\u05e9", "\u05e9"),
        ("\u202ea", r"\u202ea"),
        ("0123456789" * 2, "01234\u20266789"),
        (UNDRAWN * 9, "\u2026"),
        ("\u231a" * 9, "\u231a\u231a\u2026\u231a\u231a"),  # each takes the room of two
    ],
)
def test_text_is_literal_and_as_long_as_there_is_room(text, shown):
    assert plain(text, 10 if len(text) in (9, 20) else 40) == shown


def test_a_letter_that_the_usual_font_lacks_is_drawn_in_another(tmp_path):
    others = set(get_font(findfont("STIXGeneral")).get_charmap())  # installed with matplotlib
    others -= set(get_font(findfont("DejaVu Sans")).get_charmap())
    letter = next(filter(str.isprintable, map(chr, sorted(others))))
    assert plain(letter) == letter
    figure = plots.confusion([[1, 0], [0, 1]], (letter, "b"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a glyph that is missing
        plots.save(figure, tmp_path / "picture.png")
        embedded(figure)


def test_a_caption_takes_a_few_short_lines():
    lines = caption(f"{'a name ' * 20}\n{'x' * 90}\n0.5").split("\n")
    assert len(lines) == 5
    assert max(map(len, lines)) <= SHORT
    assert lines[0] == "a name a name a"
    assert lines[-1] == "0.5"


def test_a_caption_keeps_the_end_of_the_name_of_a_file():
    names = [f"photos-of-line-3_camera_2_2026-11-26_{number:04}.jpg" for number in range(2)]
    captions = [caption(name) for name in names]
    assert captions[0] == "photos-of-line-\n\u2026-11-26_0000.jpg"
    assert captions[1] == captions[0].replace("_0000", "_0001")
    assert caption("scratch_deep-17.jpg") == "scratch_deep-\n17.jpg"
    assert len(caption(UNDRAWN * 90).split("\n")) == 2


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


@pytest.mark.parametrize("count", [1, 3, 8])
def test_image_reconstruction_and_error_stand_below_each_other(count):
    images, maps = noise(count, 8, 8, 1), noise(count, 8, 8) / np.float32(255)
    figure = drawn(
        plots.explanations("few", images, images, maps, "error", SCALE, ["name"] * count)
    )
    rows = [axis.get_window_extent() for axis in figure.axes[:3]]
    for row in rows[1:]:
        assert row.x0 == pytest.approx(rows[0].x0, abs=1)
        assert row.width == pytest.approx(rows[0].width, abs=1)
    assert rows[0].y0 > rows[1].y0 > rows[2].y0
    bar = figure.axes[3].get_window_extent()
    assert bar.x0 > rows[2].x1
    assert bar.y1 <= rows[2].y1 + 5  # beside the row that it is the scale of


@pytest.mark.parametrize("count", [1, 3])
def test_an_image_and_its_map_stand_below_each_other(count):
    images, maps = noise(count, 16, 8, 3), noise(count, 16, 8) / np.float32(255)
    figure = drawn(plots.localisation("few", images, maps, maps > 0.8, SCALE, ["name"] * count))
    places = [axis.get_window_extent() for axis in figure.axes[:-1]]
    for above, below in zip(places[:count], places[count:], strict=True):
        assert below.x0 == pytest.approx(above.x0, abs=1)
        assert below.width == pytest.approx(above.width, abs=1)


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("value", ["equal", "spread", "zero", "negative"])
def test_the_ticks_of_a_histogram_differ(count, value):
    scores = {
        "equal": np.full(2 * count, 0.4),
        "spread": np.linspace(0.01, 0.02, 2 * count),
        "zero": np.zeros(2 * count),
        "negative": -np.arange(1.0, 2 * count + 1),
    }[value]
    labels = np.repeat([0, 1], count)
    figure = drawn(plots.score_histogram(labels, scores, 0.015))
    axis = figure.axes[0].yaxis
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    low, high = figure.axes[0].get_ylim()
    names = [t.label1.get_text() for t in ticks if low <= t.get_loc() <= high]
    names = [name for name in names if name]
    assert len(names) >= 2
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kinds", [[0], [0, 1]])
@pytest.mark.parametrize("threshold", [10.186, 13.0])
def test_a_histogram_of_few_images_shows_each_and_the_threshold(kinds, threshold):
    labels = np.repeat(kinds, 3)
    scores = 9 + np.arange(len(labels)) / 10
    axis = drawn(plots.score_histogram(labels, scores, threshold)).axes[0]
    bars = [bar for bar in axis.patches if bar.get_height()]
    assert sum(bar.get_height() for bar in bars) == pytest.approx(len(kinds))
    low, high = axis.get_xlim()
    assert low < 9 < threshold < high
    assert low > 5  # no empty half of the plot
    assert min(bar.get_width() for bar in bars) > (high - low) / 30
    assert f"threshold {threshold:.4g}" in axis.get_legend_handles_labels()[1]


def test_no_bar_of_a_histogram_stands_for_both_verdicts():
    scores = np.array([1.0, 2.0, 2.5, 2.9999, 3.0, 3.0001, 30.0])
    for threshold in (*scores, 0.5, 40.0):
        axis = drawn(plots.score_histogram(np.zeros(7, int), scores, threshold)).axes[0]
        above = [bar for bar in axis.patches if bar.get_x() > threshold - 1e-9]
        share = np.mean(scores >= threshold)
        assert sum(bar.get_height() for bar in above) == pytest.approx(share)
        assert sum(bar.get_height() for bar in axis.patches) == pytest.approx(1)


def test_curves_are_named_and_have_four_digits():
    labels = np.repeat([0, 1], [300, 100])
    scores = np.arange(400.0)
    scores[0] = 400
    area = 1 - 100 / 30000
    figures = (
        plots.roc(labels, scores, 0.1, 1.0, "gan"),
        plots.precision_recall(labels, scores, "gan"),
    )
    legends = [[t.get_text() for t in f.axes[0].get_legend().get_texts()] for f in figures]
    assert legends[0] == [f"gan: AUROC {area:.4f}", "chance, AUROC 0.5", "at the threshold"]
    assert legends[1][0].startswith("gan: average precision 0.9")
    assert len(legends[1][0].split(".")[1]) == 4
    assert legends[1][1] == "chance, 0.2500"


def test_the_curves_of_detectors_have_four_digits():
    curve = {"false_alarm_rate": [0.0, 1.0], "detection_rate": [0.0, 1.0]}
    figure = comparison_plots.roc_overlay({"vae": {"roc_curve": curve, "auroc": 0.98765}})
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["vae (0.9877)"]


def test_the_unit_of_a_map_is_shown_literally():
    images, maps = noise(1, 8, 8, 1), noise(1, 8, 8) / np.float32(255)
    figures = (
        plots.explanations("few", images, images, maps, "error", SCALE, ["name"]),
        plots.localisation("few", images, maps, maps > 0.8, SCALE, ["name"]),
    )
    for figure in figures:
        assert figure.axes[-1].get_ylabel() == r"squared \$error\$"


@pytest.mark.parametrize(("values", "left"), [({"dent": 0.85}, 0.0), ({"a": 0.99, "b": 0.97}, 0.9)])
def test_a_single_bar_begins_at_zero(values, left):
    figure = drawn(plots.auroc_by_class(values))
    low, high = figure.axes[0].get_xlim()
    assert left <= low < left + 0.08
    assert high > 1


def test_the_axis_of_auroc_ends_at_one_and_the_title_fits():
    names = ["w" * 40, "b", "c"]
    figure = drawn(plots.auroc_by_class(dict(zip(names, (0.97, 1.0, 1.0), strict=True)), ["b"]))
    assert max(figure.axes[0].get_xticks()) == 1
    (title,) = (text for text in figure.texts if "unseen" in text.get_text())
    extent, width = title.get_window_extent(), figure.bbox.width
    assert 0 <= extent.x0 < extent.x1 <= width


@pytest.mark.parametrize("epochs", [1, 3, 200])
def test_losses_are_drawn_over_whole_epochs(epochs):
    history = {"epoch": np.arange(float(epochs)), "loss": np.ones(epochs)}
    axis = drawn(plots.loss_curves(history, 1, "loss")).axes[0]
    low, high = axis.get_xlim()
    ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == int(tick) and 0 <= tick <= epochs for tick in ticks)
