"""Finds image files in folders, and counts the files that are left out by reason.

No file is decoded. Needs Pillow only through `images.py`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomaly_tf.data.formats import SUFFIXES
from anomaly_tf.errors import UserError
from anomaly_tf.runs.outputs import is_own_picture, is_run
from anomaly_tf.runs.paths import user_path
from anomaly_tf.script import shortened

# Files and folders that operating systems create, in lower case. They are neither searched nor
# counted; the same holds for hidden ones, whose names begin with a dot.
SYSTEM_NAMES = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
        *("__macosx", "network trash folder", "temporary items"),
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@recently-snapshot"),
        *("lost+found", "$recycle.bin", "recycler", "recycled", "system volume information"),
    }
)
# Suffixes of images in formats that are not supported.
OTHER_FORMATS = frozenset(
    """
    .heic .heif .hif .avif .jp2 .j2k .jpf .jpx .jpm .j2c .jpc .jxl .jxr .wdp .hdp .svg .eps .ico
    .icns .psd .psb .xcf .kra .tga .icb .pcx .pbm .pgm .ppm .pnm .pfm .sgi .rgb .ras .xbm .xpm .dds
    .exr .hdr .fit .fits .dcm .dicom .nii .czi .lif .nd2 .vsi .svs .ndpi .mrxs .scn .dng .raw .cr2
    .cr3 .crw .nef .nrw .arw .sr2 .srf .orf .rw2 .raf .pef .rwl .3fr .iiq .x3f .mng .jng .flif .bpg
    .wbmp .dib .cur .emf .wmf
    """.split()  # noqa: SIM905
)
# Endings that are listed; further ones are only counted.
MAX_ENDINGS = 6


@dataclass
class LeftOut:
    """The files that a search left out, by reason.

    Attributes:
        counts: Reason to the number of files.
        first: Reason to the first file by name.
        endings: Reason to the number of files with each ending, if the ending is the reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    endings: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str | Path, ending: str | None = None) -> None:
        """Counts one file."""
        self.counts[reason] += 1
        self.first[reason] = min(str(path), self.first.get(reason, str(path)), key=_order)
        if ending is not None:
            self.endings.setdefault(reason, Counter())[ending] += 1

    def lines(self) -> list[str]:
        """A line for each reason, with the number of files and the first; none without files."""
        lines = []
        for reason in sorted(self.counts):
            count, shown = self.counts[reason], self.first[reason]
            if reason in self.endings:
                frequent = sorted(self.endings[reason].items(), key=lambda item: (-item[1], item))
                kinds = [f"{number} {ending}" for ending, number in frequent]
                shown = shortened(kinds, MAX_ENDINGS, "endings")
            elif count > 1:
                shown = f"first: {shown}"
            lines.append(f"left out: {count} {reason.format(s='s' * (count > 1))} ({shown})")
        return lines


