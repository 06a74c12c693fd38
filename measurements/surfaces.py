"""Generated images of a woven cloth, normal and with defects, in the folders of MVTec AD.

MVTec AD (P. Bergmann et al., A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection,
CVPR 2019) contains photographs of surfaces; here the images are generated, so that tests have as
many as they need. All images differ: the weave has a random position and angle, each thread has its
own shade, the light comes from a random side, and the camera adds noise. Defects vary in position,
size, direction and contrast; the faintest are about as strong as the differences between threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

DEFECTS = ("scratch", "stain", "missing")
CLASS_NAMES = ("good", *DEFECTS)


@dataclass(frozen=True)
class Surfaces:
    """A data set in memory.

    Attributes:
        train_images: uint8 `(N, size, size, 3)`, or `(N, size, size)` if grey, all normal.
        test_images: Images of the same kind, the same number of each class.
        test_classes: uint8 `(M,)`, numbers of the classes; 0 is good.
        test_masks: bool `(M, size, size)`, True where the surface is defective.
    """

    train_images: np.ndarray
    test_images: np.ndarray
    test_classes: np.ndarray
    test_masks: np.ndarray


def make_surfaces(seed: int, train: int, test: int, size: int = 128) -> Surfaces:
    """Generates a data set.

    Args:
        seed: Seed of every random choice.
        train: Number of training images.
        test: Number of test images of each of `CLASS_NAMES`.
        size: Height and width in pixels.
    """
    rng = np.random.default_rng(seed)
    train_images = np.stack([_draw(rng, size, "good")[0] for _ in range(train)])
    tested = [_draw(rng, size, name) for name in CLASS_NAMES for _ in range(test)]
    images, masks = (np.stack(part) for part in zip(*tested, strict=True))
    classes = np.repeat(np.arange(len(CLASS_NAMES), dtype=np.uint8), test)
    return Surfaces(train_images, images, classes, masks)


def write_surfaces(folder: Path, seed: int, train: int, test: int, size: int = 128) -> None:
    """Writes the images of `make_surfaces` as PNG files.

    `train/good`, `test/good` and `test/<defect>` hold the images, `ground_truth/<defect>` a mask
    `<stem>_mask.png` of each defective image, white where the defect is.
    """
    write_folders(folder, make_surfaces(seed, train, test, size), CLASS_NAMES)


def write_folders(folder: Path, surfaces: Surfaces, class_names: tuple[str, ...]) -> None:
    """Writes images as `write_surfaces` does; the first of the class names is `good`."""
    test = len(surfaces.test_images) // len(class_names)
    for number, image in enumerate(surfaces.train_images):
        _save(image, folder / "train" / "good" / f"{number:03}.png")
    for index, (image, mask) in enumerate(
        zip(surfaces.test_images, surfaces.test_masks, strict=True)
    ):
        name, stem = class_names[surfaces.test_classes[index]], f"{index % test:03}"
        _save(image, folder / "test" / name / f"{stem}.png")
        if name != "good":
            white = mask.astype(np.uint8) * 255
            _save(white, folder / "ground_truth" / name / f"{stem}_mask.png")


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _draw(rng: np.random.Generator, size: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One image, uint8 `(size, size, 3)`, and the mask of its defect, bool `(size, size)`."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    angle = rng.normal(0, 0.03)
    pitch = 8 * rng.normal(1, 0.01)
    u = (x * np.cos(angle) + y * np.sin(angle)) / pitch + rng.uniform(0, 100)
    v = (y * np.cos(angle) - x * np.sin(angle)) / pitch + rng.uniform(0, 100)
    mask = np.zeros((size, size), bool)
    gone = mask
    if name == "missing":
        gone = mask = _missing(rng, u, v, size)
    cloth = _weave(rng, u, v, gone)
    if name == "stain":
        cloth, mask = _stain(rng, cloth)
    elif name == "scratch":
        cloth, mask = _scratch(rng, cloth)
    side, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.12)
    light = rng.normal(1, 0.04) + slope * (
        np.cos(side) * (x / size - 0.5) + np.sin(side) * (y / size - 0.5)
    )
    noise = rng.normal(0, 0.02, (size, size, 1)) + rng.normal(0, 0.01, (size, size, 3))
    image = np.clip(cloth * light[..., None] + noise, 0, 1)
    return (image * 255).round().astype(np.uint8), mask


WARP, WEFT, GROUND = (
    np.array(colour) for colour in ((0.58, 0.54, 0.47), (0.50, 0.50, 0.48), (0.26, 0.25, 0.25))
)


def _weave(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Plain weave of threads along u and v, each of its own shade; `(size, size, 3)`, 0 to 1."""
    shades = rng.normal(1, 0.05, (2, 256))
    warp_shade = shades[0, np.floor(u).astype(int) % 256]
    weft_shade = shades[1, np.floor(v).astype(int) % 256]
    warp, weft = np.abs(np.sin(np.pi * u)), np.abs(np.sin(np.pi * v))
    # A thread is round across, and dips where the other one crosses over it.
    above = (np.floor(u) + np.floor(v)) % 2 == 0
    warp_height = np.where(above, 0.7 + 0.3 * weft, 0.25) * np.sqrt(warp)
    weft_height = np.where(above, 0.25, 0.7 + 0.3 * warp) * np.sqrt(weft)
    weft_height = np.where(gone, 0.0, weft_height)
    top = (warp_height >= weft_height)[..., None]
    height = np.maximum(warp_height, weft_height)[..., None]
    colour = np.where(top, WARP * warp_shade[..., None], WEFT * weft_shade[..., None])
    sharp = GROUND + (colour - GROUND) * height
    return ndimage.gaussian_filter(sharp, (0.8, 0.8, 0))


