"""A Dask cluster as an executor: the connection, its certificates, and equal versions everywhere.

Dask `distributed` is an optional package (requirements-cluster.txt) and imported when it is needed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from anomaly_tf.errors import UserError
from anomaly_tf.version import VERSION

Result = TypeVar("Result")

# Seconds to wait for the scheduler, and for its first worker.
CONNECT_SECONDS, WORKER_SECONDS = 5.0, 15.0
# Packages that decide whether functions can be sent, and those that decide scores.
PROTOCOL = ("dask", "distributed", "cloudpickle", "msgpack")
SCORING = ("numpy", "pillow", "ai-edge-litert", "keras", "tensorflow")
# Files in the folder of --certificates.
CERTIFICATES = {
    "tls_ca_file": "ca.pem",
    "tls_client_cert": "cert.pem",
    "tls_client_key": "key.pem",
}
# How often Dask tries a piece of work whose worker died before it gives up is its own setting
# (distributed.scheduler.allowed-failures, 3); so is how long a lost scheduler is waited for.


@dataclass(frozen=True)
class Cluster:
    """A cluster that the user names.

    Attributes:
        address: Address of the scheduler, such as `tcp://10.0.0.1:8786` or `tls://10.0.0.1:8786`.
        certificates: Folder with `ca.pem`, `cert.pem` and `key.pem` for an address with `tls://`;
            None: as Dask's own configuration says.
    """

    address: str
    certificates: str | None = None


def cluster_of(address: str | None, certificates: str | None, jobs: int | None) -> Cluster | None:
    """The cluster that options name; None for this machine.

    Args:
        address: The value of `--cluster`.
        certificates: The value of `--certificates`.
        jobs: The value of `--jobs`; None if it was not given.

    Raises:
        UserError: If the options exclude each other or a file of the certificates is missing.
    """
    if address is None:
        if certificates is not None:
            raise UserError("--certificates is for a cluster; give --cluster, or leave it out")
        return None
    if jobs is not None and jobs > 1:
        raise UserError("--jobs and --cluster exclude each other; give one of them")
    if not address.strip():
        raise UserError("--cluster is empty; give the address of a Dask scheduler")
    if certificates is not None:
        if not address.startswith("tls://"):
            raise UserError(f"--certificates needs an address with tls://; got --cluster {address}")
        for name in CERTIFICATES.values():
            if not os.access(Path(certificates, name), os.R_OK):
                raise UserError(
                    f"--certificates: cannot read {Path(certificates, name)}; give a folder with "
                    f"{', '.join(CERTIFICATES.values())}"
                )
    return Cluster(address, certificates)


def machine() -> str:
    """Name of the machine, and the process, in which a worker runs, for messages."""
    return f"{socket.gethostname()} (process {os.getpid()})"


def scratch_folder() -> str | None:
    """Folder for temporary files of a worker, which Dask removes after its end; else None."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker().local_directory
    except ValueError:  # no worker
        return None


