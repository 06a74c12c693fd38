"""How an approach computes the score of an image from its map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScoreRule = Literal["mean", "maximum", "none"]
# Shorter side in pixels up to which a picture shows one thing, not a surface or a scene.
MAX_WHOLE = 48


@dataclass(frozen=True)
class ScoreMap:
    """The anomaly map of an approach, and how the score is computed from it.

    Small images show one object, which is anomalous as a whole; large images show surfaces and
    scenes, where an anomaly covers a small region.

    Attributes:
        unit: Meaning of a value of the map, in words.
        whole: Rule for small images, which are scored as a whole: the score is the mean or the
            maximum of the map, plus further terms of the approach; `none`: the score is
            no function of the map alone.
        places: Rule for larger images, which are scored by region; their map is smoothed.
        whole_up_to: Shorter side in pixels up to which an image is scored as a whole.
    """

    unit: str
    whole: ScoreRule
    places: ScoreRule
    whole_up_to: float

    def scores_whole(self, image_shape: tuple[int, ...]) -> bool:
        """True if images `(H, W, ...)` are scored as a whole."""
        return min(image_shape[:2]) <= self.whole_up_to

    def rule(self, image_shape: tuple[int, ...]) -> ScoreRule:
        """The rule for images `(H, W, ...)`."""
        return self.whole if self.scores_whole(image_shape) else self.places


def reconstruction_map(unit: str) -> ScoreMap:
    """The map of reconstruction errors; the score is its mean (small images) or its maximum."""
    return ScoreMap(unit, "mean", "maximum", whole_up_to=MAX_WHOLE)


# Grad-CAM; the score does not depend on it.
GRAD_CAM = ScoreMap("Grad-CAM of the evidence", "none", "none", whole_up_to=float("inf"))