def _missing(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    """One to three threads that are missing along a part of their length."""
    row, column = rng.integers(size // 32, size - size // 32, 2)
    thread, middle = np.floor(v[row, column]), u[row, column]
    across = np.floor(v) - thread
    return (
        (across >= 0) & (across < rng.integers(1, 4)) & (np.abs(u - middle) < rng.uniform(0.8, 3.0))
    )


def _stain(rng: np.random.Generator, cloth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A soft-edged patch of irregular outline that tints the cloth."""
    size = len(cloth)
    radius = size * rng.uniform(0.05, 0.14)
    y, x = np.mgrid[:size, :size] - rng.uniform(0.03 * size, 0.97 * size, (2, 1, 1))
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.7, 1.4)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    outline = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 20)
    outline *= 0.25 / outline.std()
    depth = 1 - np.hypot(along / stretch, across * stretch) / radius + outline
    cover = np.clip(depth * radius / 3 + 0.5, 0, 1)
    # A stain absorbs light, blue the most; bleach does the reverse.
    strength = rng.uniform(0.1, 0.35) * (1 if rng.random() < 0.7 else -0.7)
    tint = 1 - strength * np.array([0.7, 1.0, 1.3])
    return cloth * (1 + cover[..., None] * (tint - 1)), cover > 0.5


def _scratch(rng: np.random.Generator, cloth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A thin bent line, lighter or darker than the cloth."""
    size = len(cloth)
    length, width = size * rng.uniform(0.2, 0.6), rng.uniform(0.8, 2.0)
    heading, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.6)
    steps = np.linspace(-0.5, 0.5, 4 * size)
    headings = heading + bend * steps
    path = np.cumsum([np.sin(headings), np.cos(headings)], axis=1) * length / len(steps)
    path += rng.uniform(0.05 * size, 0.95 * size, (2, 1)) - path[:, [len(steps) // 2]]
    row, column = np.round(path).astype(int)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    away = np.ones((size, size))
    away[row[inside], column[inside]] = 0
    distance = ndimage.distance_transform_edt(away)
    cover = np.clip(width + 0.5 - distance, 0, 1)
    strength = rng.uniform(0.1, 0.3) * rng.choice([-1, 1])
    return cloth + cover[..., None] * strength, cover > 0.5
