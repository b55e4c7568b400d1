"""The HTTP core of the loopback service; run by `loopback.serve` as `python -m loopback.service --config JSON`.

A wire format plugs in as a module of this package with an object `WIRE` (see `Wire`), named in `Config.wires`:

    class Gemini:
        def routes(self, service):                  # which paths are whose; the usual call goes through `generate`
            async def call(request):
                return await service.generate(request, self)
            return [web.post("/{version}/models/{model}:generateContent", call)]

        def key_of(self, request): ...              # the API key that the request carries
        def read(self, request, body): ...          # JSON body -> Received; raises Refused for what a service refuses
        def answer(self, received, answer): ...     # Answer -> JSON body of a 200
        def error(self, problem): ...               # Problem -> (headers, JSON body); the status is problem.status

`generate` does the rest, the same for every wire: key, limits, attempts, scenarios, faults, latency, statistics. A wire
with other calls (batch jobs, files) adds routes with handlers of its own and uses `service.check_key(request, self)`
(a response where the key is wrong, else None), `service.error(problem, self)`, `service.kind(received)` (counts an
attempt and says what becomes of it) and `service.answer(received, kind)` (the answer, for the kinds in `ANSWERS`).
`read_image(bytes, mime)` checks an image and gives its sha256. `service.config` is the config and `service.memory` a
dict that `reset` empties.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import io
import json
import sys
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web
from PIL import Image, UnidentifiedImageError

from loopback.answers import Answer, Received, answer_of
from loopback.behaviour import ANSWERS, ERRORS, Config, Limits, Problem, kind_of, latency_of, problem_of

HTML = "<!DOCTYPE html><html><head><title>Sorry</title></head><body><h1>Service unavailable</h1></body></html>"


class Refused(Exception):
    """The request is not what the service takes; the message says why. A 400."""


class Wire(Protocol):
    """A service's own form of requests, answers and errors."""

    def routes(self, service: Service) -> Sequence[web.RouteDef]: ...
    def key_of(self, request: web.Request) -> str: ...
    def read(self, request: web.Request, body: Any) -> Received: ...
    def answer(self, received: Received, answer: Answer) -> Mapping[str, Any]: ...
    def error(self, problem: Problem) -> tuple[Mapping[str, str], Mapping[str, Any]]: ...


_mime_types: dict[str, str | None] = {}
"""By the sha256 of an image's bytes."""


def read_image(data: bytes, mime: str) -> str:
    """The sha256 of the bytes. Raises `Refused` unless they are an image of the mime type that is claimed."""
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 not in _mime_types:
        try:
            with Image.open(io.BytesIO(data)) as image:
                _mime_types[sha256] = Image.MIME.get(image.format or "")
        except (UnidentifiedImageError, OSError):
            _mime_types[sha256] = None
    if (found := _mime_types[sha256]) is None:
        raise Refused("Unable to process input image. The bytes are no image.")
    if found != mime:
        raise Refused(f"Unable to process input image. It is said to be {mime} but is {found}.")
    return sha256


