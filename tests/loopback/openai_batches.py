"""The wire of OpenAI's files and batches.

`POST /v1/files` (multipart), `GET /v1/files/ID/content`, `DELETE /v1/files/ID`, `POST /v1/batches`,
`GET /v1/batches/ID`, `GET /v1/batches?limit=100&after=ID`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from loopback import batches
from loopback.answers import Received
from loopback.batches import Job, Store, feed, finish_upload, store_of
from loopback.behaviour import problem_of
from loopback.openai import OpenAI, read_request
from loopback.service import Refused, Service

ENDPOINT = "/v1/chat/completions"
MAX_LINES = 50_000
MAX_BYTES = 200_000_000


class OpenAIRows:
    def read(self, line: Any) -> tuple[str, Received]:
        if not isinstance(line, dict) or set(line) != {"custom_id", "method", "url", "body"}:
            raise Refused("expected custom_id, method, url and body")
        key = line["custom_id"]
        if not isinstance(key, str) or not 0 < len(key) <= 64:
            raise Refused("custom_id must be a string of at most 64 characters")
        if line["method"] != "POST" or line["url"] != ENDPOINT:
            raise Refused(f"expected POST {ENDPOINT}")
        try:
            return key, read_request(line["body"])
        except Refused as refused:
            raise Refused(str(refused), key) from None

    def answer(self, key: str, number: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        response = {"status_code": 200, "request_id": f"req_{number}", "body": body}
        return {"id": f"batch_req_{number}", "custom_id": key, "response": response, "error": None}

    def error(self, key: str, number: int, status: int, body: Any) -> Mapping[str, Any]:
        response = {"status_code": status, "request_id": f"req_{number}", "body": body}
        return {"id": f"batch_req_{number}", "custom_id": key, "response": response, "error": None}

    def left_over(self, key: str, number: int, state: str) -> Mapping[str, Any] | None:
        error = {"code": f"batch_{state}", "message": "This request could not be executed in time."}
        return {"id": f"batch_req_{number}", "custom_id": key, "response": None, "error": error}


ROWS = OpenAIRows()


class OpenAIBatches(OpenAI):
    """Interactive calls are those of `openai.py`."""

    def routes(self, service: Service) -> Sequence[web.RouteDef]:
        calls = _Calls(service, self)
        return [
            *super().routes(service),
            *batches.add_control(service),
            web.post("/v1/files", calls.upload),
            web.get("/v1/files/{id}/content", calls.download),
            web.delete("/v1/files/{id}", calls.delete),
            web.post("/v1/batches", calls.create),
            web.get("/v1/batches", calls.list),
            web.get("/v1/batches/{id}", calls.look),
        ]


class _Calls:
    def __init__(self, service: Service, wire: OpenAIBatches) -> None:
        self.service, self.wire = service, wire

    @property
    def store(self) -> Store:
        return store_of(self.service)

    def missing(self) -> web.Response:
        return self.service.error(problem_of("404", key="", model=""), self.wire)

    def refuse(self, why: str) -> web.Response:
        return web.json_response({"error": {"message": why, "type": "invalid_request_error"}}, status=400)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        if (wrong := self.service.check_key(request, self.wire)) is not None:
            return wrong
        drop = self.store.next("upload") <= self.store.plan.drop_uploads
        file = self.store.new_file()
        purpose = ""
        async for part in await request.multipart():
            if part.name == "purpose":
                purpose = await part.text()
            while part.name == "file" and (chunk := await part.read_chunk(2**20)):
                feed(file, chunk, ROWS)
                if drop:
                    return batches.hang_up(request)
        finish_upload(file, ROWS)
        if purpose != "batch" or file.n_bytes > MAX_BYTES:
            return self.refuse("expected purpose batch, and at most 200 MB")
        if len(file.rows) > MAX_LINES:
            file.fault = "more than 50,000 lines"
        what = {"id": file.id, "object": "file", "purpose": "batch", "status": "processed", "filename": "any.jsonl"}
        return web.json_response({**what, "bytes": file.n_bytes, "created_at": 1})

    async def download(self, request: web.Request) -> web.StreamResponse:
        if (wrong := self.service.check_key(request, self.wire)) is not None:
            return wrong
        file = self.store.files.get(request.match_info["id"])
        return self.missing() if file is None else await batches.send(request, self.store, file)

    async def delete(self, request: web.Request) -> web.Response:
        found = self.store.files.pop(request.match_info["id"], None)
        if found is None:
            return self.missing()
        return web.json_response({"id": found.id, "object": "file", "deleted": True})

    async def create(self, request: web.Request) -> web.StreamResponse:
        if (wrong := self.service.check_key(request, self.wire)) is not None:
            return wrong
        body = await request.json()
        if set(body) != {"input_file_id", "endpoint", "completion_window", "metadata"}:
            return self.refuse(f"expected other fields than {sorted(body)}")
        if body["endpoint"] != ENDPOINT or body["completion_window"] != "24h":
            return self.refuse("expected chat completions within 24h")
        metadata = body["metadata"]
        if not all(len(k) <= 64 and isinstance(v, str) and len(v) <= 512 for k, v in metadata.items()):
            return self.refuse("metadata is too long")
        file = self.store.files.get(body["input_file_id"])
        if file is None or self.store.next("search") <= self.store.plan.hidden:
            return self.refuse(f"Cannot find file {body['input_file_id']}, or you do not have access to it.")

        async def make() -> Job:
            return batches.new_job(self.service, name=metadata["mmalign"], model="", file=file)

        made = await batches.create(request, self.service, self.wire, make)
        return web.json_response(self._batch(made)) if isinstance(made, Job) else made

    async def look(self, request: web.Request) -> web.Response:
        if (wrong := self.service.check_key(request, self.wire)) is not None:
            return wrong
        if (instead := batches.look(request, self.service, self.wire)) is not None:
            return instead
        job = self.store.jobs.get(request.match_info["id"])
        if job is None:
            return self.missing()
        batches.advance(self.service, self.wire, job, ROWS)
        return web.json_response(self._batch(job))

    async def list(self, request: web.Request) -> web.Response:
        """Newest first, two to a page: a page of a hundred would never show whether the next one is asked for."""
        if (wrong := self.service.check_key(request, self.wire)) is not None:
            return wrong
        newest = list(self.store.jobs.values())[::-1]
        after = [job.id for job in newest].index(request.query["after"]) + 1 if "after" in request.query else 0
        page = [self._batch(job) for job in newest[after : after + 2]]
        return web.json_response({"object": "list", "data": page, "has_more": len(newest) > after + 2})

    def _batch(self, job: Job) -> dict[str, Any]:
        errors = None
        if job.state == "failed":
            data = [{"code": job.detail, "message": f"The job failed: {job.detail}", "line": job.fate.bad_line}]
            errors = {"object": "list", "data": data}
        done = len(job.answered)
        ids = [file.id if file.data else None for file in job.outputs] or [None, None]
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": errors,
            "input_file_id": job.input.id,
            "completion_window": "24h",
            "status": job.state,
            "output_file_id": ids[0],
            "error_file_id": ids[1],
            "created_at": 1,
            "request_counts": {"total": len(job.input.rows), "completed": done, "failed": 0},
            "metadata": {"mmalign": job.name},
        }


WIRE = OpenAIBatches()
