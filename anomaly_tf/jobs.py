"""Runs several trainings in parallel, each on a share of the processor's threads.

Networks for small images do not keep many threads busy: two trainings in parallel, each on half of
the threads, end sooner than one after the other on all threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_jobs(
    work: Callable[[Item], Result], items: Iterable[Item], jobs: int
) -> Iterator[tuple[Item, Result]]:
    """Calls `work` on every item, `jobs` at a time.

    Args:
        work: Function of an item. On Linux, a process that it starts uses its share of the threads
            only; a single job uses all threads.
        items: The items, in the order of the calls.
        jobs: Number of parallel calls, at least 1.

    Yields:
        Each item and its result, in the order in which the calls end.

    Raises:
        Exception: The first exception of `work`. No further items are started, and running calls
            are completed.
    """
    if jobs == 1:
        for item in items:
            yield item, work(item)
        return
    shares: SimpleQueue[list[int]] = SimpleQueue()
    for share in thread_shares(jobs):
        shares.put(share)
    pool = ThreadPoolExecutor(jobs, initializer=lambda: _keep_to(shares.get()))
    try:
        under_way = {pool.submit(work, item): item for item in items}
        for done in as_completed(under_way):
            yield under_way[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


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
