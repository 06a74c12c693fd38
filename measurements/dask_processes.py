"""A Dask scheduler and workers as processes of their own, on the loopback address only."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from measurements.measuring import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0


class DaskProcess:
    """One process, and what it has logged."""

    def __init__(
        self, folder: Path, module: str, arguments: Iterable[object], path: str = ""
    ) -> None:
        paths = ":".join(filter(None, (path, str(ROOT))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**ENVIRONMENT, "PYTHONPATH": paths},
        )
        self._log, self._ended, self._grown = "", False, threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            with self._grown:
                self._log += line
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()

    def logged(self, pattern: str) -> str:
        """Waits for a line; returns the first group."""

        def found() -> bool:
            return bool(re.search(pattern, self._log)) or self._ended

        with self._grown:
            assert self._grown.wait_for(found, PATIENCE), self._log
            match = re.search(pattern, self._log)
            assert match, self._log
            return match[1] if match.groups() else match[0]


class DaskCluster:
    """A scheduler, and workers with one thread each.

    Attributes:
        address: Address of the scheduler.
        workers: The workers.
    """

    def __init__(self, folder: Path, certificates: Path | None = None) -> None:
        self.folder, self._certificates = folder, certificates
        self.workers: list[DaskProcess] = []
        protocol = "tls" if certificates else "tcp"
        options = ("--host", f"{protocol}://127.0.0.1", "--port", 0, "--no-dashboard")
        self.scheduler = DaskProcess(
            folder, "dask_scheduler", (*options, *tls_options(certificates))
        )
        self.address = self.scheduler.logged(rf"Scheduler at:\s+({protocol}://[\d.:]+)")

    def start_worker(
        self, *options: object, path: str = "", certificates: Path | None = None
    ) -> DaskProcess:
        """Starts a worker, which is not waited for."""
        host = ("--host", "127.0.0.1", "--nthreads", 1, "--no-nanny", "--no-dashboard")
        tls = tls_options(certificates or self._certificates)
        arguments = (self.address, *host, *tls, *options)
        self.workers.append(DaskProcess(self.folder, "dask_worker", arguments, path))
        return self.workers[-1]

    def stop(self) -> None:
        """Ends all processes."""
        for one in (*self.workers, self.scheduler):
            one.process.kill()
            one.process.wait()


def tls_options(certificates: Path | None) -> tuple[object, ...]:
    """Options of Dask's commands for the files in a folder."""
    if certificates is None:
        return ()
    return (
        *("--tls-ca-file", certificates / "ca.pem"),
        *("--tls-cert", certificates / "cert.pem", "--tls-key", certificates / "key.pem"),
    )


@contextmanager
def dask_cluster(folder: Path, workers: int, **keywords: Path) -> Iterator[DaskCluster]:
    """A cluster whose workers are ready; all of it ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = DaskCluster(folder, **keywords)
    try:
        for _ in range(workers):
            cluster.start_worker()
        for worker in cluster.workers:
            worker.logged(r"Registered to:")
        yield cluster
    finally:
        cluster.stop()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits for a condition while a process runs."""
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        break
    assert condition(), f"ended with {process.returncode}"
