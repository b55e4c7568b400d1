"""The life of one batch job: from a file of requests to answers on disk. No request is looked at here.

    otherwise = await Courier(service, ledger, limits).carry(batch)

A service is anything with the methods of `JobService`. What goes wrong before there is a job is given back as a reply
(`GivenBack`), and the runner asks again; a call that may have created a job all the same is followed by a look whether
it has. Once there is a job, its answers are paid for, and they are insisted on for as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from annotate.backends.ledger import Ledger
from annotate.errors import UserError
from annotate.keys import scrub
from annotate.protocol import Outcome, Reply

T = TypeVar("T")

log = logging.getLogger(__name__)

TRIES = 5
"""Of an upload or a creation that fails for a passing reason, before the rows are given back."""
REFUSALS = 5
"""Times that the service's queue may be found full, with no job of ours running in it, before the run is stopped."""
DOWNLOADS = 3
"""Of a file of answers that is missing or damaged, before its rows are given up."""


class Missing(Exception):
    """The service knows no such job or file."""


class Garbled(Exception):
    """An answer that is none: a page of some proxy, half an object. Its text says what came."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as its service sees it."""

    state: str
    """In the service's own word."""
    started: bool = False
    """It was accepted: its requests need not be kept any longer."""
    over: bool = False
    full: bool = False
    """It was refused for now, because too much is in the service's queue."""
    files: tuple[str, ...] = ()
    """Where the answers are, once it is over."""
    progress: str = ""
    detail: str = ""
    """Why it failed."""
    bad_lines: Mapping[int, str] = field(default_factory=dict)
    """Lines of the requests, counted from 1, that made the service refuse the whole, and why."""


class JobService(Protocol):
    """A service's batch jobs. Methods raise what their SDK raises; `reply_of_error` says what that means."""

    async def upload(self, requests: Path) -> str:
        """Send the file; its name at the service."""
        ...

    async def create(self, name: str, uploaded: str) -> str:
        """Make a paid job of an uploaded file, under a name of ours; its id."""
        ...

    async def find(self, name: str) -> str | None:
        """The id of the job that was created under this name, if there is one."""
        ...

    async def look(self, job: str) -> Job:
        """How the job is. Raises `Missing`."""
        ...

    async def download(self, file: str, to: Path) -> None:
        """Raises `Missing`."""
        ...

    async def delete(self, file: str) -> None: ...

    def reply_of_error(self, error: Exception) -> Reply | None:
        """What an error of the calls above means; None for one that is not of the service's making."""
        ...

    def key_of(self, row: Any) -> str | None:
        """The key of a line of answers, None where it carries none."""
        ...

    def reply_of_row(self, row: Mapping[str, Any]) -> Reply: ...


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """What a job may hold, and how long to wait."""

    quiet_seconds: float = 5.0
    """A job is made of what has come when nothing more came for so long."""
    poll_seconds: float = 30.0
    """Between two looks at a job, at first; grows to ten times that."""
    max_lines: int
    max_bytes: int
    max_jobs: int = 50
    """At the service at once."""

    def __post_init__(self) -> None:
        """Raises `UserError` for what makes no sense."""
        wrong = {n: v for n, v in vars(self).items() if not v >= (1 if n.startswith("max_") else 0.001)}
        if wrong:
            raise UserError(*(f"{name}: {value} is too little" for name, value in wrong.items()))


@dataclass(eq=False)
class Batch:
    """Some keys on their way: requests in a file, then a job, then answers on disk."""

    keys: list[str]
    requests: Path | None = None
    """Their file, until the service has accepted it; None also for the job of an earlier process."""
    uploaded: str = ""
    name: str = ""
    job: str | None = None
    files: tuple[str, ...] = ()
    ended: bool = False
    """The answers that there are, are on disk."""

    def drop_requests(self) -> None:
        if self.requests is not None:
            self.requests.unlink(missing_ok=True)
            self.requests = None


Otherwise = Callable[[str], Reply]
"""What a key gets that has no answer on disk."""


