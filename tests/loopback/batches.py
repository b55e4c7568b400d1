"""Batch jobs of the loopback service: what `gemini_batches.py` and `openai_batches.py` have in common.

    with serve(Config(wires=("openai_batches",))) as service:
        plan(service.url, fates=[{"end": "failed"}, {"answered": 0.5}])      # of the first job, of the second
        ...
        assert [job["state"] for job in seen(service.url)["jobs"]] == ["failed", "completed"]

Rows of requests are read when they are uploaded, strictly, as an interactive call would be; only what is asked is kept,
with images as hashes. What becomes of a row is a matter of its scenario (`behaviour.py`), what becomes of a job is its
`Fate`. Answers come in an order of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from aiohttp import web

from loopback.answers import Received
from loopback.behaviour import ANSWERS, ERRORS, problem_of
from loopback.service import Refused, Service, Wire


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What becomes of a job."""

    seconds: float = 0.0
    """From its creation to its end."""
    end: Literal["completed", "failed", "expired", "cancelled"] = "completed"
    answered: float = 1.0
    """Share of its rows that are answered before it ends; of a failed job none."""
    missing: int = 0
    """So many answers are left out of the results."""
    twice: int = 0
    """So many keys have a second, different answer."""
    full: bool = False
    """It fails because too many tokens are in the queue."""
    bad_line: int | None = None
    """It fails because of this line, counted from 1."""
    lose_results: bool = False
    """It ends well, but its files are gone."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the service behaves towards jobs and files."""

    fates: Sequence[Fate] = ()
    creates: Sequence[str] = ()
    """Kinds of the first creations: of `ERRORS`, or lost_before, lost_after (the job is made), or ok."""
    before_create: float = 0.0
    after_create: float = 0.0
    """Seconds that a creation takes before and after the job is made."""
    hidden: int = 0
    """So many creations do not find the file yet that was uploaded (OpenAI)."""
    drop_uploads: int = 0
    """So many uploads are cut off in the middle."""
    cut_downloads: int = 0
    """So many downloads end in the middle of a line, as if that were all."""
    download_seconds: float = 0.0
    looks: Sequence[str] = ()
    """Kinds of the first looks at jobs."""


@dataclass(eq=False)
class File:
    """Uploaded requests, or results."""

    id: str
    rows: list[tuple[str, Received | Refused]] = field(default_factory=list)
    fault: str = ""
    """Why no job can be made of it."""
    data: bytes = b""
    n_bytes: int = 0
    rest: bytes = b""


@dataclass(eq=False)
class Job:
    id: str
    name: str
    model: str
    input: File
    fate: Fate
    created: float
    state: str = "validating"
    """In OpenAI's words."""
    outputs: list[File] = field(default_factory=list)
    """Answers, and then errors where they stand apart."""
    answered: list[str] = field(default_factory=list)
    detail: str = ""


