"""Sampling on the workers of Ray Data: many machines, with as many models as there is room for.

    sample: {spread: ray, workers: 16, ray_address: "auto"}

Each worker holds one model and takes the next batch when it is free; a line goes into the journal as soon as a batch is
done. A worker that dies is started anew by Ray, and its batch is done again. The model's folder and the images must be
there under the same path on every machine, and mmalign installed.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.models.ray_job import MOST_STARTS, Fleet, JobProcess, answers
from align.sample.spread import Batch, Done
from align.sample.worker import Job, Sampler, make_sampler
from align.settings import Sample
from annotate.errors import MmalignError, UserError
from annotate.stage import Line


def fleet_of(settings: Sample) -> Fleet:
    """As many workers as asked for, or two; each with GPUs where the cluster has any."""
    gpus = float(settings.gpus_per_worker) if settings.gpus_per_worker > 1 else None
    return Fleet(workers=settings.workers or 2, gpus_per_worker=gpus, cpus_per_worker=1, address=settings.ray_address)


def sample_on_ray(job: Job, fleet: Fleet, batches: Sequence[Batch], done: Done, log: Path) -> Counter[str]:
    """One Ray job; returns how many batches each worker did, by `host:process`.

    Raises `UserError` where a worker cannot load the model, `MmalignError` where batches were lost.
    """
    process = JobProcess(fleet, SampleWorker, job, log)
    left = {key for key, _ in batches}
    by_worker: Counter[str] = Counter()
    try:
        for worker, (key, line, fault) in answers(process.connection(), batches):
            if fault:
                raise UserError(fault)
            left.discard(key)
            by_worker[worker] += 1
            done(key, line)
    finally:
        process.terminate()
        process.end()
    if left:
        raise MmalignError(
            f"{len(left)} of {len(batches)} batches were lost with their workers (see {log}); what is done is kept. "
            "Try again, with a smaller sample.batch_size if memory was short"
        )
    return by_worker


class SampleWorker:
    """What runs in each of Ray's actors. What goes wrong is sent back, not raised: Ray would hide it."""

    def __init__(self, job: Job, begin: Callable[[str], int]) -> None:
        """`begin` counts how often a batch was begun, over all workers."""
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.begin = begin
        self.sampler: Sampler | None = None
        self.fault = ""
        try:
            self.sampler = make_sampler(job)
        except UserError as error:
            self.fault = f"worker {self.name}: {error}"

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, list[Any]]:
        made = [self._sampled(pickle.loads(data)) for data in rows["batch"]]
        return {"replies": [pickle.dumps(m) for m in made], "worker": [self.name] * len(made)}

    def _sampled(self, batch: Batch) -> tuple[str, Line, str]:
        """The key, the line, and what went wrong, if anything did."""
        key, prompts = batch
        if self.sampler is None:
            return key, {}, self.fault
        if self.begin(key) > MOST_STARTS:
            return key, {}, f"{MOST_STARTS} workers have died of one batch of {len(prompts)} prompts; make it smaller"
        try:
            return key, self.sampler.sample(prompts), ""
        except Exception as error:  # a fault of the model's code or ours: the run is to end and say so
            return key, {}, f"worker {self.name}: {type(error).__name__}: {error}"
