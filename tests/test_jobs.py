"""Parallel jobs: every item once, on a share of the threads, and errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomaly_tf.errors import UserError
from anomaly_tf.jobs import executor, run_jobs, thread_shares

ASK = "import os; print(*sorted(os.sched_getaffinity(0)))"
HAS_AFFINITY = hasattr(os, "sched_getaffinity")


def threads_of_a_process(_: int) -> list[int]:
    said = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    return [int(number) for number in said.stdout.split()]


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_item_is_worked_on_once(jobs):
    with executor(jobs) as workers:
        found = dict(run_jobs(lambda item: item**2, range(10), workers))
    assert found == {n: n**2 for n in range(10)}


def test_jobs_run_side_by_side():
    both = threading.Barrier(2, timeout=60)
    # Each waits for the other: one after the other they would never end.
    with executor(2) as workers:
        assert len(list(run_jobs(lambda item: both.wait(), range(2), workers))) == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_item_may_depend_on_the_results_before_it(jobs):
    begun, ended = [], []

    def items() -> Iterator[int]:
        for number in range(8):
            begun.append((number, len(ended)))
            yield number

    with executor(jobs) as workers:
        for item, _ in run_jobs(lambda item: item, items(), workers, in_advance=False):
            ended.append(item)
    assert all(before > number - jobs for number, before in begun)


def test_a_failure_is_raised_and_no_further_job_starts():
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        raise RuntimeError(f"item {item}")

    with pytest.raises(RuntimeError, match="item 0"), executor(1) as workers:
        list(run_jobs(work, range(100), workers))
    assert begun == [0]


def square_unless_first(item: tuple[str, int]) -> tuple[int, int, set[int]]:
    """The square of a number, and where it was computed; the first calls end their process."""
    place, number = item
    try:
        Path(place, f"ended-{number}").mkdir()
    except FileExistsError:
        return number**2, os.getpid(), os.sched_getaffinity(0)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it goes on")


def end_always(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> None:
    raise UserError(f"number {number}") if number else ZeroDivisionError("zero")


@pytest.mark.skipif(not HAS_AFFINITY, reason="this system does not say on which threads")
def test_processes_are_replaced_and_their_work_is_done_again(tmp_path):
    items = [(str(tmp_path), number) for number in range(4)]
    with executor(2, processes=True) as workers:
        found = dict(run_jobs(square_unless_first, items, workers))
    assert {item[1]: result[0] for item, result in found.items()} == {n: n**2 for n in range(4)}
    for _, process, threads in found.values():
        assert process != os.getpid()
        assert sorted(threads) in thread_shares(2)


def test_work_that_always_ends_its_process_and_errors_of_work_are_raised():
    for work, item, error, words in (
        (end_always, 0, UserError, "was ended 4 times .* lack of memory"),
        (fail, 1, UserError, "^number 1$"),
        (fail, 0, ZeroDivisionError, "zero"),
    ):
        with pytest.raises(error, match=words), executor(2, processes=True) as workers:
            list(run_jobs(work, [item], workers))


def test_items_are_taken_as_they_are_needed():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with executor(2) as workers:
        results = run_jobs(abs, items(), workers)
        next(results)
        assert len(taken) <= 4
        results.close()


@pytest.mark.skipif(not HAS_AFFINITY, reason="this system does not say on which threads")
def test_processes_keep_to_their_share():
    before = os.sched_getaffinity(0)
    with executor(1) as workers:
        (_, alone), *_ = run_jobs(threads_of_a_process, [0], workers)
    assert set(alone) == before
    shares = thread_shares(2)
    with executor(2) as workers:
        for _, threads in run_jobs(threads_of_a_process, range(4), workers):
            assert threads in shares
    # This process has what it had.
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not HAS_AFFINITY, reason="this system does not say on which threads")
@pytest.mark.parametrize("jobs", [1, 2, 3, 64])
def test_shares_cover_all_threads(jobs):
    threads = os.sched_getaffinity(0)
    shares = thread_shares(jobs)
    assert len(shares) == jobs
    assert all(shares)
    assert set().union(*shares) == threads
    if jobs <= len(threads):
        assert sum(map(len, shares)) == len(threads)
