"""`openai_batch`: OpenAI's Batch API, half the price of `openai_chat`, with answers within 24 hours.

    annotate: {backend: openai_batch, model: gpt-4o}

Takes the options of `openai_chat` and those of the jobs: a job holds up to `max_lines` requests and `max_bytes` bytes,
images included, and up to `max_jobs` are at the service at once. An account has a limit of tokens in its queue besides:
where a job is refused for that, it waits for the others; where a single one is too large, `max_lines` makes it smaller.

Ctrl-C is fine: jobs go on at the service, and the next run takes up their answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from annotate.backends.collecting import Collector
from annotate.backends.jobs import Garbled, Job, JobLimits, Missing
from annotate.backends.openai_chat import OPENAI_KEY, OpenAIChat, UnknownImage, wire_body
from annotate.backends.openai_replies import reply_of, reply_of_error, transient
from annotate.protocol import Outcome, Reply, Request
from annotate.records import Reason

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
NAME = "mmalign"
"""Under which the name of a job stands in its metadata."""
_OVER = ("completed", "failed", "expired", "cancelled")


class OpenAIBatch(OpenAIChat):
    """All requests at once, answered by batch jobs."""

    def __init__(
        self,
        *,
        model: str,
        key_env: str = OPENAI_KEY,
        base_url: str = "",
        timeout_seconds: float = 600.0,
        response_format: Literal["json_schema", "json_object", "text"] = "json_schema",
        strict: bool = True,
        token_limit_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens",
        reasoning_effort: str = "",
        extra_body: Mapping[str, Any] | None = None,
        image_tokens: int = 765,
        max_lines: int = 50_000,
        max_bytes: int = 190_000_000,
        max_jobs: int = 50,
        quiet_seconds: float = 5.0,
        poll_seconds: float = 30.0,
    ) -> None:
        """`timeout_seconds` is of one call, not of a job; the limits are the service's own (50,000 lines, 200 MB)."""
        super().__init__(
            model=model,
            key_env=key_env,
            base_url=base_url,
            timeout_seconds=timeout_seconds,
            response_format=response_format,
            strict=strict,
            token_limit_field=token_limit_field,
            reasoning_effort=reasoning_effort,
            extra_body=extra_body,
            image_tokens=image_tokens,
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
        assert self._client is not None
        self._collector = Collector(OpenAIJobs(self._client), workspace, self.job_limits)
        self._collector.open()

    async def close(self) -> None:
        """Jobs go on at the service."""
        if self._collector is not None:
            await self._collector.close()
            self._collector = None
        await super().close()

    async def reply(self, request: Request) -> Reply:
        """The answer to come. Request and images are not held meanwhile."""
        if self._collector is None:
            raise RuntimeError("open() comes before reply()")
        try:
            answer = self._collector.ask(request.sha256, partial(self._line, request))
        except UnknownImage as error:
            return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.IMAGE_UNREADABLE, detail=str(error))
        del request
        return await answer

    def _line(self, request: Request) -> bytes:
        body = wire_body(request, model=self.model, dialect=self.dialect)
        line = {"custom_id": request.sha256, "method": "POST", "url": ENDPOINT, "body": body}
        return json.dumps(line, ensure_ascii=False).encode()


class OpenAIJobs:
    """Files and batches of the service (see `jobs.JobService`)."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    async def upload(self, requests: Path) -> str:
        with requests.open("rb") as stream:  # a path would be read into memory
            made = await self._client.files.create(file=stream, purpose="batch")
        return _id_of(made)

    async def create(self, name: str, uploaded: str) -> str:
        from openai import BadRequestError

        try:
            made = await self._client.batches.create(
                input_file_id=uploaded, endpoint=ENDPOINT, completion_window="24h", metadata={NAME: name}
            )
        except BadRequestError as error:
            if "find file" in str(error):  # shortly after an upload, its file is not known everywhere
                raise Garbled(str(error)) from None
            raise
        return _id_of(made)

    async def find(self, name: str) -> str | None:
        page = await self._client.batches.list(limit=100)
        if not hasattr(page, "data"):
            raise Garbled(f"{page!s:.100}")
        async for batch in page:
            if (batch.metadata or {}).get(NAME) == name:
                return batch.id
        return None

    async def look(self, job: str) -> Job:
        from openai import NotFoundError

        try:
            batch = await self._client.batches.retrieve(job)
        except NotFoundError:
            raise Missing(job) from None
        _id_of(batch)
        return job_of(batch)

    async def download(self, file: str, to: Path) -> None:
        from openai import NotFoundError

        try:
            async with self._client.files.with_streaming_response.content(file) as response:
                await response.stream_to_file(to)
        except NotFoundError:
            raise Missing(file) from None

    async def delete(self, file: str) -> None:
        await self._client.files.delete(file)

    def reply_of_error(self, error: Exception) -> Reply | None:
        import httpx2
        from openai import APIConnectionError, APIStatusError

        if isinstance(error, APIStatusError):
            body = error.response.text if error.body is None else {"error": error.body}
            return reply_of_error(error.status_code, error.response.headers, body)
        if isinstance(error, APIConnectionError):
            cause = error.__cause__ or error
            return transient(f"{type(cause).__name__}: {cause}")
        if isinstance(error, Garbled | httpx2.HTTPError | json.JSONDecodeError):
            return transient(f"{type(error).__name__}: {error}")
        return None

    def key_of(self, row: Any) -> str | None:
        key = row.get("custom_id") if isinstance(row, Mapping) else None
        return key if isinstance(key, str) else None

    def reply_of_row(self, row: Mapping[str, Any]) -> Reply:
        """Of a line of the output file or of the error file."""
        response = row.get("response")
        if isinstance(response, Mapping):
            status = response.get("status_code")
            if status == 200:
                return reply_of(response.get("body"))
            if isinstance(status, int) and status >= 300:
                return reply_of_error(status, {}, response.get("body"))
        return transient(f"no answer: {row.get('error') or 'the row is empty'}")  # batch_expired, batch_cancelled


def _id_of(made: Any) -> str:
    """The id of an object of the service's; a page of some proxy has none."""
    if not isinstance(found := getattr(made, "id", None), str):
        raise Garbled(f"{made!s:.100}")
    return found


def job_of(batch: Batch) -> Job:
    """What the service says of a batch."""
    errors = (batch.errors.data if batch.errors else None) or []
    counts = batch.request_counts
    progress = f"{counts.completed + counts.failed} of {counts.total}" if counts and counts.total else ""
    return Job(
        state=batch.status,
        started=batch.status not in ("validating", "failed"),
        over=batch.status in _OVER,
        full=batch.status == "failed" and any(e.code == "token_limit_exceeded" for e in errors),
        files=tuple(f for f in (batch.output_file_id, batch.error_file_id) if f),
        progress=progress,
        detail="; ".join(f"{e.code}: {e.message}" for e in errors[:3]),
        bad_lines={e.line: f"{e.code}: {e.message}" for e in errors if e.line is not None},
    )
