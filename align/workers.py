"""Work spread over processes, its results in the order of the work; and stops that leave nothing behind.

    with stopped_once(), crew(2) as in_order:
        list(in_order(len, ["one", "three"]))       ->   [3, 5]
    with stopped_once(), as_done([len, len], ["one", "three"], lost="...") as done:
        list(done)                                  ->   [(1, 5), (0, 3)]   or the other way round

The work is a function of a module with what it needs in its argument, so that it can be sent to a process, whichever
way that was started. One worker is no process at all. The processes end with ours: after the last result, at an error,
at Ctrl-C, and also when ours is killed.

Each worker has a pipe to us and shares nothing with the others, neither lock nor queue: so it can be killed in the
middle of anything without that anyone waits for it. `concurrent.futures` cannot do that: a worker that is killed with
the lock of a queue, or half a result in it, stops all others and its parent for good.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Protocol, TypeVar

from annotate.errors import MmalignError

T = TypeVar("T")
R = TypeVar("R")
STOPS = (signal.SIGINT, signal.SIGTERM)
IN_HAND = 2
"""Items given to a worker at once, so that it has one to go on with while we look at the last."""


class InOrder(Protocol):
    """Does work on items; see `crew`."""

    def __call__(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]: ...


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -------------------------------------------------------------------------------------------------------------- stops


@contextmanager
def stopped_once() -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM, where that is caught) is heard; what clears up after it hears no second one."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not for us
        return
    before = {number: handler for number in STOPS if callable(handler := signal.getsignal(number))}

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        before[signal.Signals(number)](number, frame)  # which raises KeyboardInterrupt
        for each in before:  # a handler of another kind, after which work goes on
            signal.signal(each, stop)

    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def unstoppable() -> Iterator[None]:
    """For the last moment, in which half would be left: no Ctrl-C and no SIGTERM is heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------------------------------------------------- crew


@contextmanager
def crew(workers: int, *, context: BaseContext | None = None) -> Iterator[InOrder]:
    """A function that works on items in so many processes and yields the results in the order of the items.

    One call of it is worked off before the next begins. However the block ends, the workers are gone before it goes
    on: what they write to may be removed next.
    """
    if workers <= 1:
        yield lambda work, items: map(work, items)
        return
    with _hired(workers, context or _context()) as pipes:
        yield lambda work, items: _in_order(pipes, work, items)


@contextmanager
def as_done(works: Sequence[Callable[[T], R]], items: Sequence[T], *, lost: str) -> Iterator[Iterator[tuple[int, R]]]:
    """The place and the result of each item, as soon as it is done; each process has a work of its own.

    For work of minutes with much in memory: a process is started anew, not forked, may start others, and is given its
    next item when it has done the last. `lost`: what is said where one was killed.
    """
    with _hired(len(works), multiprocessing.get_context("spawn"), daemon=False) as pipes:
        yield _as_done(pipes, works, items, in_hand=1, lost=lost)


@contextmanager
def _hired(workers: int, context: BaseContext, *, daemon: bool = True) -> Iterator[Sequence[Connection]]:
    """So many processes, each at the other end of its pipe; gone when the block ends, however it does."""
    processes, pipes = list[BaseProcess](), list[Connection]()
    try:
        _start(workers, context, daemon, processes, pipes)
        yield pipes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for pipe in pipes:
            pipe.close()


def _context() -> BaseContext:
    """Fork starts at once and asks nothing of the caller's script, but not beside threads, and not on macOS."""
    alone = threading.active_count() == 1
    return multiprocessing.get_context("fork" if sys.platform == "linux" and alone else "spawn")


def _start(
    workers: int, context: BaseContext, daemon: bool, processes: list[BaseProcess], pipes: list[Connection]
) -> None:
    """Signals wait meanwhile: no process is begun and not noted, none hears what is for us before it can say so."""
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=daemon)  # type: ignore[attr-defined]
            process.start()
            theirs.close()  # else the end of the worker would not be the end of the pipe
            processes.append(process)
            pipes.append(ours)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _in_order(pipes: Sequence[Connection], work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    lost = (
        "a worker process was killed, perhaps for want of memory; nothing was written. Try again with fewer workers "
        "(--workers 1)"
    )
    found: dict[int, R] = {}
    wanted = 0
    for place, result in _as_done(pipes, [work] * len(pipes), items, in_hand=IN_HAND, lost=lost):
        found[place] = result
        while wanted in found:
            yield found.pop(wanted)
            wanted += 1


def _as_done(
    pipes: Sequence[Connection], works: Sequence[Callable[[T], R]], items: Sequence[T], *, in_hand: int, lost: str
) -> Iterator[tuple[int, R]]:
    rest = iter(range(len(items)))
    for pipe, work in zip(pipes, works, strict=True):
        with _heard(lost):
            pipe.send((work, items))  # whole, and once: then only places are sent, which never fill a pipe
    for _ in range(in_hand):
        for pipe in pipes:
            _give(pipe, rest, lost)
    left = len(items)
    while left:
        for ready in wait(pipes):
            assert isinstance(ready, Connection)
            with _heard(lost):
                place, result, told = ready.recv()
            if told:
                raise result from RuntimeError(f"in a worker\n{told}")
            _give(ready, rest, lost)
            left -= 1
            yield place, result


def _give(pipe: Connection, rest: Iterator[int], lost: str) -> None:
    place = next(rest, None)
    if place is not None:
        with _heard(lost):
            pipe.send(place)


@contextmanager
def _heard(lost: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        raise MmalignError(lost) from None


# -------------------------------------------------------------------------------------------------------- in a worker


def _work(pipe: Connection) -> None:
    """What a worker does: results for places of the items it was told of, until it is killed."""
    begin()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the whole group it is for the parent too
    work: Callable[[Any], Any] = len
    items: Sequence[Any] = ()
    with suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            order = pipe.recv()
            if isinstance(order, tuple):
                work, items = order
                continue
            try:
                answer = order, work(items[order]), ""
            except Exception as error:
                answer = order, _sendable(error), traceback.format_exc()
            pipe.send(answer)


def _sendable(error: Exception) -> Exception:
    """Some errors of libraries cannot be sent through a pipe, or not be made again at its other end."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def begin() -> None:
    """In a new worker: the terminal's Ctrl-C is for the parent, who says when to stop; no parent, no work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