class Rows(Protocol):
    """How a service writes the lines of its files."""

    def read(self, line: Any) -> tuple[str, Received]:
        """Raises `Refused`, with the key as its second argument where there is one."""
        ...

    def answer(self, key: str, number: int, body: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def error(self, key: str, number: int, status: int, body: Any) -> Mapping[str, Any]: ...

    def left_over(self, key: str, number: int, state: str) -> Mapping[str, Any] | None:
        """The line of a row that a job did not come to, if it has one."""
        ...


class Store:
    """Files and jobs; one per service, kept in its memory."""

    def __init__(self) -> None:
        self.plan = Plan()
        self.files: dict[str, File] = {}
        self.jobs: dict[str, Job] = {}
        self.counts: Counter[str] = Counter()

    def next(self, what: str) -> int:
        self.counts[what] += 1
        return self.counts[what]

    def new_file(self) -> File:
        file = File(id=f"file{self.next('file')}")
        self.files[file.id] = file
        return file


def store_of(service: Service) -> Store:
    made: Store = service.memory.setdefault("store", Store())
    return made


def add_control(service: Service) -> list[web.RouteDef]:
    """`/plan` and `/jobs`."""

    async def set_plan(request: web.Request) -> web.Response:
        row = json.loads(await request.read())
        row["fates"] = [Fate(**fate) for fate in row.get("fates", ())]
        store_of(service).plan = Plan(**row)
        return web.json_response({})

    async def get_jobs(request: web.Request) -> web.Response:
        store = store_of(service)
        rows = [
            {
                "id": job.id,
                "name": job.name,
                "state": job.state,
                "keys": [key for key, _ in job.input.rows],
                "answered": job.answered,
            }
            for job in store.jobs.values()
        ]
        return web.json_response({"jobs": rows, "files": sorted(store.files), "counts": dict(store.counts)})

    return [web.post("/plan", set_plan), web.get("/jobs", get_jobs)]


# -------------------------------------------------------------------------------------------------------------- files


def feed(file: File, chunk: bytes, rows: Rows) -> None:
    """More of an uploaded file."""
    file.n_bytes += len(chunk)
    *lines, file.rest = (file.rest + chunk).split(b"\n")
    for line in lines:
        _feed_line(file, line, rows)


def finish_upload(file: File, rows: Rows) -> None:
    if file.rest:
        _feed_line(file, file.rest, rows)
        file.rest = b""
    keys = [key for key, _ in file.rows]
    if not keys:
        file.fault = "the file is empty"
    elif len(set(keys)) < len(keys):
        file.fault = "the file has a key twice"


def _feed_line(file: File, line: bytes, rows: Rows) -> None:
    try:
        parsed = json.loads(line)
    except ValueError:
        file.fault = f"line {len(file.rows) + 1} is no JSON"
        return
    try:
        file.rows.append(rows.read(parsed))
    except Refused as refused:
        if len(refused.args) < 2:
            file.fault = f"line {len(file.rows) + 1}: {refused}"
        else:
            file.rows.append((refused.args[1], Refused(refused.args[0])))


async def send(request: web.Request, store: Store, file: File) -> web.StreamResponse:
    """A download, in two halves."""
    data = file.data
    if store.next("download") <= store.plan.cut_downloads:
        data = data[: len(data) * 2 // 3]
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    await asyncio.sleep(store.plan.download_seconds)
    with contextlib.suppress(ConnectionError):  # who asked may be gone
        await response.write(data[len(data) // 2 :])
    return response


# --------------------------------------------------------------------------------------------------------------- jobs


async def create(
    request: web.Request, service: Service, wire: Wire, make: Callable[[], Awaitable[Job]]
) -> Job | web.StreamResponse:
    """The job that `make` makes, or what the plan has for this creation instead."""
    store = store_of(service)
    number = store.next("create")
    kind = store.plan.creates[number - 1] if number <= len(store.plan.creates) else "ok"
    if kind in ERRORS:
        return service.error(problem_of(kind, key=wire.key_of(request), model=""), wire)
    await asyncio.sleep(store.plan.before_create)
    job = None
    if kind != "lost_before":
        job = await make()
        store.jobs[job.id] = job
    await asyncio.sleep(store.plan.after_create)
    return hang_up(request) if kind == "lost_after" or job is None else job


def hang_up(request: web.Request) -> web.Response:
    """Close the connection without a word."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def new_job(service: Service, *, name: str, model: str, file: File) -> Job:
    store = store_of(service)
    number = store.next("job")
    fate = store.plan.fates[number - 1] if number <= len(store.plan.fates) else Fate()
    return Job(id=f"job{number}", name=name, model=model, input=file, fate=fate, created=service.now())


def look(request: web.Request, service: Service, wire: Wire) -> web.Response | None:
    """What the plan has for this look at a job, instead of the job."""
    store = store_of(service)
    number = store.next("look")
    kind = store.plan.looks[number - 1] if number <= len(store.plan.looks) else "ok"
    return None if kind == "ok" else service.error(problem_of(kind, key=wire.key_of(request), model=""), wire)


def advance(service: Service, wire: Wire, job: Job, rows: Rows) -> None:
    """Let the job be where it is by now."""
    if job.state not in ("validating", "in_progress"):
        return
    fate = job.fate
    if job.input.fault:
        job.state, job.detail = "failed", job.input.fault
    elif fate.full or fate.bad_line is not None or fate.end == "failed":
        job.state = "failed"
        job.detail = "token_limit_exceeded" if fate.full else "invalid_request" if fate.bad_line else "server_error"
    elif service.now() - job.created < fate.seconds:
        job.state = "in_progress"
    else:
        _run(service, wire, job, rows)
        job.state = fate.end


def _run(service: Service, wire: Wire, job: Job, rows: Rows) -> None:
    """Answer the rows, in an order of the service's own."""
    asked = list(job.input.rows)
    random.Random(job.id).shuffle(asked)
    n = round(len(asked) * job.fate.answered)
    good: list[Mapping[str, Any]] = []
    bad: list[Mapping[str, Any]] = []
    for number, (key, received) in enumerate(asked):
        if number >= n:
            if (line := rows.left_over(key, number, job.fate.end)) is not None:
                bad.append(line)
            continue
        status, body = _answer(service, wire, received, job.model)
        if status == 200:
            job.answered.append(key)
            good.append(rows.answer(key, number, body))
        else:
            bad.append(rows.error(key, number, status, body))
    for line in good[: job.fate.twice]:
        good.append(json.loads(json.dumps(line).replace("I looked at", "I never looked at")))
    job.outputs = [_results(service, job, lines) for lines in (good[job.fate.missing :], bad)]


def _answer(service: Service, wire: Wire, received: Received | Refused, model: str) -> tuple[int, Mapping[str, Any]]:
    if isinstance(received, Refused):
        problem = replace(problem_of("400", key="", model=""), message=str(received))
        return 400, wire.error(problem)[1]
    received = replace(received, model=model or received.model)
    kind = service.kind(received)
    if kind in ERRORS:
        return int(kind[:3]), wire.error(problem_of(kind, key="", model=received.model))[1]
    if kind in ANSWERS or kind == "slow":
        return 200, wire.answer(received, service.answer(received, kind if kind in ANSWERS else "ok"))
    return 500, wire.error(problem_of("500", key="", model=""))[1]


def _results(service: Service, job: Job, lines: list[Mapping[str, Any]]) -> File:
    """A file that can be fetched, unless it is empty or lost."""
    file = store_of(service).new_file()
    file.data = "".join(json.dumps(line) + "\n" for line in lines).encode() + (b"\n" if lines else b"")
    if job.fate.lose_results or not lines:
        del store_of(service).files[file.id]
    return file


# ---------------------------------------------------------------------------------------------------------- for tests


def plan(url: str, **what: Any) -> None:
    """Set the plan of a service: fields of `Plan`, with fates as dicts of `Fate`."""
    with urllib.request.urlopen(urllib.request.Request(f"{url}/plan", data=json.dumps(what).encode())) as response:
        response.read()


def seen(url: str) -> dict[str, Any]:
    """The jobs in the order of their creation, the files there are, and how often what was called."""
    with urllib.request.urlopen(f"{url}/jobs") as response:
        return dict(json.load(response))
