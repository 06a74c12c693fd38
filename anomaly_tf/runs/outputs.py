"""Checks of output paths: a command replaces only its own outputs, and none of its inputs.

Each command checks its outputs here before starting work. Image files that it writes are marked
(`MARK`), so that a search for images leaves them out and a command recognises its own; other files
are recognised by their content.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from anomaly_tf.errors import UserError
from anomaly_tf.runs.files import PARTIAL

# Text chunk of the PNG files written by this program; the words after the mark name their kind.
SOFTWARE, MARK = "Software", "anomaly_tf"
HEAT_MAP, PLOT = f"{MARK} heat map", f"{MARK} plot"
PNG_START = b"\x89PNG\r\n\x1a\n"
# Bytes before the pixels of a PNG; files of other programs may have more.
MAX_PNG_HEAD = 4096
# Metadata of an export, in the folder of a SavedModel and inside a .tflite file.
EXPORT_METADATA, SAVED_MODEL_METADATA = "anomaly_tf.json", Path("assets.extra", "anomaly_tf.json")
EXPORT_FORMAT = "anomaly_tf detector"
# The page of a detector: what its HTML names as its generator, and what lies with its parts.
PAGE_MARK = f"{MARK} page of a detector"
PAGE_METADATA = "parts.json"
MAX_PAGE_HEAD = 1000
# Larger JSON files are not read, because none is written by this program.
MAX_JSON = 64 * 10**6
EXAMPLES_FORMAT = "anomaly_tf examples"
REPORT_MARK = b'<meta name="generator" content="anomaly_tf report">'
REPORTS = ("benchmark.md", "benchmark.html")
REPORT_HEADS = (b"| approach | protocol | normal class |", b"anomaly_tf benchmark</title>")

# What a search writes first in its files of text, and names in the others.
SEARCH = f"{MARK} search"
JOURNAL_HEAD = b'{"op_code":0,'

STUDY_KEYS = {"options", "normal_class", "seed"}

IsOwn = Callable[[Path], bool]


def require_own_place(
    option: str, root: Path, outputs: Mapping[Path, IsOwn], read_from: Iterable[Path] = ()
) -> None:
    """Checks, before starting work, that outputs replace no files of others.

    Links and `..` are followed, and folders are compared by device and inode, not by name.

    Args:
        option: The option that names the folder, for messages.
        root: The folder that the option names; it need not exist.
        outputs: Each file or folder that will be written, and a function that recognises one that
            this program wrote.
        read_from: Folders that the command reads.

    Raises:
        UserError: If an output would be written into a folder that is read, replace a file that
            this program did not write, or be written through a link or a file.
    """
    read = {identity(folder) for folder in read_from} - {None}
    folders = {root, *(path.parent for path in outputs)}
    for folder in sorted(folders):
        if identity(folder) in read:
            raise UserError(
                f"{option} {root} would write into {folder}, which this command reads from; "
                f"choose another {option}"
            )
        _require_plain_folders(option, root, folder)
    for path, is_own in outputs.items():
        if os.path.lexists(path) and not is_own(path):
            was = "holds files that were not" if path.is_dir() else "exists and was not"
            raise UserError(
                f"{path} {was} written by this command; move it away or choose another {option}"
            )


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file or folder; None if it does not exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _require_plain_folders(option: str, root: Path, folder: Path) -> None:
    """Refuses links and files in place of folders below `root`."""
    while folder != root and root in folder.parents:
        if folder.is_symlink():
            raise UserError(
                f"{folder} is a link to another place; remove it or choose another {option}"
            )
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is not a folder; remove it or choose another {option}")
        folder = folder.parent


def software_of(path: str | Path) -> str:
    """The program that a PNG file names as its writer; empty if there is none, or no PNG file."""
    head = _head(path, MAX_PNG_HEAD)
    place = len(PNG_START)
    if head[:place] != PNG_START:
        return ""
    prefix = SOFTWARE.encode() + b"\0"
    while len(kind := head[place + 4 : place + 8]) == 4 and kind != b"IDAT":
        length = int.from_bytes(head[place : place + 4], "big")
        content = head[place + 8 : place + 8 + length]
        if kind == b"tEXt" and content.startswith(prefix):
            return content.removeprefix(prefix).decode("latin-1")
        place += 12 + length
    return ""


def _head(path: str | Path, size: int) -> bytes:
    """The first bytes of a file; empty if it cannot be read or is a pipe, which would block."""
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb", buffering=0) as file:
            return file.read(size)
    except OSError:
        return b""


def is_own_picture(path: str | Path) -> bool:
    """True if a file is an image that this program wrote: a heat map or a plot."""
    return software_of(path).startswith(f"{MARK} ")


def is_heat_map(path: Path) -> bool:
    """True if a file is a heat map that `predict.py` wrote."""
    return software_of(path) == HEAT_MAP


def is_run(folder: Path) -> bool:
    """True if a folder is a run that holds a detector."""
    return (folder / "config.yaml").is_file() and (folder / "detector.json").is_file()


def is_own_run(folder: Path) -> bool:
    """True if a folder is a run, finished or not, without added files.

    Exports count as added files, because they may be in use.
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    there = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path for path in there if not path.name.startswith(PARTIAL)]
    return all(_is_of_run(path.relative_to(folder), path) for path in names) and (
        not names or (folder / "config.yaml") in names
    )