@contextmanager
def cluster_executor(cluster: Cluster) -> Iterator[ClusterExecutor]:
    """Connects to a cluster.

    Raises:
        UserError: If Dask is not installed here, there is no scheduler or no worker within seconds,
            the certificates are refused, or the versions of the machines differ.
    """
    try:
        import distributed
    except ImportError as error:
        raise UserError(
            f"--cluster needs the package distributed ({error}); python -m pip install "
            "-r requirements-cluster.txt, or the extra cluster"
        ) from error
    for name in logging.root.manager.loggerDict:  # what they log is reported here, in one line
        if name.split(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    address, security = cluster.address, _security(cluster)
    try:
        asyncio.run(_try(address, security))
        client = distributed.Client(
            address, security=security, timeout=CONNECT_SECONDS, set_as_default=False
        )
    except Exception as error:  # each protocol raises its own kinds
        reason = " ".join(str(error).split())[:200] or "no answer within seconds"
        raise UserError(
            f"no Dask scheduler at {address} ({reason}); start one with 'dask scheduler', or give "
            "its address"
        ) from error
    try:
        try:
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except TimeoutError as error:
            raise UserError(
                f"the scheduler at {address} has no workers; start one with 'dask worker {address}'"
            ) from error
        versions: Any = client.get_versions(packages=["anomaly_tf", *SCORING])
        _require_same_versions(versions, address)
        yield ClusterExecutor(client, address)
    finally:
        client.close()


def _security(cluster: Cluster) -> Any:
    """The certificates."""
    from distributed import Security

    if cluster.certificates is None:
        return Security()
    folder = Path(cluster.certificates)
    files = {key: str(folder / name) for key, name in CERTIFICATES.items()}
    return Security(require_encryption=True, **files)


async def _try(address: str, security: Any) -> None:
    """Connects once, because a client that fails to connect goes on trying in a thread."""
    from distributed.comm.addressing import normalize_address
    from distributed.comm.core import connect

    arguments = security.get_connection_args("client")
    opening = connect(normalize_address(address), timeout=CONNECT_SECONDS, **arguments)
    comm = await asyncio.wait_for(opening, CONNECT_SECONDS + 1)
    await comm.close()


class ClusterExecutor(Executor):
    """Workers of a cluster; functions and items are pickled.

    Args:
        client: Dask's connection.
        address: Address of the scheduler.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._pool = client.get_executor(pure=False)
        self._versions = own_versions()

    @property
    def parallel(self) -> int:
        """Number of calls that run at the same time; workers come and go."""
        return max(1, sum(self._client.nthreads().values()))

    @property
    def ahead(self) -> int:
        """Number of calls that are submitted in advance."""
        return 2 * self.parallel

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        """As `concurrent.futures.Executor.submit`; an error of the user names the machine."""
        call = partial(work, *arguments, **keywords)
        inner = self._pool.submit(_on_worker, self._versions, call)
        return _Explained(inner, self._address)

    def look(self) -> None:
        """Reports on stderr that there is no worker.

        Raises:
            UserError: If the scheduler was lost.
        """
        if self._client.status == "closed":
            raise _lost(self._address)
        if not self._client.nthreads():
            print(
                f"waiting: no worker is connected to the scheduler at {self._address}",
                file=sys.stderr,
                flush=True,
            )


class _Explained(Future[Result]):
    """A future of Dask, whose own errors are explained in one line."""

    def __init__(self, inner: Future[Result], address: str) -> None:
        super().__init__()
        self._inner, self._address = inner, address
        self.add_done_callback(lambda ended: ended.cancelled() and inner.cancel())
        inner.add_done_callback(self._pass_on)

    def _pass_on(self, inner: Future[Result]) -> None:
        if self.cancelled() or not self.set_running_or_notify_cancel():
            return
        try:
            self.set_result(inner.result())
        except CancelledError:
            self.set_exception(_lost(self._address))
        except Exception as error:
            self.set_exception(self._explained(error))

    def _explained(self, error: Exception) -> Exception:
        if type(error).__name__ != "KilledWorker":
            return error
        last = getattr(error, "last_worker", None)
        where = f", the last at {last.address}" if last is not None else ""
        return UserError(
            f"several workers ended at the same piece of work{where}, probably for lack of memory; "
            "give less work at a time, or fewer threads for each worker"
        )


def _lost(address: str) -> UserError:
    return UserError(
        f"the scheduler at {address} was lost; the same command continues when it is there again"
    )


def own_versions() -> dict[str, str]:
    """Versions of this process, of what is installed."""
    found = {"python": "{}.{}".format(*sys.version_info[:2]), "anomaly_tf": VERSION}
    for name in (*PROTOCOL, *SCORING):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not every model needs every package
            continue
    return found


def _on_worker(expected: Mapping[str, str], call: Callable[[], Result]) -> Result:
    """Calls a function in a worker; errors of the user name the machine."""
    difference = _difference(expected, own_versions())
    if difference:
        raise UserError(f"worker on {machine()}: {difference}")
    try:
        return call()
    except UserError as error:
        raise UserError(f"worker on {machine()}: {error}") from None
    except ImportError as error:
        raise UserError(
            f"worker on {machine()}: {error}; install the same packages there"
        ) from None


def _require_same_versions(found: Mapping[str, Any], address: str) -> None:
    """Compares the versions of the scheduler and the workers with those of this process.

    Args:
        found: What `distributed.Client.get_versions` returned.
        address: Address of the scheduler.

    Raises:
        UserError: If one differs.
    """
    own = _of_machine(found["client"])
    scheduler = _of_machine(found["scheduler"])
    asked = {f"scheduler at {address}": {k: scheduler[k] for k in ("python", *PROTOCOL)}}
    asked |= {f"worker at {place}": _of_machine(one) for place, one in found["workers"].items()}
    for place, versions in asked.items():
        if place.startswith("worker") and versions["anomaly_tf"] is None and own["anomaly_tf"]:
            raise UserError(
                f"{place}: anomaly_tf is not installed; install {own['anomaly_tf']} there"
            )
        difference = _difference(own, versions)
        if difference:
            raise UserError(f"{place}: {difference}")


def _of_machine(found: Mapping[str, Any]) -> dict[str, str | None]:
    """Versions of one machine as Dask reports them; of Python, major and minor."""
    packages = dict(found["packages"])
    return packages | {"python": ".".join(packages["python"].split(".")[:2])}


def _difference(own: Mapping[str, str | None], other: Mapping[str, str | None]) -> str:
    """The first difference of what both have; empty if there is none."""
    for name in ("python", "anomaly_tf", *PROTOCOL, *SCORING):
        here, there = own.get(name), other.get(name)
        if here and there and here != there:
            return f"{name} {there}, but {here} here; install the same version on both machines"
    return ""