class GivenBack(Exception):
    """No answers from this batch, at least for now; the reply says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.detail)
        self.reply = reply


class Courier:
    """Looks after the jobs of one backend."""

    def __init__(self, service: JobService, ledger: Ledger, limits: JobLimits) -> None:
        self._service, self._ledger, self._limits = service, ledger, limits
        self._room = asyncio.Semaphore(limits.max_jobs)
        self._uploading = asyncio.Lock()
        self._running: set[str] = set()

    async def carry(self, batch: Batch) -> Otherwise:
        """Return when the answers are on disk. Raises `GivenBack`, and `OSError` where the disk is full."""
        async with self._room:
            if batch.name and batch.job is None:
                await self._recover(batch)
            pauses, refusals = self._pauses(), 0
            while True:
                refused = await self._submit(batch) if batch.job is None else None
                if refused is None:
                    job = await self._watch(batch)
                    if not job.full or batch.requests is None:
                        return await self._fetch(batch, job)
                    self._ledger.ended(batch.name, [])
                    batch.job = None
                    refused = Reply(outcome=Outcome.RATE_MINUTE, detail=job.detail)
                refusals = 0 if self._running else refusals + 1
                if refusals > REFUSALS:
                    hint = f"{refused.detail}; {len(batch.keys)} requests may be too much for one job: lower max_lines"
                    raise GivenBack(replace(refused, outcome=Outcome.QUOTA_DAY, retry_after=None, detail=hint))
                log.info("no room for %d requests, waiting: %s", len(batch.keys), refused.detail)
                await asyncio.sleep(max(next(pauses), refused.retry_after or 0.0))

    async def tidy(self, batch: Batch) -> None:
        """Remove the files of a job that has ended from the service; it costs nothing where that fails."""
        for file in (batch.uploaded, *batch.files):
            with contextlib.suppress(Exception):
                await self._service.delete(file)

    # ------------------------------------------------------------------------------------------------ to the service

    async def _recover(self, batch: Batch) -> None:
        """The job of a process that was killed between its intent and the service's answer, if there is one."""
        batch.job = await self._find(batch.name)
        if batch.job is None:  # the call may still have been on its way
            await asyncio.sleep(self._limits.poll_seconds)
            batch.job = await self._find(batch.name)
        if batch.job is None:
            self._ledger.ended(batch.name, [])
            raise GivenBack(Reply(outcome=Outcome.TRANSIENT, detail="the job was meant to be created but never was"))
        log.info("%s: found again as job %s", batch.name, batch.job)
        self._ledger.created(batch.name, batch.job)

    async def _submit(self, batch: Batch) -> Reply | None:
        """Upload and create; a reply where the service has no room at present."""
        assert batch.requests is not None
        if not batch.uploaded:
            batch.uploaded = await self._insist(partial(self._upload, batch.requests), tries=TRIES)
        batch.name = self._ledger.intend(batch.keys, batch.uploaded)
        pauses = self._pauses()
        for _ in range(TRIES):
            try:
                batch.job = await self._service.create(batch.name, batch.uploaded)
            except Exception as error:
                reply = self._meaning(error)
                if reply.outcome is Outcome.RATE_MINUTE:
                    return reply
                if reply.outcome is not Outcome.TRANSIENT:
                    raise GivenBack(reply) from None
                log.info("%s: not created, looking whether it was all the same: %s", batch.name, reply.detail)
                await asyncio.sleep(next(pauses))
                batch.job = await self._find(batch.name)
            if batch.job is not None:
                self._ledger.created(batch.name, batch.job)
                log.info("%s: %d requests are job %s", batch.name, len(batch.keys), batch.job)
                return None
        raise GivenBack(reply)

    async def _upload(self, requests: Path) -> str:
        """One file at a time: several are no faster, and each holds pieces of itself in memory."""
        async with self._uploading:
            return await self._service.upload(requests)

    async def _find(self, name: str) -> str | None:
        return await self._insist(partial(self._service.find, name), tries=None)

    # ---------------------------------------------------------------------------------------------- from the service

    async def _watch(self, batch: Batch) -> Job:
        """Until the job is over."""
        assert batch.job is not None
        told = ""
        try:
            for pause in self._pauses():
                job = await self._insist(partial(self._service.look, batch.job), tries=None)
                if job.started:
                    batch.drop_requests()
                    self._running.add(batch.job)
                if (telling := f"{job.state} {job.progress}".strip()) != told:
                    log.info("job %s of %d requests: %s", batch.job, len(batch.keys), told := telling)
                if job.over:
                    return job
                await asyncio.sleep(pause)
        except Missing:
            detail = (
                f"the service knows no job {batch.job}, into which {len(batch.keys)} requests were put: use the key "
                "that it was made with, or remove jobs.jsonl of this run to pay for them again"
            )
            raise GivenBack(Reply(outcome=Outcome.RUN_FATAL, detail=detail)) from None
        finally:
            self._running.discard(batch.job)
        raise AssertionError("pauses have no end")

    async def _fetch(self, batch: Batch, job: Job) -> Otherwise:
        """Bring the answers onto disk."""
        paths = [self._ledger.results / f"{batch.name}-{i}.jsonl" for i in range(len(job.files))]
        got = [path for file, path in zip(job.files, paths, strict=True) if await self._download(file, path)]
        self._ledger.ended(batch.name, got)
        batch.ended, batch.files = True, job.files
        # Lines are counted in a file of our own, so those of an earlier process are not known any more.
        mine = batch.keys if batch.requests is not None else []
        bad = {mine[n - 1]: scrub(why) for n, why in job.bad_lines.items() if 0 < n <= len(mine)}
        why = scrub(f"no answer in job {batch.job}, which is {job.state} {job.detail}".strip())

        def otherwise(key: str) -> Reply:
            if key in bad:
                return Reply(outcome=Outcome.ROW_FATAL, detail=bad[key])
            return Reply(outcome=Outcome.TRANSIENT, detail=why)

        return otherwise

    async def _download(self, file: str, path: Path) -> bool:
        """Whether there was such a file. A damaged one is fetched again: each of its rows is paid for."""
        part = path.with_suffix(".part")
        pauses = self._pauses()
        found = False
        for _ in range(DOWNLOADS):
            try:
                await self._insist(partial(self._service.download, file, part), tries=None)
                found = True
                if self._ledger.whole(part):
                    break
            except Missing:
                found = False
            await asyncio.sleep(next(pauses))
        else:
            log.warning("%s is %s: rows are lost and will be paid for again", file, "damaged" if found else "missing")
        if found:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.replace(path)
        return found

    # ------------------------------------------------------------------------------------------------------- waiting

    async def _insist(self, call: Callable[[], Awaitable[T]], *, tries: int | None) -> T:
        """Call until it works; `tries` bounds failures, not waits for the service's pace. Raises `GivenBack`."""
        failures = 0
        for pause in self._pauses():
            try:
                return await call()
            except Missing:
                raise
            except Exception as error:
                reply = self._meaning(error)
            failures += reply.outcome is Outcome.TRANSIENT
            if reply.outcome not in (Outcome.TRANSIENT, Outcome.RATE_MINUTE) or failures == tries:
                raise GivenBack(reply)
            log.info("trying again: %s", reply.detail)
            await asyncio.sleep(max(pause, reply.retry_after or 0.0))
        raise AssertionError("pauses have no end")

    def _meaning(self, error: Exception) -> Reply:
        """What an error of a call about jobs means: what would be fatal to a row is fatal to all of them."""
        reply = self._service.reply_of_error(error)
        if reply is None:
            raise error
        return replace(reply, outcome=Outcome.RUN_FATAL) if reply.outcome is Outcome.ROW_FATAL else reply

    def _pauses(self) -> Iterator[float]:
        pause = self._limits.poll_seconds
        while True:
            yield pause
            pause = min(1.5 * pause, 10 * self._limits.poll_seconds)