def files_of_run(folder: Path) -> list[Path]:
    """Files of a run, relative to its folder: what training and evaluation write there."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if _is_of_run(name, folder / name))


def _is_of_run(name: Path, path: Path) -> bool:
    """True if training or an evaluation writes a file of this name inside a run."""
    if path.is_symlink():
        return False
    if len(name.parts) == 1:
        return name.name in RUN_FILES
    if name.parts[0] == "refinement":  # left by a stopped one; each folder holds a training
        inside = name.parts[1:]
        return inside == ("unusual.json",) or (
            len(inside) > 1 and _is_of_run(Path(*inside[1:]), path)
        )
    if name.parts[0] == "plots":
        return len(name.parts) == 2 and is_plot(path)
    return name.parts[0] == "tensorboard" and name.name.startswith("events.out.tfevents")


RUN_FILES = {
    *("config.yaml", "split.json", "checkpoint.npz", "history.csv", "detector.json"),
    *("validation.npz", "refinement.json"),
    *("model.keras", "model-new.keras", "metrics.json", "scores.csv"),
    *("examples.json", "report.html"),
}
PLOT_NAMES = {
    *("scores", "losses", "roc", "precision_recall", "auroc_by_class", "auroc_by_strength"),
    *("confusion_matrix", "localisation", "normal", "anomaly", "most_unusual"),
    *("worst_misses", "worst_false_alarms", "surest_mistakes"),
}
SCORES_HEAD = "label,class,score,verdict,p_value"


def is_plot(path: Path) -> bool:
    """True if a file is a plot of an evaluation; those of earlier versions are known by name."""
    writer = software_of(path)
    return writer == PLOT or (writer.startswith("Matplotlib") and path.stem in PLOT_NAMES)


def is_scores(path: Path) -> bool:
    """True if a file is the `scores.csv` of an evaluation."""
    first = _head(path, 200).partition(b"\n")[0].decode("utf-8", "replace")
    return first in (f"file,{SCORES_HEAD}", f"number,{SCORES_HEAD}")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file holds none."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_JSON:
            return {}
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def json_with(*keys: str) -> IsOwn:
    """Returns a function that recognises JSON files by their keys."""
    return lambda path: set(keys) <= set(read_object(path))


def is_exported_metadata(path: Path) -> bool:
    """True if a file is the metadata of an export."""
    return read_object(path).get("format") == EXPORT_FORMAT


def is_exported_file(path: Path) -> bool:
    """True if a file is a .tflite file that `export.py` wrote."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return EXPORT_METADATA in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):  # damaged, or without its metadata
        return is_exported_metadata(path.with_suffix(".json"))


