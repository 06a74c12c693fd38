"""Plots of an evaluation; each function returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
)

from anomaly_tf.deploy.overlay import overlay
from anomaly_tf.reporting.text import SHORT, Figure, caption, plain
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.runs.outputs import PLOT, SOFTWARE
from anomaly_tf.runs.sections import HeatScale

NORMAL, ANOMALY, LINE = "#1f6fb2", "#d9602b", "#333333"
# Colours of several detectors in one plot.
COLOURS = (
    *(NORMAL, "#c4541d", "#2b8a3e", "#b0257b", "#7a52c7"),
    *("#8c564b", "#0f8a9d", "#6f7680", "#9a7d0a", "#d6336c"),
)
# Outline of a defect; visible on grey images and on the yellow and red of a map.
OUTLINE = "#00a0ff"
# Few ticks at round values, of which 1 is one.
NICE = MaxNLocator(6, steps=(1, 2, 5, 10))


def save(figure: matplotlib.figure.Figure, path: Path) -> None:
    """Writes a figure as PNG, atomically."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={SOFTWARE: PLOT})


def loss_names(history: dict[str, np.ndarray]) -> list[str]:
    """Columns of `history.csv` that are losses or validation measures."""
    return [name for name in history if name != "epoch" and "rate" not in name]


