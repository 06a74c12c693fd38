"""Fashion-MNIST from the first source that works.

The images of every source are checked (count, shape, digest) and sorted, so that the same seed
gives the same run on every machine.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anomaly_tf.data.arrays import in_one_order
from anomaly_tf.data.dataset import ImageDataset, SourceUnavailable, TrainAndTest
from anomaly_tf.data.idx import read_idx_folder
from anomaly_tf.data.image_set import ImageSet
from anomaly_tf.data.tfds_sets import tfds_folder
from anomaly_tf.errors import UserError
from anomaly_tf.reachability import GIVE_UP_SECONDS, Unreachable, probe
from anomaly_tf.runs.arrays import Announced, read_arrays
from anomaly_tf.runs.caches import may_write
from anomaly_tf.runs.files import atomic_path
from anomaly_tf.script import printable

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
# `digest` of the published 60,000 + 10,000 images.
FASHION_MNIST_DIGEST = "e9e2a65ffb58736f136df73a5c97f0784bd0eb2d65350ff152c1833aedf69998"
# Arrays in the cache.
CACHED = {
    "train_images": Announced(np.dtype(np.uint8), (60000, 28, 28, 1)),
    "train_classes": Announced(np.dtype(np.uint8), (60000,)),
    "test_images": Announced(np.dtype(np.uint8), (10000, 28, 28, 1)),
    "test_classes": Announced(np.dtype(np.uint8), (10000,)),
}

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# TFDS retries an unreachable host for minutes, so a small file of the same host is probed first.
TFDS_PROBE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz"


def load_fashion_mnist(data_dir: Path) -> ImageDataset:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grayscale images of 28x28, ten classes.

    Tries, in this order, the cache in `data_dir`, Debian's installed package, TFDS, and Debian's
    package downloaded without root. An unreachable source is abandoned within 10 s; images from any
    source except the cache are cached.

    Raises:
        UserError: If no source works (the message lists the sources and the remedy), or `data_dir`
            cannot be written.
    """
    cache = data_dir / "fashion_mnist.npz"
    sources: dict[str, Callable[[], TrainAndTest]] = {
        f"cache {cache}": lambda: _read_cache(cache),
        f"Debian's installed package {DEBIAN_PACKAGE}": lambda: read_idx_folder(DEBIAN_FOLDER),
        "TFDS": lambda: _read_tfds(),
        f"Debian's package {DEBIAN_PACKAGE} by apt-get": lambda: _download_debian_package(),
    }
    tried = []
    for name, read in sources.items():
        try:
            train, test = _check_fashion_mnist(read())
        except (SourceUnavailable, Unreachable) as error:
            tried.append(f"{name} ({error})")
            if not may_write(cache):
                raise UserError(
                    f"{tried[0]} is not a cache of Fashion-MNIST, and the folder comes from the "
                    "run's configuration; give the folder of the cache with --data-dir"
                ) from error
            continue
        if tried:
            _write_cache(cache, train, test)
            note = printable(f"Fashion-MNIST from {name}, cached in {cache}")
            print(note, file=sys.stderr)
        return ImageDataset("fashion_mnist", train, test, FASHION_MNIST_CLASSES)
    raise UserError(
        f"Fashion-MNIST not found; tried: {'; '.join(tried)}. Connect to the internet, or give a "
        "folder with the four IDX files of github.com/zalandoresearch/fashion-mnist with --data"
    )


def digest(train: ImageSet, test: ImageSet) -> str:
    """SHA-256 over the shapes and contents of images and classes, hexadecimal."""
    state = hashlib.sha256()
    for array in (train.images[:], train.classes, test.images[:], test.classes):
        state.update(repr(array.shape).encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _check_fashion_mnist(found: TrainAndTest) -> TrainAndTest:
    shapes = tuple(part.images.shape for part in found)
    if shapes != ((60000, 28, 28, 1), (10000, 28, 28, 1)):
        raise SourceUnavailable(f"has {shapes[0]} and {shapes[1]} images, not 60,000 and 10,000")
    train, test = map(in_one_order, found)
    if digest(train, test) != FASHION_MNIST_DIGEST:
        raise SourceUnavailable("its content is not that of Fashion-MNIST (damaged?)")
    return train, test


def _read_cache(path: Path) -> TrainAndTest:
    try:
        arrays = read_arrays(path, CACHED)
    except FileNotFoundError as error:
        raise SourceUnavailable("not there") from error
    except (OSError, ValueError) as error:
        raise SourceUnavailable(f"unreadable: {error}") from error
    return (
        ImageSet(arrays["train_images"], arrays["train_classes"]),
        ImageSet(arrays["test_images"], arrays["test_classes"]),
    )


def _write_cache(path: Path, train: ImageSet, test: ImageSet) -> None:
    if _holds_other_arrays(path):
        raise UserError(
            f"{path}, the cache of Fashion-MNIST, holds other arrays; move it away or choose "
            "another folder with --data-dir"
        )
    try:
        with atomic_path(path) as temporary:
            arrays = train.images[:], train.classes, test.images[:], test.classes
            np.savez(temporary, **dict(zip(CACHED, arrays, strict=True)))  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(
            f"cannot write the data cache {path}: {error.strerror}; "
            "choose another folder with --data-dir"
        ) from error


def _holds_other_arrays(path: Path) -> bool:
    """True if a file holds other arrays than the cache; an unreadable file is a damaged cache."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist()) != {f"{name}.npy" for name in CACHED}
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _read_tfds() -> TrainAndTest:
    """Reads Fashion-MNIST with TensorFlow Datasets, which downloads it if needed."""
    folder = tfds_folder()
    if not (folder / "fashion_mnist").is_dir():
        probe(TFDS_PROBE)
    try:
        import tensorflow_datasets as tfds

        sets = tfds.load("fashion_mnist", split=["train", "test"], data_dir=folder, batch_size=-1)
        train, test = tfds.as_numpy(sets)
    # The back ends of TFDS raise many kinds of exceptions; the next source is tried in any case.
    except Exception as error:
        raise SourceUnavailable(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return (
        ImageSet(train["image"], train["label"].astype(np.uint8)),
        ImageSet(test["image"], test["label"].astype(np.uint8)),
    )


def _download_debian_package() -> TrainAndTest:
    """Downloads and unpacks Debian's package with a separate package list, without root."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise SourceUnavailable("apt-get and dpkg-deb are not installed")
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
        return read_idx_folder(folder / "content" / DEBIAN_FOLDER.relative_to("/"))


def _run_until_stalled(command: list[str], folder: Path) -> None:
    """Runs a command that writes to `folder`; stops it after `GIVE_UP_SECONDS` without growth."""
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
