"""Work spread over processes, its results in the order of the work.

    for result in in_order(count_lines, [Range(0, 100), Range(100, 200)], workers=2): ...

The work is a function of a module with what it needs in its argument, so that it can be sent to a process, whichever
way that was started. One worker is no process at all. The processes end with ours: after the last result, at an error,
at Ctrl-C, and also when ours is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Protocol, TypeVar

from annotate.errors import MmalignError

T = TypeVar("T")
R = TypeVar("R")


class InOrder(Protocol):
    """Does work on items; see `crew`."""

    def __call__(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]: ...


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def crew(workers: int, *, context: BaseContext | None = None) -> Iterator[InOrder]:
    """A function that works on items in so many processes and yields the results in the order of the items."""
    if workers <= 1:
        yield lambda work, items: map(work, items)
        return
    pool = ProcessPoolExecutor(workers, mp_context=context or _context(), initializer=_begin)
    try:
        yield lambda work, items: pool.map(work, items)
    except BrokenProcessPool:
        raise MmalignError(
            "a worker process was killed, perhaps for want of memory; nothing was written. Try again with fewer "
            "workers (--workers 1)"
        ) from None
    finally:
        # what is not begun is dropped, what is under way is waited for: it may write to files that are removed next
        pool.shutdown(wait=True, cancel_futures=True)


def _context() -> BaseContext:
    """Fork starts at once and asks nothing of the caller's script, but not beside threads, and not on macOS."""
    alone = threading.active_count() == 1
    return multiprocessing.get_context("fork" if sys.platform == "linux" and alone else "spawn")


def _begin() -> None:
    """In a new worker: the terminal's Ctrl-C is for the parent, who says when to stop; no parent, no work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