# Reasons; {s} is the plural ending.
NOT_READ = "image{s} in formats that are not supported; convert them to PNG or JPEG"
OTHER = "other file{s}, no image by the name"
OWN = "image{s} written by anomaly_tf, heat maps or plots"
RUN = "run folder{s} of anomaly_tf"
TWICE = "folder{s} reached twice; read once"
DANGLING = "broken link{s}"
SPECIAL = "pipe{s}, socket{s} or device{s}"
CLOSED = "file{s} or folder{s} that cannot be accessed; change the permissions"
# Errors of the system for a broken or circular link.
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Search:
    """A search through folders; links to folders are followed once.

    A folder that is reached again, by a link or by its name, is not read again, so that loops end.
    """

    def __init__(self) -> None:
        self.left_out = LeftOut()
        self._seen: set[tuple[int, int]] = set()

    def images_below(self, folder: str | Path) -> list[str]:
        """Relative paths of the image files below a folder, by suffix, sorted by name."""
        return sorted(self.walk(folder), key=_order)

    def walk(self, folder: str | Path) -> Iterator[str]:
        """Yields what `images_below` returns in no particular order, and keeps no names."""
        links = [""]
        # Links are followed last, so that a folder is found by its own path first.
        while links:
            further: list[str] = []
            for link in sorted(links, key=_order):
                yield from self._search(Path(folder), link, further)
            links = further

    def _search(self, folder: Path, start: str, links: list[str]) -> Iterator[str]:
        """Searches from one folder down; links to folders are only recorded."""
        waiting = [start]
        while waiting:
            inside = waiting.pop()
            place = folder / inside
            try:
                status = place.stat()
                if (status.st_dev, status.st_ino) in self._seen:
                    self.left_out.add(TWICE, place)
                    continue
                entries = os.scandir(place)
                holds_run = is_run(place)
            except OSError as error:
                self.left_out.add(CLOSED, f"{place}: {error.strerror}")
                continue
            self._seen.add((status.st_dev, status.st_ino))
            with entries:
                if holds_run:
                    self.left_out.add(RUN, place)
                    continue
                for entry in entries:
                    name = os.path.join(inside, entry.name)
                    if is_system_name(entry.name):
                        continue
                    try:
                        mode = _mode(entry)
                    except OSError as error:
                        self.left_out.add(CLOSED, f"{folder / name}: {error.strerror}")
                        continue
                    if mode is not None and stat.S_ISDIR(mode):
                        (links if entry.is_symlink() else waiting).append(name)
                    elif self._is_image(folder, name, mode):
                        yield name

    def _is_image(self, folder: Path, name: str, mode: int | None) -> bool:
        """Returns True if a file is an image by its name, else counts it."""
        ending = os.path.splitext(name)[1].lower()
        path = os.path.join(folder, name)
        if mode is not None and not stat.S_ISREG(mode):
            self.left_out.add(SPECIAL, path)
        elif ending in SUFFIXES:  # including broken links, which are reported when read
            if ending != ".png" or not is_own_picture(path):
                return True
            self.left_out.add(OWN, path)
        elif mode is None:
            self.left_out.add(DANGLING, path)
        else:
            self.left_out.add(
                NOT_READ if ending in OTHER_FORMATS else OTHER, path, ending or "no ending"
            )
        return False


def is_system_name(name: str) -> bool:
    """True if a file or folder is hidden or created by the operating system."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _mode(entry: os.DirEntry[str]) -> int | None:
    """File mode of an entry's target; None for a broken or circular link."""
    try:
        return entry.stat().st_mode
    except OSError as error:
        if error.errno not in NOWHERE:
            raise
        return None


def _order(path: str) -> list[tuple[bool, str]]:
    """A sort key: by name, the files of each folder before its subfolders."""
    *folders, name = path.split(os.sep)
    return [*((True, folder) for folder in folders), (False, name)]


@dataclass
class Found:
    """The image files in the files and folders that a user names.

    Attributes:
        files: Each file, and its path relative to the parent of the named folder, or the name of
            the named file.
        problems: The reason for each named folder that holds no image.
        left_out: Files of the folders that were left out.
    """

    files: list[tuple[Path, Path]]
    problems: list[str]
    left_out: LeftOut

    @property
    def is_complete(self) -> bool:
        """True if every named folder could be searched completely."""
        return not self.problems and not self.left_out.counts[CLOSED]


def find_images(places: Sequence[Path]) -> Found:
    """Finds image files; in folders and their subfolders by suffix, sorted by name.

    Args:
        places: Files and folders. A file may have any suffix and need not exist.
    """
    search = Search()
    files: list[tuple[Path, Path]] = []
    problems = []
    for place in map(user_path, places):
        if not os.path.isdir(place):  # raises nothing on an invalid path
            files.append((place, Path(place.name)))
            continue
        before = search.left_out.counts.copy()
        names = search.images_below(place)
        outside = Path(place.resolve().name)
        files += [(place / name, outside / name) for name in names]
        skipped = search.left_out.counts - before
        if not names and not skipped[TWICE]:
            closed = f"folder {place} cannot be read; change its permissions"
            problems.append(closed if skipped[CLOSED] else str(no_images(place)))
    return Found(files, problems, search.left_out)


def folders_of(files: Iterable[Path]) -> list[Path]:
    """The folders of files, each once; for a link also the folder of its target."""
    names: dict[str, None] = {}
    for file in files:
        names[os.path.dirname(file) or "."] = None
        if os.path.islink(file):
            names[os.path.dirname(os.path.realpath(file))] = None
    return list(map(Path, names))


def no_images(folder: Path) -> UserError:
    """The error for a folder without images."""
    return UserError(f"folder {folder} holds no images; give one with {', '.join(SUFFIXES)} files")
