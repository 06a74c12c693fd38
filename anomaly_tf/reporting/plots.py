"""Figures of an evaluation, one function each; they return a matplotlib figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
)

from anomaly_tf.files import atomic_path

NORMAL, ANOMALY, LINE = "#1f6fb2", "#d9602b", "#333333"


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def loss_curves(history: dict[str, np.ndarray], best_epoch: int) -> Figure:
    """Every loss over the epochs, and the validation AUROC that chose the best one.

    Args:
        history: Column name to float `(epochs,)`, as in `history.csv`.
        best_epoch: The chosen epoch, counted from 1.
    """
    names = [name for name in history if name not in ("epoch", "val_auroc") and "rate" not in name]
    columns = 4
    rows = -(-(len(names) + 1) // columns)
    figure = Figure(figsize=(11, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    epochs = history["epoch"] + 1
    for axis, name in zip(axes, ["val_auroc", *names], strict=False):
        chosen = name == "val_auroc"
        axis.plot(epochs, history[name], ".-", color=ANOMALY if chosen else NORMAL)
        axis.axvline(best_epoch, color=LINE, linewidth=0.8, linestyle=":")
        axis.set_title("validation AUROC" if chosen else name.replace("_", " "), fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[len(names) + 1 :]:
        axis.set_axis_off()
    figure.supxlabel(f"epoch (dotted: best epoch, {best_epoch})")
    return figure


def reconstructions(
    title: str,
    images: np.ndarray,
    reconstructed: np.ndarray,
    error_maps: np.ndarray,
    captions: list[str],
) -> Figure:
    """Originals, reconstructions and error maps of a few images, all on one error scale.

    Args:
        title: What the images have in common.
        images: uint8 `(N, H, W, C)`.
        reconstructed: uint8 `(N, H, W, C)`.
        error_maps: float32 `(N, H, W)`; white is 0, dark red is 1 and above.
        captions: One per image.
    """
    count = max(len(images), 1)
    figure = Figure(figsize=(1.25 * count + 1.2, 4.6), layout="constrained")
    figure.suptitle(title if len(images) else f"{title}: none")
    axes = figure.subplots(3, count, squeeze=False)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, name in zip(axes[:, 0], ("original", "reconstruction", "error"), strict=True):
        axis.set_ylabel(name)
    for column, caption in enumerate(captions):
        for row, picture in enumerate((images[column], reconstructed[column])):
            axes[row, column].imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
        heat = axes[2, column].imshow(error_maps[column], cmap="Reds", vmin=0, vmax=1)
        axes[0, column].set_title(caption, fontsize=8)
    if captions:
        figure.colorbar(heat, ax=axes[2, :], shrink=0.9)
    return figure


def score_histogram(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Figure:
    """Scores of normal and anomalous test images, each as a density, and the threshold."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    bins = np.linspace(0, scores.max(), 80).tolist()
    for label, name, colour in ((0, "normal", NORMAL), (1, "anomaly", ANOMALY)):
        axis.hist(scores[labels == label], bins, density=True, alpha=0.6, label=name, color=colour)
    axis.axvline(threshold, color=LINE, linestyle="--", label=f"threshold {threshold:.3f}")
    axis.set_yscale("log")
    axis.set(xlabel="anomaly score", ylabel="density (logarithmic)", title="Test scores")
    axis.legend()
    return figure


def roc(labels: np.ndarray, scores: np.ndarray, false_alarm_rate: float, found: float) -> Figure:
    """ROC curve with the operating point that the threshold gives."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    RocCurveDisplay.from_predictions(
        labels, scores, ax=axis, plot_chance_level=True, curve_kwargs={"color": NORMAL}
    )
    axis.plot(false_alarm_rate, found, "o", color=ANOMALY, label="at the threshold")
    axis.set(xlabel="false-alarm rate", ylabel="detection rate", title="ROC, test set")
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    return figure


def precision_recall(labels: np.ndarray, scores: np.ndarray) -> Figure:
    """Precision over recall, anomalies being what is looked for."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    PrecisionRecallDisplay.from_predictions(
        labels, scores, ax=axis, plot_chance_level=True, curve_kwargs={"color": NORMAL}
    )
    axis.set(
        xlabel="recall (detection rate)",
        ylabel="precision",
        title="Precision-recall, test set",
        ylim=(axis.get_ylim()[0], 1.005),
    )
    axis.legend(loc="lower left")
    axis.grid(alpha=0.3)
    return figure


def confusion(matrix: list[list[int]]) -> Figure:
    """Counts of truth against verdict."""
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axis = figure.subplots()
    display = ConfusionMatrixDisplay(np.array(matrix), display_labels=["normal", "anomaly"])
    display.plot(ax=axis, cmap="Blues", values_format="d", colorbar=False)
    axis.set(xlabel="verdict", ylabel="truth", title="Confusion matrix, test set")
    return figure


def auroc_by_class(values: dict[str, float]) -> Figure:
    """AUROC of the normal class against each anomaly class, hardest at the top."""
    figure = Figure(figsize=(7, 0.38 * len(values) + 1.2), layout="constrained")
    axis = figure.subplots()
    names = sorted(values, key=lambda name: values[name], reverse=True)
    numbers = [values[name] for name in names]
    bars = axis.barh(names, numbers, color=NORMAL)
    axis.bar_label(bars, [f"{number:.4f}" for number in numbers], padding=3, fontsize=9)
    lowest = min(numbers)
    axis.set_xlim(max(0.0, lowest - 0.3 * (1 - lowest) - 0.01), 1 + 0.15 * (1.02 - lowest))
    axis.set(xlabel="AUROC", title="AUROC by anomaly class, test set")
    return figure
