"""Where batches are sampled: in this process, in one process per GPU, or on the workers of a Ray cluster.

    sample_here(job, batches, done)
    sample_in_processes(job, 4, batches, done)
    align.sample.ray_engine.sample_on_ray(job, fleet, batches, done, log)

Each calls `done(key, line)` as soon as a batch is finished, in any order. What a batch gets is the same everywhere, up
to the rounding of different machines.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from queue import Queue

from align.sample.worker import Job, Sampler, make_sampler
from align.workers import begin
from annotate.errors import MmalignError
from annotate.records import Prompt
from annotate.stage import Line

Batch = tuple[str, Sequence[Prompt]]
"""Its key in the journal, and its prompts."""
Done = Callable[[str, Line], None]


def sample_here(job: Job, batches: Sequence[Batch], done: Done) -> None:
    """One model in this process."""
    sampler = make_sampler(job)
    for key, prompts in batches:
        done(key, sampler.sample(prompts))


def sample_in_processes(job: Job, workers: int, batches: Sequence[Batch], done: Done) -> None:
    """As many models as workers, each with GPUs of its own where there are any.

    Raises `MmalignError` where a worker was killed; what was done until then is done.
    """
    import torch

    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    shares: Queue[str] = context.Manager().Queue()
    for share in gpu_shares(workers, job.gpus, visible_gpus()):
        shares.put(share)
    pool = ProcessPoolExecutor(
        min(workers, len(batches)), context, initializer=_start, initargs=(job, shares, torch.get_num_threads())
    )
    try:
        keys = {pool.submit(_sample, prompts): key for key, prompts in batches}
        for sampled in as_completed(keys):
            done(keys[sampled], sampled.result())
    except BrokenProcessPool:
        raise MmalignError(
            "a sampling process was killed, perhaps for want of memory; what is done is kept. Try again, with fewer "
            "workers (sample.workers)"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def gpu_shares(workers: int, gpus: int, visible: Sequence[str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is for each worker; where they are more than there are GPUs for, they share."""
    sets = [",".join(visible[i : i + gpus]) for i in range(0, len(visible) - gpus + 1, gpus)]
    return [sets[i % len(sets)] if sets else "" for i in range(workers)]


_job: Job
_sampler: Sampler | None = None


def _start(job: Job, shares: Queue[str], threads: int) -> None:
    """In a new process, before it touches a GPU."""
    global _job
    begin()
    os.environ["CUDA_VISIBLE_DEVICES"] = shares.get()
    import torch

    torch.set_num_threads(threads)
    _job = job


def _sample(prompts: Sequence[Prompt]) -> Line:
    global _sampler
    if _sampler is None:  # not in `_start`: what is raised there ends the pool without its reason
        _sampler = make_sampler(_job)
    return _sampler.sample(prompts)