class Service:
    """State and handlers. All times are seconds since the last reset."""

    def __init__(self, config: Config) -> None:
        self.wires: list[Wire] = [importlib.import_module(f"loopback.{name}").WIRE for name in config.wires]
        self.begin(config)

    def begin(self, config: Config) -> None:
        """Forget everything."""
        self.config = config
        self.memory: dict[str, Any] = {}
        self._zero = asyncio.get_running_loop().time()
        self._limits = Limits(config, 0.0)
        self._attempts: Counter[str] = Counter()
        self._paid: Counter[str] = Counter()
        self._arrivals: list[dict[str, Any]] = []
        self._kept: deque[dict[str, Any]] = deque(maxlen=config.keep_requests)
        self._connections: set[Any] = set()
        self._in_flight: set[int] = set()
        self._max_in_flight = 0

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._zero

    def application(self) -> web.Application:
        application = web.Application(client_max_size=256 * 2**20)
        for wire in self.wires:
            application.add_routes(wire.routes(self))
        application.add_routes(
            [
                web.get("/stats", self._get_stats),
                web.get("/requests", self._get_requests),
                web.post("/reset", self._post_reset),
            ]
        )
        return application

    # ---------------------------------------------------------------------------------------------- for every wire

    async def generate(self, request: web.Request, wire: Wire) -> web.StreamResponse:
        """One interactive call."""
        arrived = self.now()
        self._connections.add(request.transport.get_extra_info("peername") if request.transport else None)
        raw = await request.read()
        if (wrong := self.check_key(request, wire)) is not None:
            return wrong
        try:
            received = self._read(request, raw, wire)
        except Refused as refused:
            self._record(arrived, kind="refused", status=400, detail=str(refused))
            return self.error(Problem(kind="400", status=400, message=str(refused)), wire)
        content = received.content
        if self.config.models and received.model not in self.config.models:
            self._record(arrived, content, kind="404", status=404)
            return self.error(problem_of("404", key="", model=received.model), wire)
        if (limited := self._limits.admit(arrived, received.input_tokens)) is not None:
            self._record(arrived, content, kind=limited.kind, status=429)
            await asyncio.sleep(self.config.rejection_seconds)
            return self.error(limited, wire)
        attempt = self._attempts[content]
        kind = self.kind(received)
        seconds = self.config.slow_seconds if kind == "slow" else latency_of(self.config, content, attempt)
        status = 200 if not kind[:3].isdigit() else int(kind[:3])
        self._record(arrived, content, attempt=attempt, kind=kind, status=status, seconds=seconds)
        token = len(self._arrivals)
        in_flight = self._in_flight
        in_flight.add(token)
        self._max_in_flight = max(self._max_in_flight, len(in_flight))
        await asyncio.sleep(seconds)
        in_flight.discard(token)
        return await self._respond(request, wire, received, kind)

    def check_key(self, request: web.Request, wire: Wire) -> web.Response | None:
        """The refusal of a wrong key, which it echoes."""
        key = wire.key_of(request)
        if not self.config.key or key == self.config.key:
            return None
        kind = self.config.wrong_key
        self._record(self.now(), kind=kind, status=int(kind[:3]))
        return self.error(problem_of(kind, key=key, model=""), wire)

    def kind(self, received: Received) -> str:
        """What becomes of the next attempt of this content; counts it, and counts it as paid where it is answered."""
        content = received.content
        kind = kind_of(self.config, received.system + received.text, content, self._attempts[content])
        self._attempts[content] += 1
        self._paid[content] += kind in ("ok", "slow")
        return kind

    def answer(self, received: Received, kind: str) -> Answer:
        """What is said, of one of the kinds in `ANSWERS`."""
        response_id = f"{received.content[:12]}-{self._attempts[received.content]}"
        return answer_of(received, kind, thought_tokens=self.config.thought_tokens, response_id=response_id)

    def error(self, problem: Problem, wire: Wire) -> web.Response:
        headers, body = wire.error(problem)
        return web.json_response(body, status=problem.status, headers=dict(headers))

    # ------------------------------------------------------------------------------------------------------ inside

    def _read(self, request: web.Request, raw: bytes, wire: Wire) -> Received:
        try:
            body = json.loads(raw)
        except ValueError:
            raise Refused("Invalid JSON payload received.") from None
        if self.config.keep_requests:
            seen = {"path": request.path, "query": dict(request.query), "headers": dict(request.headers), "body": body}
            self._kept.append(seen)
        received = wire.read(request, body)
        try:  # a scenario that there is not, or a prompt that cannot be understood, is the test's own mistake
            kind_of(self.config, received.system + received.text, "", 0)
            answer_of(received, "ok")
        except ValueError as error:
            raise Refused(f"loopback: {error}") from None
        return received

    async def _respond(self, request: web.Request, wire: Wire, received: Received, kind: str) -> web.StreamResponse:
        if kind in ERRORS:
            return self.error(problem_of(kind, key=wire.key_of(request), model=received.model), wire)
        if kind in ("503_html", "html200"):
            return web.Response(text=HTML, content_type="text/html", status=503 if kind == "503_html" else 200)
        if kind == "empty_body":
            return web.Response(body=b"", content_type="application/json")
        body = json.dumps(wire.answer(received, self.answer(received, kind if kind in ANSWERS else "ok"))).encode()
        if kind == "broken_body":
            return web.Response(body=body[: len(body) // 2], content_type="application/json")
        if kind not in ("truncated", "dropped"):
            return web.Response(body=body, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        if kind == "truncated":
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
        if request.transport is not None:
            request.transport.close()
        return response

    def _record(self, at: float, content: str = "", **what: Any) -> None:
        self._arrivals.append({"at": round(at, 6), "content": content, **what})

    # ---------------------------------------------------------------------------------------------------- accounts

    def stats(self) -> dict[str, Any]:
        """What happened since the last reset.

        arrivals     every call in order: at (seconds), content (sha256), kind, status; of an admitted one also attempt
                     (from 0) and seconds (its latency)
        admitted     calls let in      rejected  429s of the limits      refused  400s of what was sent
        kinds        calls by kind     paid      answers by content (kind ok or slow; counted when admitted)
        duplicates   answers beyond the first of each content
        max_in_flight, connections
        """
        kinds = Counter(arrival["kind"] for arrival in self._arrivals)
        return {
            "arrivals": self._arrivals,
            "admitted": sum("attempt" in arrival for arrival in self._arrivals),
            "rejected": kinds["rate"] + kinds["quota"],
            "refused": kinds["refused"],
            "kinds": dict(kinds),
            "paid": {content: n for content, n in self._paid.items() if n},
            "duplicates": sum(n - 1 for n in self._paid.values() if n > 1),
            "max_in_flight": self._max_in_flight,
            "connections": len(self._connections),
        }

    async def _get_stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def _get_requests(self, request: web.Request) -> web.Response:
        return web.json_response(list(self._kept))

    async def _post_reset(self, request: web.Request) -> web.Response:
        row = json.loads(await request.read())
        self.begin(_config(row) if row else self.config)
        return web.json_response({})


def _config(row: Mapping[str, Any]) -> Config:
    return Config(**{**row, "wires": tuple(row.get("wires", ("gemini",))), "models": tuple(row.get("models", ()))})


async def _run(config: Config) -> None:
    runner = web.AppRunner(Service(config).application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    print(f"http://127.0.0.1:{port}", flush=True)
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: closed.set() if not sys.stdin.buffer.read1(4096) else None)
    await closed.wait()  # our parent is gone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="{}", help="JSON of `loopback.Config`")
    asyncio.run(_run(_config(json.loads(parser.parse_args().config))))


if __name__ == "__main__":
    # The wires import this module by its name; run that one, so that there is one `Refused` and not two.
    importlib.import_module("loopback.service").main()
