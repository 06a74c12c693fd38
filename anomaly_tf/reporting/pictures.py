"""The pictures of an evaluation: `plots/*.png` and `examples.json` of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from anomaly_tf.data.split import Split
from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.explained import Explained, explained, shrunk
from anomaly_tf.reporting import plots
from anomaly_tf.reporting.examples import PICTURES, Groups, image_name
from anomaly_tf.reporting.kept import read_history
from anomaly_tf.reporting.tiles import Example, examples_of, write_examples
from anomaly_tf.runs.directory import RunDirectory
from anomaly_tf.script import printable

if TYPE_CHECKING:
    from anomaly_tf.reporting.evaluation import Evaluation

# Longest side of the images in plots; a plot has about 150 pixels for each.
LONGEST = 512
LOCALISATION = "localisation"
Drawings = dict[str, Callable[[], Figure]]


def draw(
    detector: Detector, split: Split, evaluation: Evaluation, history: Path, output: RunDirectory
) -> list[str]:
    """Draws curves, tables and examples of the test set into `plots/` and `examples.json`.

    Args:
        detector: The run's detector.
        split: The sets of the run's protocol.
        evaluation: The results on the test set.
        history: `history.csv` of the run.
        output: Output folder.

    Returns:
        A line for each file that could not be drawn; the others are written.
    """
    examples = Explanations(detector, split, evaluation)
    drawings: dict[Path, Callable[[], None]] = {
        output.plots / f"{name}.png": partial(_save, figure, output.plots / f"{name}.png")
        for name, figure in _drawings(detector, split, evaluation, history, examples).items()
    }
    drawings[output.examples] = lambda: write_examples(output.examples, examples.small())
    failures = []
    for path, write in drawings.items():
        try:
            write()
        except Exception as error:  # must not prevent the other plots
            reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))
            failures.append(f"{printable(str(path))} was not drawn ({reason})")
    return failures


def _save(figure: Callable[[], Figure], path: Path) -> None:
    plots.save(figure(), path)


def _drawings(
    detector: Detector, split: Split, evaluation: Evaluation, history: Path, examples: Explanations
) -> Drawings:
    """Name of each plot to the function that draws it."""
    metrics, scores, labels = evaluation.metrics, evaluation.scores, split.test.labels
    drawings: Drawings = {
        "scores": lambda: plots.score_histogram(labels, scores, detector.threshold)
    }
    if history.is_file():
        best = metrics["best_epoch"], metrics["chosen_by"]
        drawings["losses"] = lambda: plots.loss_curves(read_history(history), *best)
    classified = metrics["protocol"] == "classification"
    names = split.class_names if classified else ("normal", "anomaly")
    if metrics["auroc"] is not None:
        rates = metrics["test_false_alarm_rate"], metrics["test_detection_rate"]
        truth = labels[split.judged], scores[split.judged]
        name = metrics["approach"]
        drawings["roc"] = lambda: plots.roc(*truth, *rates, name)
        drawings["precision_recall"] = lambda: plots.precision_recall(*truth, name)
        drawings["auroc_by_class"] = lambda: plots.auroc_by_class(
            metrics["auroc_by_class"], metrics.get("unseen_classes", ())
        )
    drawings["confusion_matrix"] = lambda: plots.confusion(metrics["confusion_matrix"], names)
    if "auroc_by_strength" in metrics:
        drawings["auroc_by_strength"] = lambda: plots.auroc_by_strength(
            metrics["auroc_by_strength"]
        )
    return drawings | examples.drawings()


class Explanations:
    """Groups of test images with maps and reconstructions, on the scale of heat maps.

    Args:
        detector: The run's detector.
        split: The sets of the run's protocol.
        evaluation: The results on the test set.
    """

    def __init__(self, detector: Detector, split: Split, evaluation: Evaluation) -> None:
        self._detector, self._split, self._evaluation = detector, split, evaluation
        self._groups: Groups = dict(evaluation.examples)
        self._masks: np.ndarray | None = None
        if masked := evaluation.masked:
            count = min(PICTURES, len(masked.part) - masked.n_normal)
            shown = np.linspace(masked.n_normal, len(masked.part) - 1, count).astype(int)
            places = {file: number for number, file in enumerate(split.test.files)}
            chosen = np.array([places[masked.part.files[number]] for number in shown])
            self._groups[LOCALISATION] = "Error map, and the outline of the mask", chosen
            self._masks = masked.masks[shown]

    @cached_property
    def _of_all_groups(self) -> Explained:
        """Images, maps and reconstructions of all groups, computed in one pass."""
        chosen = np.concatenate([chosen for _, chosen in self._groups.values()])
        part = self._split.test.take(chosen)
        return explained(self._detector, part, LONGEST, self._split.roi)

    def _explained(self, name: str) -> Explained:
        """Images, maps and reconstructions of a group."""
        images, maps, rebuilt = self._of_all_groups
        sizes = {key: len(chosen) for key, (_, chosen) in self._groups.items()}
        first = sum(sizes[key] for key in list(sizes)[: list(sizes).index(name)])
        part = slice(first, first + sizes[name])
        return Explained(images[part], maps[part], None if rebuilt is None else rebuilt[part])

    def _shrunk_masks(self, shown: Explained) -> np.ndarray:
        assert self._masks is not None
        return shrunk(self._masks.astype(np.float32), shown.maps.shape[1:]) > 0

    def _words(self, number: int) -> dict[str, Any]:
        """Name, class, score and predicted class of a test image."""
        test, names = self._split.test, self._split.class_names
        predicted, scores = self._evaluation.predicted, self._evaluation.scores
        (name,) = image_name(test, number).items()
        return {
            "name": str(name[1]) if name[0] == "file" else f"number {name[1]}",
            "class": names[test.classes[number]],
            **({} if predicted is None else {"predicted": names[predicted[number]]}),
            "score": float(scores[number]),
        }

    def small(self) -> dict[str, tuple[str, list[Example]]]:
        """Name of each group to its title and its examples, for `examples.json`."""
        groups = {}
        for name, (title, chosen) in self._groups.items():
            shown = self._explained(name)
            masks = self._shrunk_masks(shown) if name == LOCALISATION else None
            words = map(self._words, chosen)
            groups[name] = title, examples_of(words, shown, self._detector.heat_scale, masks)
        return groups

    def drawings(self) -> Drawings:
        """Name of each plot of a group to the function that draws it."""
        return {
            name: self._localisation if name == LOCALISATION else partial(self._drawn, name)
            for name in self._groups
        }

    def _drawn(self, name: str) -> Figure:
        title, chosen = self._groups[name]
        shown = self._explained(name)
        return plots.explanations(
            f"{title} (score below the name; threshold {self._detector.threshold:.3g})",
            shown.images,
            shown.rebuilt,
            shown.maps,
            "error" if "error_map" in self._detector.outputs else "Grad-CAM",
            self._detector.heat_scale,
            [_caption(self._words(number)) for number in chosen],
        )

    def _localisation(self) -> Figure:
        """A plot of some anomalies with a mask."""
        title, chosen = self._groups[LOCALISATION]
        shown = self._explained(LOCALISATION)
        return plots.localisation(
            title,
            shown.images,
            shown.maps,
            self._shrunk_masks(shown),
            self._detector.heat_scale,
            ["\n".join(_caption(self._words(n)).split("\n")[:-1]) for n in chosen],
        )


def _caption(words: dict[str, Any]) -> str:
    """Class, predicted class, name and score of a test image, a line each."""
    lines = [words["class"]]
    if "predicted" in words:
        lines.append(f"predicted {words['predicted']}")
    lines.append(Path(words["name"]).name)
    return "\n".join([*map(printable, lines), f"{words['score']:.3g}"])
