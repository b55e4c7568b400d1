"""`local_ray`: the annotator `local` on many GPUs or machines, as a Ray Data job.

    annotate: {backend: local_ray, model: models/llava-critic-7b-hf, options: {workers: 8, batch_size: 8}}

Each worker holds one model, as `local` would; requests go to whichever is free, images as bytes through Ray's object
store, and replies come back batch by batch. The options are those of `local`, and

    workers            models (2)                         rows_per_job  requests handed to Ray at once (8192)
    gpus_per_worker    1 where there are GPUs, else 0     address       of a running cluster; empty: this machine
    cpus_per_worker    1

A worker that dies is started anew by Ray, and what was on it is done again. Models are loaded once per job, so that
`rows_per_job` should be many times what they answer while one loads. On a cluster the model's folder must be there
under the same path on every node, and mmalign installed. What Ray has to say goes to `ray.log` in the stage's folder.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from align.models.annotator import FoundModel, check_libraries, decides, judge_settings
from align.models.gather import Gather
from align.models.judge import Say
from align.models.ray_job import Fleet, JobProcess, JudgeWorker, answers
from annotate.errors import UserError
from annotate.protocol import Outcome, Reply, Request, Traits


class RayAnnotator:
    """As many models as there are workers."""

    paid = False

    def __init__(
        self,
        *,
        model: str,
        workers: int = 2,
        gpus_per_worker: float | None = None,
        cpus_per_worker: float = 1,
        rows_per_job: int = 8192,
        address: str = "",
        batch_size: int = 4,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str = "",
        template: str = "auto",
        scaffold: bool = False,
        quiet_ms: float = 1000.0,
    ) -> None:
        """Raises `UserError` for an option that cannot be; whether the model is there is for `check` to say."""
        if workers < 1 or rows_per_job < 1:
            raise UserError("options.workers and options.rows_per_job must be at least 1")
        self.found = FoundModel(model)
        self.model = self.found.name
        self.settings = judge_settings(
            self.found,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            quantize=quantize,
            template=template,
            scaffold=scaffold,
        )
        self.fleet = Fleet(
            workers=workers, gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus_per_worker, address=address
        )
        self.traits = Traits(
            greedy_is_fixed=True,
            decides=decides(self.settings),
            in_flight=rows_per_job,
            paced=False,
            image_tokens=576,
        )
        self.answered_by: Counter[str] = Counter()
        """Batches by worker, as `host:process`."""
        self.alone: set[str] = set()
        """Requests, by hash, of batches whose workers died of them: each is asked by itself, with nobody to harm."""
        self._gather = Gather(self._serve, most=rows_per_job, quiet_ms=quiet_ms)
        self._process = JobProcess(self.fleet, JudgeWorker, self.settings, Path(os.devnull))

    @property
    def job(self) -> subprocess.Popen[bytes] | None:
        """The process that talks to Ray."""
        return self._process.process

    def check(self) -> None:
        check_libraries("local_ray", self.settings, ray="ray", pyarrow="ray")
        self.found.check()

    async def open(self, workspace: Path) -> None:
        self._process.log = workspace / "ray.log"
        await self._gather.in_thread(self._process.connection)

    async def close(self) -> None:
        """Ends the job, and Ray with it."""
        self._gather.stopped.set()
        self._process.terminate()
        await self._gather.close()
        await asyncio.to_thread(self._process.end)

    async def reply(self, request: Request) -> Reply:
        return await self._gather.reply(request)

    # -------------------------------------------------------------------------------------------------- in the thread

    def _serve(self, requests: Sequence[Request], say: Say) -> None:
        """One job: all these requests, each answered as soon as its batch is done."""
        batches = [[(i, requests[i]) for i in batch] for batch in self.batches(requests)]
        for worker, replies in answers(self._process.connection(), batches):
            self.answered_by[worker] += 1
            for i, reply in replies:
                if reply.outcome is Outcome.TRANSIENT:
                    self.alone.add(requests[i].sha256)
                say(i, reply)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Positions of requests that go to a worker together: of like length, the longest first."""
        order = by_length(requests)
        alone = [i for i in order if requests[i].sha256 in self.alone]
        others = [i for i in order if requests[i].sha256 not in self.alone]
        share = -(-len(others) // self.fleet.workers)  # where there are few, each worker gets some
        size = max(1, min(self.settings.batch_size, share))
        return [others[k : k + size] for k in range(0, len(others), size)] + [[i] for i in alone]


def by_length(requests: Sequence[Request]) -> list[int]:
    """Positions of the requests, those with images first and then the longest, so that batches hold like lengths."""

    def size(i: int) -> tuple[int, int]:
        characters = sum(len(part.text) for message in requests[i].messages for part in message.parts)
        return (len(requests[i].images), characters)

    return sorted(range(len(requests)), key=size, reverse=True)
