"""Where images come from: Fashion-MNIST from the first source that works, or a folder of IDX files.

Whatever the source, the arrays are checked (count, shape, digest) and brought into one order, so
that the same seed gives the same run on every machine.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_tf.errors import UserError
from anomaly_tf.files import atomic_path

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# What `digest` gives for the published 60,000 + 10,000 images.
FASHION_MNIST_DIGEST = "e9e2a65ffb58736f136df73a5c97f0784bd0eb2d65350ff152c1833aedf69998"

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# TFDS retries an unreachable host for minutes, so a small file of the same host is asked first.
TFDS_PROBE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz"
GIVE_UP_SECONDS = 8.0

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class SourceUnavailable(Exception):
    """A source cannot serve; the message says why, and the next source is tried."""


@dataclass(frozen=True)
class ImageDataset:
    """Images and their classes, as their publisher divided them.

    Attributes:
        name: What the user calls it.
        train_images: uint8 `(N, H, W, C)`.
        train_classes: uint8 `(N,)`.
        test_images: uint8 `(M, H, W, C)`.
        test_classes: uint8 `(M,)`.
        class_names: Name of each class number.
    """

    name: str
    train_images: np.ndarray
    train_classes: np.ndarray
    test_images: np.ndarray
    test_classes: np.ndarray
    class_names: tuple[str, ...]


def load_dataset(source: str, data_dir: Path) -> ImageDataset:
    """Loads a data set by name or folder.

    Args:
        source: `fashion_mnist`, or a folder that holds the four IDX files of an MNIST-like set.
        data_dir: Folder in which downloaded data is cached; created when needed.

    Raises:
        UserError: If no source works, or the folder does not hold what it should.
    """
    if source == "fashion_mnist":
        return fashion_mnist(data_dir)
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(
            f"data {source!r} is neither 'fashion_mnist' nor a folder; "
            "give --data fashion_mnist or a folder with four IDX files"
        )
    try:
        arrays = _read_idx_folder(folder)
    except SourceUnavailable as error:
        raise UserError(f"no data in {folder}: {error}") from error
    names = tuple(str(number) for number in range(int(arrays[1].max()) + 1))
    return ImageDataset(str(folder), *arrays, class_names=names)


def known_class_names(source: str) -> tuple[str, ...] | None:
    """Class names of a data set that has them before anything is loaded, else None."""
    return FASHION_MNIST_CLASSES if source == "fashion_mnist" else None


def fashion_mnist(data_dir: Path) -> ImageDataset:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grayscale images of 28x28, ten classes.

    Tries, in this order, the cache in `data_dir`, Debian's installed package, TFDS, and Debian's
    package downloaded without root. An unreachable source is given up within 10 s; what another
    source than the cache gave is cached.

    Raises:
        UserError: If no source works (the message lists what was tried and what to do), or
            `data_dir` cannot be written.
    """
    cache = data_dir / "fashion_mnist.npz"
    sources: dict[str, Callable[[], Arrays]] = {
        f"cache {cache}": lambda: _read_cache(cache),
        f"Debian's installed package {DEBIAN_PACKAGE}": lambda: _read_idx_folder(DEBIAN_FOLDER),
        "TFDS": lambda: _read_tfds(),
        f"Debian's package {DEBIAN_PACKAGE} by apt-get": lambda: _download_debian_package(),
    }
    tried = []
    for name, read in sources.items():
        try:
            arrays = _check_fashion_mnist(read())
        except SourceUnavailable as error:
            tried.append(f"{name} ({error})")
            continue
        if tried:
            _write_cache(cache, arrays)
            print(f"Fashion-MNIST from {name}, cached in {cache}", file=sys.stderr)
        return ImageDataset("fashion_mnist", *arrays, class_names=FASHION_MNIST_CLASSES)
    raise UserError(
        f"Fashion-MNIST not found; tried: {'; '.join(tried)}. Connect to the internet, or give "
        "a folder with the four IDX files of github.com/zalandoresearch/fashion-mnist by --data"
    )


