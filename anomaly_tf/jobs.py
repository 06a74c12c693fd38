"""The processor's threads, and several trainings at a time, each on its share of them.

Networks for small images do not keep many threads busy: two trainings side by side, each on half of
the threads, end sooner than one after the other on all of them.
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
        work: What it calls. A process that it starts runs on its share of the threads alone, where
            the system lets a process choose (Linux); one job alone has all of them.
        items: What it is called with, in this order.
        jobs: At least 1.

    Yields:
        Each item and its result, as they end.

    Raises:
        Exception: What `work` raises first. No further item is begun, and those under way end.
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
    """Numbers of the processor's threads for each job: equal shares of what this process has.

    Of more jobs than threads some share one; empty shares where the system does not say.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [[]] * jobs
    threads = sorted(os.sched_getaffinity(0))
    return [threads[number::jobs] or [threads[number % len(threads)]] for number in range(jobs)]


def available_threads() -> int:
    """How many threads of the processor this process may use at the same time."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keep_to(threads: list[int]) -> None:
    # Of the calling thread alone, which hands it on to the processes that it starts.
    if threads:
        os.sched_setaffinity(0, threads)