def loss_curves(
    history: dict[str, np.ndarray], best_epoch: int, chosen_by: str, max_columns: int = 4
) -> Figure:
    """All losses over the epochs, on the training and, if available, the validation set.

    Args:
        history: Column name to float `(epochs,)`, as in `history.csv`.
        best_epoch: The selected epoch, from 1.
        chosen_by: The column by which it was selected, drawn first.
        max_columns: Largest number of plots side by side.
    """
    names = loss_names(history)
    paired = {name for name in names if name.startswith("val_") and name[4:] in names}
    chosen = chosen_by.removeprefix("val_") if chosen_by in paired else chosen_by
    names = sorted(set(names) - paired, key=lambda name: (name != chosen, names.index(name)))
    columns = min(max_columns, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.75 * columns, 2.3 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    epochs = history["epoch"] + 1
    for axis, name in zip(axes, names, strict=False):
        validation = name.startswith("val_")
        axis.plot(epochs, history[name], ".-", color=ANOMALY if validation else NORMAL)
        if f"val_{name}" in paired:
            axis.plot(epochs, history[f"val_{name}"], ".-", color=ANOMALY, label="validation")
            axis.lines[0].set_label("training")
            axis.legend(fontsize=8)
        axis.axvline(best_epoch, color=LINE, linewidth=0.8, linestyle=":")
        axis.set_xlim(min(best_epoch, 1) - 0.5, epochs[-1] + 0.5)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        title = name.replace("val_", "validation ").replace("_", " ").replace("auroc", "AUROC")
        axis.set_title(plain(title, 24), fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    kept = best_epoch or "before the end of the first"
    figure.supxlabel(f"epoch (dotted: the one that was kept, {kept})", fontsize=10)
    return figure


def explanations(
    title: str,
    images: np.ndarray,
    reconstructed: np.ndarray | None,
    maps: np.ndarray,
    map_name: str,
    scale: HeatScale,
    captions: list[str],
) -> Figure:
    """Images, their reconstructions if there are any, and their maps, all on one scale.

    Args:
        title: Title of the plot.
        images: uint8 `(N, H, W, C)`.
        reconstructed: uint8 `(N, H, W, C)`; None if there are none.
        maps: float32 `(N, H, W)`.
        map_name: Label of the maps.
        scale: Colour scale of the maps, from white to dark red.
        captions: One per image, of one or several lines.
    """
    if not captions:
        figure = Figure(figsize=(7.5, 0.6))
        figure.suptitle(f"{title}: none", wrap=True, fontsize="medium", y=0.5, va="center")
        return figure
    shown = {"original": images}
    if reconstructed is not None:
        shown["reconstruction"] = reconstructed
    rows = len(shown) + 1
    size = 1.25 * max(len(images), 5) + 1.2, 1.35 * rows + 0.6
    figure = Figure(figsize=size, layout="compressed")
    figure.suptitle(title, wrap=True, fontsize="medium")
    axes = figure.subplots(rows)
    for axis, (name, row) in zip(axes, shown.items(), strict=False):
        _show_in_a_row(axis, name, row if row.shape[-1] == 3 else row[..., 0], "gray", (0, 255))
    _show_in_a_row(axes[-1], map_name, maps, "Reds", (scale.low, scale.high))
    centres = [axes[0].patches[n].get_center()[0] for n in range(len(captions))]
    axes[0].set_xticks(centres, [caption(text) for text in captions], fontsize=8)
    axes[0].tick_params(top=False, bottom=False, labeltop=True, labelbottom=False)
    _label(_bar_beside_last_row(figure, axes[-1].images[0], axes), scale)
    return figure


def _show_in_a_row(
    axis: Axes, name: str, images: np.ndarray, colours: str, limits: tuple[float, float]
) -> None:
    """Draws images `(N, H, W)` or `(N, H, W, 3)` side by side, each in a frame, on one scale.

    All are drawn in one axis, because the layout of an axis per image takes longer than drawing.
    """
    axis.set(ylabel=name, xticks=[], yticks=[], frame_on=False)
    _, height, width = images.shape[:3]
    step = width + max(2, width // 10)
    for number, image in enumerate(images):
        left = number * step - 0.5
        extent = (left, left + width, height - 0.5, -0.5)
        axis.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], extent=extent)
        axis.add_patch(Rectangle((left, -0.5), width, height, fill=False, linewidth=0.8))
    axis.set(xlim=(-1.5, len(images) * step - step + width + 0.5), ylim=(height + 0.5, -1.5))


def _grid(
    title: str, count: int, rows: int, size: tuple[float, float]
) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches, and its axes without ticks, `(rows, count)`, count at least 1."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title if count else f"{title}: none")
    axes = figure.subplots(rows, max(count, 1), squeeze=False)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


def localisation(
    title: str,
    images: np.ndarray,
    maps: np.ndarray,
    masks: np.ndarray,
    scale: HeatScale,
    captions: list[str],
) -> Figure:
    """Images, and the same images with map and true defect drawn over them, on one scale.

    Args:
        title: Title of the plot.
        images: uint8 `(N, H, W, C)`.
        maps: float32 `(N, H, W)`.
        masks: bool `(N, H, W)`, True where the defects are; their outlines are drawn.
        scale: Colour scale of the maps, from transparent to red.
        captions: One per image, of one or several lines.
    """
    figure, axes = _grid(title, len(images), 2, (1.6 * max(len(images), 4) + 1.2, 4))
    axes[0, 0].set_ylabel("original")
    axes[1, 0].set_ylabel("map and defect" if masks.any() else "map")
    for column, text in enumerate(captions):
        image = _shown(images[column])
        axes[0, column].imshow(image, cmap="gray", vmin=0, vmax=255)
        axes[0, column].set_title(caption(text), fontsize=8)
        axes[1, column].imshow(overlay(Image.fromarray(image), scale.strength(maps[column])))
        _outline(axes[1, column], masks[column])
    if captions:
        # The colours of a map on white.
        steps = np.linspace(0, 1, 256, dtype=np.float32)[np.newaxis]
        ramp = np.asarray(overlay(Image.new("RGB", (256, 1), "white"), steps))[0] / 255
        colours = ScalarMappable(Normalize(scale.low, scale.high), ListedColormap(ramp))
        _label(_bar_beside_last_row(figure, colours, axes), scale)
    return figure


def _bar_beside_last_row(figure: Figure, colours: ScalarMappable, axes: np.ndarray) -> Colorbar:
    """A colour bar beside the last row; all rows become narrower, so that none is shifted."""
    height = 0.9 / len(axes)
    return figure.colorbar(colours, ax=axes.ravel(), shrink=height, anchor=(0, 0), aspect=12)


def _label(bar: Colorbar, scale: HeatScale) -> None:
    bar.set_label(caption(scale.unit, lines=4), fontsize=7)


def _shown(image: np.ndarray) -> np.ndarray:
    """Converts an image `(H, W, C)` for matplotlib and Pillow: grey without its third axis."""
    return image[..., 0] if image.shape[-1] == 1 else image


def _outline(axis: Axes, mask: np.ndarray) -> None:
    """Draws the edge of a mask `(H, W)` over the image that the axis shows."""
    if not mask.any():
        return  # matplotlib warns if there is nothing to draw
    height, width = mask.shape
    # With a border, because edges at the border of the image would be omitted.
    framed = np.pad(mask.astype(float), 1)
    x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
    axis.contour(x, y, framed, levels=[0.5], colors=OUTLINE, linewidths=1)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def score_histogram(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Figure:
    """Scores of normal and anomalous test images, each kind as shares of it, and the threshold."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    low, high = (float(limit([*scores, threshold])) for limit in (np.min, np.max))
    # Few images have wide bars: narrow ones would be equally high, and hardly visible.
    width = ((high - low) or 1.0) / np.clip(2 * np.sqrt(len(scores)), 20, 80)
    # A bar ends at the threshold, so that none stands for both verdicts.
    below, above = np.ceil((threshold - low) / width), np.floor((high - threshold) / width) + 1
    bins = (threshold + width * np.arange(-below, above + 1)).tolist()
    for label, name, colour in ((0, "normal", NORMAL), (1, "anomaly", ANOMALY)):
        part = scores[labels == label]
        if len(part):
            shares = np.full(len(part), 1 / len(part))
            axis.hist(part, bins, weights=shares, alpha=0.6, label=name, color=colour)
    axis.axvline(threshold, color=LINE, linestyle="--", label=f"threshold {threshold:.4g}")
    axis.set_yscale("log")
    # From below the share of one image, but at least two powers of ten.
    axis.set_ylim(min(0.05, 0.5 / len(scores)), 1.5)
    axis.set(xlabel="anomaly score", ylabel="share of each kind (logarithmic)", title="Test scores")
    axis.legend()
    return figure


def roc(
    labels: np.ndarray,
    scores: np.ndarray,
    false_alarm_rate: float,
    found: float,
    name: str = "",
) -> Figure:
    """ROC curve of a detector, by name in the legend, with the operating point of the threshold."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    display = RocCurveDisplay.from_predictions(
        labels, scores, ax=axis, plot_chance_level=True, curve_kwargs={"color": NORMAL}
    )
    display.line_.set_label(f"{_named(name)}AUROC {display.roc_auc:.4f}")
    display.chance_level_.set_label("chance, AUROC 0.5")
    axis.plot(false_alarm_rate, found, "o", color=ANOMALY, label="at the threshold")
    axis.set(xlabel="false-alarm rate", ylabel="detection rate", title="ROC, test set")
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    return figure


def precision_recall(labels: np.ndarray, scores: np.ndarray, name: str = "") -> Figure:
    """Precision-recall curve of a detector, with anomalies as the positive class."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    display = PrecisionRecallDisplay.from_predictions(
        labels, scores, ax=axis, plot_chance_level=True, curve_kwargs={"color": NORMAL}
    )
    display.line_.set_label(f"{_named(name)}average precision {display.average_precision:.4f}")
    display.chance_level_.set_label(f"chance, {labels.mean():.4f}")
    axis.set(
        xlabel="recall (detection rate)",
        ylabel="precision",
        title="Precision-recall, test set",
        ylim=(axis.get_ylim()[0], 1.005),
    )
    axis.legend(loc="lower left")
    axis.grid(alpha=0.3)
    return figure


def _named(name: str) -> str:
    return f"{plain(name)}: " if name else ""


def confusion(matrix: list[list[int]], names: tuple[str, ...]) -> Figure:
    """Counts of truth against verdict, or against predicted class."""
    size = 2.6 + 0.6 * len(names)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axis = figure.subplots()
    display = ConfusionMatrixDisplay(
        np.array(matrix), display_labels=[plain(name, SHORT) for name in names]
    )
    display.plot(
        ax=axis,
        cmap="Blues",
        values_format="d",
        colorbar=False,
        xticks_rotation="horizontal" if len(names) == 2 else 45,
        text_kw={"fontsize": 10 if len(names) == 2 else 8},
    )
    verdict = "verdict" if len(names) == 2 else "predicted class"
    axis.set(xlabel=verdict, ylabel="truth", title="Confusion matrix, test set")
    return figure


def auroc_by_class(values: dict[str, float], unseen: Sequence[str] = ()) -> Figure:
    """AUROC of normal images against each kind of anomaly, hardest at the top.

    Args:
        values: Name of the kind to AUROC.
        unseen: Kinds that were not in the training set, drawn in another colour.
    """
    figure = Figure(figsize=(7, 0.38 * len(values) + 1.2), layout="constrained")
    axis = figure.subplots()
    names = sorted(values, key=lambda name: values[name], reverse=True)
    numbers = [values[name] for name in names]
    colours = [ANOMALY if name in unseen else NORMAL for name in names]
    places = range(len(names))
    bars = axis.barh(places, numbers, color=colours)
    axis.set_yticks(places, [plain(name) for name in names])
    axis.bar_label(bars, [f"{number:.4f}" for number in numbers], padding=3, fontsize=9)
    lowest = min(numbers)
    # With several bars, the axis starts near the lowest one to show the differences.
    left = max(0.0, lowest - 0.3 * (1 - lowest) - 0.01) if len(values) > 1 else 0.0
    axis.set_xticks([tick for tick in NICE.tick_values(left, 1) if left <= tick <= 1])
    axis.set_xlim(left, 1 + 0.2 * (1.02 - left))
    axis.set_xlabel("AUROC")
    seen = " (blue: seen in training, orange: unseen)" if len(unseen) else ""
    # Above the whole figure, because long names leave little room for the axis.
    figure.suptitle(f"AUROC by anomaly{seen}, test set", fontsize="medium")
    return figure


def auroc_by_strength(sweep: dict[str, Any]) -> Figure:
    """AUROC of clean images against corrupted ones over the strength of the corruption.

    Args:
        sweep: `noise` and `rotation`, the strengths; `auroc`, kind to one value per strength.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    colours = {"noise": NORMAL, "rotation": ANOMALY, "both": LINE}
    places = range(len(sweep["noise"]))
    for kind, values in sweep["auroc"].items():
        axis.plot(places, values, "o-", color=colours[kind], label=plain(kind))
    labels = [
        f"{noise:g}\n{angle:g}°"
        for noise, angle in zip(sweep["noise"], sweep["rotation"], strict=True)
    ]
    axis.set_xticks(places, labels)
    axis.axhline(0.5, color=LINE, linewidth=0.8, linestyle=":", label="chance")
    axis.set(
        xlabel="strength: standard deviation of the noise, largest angle",
        ylabel="AUROC",
        title="Clean against corrupted test images",
    )
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    return figure
