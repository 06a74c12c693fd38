"""Selects the test images for plots, and names them."""

from __future__ import annotations

from typing import Any

import numpy as np

from anomaly_tf.data.image_set import LabelledImages
from anomaly_tf.data.split import Split

# Number of images in a plot of one kind, and in a list of mistakes.
PICTURES = 8
# Name of a plot to its title and the numbers of its test images.
Groups = dict[str, tuple[str, np.ndarray]]
MISTAKES = ("worst_misses", "worst_false_alarms", "surest_mistakes")


def choose(split: Split, scores: np.ndarray, threshold: float, taken: np.ndarray | None) -> Groups:
    """Selects some test images of each kind, and the worst mistakes.

    Args:
        split: The sets of the run's protocol.
        scores: float32 `(N,)`, scores of the test images.
        threshold: Scores of at least this value are anomalies.
        taken: Predicted classes `(N,)` of a classifier.
    """
    test, verdicts = split.test, scores >= threshold
    # A fixed random order, so that the images are neither the best nor the first of a sorted set.
    shuffled = np.random.default_rng(0).permutation(len(scores))
    by_score = np.argsort(scores, kind="stable")
    normal, anomalies = (shuffled[test.labels[shuffled] == label] for label in (0, 1))

    def one_of_each(numbers: np.ndarray) -> np.ndarray:
        _, first = np.unique(test.classes[numbers], return_index=True)
        return numbers[first]

    groups = {"normal": ("Normal images", normal[:PICTURES])}
    if len(split.roles.normal) > 1 and len(normal):
        groups["normal"] = ("Normal images, one of each class", one_of_each(normal)[:10])
    if len(anomalies):
        chosen = one_of_each(anomalies)
        if len(chosen) < PICTURES:  # few kinds, so that there are several images of each
            chosen = np.concatenate(
                [anomalies[test.classes[anomalies] == kind][:3] for kind in test.classes[chosen]]
            )
        groups["anomaly"] = ("Anomalies of each kind", chosen[: PICTURES + 2])
        missed = by_score[(test.labels[by_score] == 1) & ~verdicts[by_score]]
        groups["worst_misses"] = (
            "Worst misses: anomalies with the lowest scores",
            missed[:PICTURES],
        )
    else:
        unusual = by_score[::-1][:PICTURES]
        groups["most_unusual"] = ("Most unusual: normal images with the highest scores", unusual)
    alarms = by_score[(test.labels[by_score] == 0) & verdicts[by_score]][::-1]
    groups["worst_false_alarms"] = (
        "Worst false alarms: normal images with the highest scores",
        alarms[:PICTURES],
    )
    if taken is not None:
        wrong = by_score[(taken != test.classes)[by_score] & (test.labels[by_score] == 0)]
        groups["surest_mistakes"] = (
            "Surest mistakes: misclassified images with the lowest scores",
            wrong[:PICTURES],
        )
    return groups


def describe_mistakes(groups: Groups, split: Split, scores: np.ndarray) -> dict[str, Any]:
    """The images in the plots of mistakes: name, class and score, by the name of the plot."""
    test = split.test
    return {
        name: [
            {
                **image_name(test, number),
                "class": split.class_names[test.classes[number]],
                "score": float(scores[number]),
            }
            for number in groups[name][1]
        ]
        for name in MISTAKES
        if name in groups
    }


def image_name(images: LabelledImages, number: int) -> dict[str, Any]:
    """The name of an image: `file` with its path, or `number` if images are not files.

    The path is relative to the data set. The number is the index in the image's set, from 0.
    """
    if images.files:
        return {"file": images.files[number]}
    return {"number": int(number)}
