"""Where independent pieces of work run: in this thread, in threads, in processes, or on a cluster.

`executor` opens one of them, and `run_jobs` works on items through it, whichever it is. Networks
for small images do not keep many threads busy: two trainings in parallel, each on half of the
threads, end sooner than one after the other on all threads.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from anomaly_tf.cluster import Cluster, cluster_executor
from anomaly_tf.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# How often a piece of work is tried whose process was ended; Dask has the same number.
TRIES = 4
# Seconds between two looks at whether somebody is working.
LOOK_SECONDS = 10.0


class Workers(Protocol):
    """An executor, and what `run_jobs` must know of it."""

    @property
    def parallel(self) -> int:
        """Number of calls that run at the same time; it may change."""

    @property
    def ahead(self) -> int:
        """Number of calls that are submitted in advance, including those that run."""

    def submit(self, work: Callable[..., Result], /, *arguments: Any) -> Future[Result]:
        """As `concurrent.futures.Executor.submit`."""

    def look(self) -> None:
        """Called from time to time while no call ends; reports if nobody is working."""


@contextmanager
def executor(
    jobs: int, cluster: Cluster | None = None, processes: bool = False
) -> Iterator[Workers]:
    """Opens a `concurrent.futures.Executor`; at the end of the block, waiting calls are cancelled.

    Args:
        jobs: Number of parallel calls on this machine, at least 1.
        cluster: A cluster to use instead of this machine.
        processes: Whether each of several jobs has its own process, for work that is done in
            Python, and not a thread, for work that starts processes. Functions and items are then
            pickled, as on a cluster. On Linux, each job uses its share of the processor's threads.

    Raises:
        UserError: If the cluster cannot be used; see `cluster_executor`.
    """
    if cluster is not None:
        with cluster_executor(cluster) as workers:
            yield workers
    elif jobs == 1:
        yield _Here()
    else:
        pool = (_Processes if processes else _Threads)(jobs)
        try:
            yield pool
        except BaseException:
            pool.end()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def run_jobs(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: Workers,
    in_advance: bool = True,
) -> Iterator[tuple[Item, Result]]:
    """Calls `work` on every item; items are taken as they are needed.

    Args:
        work: Function of an item.
        items: The items, in the order of the calls.
        workers: What `executor` opened.
        in_advance: Whether further items wait while others run; not for items that depend on the
            results of those before.

    Yields:
        Each item and its result, in the order in which the calls end.

    Raises:
        Exception: The first exception of `work`. No further items are started.
        UserError: If the process of a call was ended several times.
    """
    under_way: dict[Future[Result], Item] = {}
    waiting = iter(items)
    try:
        while True:
            most = workers.ahead if in_advance else workers.parallel
            for item in islice(waiting, max(0, most - len(under_way))):
                under_way[workers.submit(work, item)] = item
            if not under_way:
                return
            ended = wait(under_way, LOOK_SECONDS, FIRST_COMPLETED).done
            if not ended:
                workers.look()
            for future in ended:
                yield under_way.pop(future), future.result()
    finally:
        for future in under_way:
            future.cancel()


class _Here(Executor):
    """Calls functions at once, in the thread that submits them."""

    parallel = ahead = 1

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work(*arguments, **keywords))
        except Exception as error:
            future.set_exception(error)
        return future

    def look(self) -> None:
        """Nothing to report: a submitted call has ended."""


class _Threads(ThreadPoolExecutor):
    """Threads, each of which keeps to its share of the processor with what it starts."""

    def __init__(self, jobs: int) -> None:
        shares: SimpleQueue[list[int]] = SimpleQueue()
        for share in thread_shares(jobs):
            shares.put(share)
        super().__init__(jobs, initializer=lambda: self.start_thread(shares.get()))
        self.parallel, self.ahead = jobs, 2 * jobs

    def start_thread(self, share: list[int]) -> None:
        """Prepares a thread of the pool."""
        _keep_to(share)

    def look(self) -> None:
        """Nothing to report: threads do not end."""

    def end(self) -> None:
        """Called when calls under way are not wanted any more; they run to their end."""


class _Processes(_Threads):
    """Processes, one for each thread of a pool, which hands it calls and replaces it if it ends."""

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        self._of_thread = threading.local()
        self._processes: list[_Process] = []
        self._ended = False

    def start_thread(self, share: list[int]) -> None:
        """As for threads; what a thread starts inherits that it does not get Ctrl-C."""
        super().start_thread(share)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        return super().submit(self._call, work, *arguments, **keywords)

    def _call(self, work: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        for _ in range(TRIES):
            if self._ended:
                break
            process = getattr(self._of_thread, "process", None)
            if process is None:
                process = self._of_thread.process = _Process()
                self._processes.append(process)
            try:
                return process.call(work, *arguments, **keywords)
            except ProcessEnded:
                self._of_thread.process = None
                self._processes.remove(process)
        raise UserError(
            f"a process was ended {TRIES} times at the same piece of work, probably for lack of "
            "memory; give less work at a time or fewer --jobs"
        )

    def end(self) -> None:
        """Ends the processes, with the calls under way."""
        self._ended = True
        for process in [*self._processes]:
            process.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        self.end()


class ProcessEnded(Exception):
    """A process ended before it had answered."""


class _Process:
    """A process that calls functions, one at a time, and ends with the process that started it."""

    def __init__(self) -> None:
        # Spawned, because a forked process with threads may deadlock; and this end of the pipe is
        # then in this process only, so that the other end sees when this process ends.
        context = get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_answer, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def call(self, work: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Calls a function there; raises what it raises.

        Raises:
            ProcessEnded: If the process ends first.
        """
        try:
            self._pipe.send((work, arguments, keywords))
            succeeded, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise ProcessEnded from error
        if not succeeded:
            raise value
        return value

    def kill(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.join()


def _answer(pipe: Connection) -> None:
    """The life of such a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            work, arguments, keywords = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, work(*arguments, **keywords)
        except Exception as error:
            if not isinstance(error, UserError):
                error.add_note(traceback.format_exc())
            answer = False, error
        try:
            pipe.send(answer)
        except OSError:  # nobody waits for it any more
            return


def thread_shares(jobs: int) -> list[list[int]]:
    """Numbers of the threads for each job: equal shares of the threads of this process.

    With more jobs than threads, some jobs share a thread. The shares are empty if the system does
    not report the threads.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [[]] * jobs
    threads = sorted(os.sched_getaffinity(0))
    return [threads[number::jobs] or [threads[number % len(threads)]] for number in range(jobs)]


def available_threads() -> int:
    """Number of the processor's threads that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keep_to(threads: list[int]) -> None:
    # Applies to the calling thread only, and is inherited by the processes that it starts.
    if threads:
        os.sched_setaffinity(0, threads)
