"""Crops of photographs of gravel, grass and bricks, good and with drawn defects.

The photographs, grey and 512 x 512, come with scikit-image, which publishes them under CC0; they
are read from the installed package. Training crops are from the upper half of a photograph, test
crops from the lower half, at random positions and flipped at random, so that crops of one half
overlap. Defects are drawn otherwise than those of `surfaces.py`:

- coin: a coin of another photograph lies on the texture.
- foreign: a blob shows another texture, with the mean and the contrast of this one.
- scratch: a broken line of straight pieces, a dark groove with a bright burr along one side.
- blur: a blob is out of focus.
- hole: a turned rectangle is missing; below it is dark and nearly flat.
- spot: an ellipse is brighter or darker than the rest, and has less contrast.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from measurements.measuring import package_folder
from measurements.surfaces import Surfaces, write_folders

TEXTURES = ("gravel", "grass", "brick")
DEFECTS = ("coin", "foreign", "scratch", "blur", "hole", "spot")
CLASS_NAMES = ("good", *DEFECTS)
# Pixels of a coin in its photograph, and the least share of its bounding box that a disc fills.
COIN_PIXELS, COIN_SHARE = (900, 3500), 0.7
# A defect that changes its pixels by fewer grey levels on average is drawn again: flat brick out of
# focus is no defect.
MIN_CHANGE, MAX_DRAWINGS = 8, 100


@cache
def photograph(name: str) -> np.ndarray:
    """A grey photograph of scikit-image, uint8 `(H, W)`.

    Raises:
        UserError: If scikit-image is not installed.
    """
    with Image.open(package_folder("skimage") / "data" / f"{name}.png") as image:
        return np.asarray(image.convert("L"))


def make_textures(name: str, seed: int, train: int, test: int, size: int = 128) -> Surfaces:
    """Cuts a data set from a photograph.

    Args:
        name: One of `TEXTURES`.
        seed: Seed of every random choice.
        train: Number of training crops.
        test: Number of test crops of each of `CLASS_NAMES`.
        size: Height and width in pixels, at most half of the photograph's height.

    Raises:
        UserError: If scikit-image is not installed.
    """
    rng = np.random.default_rng([seed, TEXTURES.index(name)])
    texture = photograph(name)
    upper, lower = np.split(texture, [len(texture) // 2])
    good = [_crop(rng, upper, size) for _ in range(train)]
    tested = [
        draw_defect(rng, _crop(rng, lower, size), kind, name)
        for kind in CLASS_NAMES
        for _ in range(test)
    ]
    images, masks = (np.stack(part) for part in zip(*tested, strict=True))
    classes = np.repeat(np.arange(len(CLASS_NAMES), dtype=np.uint8), test)
    return Surfaces(np.stack(good), images, classes, masks)


def write_textures(
    folder: Path, name: str, seed: int, train: int, test: int, size: int = 128
) -> None:
    """Writes the crops of `make_textures` as `surfaces.write_folders` does."""
    write_folders(folder, make_textures(name, seed, train, test, size), CLASS_NAMES)


def write_gravel(folder: Path, seed: int = 0, size: int = 128) -> None:
    """Writes twelve training crops of gravel, and a test with foreign textures and defects.

    The training crops are side by side in the upper three quarters of the photograph;
    `test/good` has crops of the rest, a quarter of their width apart. `test/grass` and `test/brick`
    have crops of other photographs, `test/coin` and `test/scratch` the good crops with a defect
    each.
    """
    rng = np.random.default_rng(seed)
    gravel = photograph("gravel")
    end = 3 * size
    good = [gravel[end : end + size, x : x + size] for x in range(0, 3 * size + 1, size // 4)]
    crops = {
        "train/good": _side_by_side(gravel[:end], size),
        "test/good": good,
        **{f"test/{name}": _side_by_side(photograph(name), size) for name in ("grass", "brick")},
    }
    for kind in ("coin", "scratch"):
        crops[f"test/{kind}"] = [draw_defect(rng, crop, kind, "gravel")[0] for crop in good]
    for place, images in crops.items():
        (folder / place).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / place / f"{number:03}.png")


def write_large(folder: Path, seed: int = 0, width: int = 4000, height: int = 3000) -> None:
    """Writes large pictures of gravel, the photograph mirrored side by side.

    Three pictures in `train/good` show its upper half, one in `test/good` its lower half, and one
    in `test/coin` the same with a coin.
    """
    rng = np.random.default_rng(seed)
    upper, lower = np.split(photograph("gravel"), 2)
    good = _mirrored(rng, lower, width, height)
    defective, size = good.copy(), 128
    y, x = rng.integers(0, height - size), rng.integers(0, width - size)
    crop = good[y : y + size, x : x + size]
    defective[y : y + size, x : x + size] = draw_defect(rng, crop, "coin", "gravel")[0]
    pictures = {f"train/good/{n}": _mirrored(rng, upper, width, height) for n in range(3)}
    for name, image in (pictures | {"test/good/0": good, "test/coin/0": defective}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.png", compress_level=1)


def draw_defect(
    rng: np.random.Generator, crop: np.ndarray, kind: str, texture: str
) -> tuple[np.ndarray, np.ndarray]:
    """A crop with a defect.

    Args:
        rng: Source of every random choice.
        crop: uint8 `(size, size)`.
        kind: One of `CLASS_NAMES`; `good` changes nothing.
        texture: The photograph of the crop; a foreign texture is another one.

    Returns:
        The image, uint8 `(size, size)`, and a mask, bool `(size, size)`, True at the defect.

    Raises:
        ValueError: If the crop is so flat that the defect hardly shows.
    """
    if kind == "good":
        return crop, np.zeros(crop.shape, bool)
    for _ in range(MAX_DRAWINGS):
        changed, cover = DRAWINGS[kind](rng, crop.astype(float), texture)
        mixed = crop + cover * (changed - crop)
        image, mask = np.clip(mixed.round(), 0, 255).astype(np.uint8), cover > 0.5
        if mask.any() and np.abs(image[mask] - crop[mask].astype(float)).mean() >= MIN_CHANGE:
            return image, mask
    raise ValueError(f"a {kind} hardly changes this crop of {texture}")


def _crop(rng: np.random.Generator, region: np.ndarray, size: int) -> np.ndarray:
    """A crop at a random position, flipped at random in both directions."""
    y, x = (rng.integers(0, length - size + 1) for length in region.shape)
    step_y, step_x = rng.choice([-1, 1], 2)
    return np.ascontiguousarray(region[y : y + size, x : x + size][::step_y, ::step_x])


def _side_by_side(texture: np.ndarray, size: int) -> list[np.ndarray]:
    rows, columns = (range(0, length - size + 1, size) for length in texture.shape)
    return [texture[y : y + size, x : x + size] for y in rows for x in columns]


def _mirrored(rng: np.random.Generator, texture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A texture mirrored side by side, from a random position on."""
    pair = np.concatenate([texture, texture[:, ::-1]], axis=1)
    cell = np.concatenate([pair, pair[::-1]])
    y, x = (rng.integers(length) for length in cell.shape)
    copies = (height // cell.shape[0] + 2, width // cell.shape[1] + 2)
    return np.tile(cell, copies)[y : y + height, x : x + width]


@cache
def _coins() -> list[tuple[np.ndarray, np.ndarray]]:
    """Grey levels and masks of the coins of a photograph that stand apart from each other."""
    picture = photograph("coins")
    bright = ndimage.binary_fill_holes(ndimage.gaussian_filter(picture.astype(float), 1) > 120)
    labels, _ = ndimage.label(ndimage.binary_opening(bright, iterations=3))
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[place] == number
        if COIN_PIXELS[0] <= mask.sum() <= COIN_PIXELS[1] and mask.mean() > COIN_SHARE:
            found.append((picture[place], mask))
    return found


# Each of these returns a changed crop and its cover, both float `(size, size)`, the cover 0 to 1.


def _coin(
    rng: np.random.Generator, crop: np.ndarray, texture: str
) -> tuple[np.ndarray, np.ndarray]:
    coins = _coins()
    grey, mask = coins[rng.integers(len(coins))]
    turns = int(rng.integers(4))
    height, width = np.rot90(mask, turns).shape
    y, x = rng.integers(0, len(crop) - height + 1), rng.integers(0, len(crop) - width + 1)
    changed, cover = crop.copy(), np.zeros(crop.shape)
    changed[y : y + height, x : x + width] = np.rot90(grey, turns)
    cover[y : y + height, x : x + width] = np.rot90(mask, turns)
    return changed, cover


def _foreign(
    rng: np.random.Generator, crop: np.ndarray, texture: str
) -> tuple[np.ndarray, np.ndarray]:
    others = [name for name in TEXTURES if name != texture]
    other = _crop(rng, photograph(others[rng.integers(len(others))]), len(crop)).astype(float)
    changed = (other - other.mean()) / other.std() * crop.std() + crop.mean()
    return changed, _blob(rng, len(crop), rng.uniform(0.06, 0.14))


def _scratch(
    rng: np.random.Generator, crop: np.ndarray, texture: str
) -> tuple[np.ndarray, np.ndarray]:
    size = len(crop)
    position = rng.uniform(0.2 * size, 0.8 * size, 2)
    heading, width = rng.uniform(0, 2 * np.pi), rng.uniform(1.2, 2.0)
    y, x = np.mgrid[:size, :size]
    groove, burr = np.zeros((size, size)), np.zeros((size, size))
    for _ in range(rng.integers(2, 5)):
        heading += rng.uniform(-0.7, 0.7)
        along = np.array([np.sin(heading), np.cos(heading)])
        length = size * rng.uniform(0.08, 0.2)
        from_y, from_x = y - position[0], x - position[1]
        forward = np.clip(from_y * along[0] + from_x * along[1], 0, length)
        distance = np.hypot(from_y - forward * along[0], from_x - forward * along[1])
        side = from_x * along[0] - from_y * along[1]
        # The groove is a V in profile: deepest in the middle.
        groove = np.maximum(groove, np.clip(1 - distance / (2 * width), 0, 1))
        beside = (side > width) & (distance < 2.5 * width)
        burr = np.maximum(burr, beside * 0.8)
        position = position + length * along
    depth, height = rng.uniform(60, 110), rng.uniform(20, 50)
    changed = crop - depth * (groove > 0) + height * (burr > groove)
    cover = np.maximum(np.sqrt(groove), burr)
    return changed, cover


def _blur(
    rng: np.random.Generator, crop: np.ndarray, texture: str
) -> tuple[np.ndarray, np.ndarray]:
    changed = ndimage.gaussian_filter(crop, rng.uniform(2, 4))
    return changed, _blob(rng, len(crop), rng.uniform(0.07, 0.15))


def _hole(
    rng: np.random.Generator, crop: np.ndarray, texture: str
) -> tuple[np.ndarray, np.ndarray]:
    size = len(crop)
    along, across = _frame(rng, size, 0.15)
    length, width = size * rng.uniform(0.08, 0.16, 2)
    cover = (np.abs(along) < length / 2) & (np.abs(across) < width / 2)
    ground = np.percentile(crop, 5) + rng.normal(0, 3, crop.shape)
    return ground, cover.astype(float)


def _spot(
    rng: np.random.Generator, crop: np.ndarray, texture: str
) -> tuple[np.ndarray, np.ndarray]:
    size = len(crop)
    along, across = _frame(rng, size, 0.1)
    long, short = size * rng.uniform(0.1, 0.2), size * rng.uniform(0.06, 0.1)
    cover = np.clip(4 * (1 - np.hypot(along / long, across / short)), 0, 1)
    mean = crop.mean()
    shift = rng.choice([-1, 1]) * rng.uniform(25, 60)
    return mean + shift + rng.uniform(0.4, 0.8) * (crop - mean), cover


def _frame(rng: np.random.Generator, size: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels along and across a random direction from a random centre, each `(size, size)`.

    The centre is at least a share `margin` of `size` from the border.
    """
    y, x = np.mgrid[:size, :size] - rng.uniform(margin * size, (1 - margin) * size, (2, 1, 1))
    turn = rng.uniform(0, np.pi)
    return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)


def _blob(rng: np.random.Generator, size: int, radius: float) -> np.ndarray:
    """Cover of a few discs that overlap, with an edge of two pixels; radius in shares of `size`."""
    middle = rng.uniform(0.15 * size, 0.85 * size, 2)
    y, x = np.mgrid[:size, :size]
    cover = np.zeros((size, size))
    for _ in range(rng.integers(2, 6)):
        own = size * radius * rng.uniform(0.5, 1)
        place = middle + rng.uniform(-0.6, 0.6, 2) * size * radius
        distance = np.hypot(y - place[0], x - place[1])
        cover = np.maximum(cover, np.clip((own - distance) / 2 + 0.5, 0, 1))
    return cover


DRAWINGS = {
    "coin": _coin,
    "foreign": _foreign,
    "scratch": _scratch,
    "blur": _blur,
    "hole": _hole,
    "spot": _spot,
}
