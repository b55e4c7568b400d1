"""Single questions in, batch jobs out: what `gemini_batch` and `openai_batch` have in common.

    answer = collector.ask(request.sha256, lambda: one_line_of_jsonl)     # the line is on disk when this returns
    reply = await answer                                                  # hours later

Requests that come one shortly after the other are written into one file. When none came for `quiet_seconds`, or the
file is as large as a job may be, a job is made of it (`jobs.py`), and when that is over, its answers are given to those
who wait: by key, never by position.

Nothing is bought twice: what is under way and what has been answered is on disk (`ledger.py`). A process that comes
after a kill waits for the jobs of the one before it. A row without an answer (expired, failed, lost) is `transient`:
the runner asks it again, in another job, as often as its policy says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from io import FileIO
from pathlib import Path

from annotate.backends.jobs import Batch, Courier, GivenBack, JobLimits, JobService
from annotate.backends.ledger import Ledger
from annotate.protocol import Outcome, Reply
from annotate.records import Reason

TIDY_SECONDS = 10.0
"""How long the end of a run may wait for remote files to be removed."""

_LASTING = (Outcome.OK, Outcome.ROW_FATAL)


class Collector:
    """The jobs of one backend in one workspace; to be used in one event loop, between `open` and `close`."""

    def __init__(self, service: JobService, workspace: Path, limits: JobLimits) -> None:
        self._service, self._limits = service, limits
        self._ledger = Ledger(workspace, service.key_of)
        self._courier = Courier(service, self._ledger, limits)
        self._owner: dict[str, Batch] = {}
        """Whose job a key is in, or will be."""
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._refused: set[str] = set()
        self._collecting: _Collecting | None = None
        self._quiet: asyncio.TimerHandle | None = None
        self._carried: set[Batch] = set()
        self._tasks: dict[asyncio.Task[None], Batch] = {}

    def open(self) -> None:
        """Read what earlier processes left. Their jobs are looked after from the first question for one of their keys.

        Raises `UserError` where another process has the workspace.
        """
        for left in self._ledger.open():
            batch = Batch(keys=list(left.keys), uploaded=left.uploaded, name=left.name, job=left.job_id)
            self._owner.update(dict.fromkeys(left.keys, batch))

    async def close(self) -> None:
        """Leave jobs that are under way to the service and to the next run."""
        if self._quiet is not None:
            self._quiet.cancel()
        if self._collecting is not None:
            self._collecting.stream.close()
        if tidying := [task for task, batch in self._tasks.items() if batch.ended]:
            await asyncio.wait(tidying, timeout=TIDY_SECONDS)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for future in self._waiting.values():
            future.cancel()
        try:
            self._ledger.settle(self._refused)
        finally:
            self._ledger.close()

    def ask(self, key: str, line: Callable[[], bytes]) -> Awaitable[Reply]:
        """The answer to come. `line` makes the wire request; it is called at once, if at all, and not kept."""
        loop = asyncio.get_running_loop()
        batch = self._owner.get(key)
        if batch is None:
            kept = self._on_disk(key)
            if kept is not None and kept.outcome in _LASTING:
                return _ready(kept)
            written = line() + b"\n"
            if len(written) > self._limits.max_bytes:
                detail = f"the request has {len(written):,} bytes; a job may have {self._limits.max_bytes:,}"
                return _ready(Reply(outcome=Outcome.ROW_FATAL, reason=Reason.TOO_LONG, detail=detail))
            self._collect(key, written)
        elif batch not in self._carried and (self._collecting is None or batch is not self._collecting.batch):
            self._start(batch)  # the job of an earlier process, or one that was given up for a while
        return asyncio.shield(self._waiting.setdefault(key, loop.create_future()))

    def _on_disk(self, key: str) -> Reply | None:
        """The answer on disk; one that asking again might better is read once."""
        row = self._ledger.row(key)
        if row is None:
            return None
        reply = self._service.reply_of_row(row)
        if reply.outcome not in _LASTING:
            self._ledger.forget(key)
        elif reply.outcome is Outcome.ROW_FATAL:
            self._refused.add(key)
        return reply

    def _collect(self, key: str, line: bytes) -> None:
        file, limits = self._collecting, self._limits
        if file is not None and (len(file.batch.keys) >= limits.max_lines or file.size + len(line) > limits.max_bytes):
            self._seal()
        if self._collecting is None:
            self._collecting = _Collecting(self._ledger.requests / f"{os.urandom(8).hex()}.jsonl")
        self._collecting.add(key, line)
        self._owner[key] = self._collecting.batch
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = asyncio.get_running_loop().call_later(limits.quiet_seconds, self._seal)

    def _seal(self) -> None:
        """No line is added any more: off with it."""
        file, self._collecting = self._collecting, None
        if file is not None:
            file.stream.close()
            self._start(file.batch)

    def _start(self, batch: Batch) -> None:
        self._carried.add(batch)
        task = asyncio.get_running_loop().create_task(self._carry(batch))
        self._tasks[task] = batch
        task.add_done_callback(self._tasks.pop)

    async def _carry(self, batch: Batch) -> None:
        """From the file to the replies, whatever comes."""
        waiting: list[tuple[str, asyncio.Future[Reply]]] = []
        try:
            try:
                otherwise = await self._courier.carry(batch)
            except GivenBack as given_back:
                reply = given_back.reply
                otherwise = lambda key: reply  # noqa: E731
            finally:
                waiting = self._let_go(batch)
            for n, (key, future) in enumerate(waiting):
                future.set_result(self._on_disk(key) or otherwise(key))
                if n % 100 == 99:
                    await asyncio.sleep(0)  # let those go on who have theirs
        except Exception as error:  # ours, or a full disk: whoever waits must hear of it
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
        if batch.ended:
            await self._courier.tidy(batch)

    def _let_go(self, batch: Batch) -> list[tuple[str, asyncio.Future[Reply]]]:
        """Who waits for this batch. Its keys are free, unless there is a job that is not over: they stay with that."""
        self._carried.discard(batch)
        batch.drop_requests()
        if batch.job is None or batch.ended:
            for key in batch.keys:
                self._owner.pop(key, None)
        return [(key, self._waiting.pop(key)) for key in batch.keys if key in self._waiting]


class _Collecting:
    """The file that lines are being added to."""

    def __init__(self, path: Path) -> None:
        self.batch = Batch(keys=[], requests=path)
        self.stream: FileIO = path.open("wb", buffering=0)
        self.size = 0

    def add(self, key: str, line: bytes) -> None:
        """Write a line whole or, on a full disk, not at all."""
        left = memoryview(line)
        try:
            while left:
                left = left[self.stream.write(left) :]
        except OSError:
            self.stream.truncate(self.size)
            self.stream.seek(self.size)
            raise
        self.size += len(line)
        self.batch.keys.append(key)


def _ready(reply: Reply) -> asyncio.Future[Reply]:
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    future.set_result(reply)
    return future
