"""Large pictures in tiles: each is cut, its tiles are scored, and their answers are joined.

Needs NumPy only. A few tiles are in memory at a time, beside the picture and its joined answers.
"""

from __future__ import annotations

import numpy as np

from anomaly_tf.detection.regional import Infer, infer_inside
from anomaly_tf.runs.limits import images_at_a_time
from anomaly_tf.runs.region import BLANK
from anomaly_tf.runs.sections import Tiling


def infer_in_tiles(
    infer: Infer,
    images: np.ndarray,
    names: tuple[str, ...],
    tiling: Tiling,
    inside: np.ndarray | None = None,
    by_maximum: bool = False,
) -> dict[str, np.ndarray]:
    """Computes the outputs of pictures from those of their tiles.

    The score of a picture is the largest score of its tiles. Maps and reconstructions are
    cross-faded where tiles overlap, see `fading`.

    Args:
        infer: Computes outputs of tiles.
        images: uint8 `(N, H, W, C)`, at least one, both sides at least a tile's.
        names: Of the outputs `score`, `error_map` and `reconstruction`.
        tiling: How pictures are cut.
        inside: bool `(N, H, W)`, True where pixels count; tiles without such a pixel are not
            scored. None: everything counts.
        by_maximum: As for `infer_inside`.

    Returns:
        `score` float32 `(N,)`, `error_map` float32 `(N, H, W)`, `reconstruction` uint8
        `(N, H, W, C)`.
    """
    side, places = tiling.tile, tiling.places(images.shape[1:])
    scores = np.full(len(images), -np.inf, np.float32)
    joined: dict[str, _Joined] = {}
    if "error_map" in names:
        joined["error_map"] = _Joined(np.empty(images.shape[:3], np.float32), tiling)
    if "reconstruction" in names:
        joined["reconstruction"] = _Joined(np.empty(images.shape, np.uint8), tiling)
    together = images_at_a_time((side, side))
    count = len(images) * len(places)
    for start in range(0, count, together):
        pictures, place = np.divmod(np.arange(start, min(start + together, count)), len(places))
        tiles = np.empty((len(pictures), side, side, images.shape[-1]), np.uint8)
        counted = np.ones(tiles.shape[:3], bool)
        for number, picture in enumerate(pictures):
            top, left = places[place[number]]
            tile = slice(top, top + side), slice(left, left + side)
            tiles[number] = images[picture][tile]
            if inside is not None:
                counted[number] = inside[picture][tile]
        if inside is None:
            answers = infer(tiles, names)
        else:
            answers = _of_regions(infer, tiles, names, counted, by_maximum)
        if "score" in names:
            np.maximum.at(scores, pictures, answers["score"])
        for name, whole in joined.items():
            for answer in answers[name]:
                whole.add(answer)
    outputs = {name: whole.pictures for name, whole in joined.items()}
    return outputs | ({"score": scores} if "score" in names else {})


def _of_regions(
    infer: Infer, tiles: np.ndarray, names: tuple[str, ...], inside: np.ndarray, by_maximum: bool
) -> dict[str, np.ndarray]:
    """Outputs of tiles of which a region counts; those without one have the score -inf."""
    scored = inside.any(axis=(1, 2))
    outputs: dict[str, np.ndarray] = {
        "score": np.full(len(tiles), -np.inf, np.float32),
        "error_map": np.zeros(tiles.shape[:3], np.float32),
        "reconstruction": np.full(tiles.shape, BLANK, np.uint8),
    }
    if scored.any():
        answers = infer_inside(infer, tiles[scored], names, inside[scored], by_maximum)
        for name in names:
            outputs[name][scored] = answers[name]
    return outputs


def fading(side: int, tiling: Tiling) -> np.ndarray:
    """Weights of the tiles along one side of a picture, float32 `(tiles, tile)`.

    They rise and fall linearly over the overlap with the neighbours, and those of all tiles at one
    pixel add up to 1, so that joined maps have no seams.

    Args:
        side: Height or width of the picture in pixels.
        tiling: How it is cut.
    """
    starts, tile = tiling.starts(side), tiling.tile
    weights = np.ones((len(starts), tile))
    for number in range(1, len(starts)):
        shared = starts[number - 1] + tile - starts[number]
        ramp = np.arange(1, shared + 1) / (shared + 1)
        weights[number, :shared] *= ramp
        weights[number - 1, tile - shared :] *= ramp[::-1]
    # The last tile may overlap two others.
    total = np.zeros(side)
    for start, part in zip(starts, weights, strict=True):
        total[start : start + tile] += part
    for start, part in zip(starts, weights, strict=True):
        part /= total[start : start + tile]
    return weights.astype(np.float32)


class _Joined:
    """Pictures that are joined from tiles, which arrive in their order.

    Only the rows of the current tiles are kept as float32; rows that no further tile covers are
    written to the pictures.

    Args:
        pictures: float32 `(N, H, W)` or uint8 `(N, H, W, C)`, to be written.
        tiling: How they are cut.
    """

    def __init__(self, pictures: np.ndarray, tiling: Tiling) -> None:
        self.pictures = pictures
        height, width, *channels = pictures.shape[1:]
        self._tile = tiling.tile
        self._tops, self._lefts = tiling.starts(height), tiling.starts(width)
        self._ends = [*self._tops[1:], height]
        # With a last axis where pictures have one.
        ones = (1,) * len(channels)
        self._down = fading(height, tiling).reshape(-1, tiling.tile, 1, *ones)
        self._across = fading(width, tiling).reshape(-1, 1, tiling.tile, *ones)
        self._rows = np.zeros((tiling.tile, width, *channels), np.float32)
        self._added = 0

    def add(self, answer: np.ndarray) -> None:
        """Adds the next tile, `(tile, tile)` or `(tile, tile, C)`."""
        above, column = divmod(self._added, len(self._lefts))
        picture, row = divmod(above, len(self._tops))
        self._added += 1
        left = self._lefts[column]
        faded = self._down[row] * self._across[column] * answer
        self._rows[:, left : left + self._tile] += faded
        if column + 1 < len(self._lefts):
            return
        top, end = self._tops[row], self._ends[row]
        done = self._rows[: end - top]
        if self.pictures.dtype == np.uint8:
            done = np.clip(np.rint(done), 0, 255)
        self.pictures[picture, top:end] = done
        kept = self._rows[end - top :].copy()
        self._rows[: len(kept)] = kept
        self._rows[len(kept) :] = 0