def digest(arrays: Arrays) -> str:
    """SHA-256 over the shapes and contents of the four arrays, hexadecimal."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(repr(array.shape).encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _check_fashion_mnist(arrays: Arrays) -> Arrays:
    train_images, train_classes, test_images, test_classes = arrays
    if train_images.shape != (60000, 28, 28, 1) or test_images.shape != (10000, 28, 28, 1):
        raise SourceUnavailable(
            f"has {train_images.shape} and {test_images.shape} images, not 60,000 and 10,000"
        )
    arrays = (
        *_in_one_order(train_images, train_classes),
        *_in_one_order(test_images, test_classes),
    )
    if digest(arrays) != FASHION_MNIST_DIGEST:
        raise SourceUnavailable("its content is not that of Fashion-MNIST (damaged?)")
    return arrays


def _in_one_order(images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts images by their bytes: TFDS shuffles what the IDX files hold in order."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    order = np.argsort(flat.view(np.dtype((np.void, flat.shape[1]))).ravel(), kind="stable")
    return images[order], classes[order]


def _read_cache(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return (
                file["train_images"],
                file["train_classes"],
                file["test_images"],
                file["test_classes"],
            )
    except FileNotFoundError as error:
        raise SourceUnavailable("not there") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceUnavailable(f"unreadable: {error}") from error


def _write_cache(path: Path, arrays: Arrays) -> None:
    train_images, train_classes, test_images, test_classes = arrays
    try:
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                train_images=train_images,
                train_classes=train_classes,
                test_images=test_images,
                test_classes=test_classes,
            )
    except OSError as error:
        raise UserError(
            f"cannot write the data cache {path}: {error.strerror}; "
            "choose another folder by --data-dir"
        ) from error


def _read_idx_folder(folder: Path) -> Arrays:
    arrays = (
        _read_idx(folder, "train-images-idx3-ubyte", 3)[..., np.newaxis],
        _read_idx(folder, "train-labels-idx1-ubyte", 1),
        _read_idx(folder, "t10k-images-idx3-ubyte", 3)[..., np.newaxis],
        _read_idx(folder, "t10k-labels-idx1-ubyte", 1),
    )
    if len(arrays[0]) != len(arrays[1]) or len(arrays[2]) != len(arrays[3]):
        raise SourceUnavailable("its image and label files differ in length")
    if not len(arrays[0]) or not len(arrays[2]) or arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise SourceUnavailable("its training and test images are empty or differ in size")
    return arrays


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Reads one uint8 IDX file (the format of yann.lecun.com/exdb/mnist), gzipped or not."""
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.exists()), None)
    if path is None:
        raise SourceUnavailable(f"{name}[.gz] is not in {folder}")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceUnavailable(f"{path} is unreadable: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise SourceUnavailable(f"{path} is not an IDX file of {dimensions}-dimensional uint8")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    if len(content) - header != np.prod(shape):
        raise SourceUnavailable(f"{path} is truncated: {shape} announced, {len(content)} bytes")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_tfds() -> Arrays:
    """Reads (and, where it is reachable, downloads) Fashion-MNIST by TensorFlow Datasets."""
    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not (folder / "fashion_mnist").is_dir():
        _probe(TFDS_PROBE)
    try:
        import tensorflow_datasets as tfds

        sets = tfds.load("fashion_mnist", split=["train", "test"], data_dir=folder, batch_size=-1)
        train, test = tfds.as_numpy(sets)
    # TFDS raises what its many back ends raise; whatever it is, the next source is tried.
    except Exception as error:
        raise SourceUnavailable(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return (
        train["image"],
        train["label"].astype(np.uint8),
        test["image"],
        test["label"].astype(np.uint8),
    )


def _probe(url: str) -> None:
    """Asks for the head of a file, for at most `GIVE_UP_SECONDS`."""
    answer: list[Exception | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=GIVE_UP_SECONDS):
                answer.append(None)
        except OSError as error:  # URLError is one
            answer.append(error)

    # In a thread, because the timeout does not cover looking up the host's name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(GIVE_UP_SECONDS)
    problem = answer[0] if answer else f"no answer within {GIVE_UP_SECONDS:g} s"
    if problem is not None:
        raise SourceUnavailable(f"{url.split('/')[2]} cannot be reached: {problem}")


def _download_debian_package() -> Arrays:
    """Downloads and unpacks Debian's package with a package list of its own: no root needed."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise SourceUnavailable("apt-get and dpkg-deb are not there")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("lists/partial", "archives/partial"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()
        settings = {
            "Dir::State": folder,
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder,
            "Acquire::Retries": 0,
            "Acquire::http::Timeout": GIVE_UP_SECONDS,
            "Acquire::https::Timeout": GIVE_UP_SECONDS,
        }
        apt = ["apt-get", "-q"]
        apt += [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        _run_until_stalled([*apt, "update"], folder)
        _run_until_stalled([*apt, "download", DEBIAN_PACKAGE], folder)
        (package,) = folder.glob("*.deb")
        _run_until_stalled(["dpkg-deb", "-x", str(package), str(folder / "content")], folder)
        return _read_idx_folder(folder / "content" / DEBIAN_FOLDER.relative_to("/"))


def _run_until_stalled(command: list[str], folder: Path) -> None:
    """Runs a command that fills `folder`; ends it when nothing arrives for `GIVE_UP_SECONDS`."""
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    size, grown = -1, time.monotonic()
    while process.poll() is None:
        now = _bytes_in(folder)
        if now != size:
            size, grown = now, time.monotonic()
        if time.monotonic() - grown > GIVE_UP_SECONDS:
            process.kill()
            process.wait()
            raise SourceUnavailable(f"no answer within {GIVE_UP_SECONDS:g} s")
        time.sleep(0.05)
    if process.returncode:
        lines = [line for line in log.read_text().splitlines() if line.startswith("E:")]
        raise SourceUnavailable(lines[-1] if lines else f"exit status {process.returncode}")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed by the command since it was listed
            continue
    return total
