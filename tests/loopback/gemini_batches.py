"""The wire of Gemini's files and batch jobs, as google-genai speaks it.

`POST /upload/v1beta/files` (resumable, in pieces), `GET /v1beta/files/ID:download`, `DELETE /v1beta/files/ID`,
`POST /v1beta/models/MODEL:batchGenerateContent`, `GET /v1beta/batches/ID`, `GET /v1beta/batches?pageToken=N`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from loopback import batches
from loopback.answers import Received
from loopback.batches import File, Job, Store, feed, finish_upload, store_of
from loopback.behaviour import problem_of
from loopback.gemini import Gemini, read_request
from loopback.service import Refused, Service

VERSION = "{version:v1|v1beta}"
STATES = {
    "validating": "BATCH_STATE_PENDING",
    "in_progress": "BATCH_STATE_RUNNING",
    "completed": "BATCH_STATE_SUCCEEDED",
    "failed": "BATCH_STATE_FAILED",
    "expired": "BATCH_STATE_EXPIRED",
    "cancelled": "BATCH_STATE_CANCELLED",
}
RPC_CODE = {400: 3, 401: 16, 403: 7, 404: 5, 408: 1, 429: 8, 500: 13, 503: 14, 504: 4}
"""In rows, errors are those of `google.rpc.Status`, and its codes are not HTTP's."""


class GeminiRows:
    """Answers and errors stand in one file."""

    def read(self, line: Any) -> tuple[str, Received]:
        if not isinstance(line, dict) or set(line) != {"key", "request"} or not isinstance(line["key"], str):
            raise Refused("expected key and request")
        try:
            return line["key"], read_request("", line["request"])
        except Refused as refused:
            raise Refused(str(refused), line["key"]) from None

    def answer(self, key: str, number: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"key": key, "response": body}

    def error(self, key: str, number: int, status: int, body: Any) -> Mapping[str, Any]:
        return {"key": key, "error": {**body["error"], "code": RPC_CODE[status]}}

    def left_over(self, key: str, number: int, state: str) -> Mapping[str, Any] | None:
        return None


ROWS = GeminiRows()


class GeminiBatches(Gemini):
    """Interactive calls are those of `gemini.py`."""

    def routes(self, service: Service) -> Sequence[web.RouteDef]:
        calls = _Calls(service, self)
        return [
            *super().routes(service),
            *batches.add_control(service),
            web.post(f"/upload/{VERSION}/files", calls.upload),
            web.get(f"/{VERSION}/files/{{id}}:download", calls.download),
            web.delete(f"/{VERSION}/files/{{id}}", calls.delete),
            web.post(f"/{VERSION}/models/{{model}}:batchGenerateContent", calls.create),
            web.get(f"/{VERSION}/batches", calls.list),
            web.get(f"/{VERSION}/batches/{{id}}", calls.look),
        ]


