"""`predict.py --heatmaps`: where the heat map of each image lies."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from anomaly_tf.data.search import Found, folders_of
from anomaly_tf.deploy.file_scoring import ImageFile
from anomaly_tf.deploy.loading import run_of
from anomaly_tf.runs.files import require_unlinked, require_writable
from anomaly_tf.runs.outputs import is_heat_map, require_own_place
from anomaly_tf.script import printable

# What is read of the folder of a SavedModel, or of the one above it.
MODEL_FOLDERS = tuple(
    place + name for place in ("", "1/") for name in ("", "variables", "assets", "assets.extra")
)


def with_heatmaps(
    folder: Path, found: Found, places: Iterable[Path], model: Path
) -> list[ImageFile]:
    """The files, each with the path of its heat map.

    Raises:
        UserError: If a heat map would replace another file or lie in a folder that is read from,
            or the folder cannot be written.
    """
    heatmaps = [folder / name for name in heatmap_names([name for _, name in found.files])]
    model_folders = [run_of(model) / name for name in (".", *MODEL_FOLDERS)]
    read_from = [*places, *folders_of(path for path, _ in found.files), *model_folders]
    require_own_place("--heatmaps", folder, dict.fromkeys(heatmaps, is_heat_map), read_from)
    require_unlinked(folder, heatmaps)
    for place in sorted({folder, *(heatmap.parent for heatmap in heatmaps)}):
        require_writable(place, "--heatmaps")
    files = []
    for (path, name), heatmap in zip(found.files, heatmaps, strict=True):
        files.append(ImageFile(path, heatmap))
        if heatmap not in (folder / name, folder / f"{name}.png"):
            said = f"{path}: its heat map is {heatmap}, because its own name is taken or too long"
            print(printable(said), file=sys.stderr)
    return files


def heatmap_names(names: list[Path]) -> list[Path]:
    """Names of heat maps inside their folder, unique on every file system."""

    def folded(path: Path) -> str:
        return unicodedata.normalize("NFC", str(path)).casefold()

    used = {folded(above) for above in {above for name in names for above in name.parents}}
    numbers: dict[Path, int] = {}
    heatmaps = []
    for name in names:
        path = name if name.suffix.lower() == ".png" else name.with_name(f"{name.name}.png")
        while folded(path) in used or len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            numbers[name] = numbers.get(name, 1) + 1
            stem = os.fsdecode(os.fsencode(name.stem)[: MAX_NAME_BYTES - 20])
            path = name.with_name(f"{stem}-{numbers[name]}.png")
        used.add(folded(path))
        heatmaps.append(path)
    return heatmaps


# File systems take no longer ones.
MAX_NAME_BYTES = 255