def is_exported_folder(folder: Path) -> bool:
    """True if a folder is a SavedModel that `export.py` wrote, without added files."""
    return _holds_only_recorded(folder, SAVED_MODEL_METADATA, EXPORT_FORMAT)


def is_exported_page(path: Path) -> bool:
    """True if a file is the page of a detector that `export.py` wrote."""
    return f'content="{PAGE_MARK}"'.encode() in _head(path, MAX_PAGE_HEAD)


def is_page_folder(folder: Path) -> bool:
    """True if a folder holds the parts of such a page, without added files."""
    return _holds_only_recorded(folder, Path(PAGE_METADATA), PAGE_MARK)


def _holds_only_recorded(folder: Path, metadata: Path, kind: str) -> bool:
    """True if all files of a folder are in the list of its metadata, which is of this format."""
    content = read_object(folder / metadata)
    if folder.is_symlink() or content.get("format") != kind:
        return False
    recorded = content.get("files_sha256")
    if not isinstance(recorded, dict):  # earlier versions recorded none
        return True
    there = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(folder).as_posix() for path in there}
    return names <= {*recorded, metadata.as_posix()}


def export_outputs(path: Path) -> dict[Path, IsOwn]:
    """What an export writes, for `require_own_place`.

    Args:
        path: The .tflite file, the page, or the folder of a SavedModel.
    """
    if path.suffix == ".html":
        return {path: is_exported_page}
    if path.suffix == ".tflite":
        return {path: is_exported_file, path.with_suffix(".json"): is_exported_metadata}
    return {path: is_exported_folder}


def site_outputs(page: Path) -> dict[Path, IsOwn]:
    """What an export writes for a web server beside a page, for `require_own_place`."""
    return {
        page.with_name("index.html"): is_exported_page,
        page.with_suffix(""): is_page_folder,
    }


def is_benchmark_report(path: Path) -> bool:
    """True if a file is a table or page that `benchmark.py` wrote."""
    head = _head(path, 1000)
    return head.startswith(REPORT_HEADS[0]) or REPORT_HEADS[1] in head


def _is_text_of_search(path: Path) -> bool:
    """True if a file is the summary, or the YAML file, that `search.py` wrote."""
    return _head(path, 100).startswith(f"# {SEARCH}".encode())


def _is_journal(path: Path) -> bool:
    """True if a file is a journal of Optuna that `search.py` began, or was about to begin."""
    first, end, _ = _head(path, 1000).partition(b"\n")
    if not end:
        return path.is_file() and JOURNAL_HEAD.startswith(first[: len(JOURNAL_HEAD)])
    return f'"study_name":"{SEARCH}"'.encode() in first


# Files that a search writes beside its runs.
SEARCH_OUTPUTS: dict[str, IsOwn] = {
    "search.json": lambda path: read_object(path).get("format") == SEARCH,
    "journal.log": _is_journal,
    "best.yaml": _is_text_of_search,
    "search.md": _is_text_of_search,
    "search.png": is_plot,
}


def is_report(path: Path) -> bool:
    """True if a file is a page of runs that `evaluate.py` or `report.py` wrote."""
    return REPORT_MARK in _head(path, 200)


def is_examples(path: Path) -> bool:
    """True if a file is the `examples.json` of an evaluation."""
    return read_object(path).get("format") == EXAMPLES_FORMAT


def is_measurement(path: Path) -> bool:
    """True if a file holds results of `measurements/`: a study, or results with the hardware."""
    content = read_object(path)
    cells = content.get("cells")
    if isinstance(cells, list):
        ours = bool(cells) or "defaults" in content
        return ours and all(isinstance(cell, dict) and set(cell) >= STUDY_KEYS for cell in cells)
    parts = [content, *(part for part in content.values() if isinstance(part, dict))]
    return any(re.match(r"(CPU|GPU)\b", str(part.get("hardware", ""))) for part in parts)