class _Calls:
    def __init__(self, service: Service, wire: GeminiBatches) -> None:
        self.service, self.wire = service, wire

    @property
    def store(self) -> Store:
        return store_of(self.service)

    def missing(self) -> web.Response:
        return self.service.error(problem_of("404", key="", model=""), self.wire)

    def refuse(self, why: str) -> web.Response:
        return web.json_response({"error": {"code": 400, "message": why, "status": "INVALID_ARGUMENT"}}, status=400)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """The start, which names a place to send to, and then the pieces, which need no key: the place is secret."""
        command = request.headers.get("X-Goog-Upload-Command", "")
        if command == "start":
            if (wrong := self.service.check_key(request, self.wire)) is not None:
                return wrong
            file = self.store.new_file()
            place = f"{request.url.origin()}{request.path}?upload_id={file.id}"
            return web.json_response({}, headers={"X-Goog-Upload-URL": place, "X-Goog-Upload-Status": "active"})
        file = self.store.files[request.query["upload_id"]]
        if int(request.headers["X-Goog-Upload-Offset"]) != file.n_bytes:
            return self.refuse("a piece is missing, or came twice")
        drop = "finalize" in command and self.store.next("upload") <= self.store.plan.drop_uploads
        async for chunk in request.content.iter_chunked(2**20):
            feed(file, chunk, ROWS)
            if drop:
                del self.store.files[file.id]
                return batches.hang_up(request)
        if "finalize" not in command:
            return web.json_response({}, headers={"X-Goog-Upload-Status": "active"})
        finish_upload(file, ROWS)
        body = {"file": {"name": f"files/{file.id}", "sizeBytes": str(file.n_bytes), "state": "ACTIVE"}}
        return web.json_response(body, headers={"X-Goog-Upload-Status": "final"})

    async def download(self, request: web.Request) -> web.StreamResponse:
        if (wrong := self.service.check_key(request, self.wire)) is not None:
            return wrong
        file = self.store.files.get(request.match_info["id"])
        return self.missing() if file is None else await batches.send(request, self.store, file)

    async def delete(self, request: web.Request) -> web.Response:
        found = self.store.files.pop(request.match_info["id"], None)
        return self.missing() if found is None else web.json_response({})

    async def create(self, request: web.Request) -> web.StreamResponse:
        if (wrong := self.service.check_key(request, self.wire)) is not None:
            return wrong
        model = request.match_info["model"]
        if self.service.config.models and model not in self.service.config.models:
            return self.service.error(problem_of("404", key="", model=model), self.wire)
        body = (await request.json()).get("batch", {})
        if set(body) != {"displayName", "inputConfig"} or set(body["inputConfig"]) != {"fileName"}:
            return self.refuse(f"expected other fields than {sorted(body)}")
        file = self.store.files.get(body["inputConfig"]["fileName"].removeprefix("files/"))
        if file is None:
            return self.refuse("no such file")

        async def make() -> Job:
            return batches.new_job(self.service, name=body["displayName"], model=model, file=file)

        made = await batches.create(request, self.service, self.wire, make)
        return web.json_response(self._operation(made)) if isinstance(made, Job) else made

    async def look(self, request: web.Request) -> web.Response:
        if (wrong := self.service.check_key(request, self.wire)) is not None:
            return wrong
        if (instead := batches.look(request, self.service, self.wire)) is not None:
            return instead
        job = self.store.jobs.get(request.match_info["id"])
        if job is None:
            return self.missing()
        batches.advance(self.service, self.wire, job, ROWS)
        return web.json_response(self._operation(job))

    async def list(self, request: web.Request) -> web.Response:
        """Newest first, two to a page: a page of a hundred would never show whether the next one is asked for."""
        if (wrong := self.service.check_key(request, self.wire)) is not None:
            return wrong
        newest = list(self.store.jobs.values())[::-1]
        first = int(request.query.get("pageToken", "0"))
        page = {"operations": [self._operation(job) for job in newest[first : first + 2]]}
        return web.json_response(page | ({"nextPageToken": str(first + 2)} if len(newest) > first + 2 else {}))

    def _operation(self, job: Job) -> dict[str, Any]:
        """`google.longrunning.Operation`."""
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "name": f"batches/{job.id}",
            "model": f"models/{job.model}",
            "displayName": job.name,
            "state": STATES[job.state],
            "createTime": "2026-01-01T00:00:00.000000000Z",
            "batchStats": {"requestCount": str(len(job.input.rows))},
        }
        operation: dict[str, Any] = {"name": f"batches/{job.id}", "metadata": metadata}
        if job.state == "failed":
            operation |= {"done": True, "error": {"code": 13, "message": job.detail}}
        elif job.outputs:
            output = {"responsesFile": f"files/{_joined(self.store, job).id}"}
            metadata["output"] = output
            operation |= {"done": True, "response": {"responsesFile": output["responsesFile"]}}
        return operation


def _joined(store: Store, job: Job) -> File:
    """Answers and errors in one file."""
    if len(job.outputs) > 1:
        first, second = job.outputs
        first.data += second.data
        store.files.pop(second.id, None)
        if not job.fate.lose_results:
            store.files[first.id] = first
        job.outputs = [first]
    return job.outputs[0]


WIRE = GeminiBatches()
