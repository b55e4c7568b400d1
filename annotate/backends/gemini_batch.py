"""`gemini_batch`: Gemini's Batch Mode, half the price of `gemini`, with answers within a day (mostly within the hour).

    annotate: {backend: gemini_batch, model: gemini-2.5-pro}         # and: export GEMINI_API_KEY=...

Takes the options of `gemini` and those of the jobs: a job holds up to `max_lines` requests and `max_bytes` bytes,
images included, and up to `max_jobs` are at the service at once.

Ctrl-C is fine: jobs go on at the service, and the next run takes up their answers.
"""

from __future__ import annotations

import json as jsons
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate.backends.collecting import Collector
from annotate.backends.gemini import Connection, Gemini, reply_of_error
from annotate.backends.gemini_wire import (
    ImageRefused,
    Safety,
    refused,
    reply_of,
    reply_of_status,
    transient,
    wire_request,
)
from annotate.backends.jobs import Garbled, Job, JobLimits, Missing
from annotate.protocol import Reply, Request

if TYPE_CHECKING:
    from google.genai.types import BatchJob

_OVER = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
_STARTED = ("RUNNING", "SUCCEEDED", "PARTIALLY_SUCCEEDED", "EXPIRED")
_STATUS = {
    1: (499, "CANCELLED"),
    2: (500, "UNKNOWN"),
    3: (400, "INVALID_ARGUMENT"),
    4: (504, "DEADLINE_EXCEEDED"),
    5: (404, "NOT_FOUND"),
    6: (409, "ALREADY_EXISTS"),
    7: (403, "PERMISSION_DENIED"),
    8: (429, "RESOURCE_EXHAUSTED"),
    9: (400, "FAILED_PRECONDITION"),
    10: (409, "ABORTED"),
    11: (400, "OUT_OF_RANGE"),
    12: (501, "UNIMPLEMENTED"),
    13: (500, "INTERNAL"),
    14: (503, "UNAVAILABLE"),
    15: (500, "DATA_LOSS"),
    16: (401, "UNAUTHENTICATED"),
}
"""HTTP's words for the codes of google.rpc.Status, in which rows of results tell their errors."""


class GeminiBatch(Gemini):
    """All requests at once, answered by batch jobs."""

    def __init__(
        self,
        *,
        model: str,
        key_env: str = "",
        base_url: str = "",
        api_version: str = "v1beta",
        timeout_seconds: float = 600.0,
        thinking_budget: int | None = None,
        thinking_level: str | None = None,
        safety: Safety = "off",
        seed: int | None = None,
        json: bool = True,
        max_lines: int = 50_000,
        max_bytes: int = 500_000_000,
        max_jobs: int = 50,
        quiet_seconds: float = 5.0,
        poll_seconds: float = 30.0,
    ) -> None:
        """`timeout_seconds` is of one call, not of a job. The service takes files of up to 2 GB and some 100 jobs."""
        super().__init__(
            model=model,
            key_env=key_env,
            base_url=base_url,
            api_version=api_version,
            timeout_seconds=timeout_seconds,
            thinking_budget=thinking_budget,
            thinking_level=thinking_level,
            safety=safety,
            seed=seed,
            json=json,
        )
        self.traits = replace(self.traits, batch=True)
        self.job_limits = JobLimits(
            max_lines=max_lines,
            max_bytes=max_bytes,
            max_jobs=max_jobs,
            quiet_seconds=quiet_seconds,
            poll_seconds=poll_seconds,
        )
        self._collector: Collector | None = None

    async def open(self, workspace: Path) -> None:
        """Make the client and read what earlier runs have under way; nobody is talked to yet."""
        await super().open(workspace)
        assert self._connection is not None
        self._collector = Collector(GeminiJobs(self._connection, self.model), workspace, self.job_limits)
        self._collector.open()

    async def close(self) -> None:
        """Jobs go on at the service."""
        if self._collector is not None:
            await self._collector.close()
            self._collector = None
        await super().close()

    async def reply(self, request: Request) -> Reply:
        """The answer to come. Request and images are not held meanwhile."""
        assert self._collector is not None, "open() comes first"
        try:
            answer = self._collector.ask(request.sha256, partial(self._line, request))
        except ImageRefused as error:
            return refused(error)
        del request
        return await answer

    def _line(self, request: Request) -> bytes:
        line = {"key": request.sha256, "request": wire_request(request, self.options).rest()}
        return jsons.dumps(line, ensure_ascii=False).encode()


class GeminiJobs:
    """Files and batches of the service (see `jobs.JobService`)."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._service = connection.client.aio
        self._model = model

    async def upload(self, requests: Path) -> str:
        try:
            made = await self._service.files.upload(file=requests, config={"mime_type": "jsonl"})
        except (KeyError, ValueError) as error:  # what the client says when it understands nothing
            raise Garbled(f"upload: {error}") from None
        return _named(made)

    async def create(self, name: str, uploaded: str) -> str:
        made = await self._service.batches.create(model=self._model, src=uploaded, config={"display_name": name})
        return _named(made)

    async def find(self, name: str) -> str | None:
        async for batch in await self._service.batches.list(config={"page_size": 100}):
            if batch.display_name == name:
                return _named(batch)
        return None

    async def look(self, job: str) -> Job:
        try:
            batch = await self._service.batches.get(name=job)
        except Exception as error:
            raise _or_missing(error, job) from None
        _named(batch)
        return job_of(batch)

    async def download(self, file: str, to: Path) -> None:
        try:
            await self._service.files.download(file=file, destination=to)
        except Exception as error:
            raise _or_missing(error, file) from None

    async def delete(self, file: str) -> None:
        await self._service.files.delete(name=file)

    def reply_of_error(self, error: Exception) -> Reply | None:
        if isinstance(error, Garbled):
            return transient(str(error))
        return reply_of_error(error)

    def key_of(self, row: Any) -> str | None:
        key = row.get("key") if isinstance(row, Mapping) else None
        return key if isinstance(key, str) else None

    def reply_of_row(self, row: Mapping[str, Any]) -> Reply:
        error = row.get("error") or row.get("status")
        if "response" in row or not isinstance(error, Mapping):
            return reply_of(row.get("response"))
        code, status = error.get("code"), str(error.get("status") or "")
        if not isinstance(code, int):
            return transient(f"no answer: {error}")
        code, status = _STATUS.get(code, (code, status))
        return reply_of_status(
            code, message=str(error.get("message") or ""), status=status, details=error.get("details")
        )


def _or_missing(error: Exception, what: str) -> Exception:
    """A 404 about a job or a file says that there is none."""
    return Missing(what) if getattr(error, "code", None) == 404 else error


def _named(made: Any) -> str:
    """The name of an object of the service's."""
    if not isinstance(found := getattr(made, "name", None), str):
        raise Garbled(f"{made!s:.100}")
    return found


def job_of(batch: BatchJob) -> Job:
    """What the service says of a batch."""
    state = str(getattr(batch.state, "value", batch.state) or "").removeprefix("JOB_STATE_")
    file = batch.dest.file_name if batch.dest else None
    return Job(
        state=state.lower(),
        started=state in _STARTED,
        over=state in _OVER,
        files=(file,) if file else (),
        detail=str(batch.error.message or "") if batch.error else "",
    )
