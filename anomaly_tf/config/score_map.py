"""How the score of an image follows from its map: declared by an approach, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScoreRule = Literal["mean", "maximum", "none"]
# Shorter side in pixels up to which a picture shows one thing, not a surface or a scene.
MAX_WHOLE = 48


@dataclass(frozen=True)
class ScoreMap:
    """The map of an approach, and what its score has to do with it.

    Small images show one thing, which is anomalous as a whole; large ones show surfaces and scenes,
    of which an anomaly is a small part.

    Attributes:
        unit: What a value of the map is, in words.
        whole: How the score of an image that is judged as a whole follows from its map; further
            terms may be added to it. `none`: it does not.
        places: Likewise of an image that is judged by its places, and whose map is smoothed.
        whole_up_to: Shorter side in pixels up to which an image is judged as a whole.
    """

    unit: str
    whole: ScoreRule
    places: ScoreRule
    whole_up_to: float

    def judges_whole(self, image_shape: tuple[int, ...]) -> bool:
        """Whether images `(H, W, ...)` are judged as a whole."""
        return min(image_shape[:2]) <= self.whole_up_to

    def rule(self, image_shape: tuple[int, ...]) -> ScoreRule:
        """How the score of images `(H, W, ...)` follows from their map."""
        return self.whole if self.judges_whole(image_shape) else self.places


def reconstruction_map(unit: str) -> ScoreMap:
    """Of approaches that score by the error of a reconstruction: its mean, or its largest."""
    return ScoreMap(unit, "mean", "maximum", whole_up_to=MAX_WHOLE)


# Grad-CAM, from which no score is made.
GRAD_CAM = ScoreMap("Grad-CAM of the evidence", "none", "none", whole_up_to=float("inf"))
