"""Where batches are sampled: in this process, in one process per GPU, or on the workers of a Ray cluster.

    sample_here(job, batches, done)
    sample_in_processes(job, 4, batches, done)
    align.sample.ray_engine.sample_on_ray(job, fleet, batches, done, log)

Each calls `done(key, line)` as soon as a batch is finished, in any order. What a batch gets is the same everywhere, up
to the rounding of different machines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from align.sample.worker import Job, Sampler, make_sampler
from align.workers import as_done, stopped_once
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

    Raises `MmalignError` where a worker was killed; what was done until then is done. No process is left behind,
    however this ends.
    """
    import torch

    shares = gpu_shares(min(workers, len(batches)), job.gpus, visible_gpus())
    works = [partial(_sample, job, share, torch.get_num_threads()) for share in shares]
    lost = (
        "a sampling process was killed, perhaps for want of memory; what is done is kept. Try again, with fewer "
        "workers (sample.workers) or smaller batches (sample.batch_size)"
    )
    with stopped_once(), as_done(works, [prompts for _, prompts in batches], lost=lost) as sampled:
        for place, line in sampled:
            done(batches[place][0], line)


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


_sampler: Sampler | None = None
"""Of this process, which has but one job."""


def _sample(job: Job, gpus: str, threads: int, prompts: Sequence[Prompt]) -> Line:
    """In a process of its own, before the first batch untouched by torch."""
    global _sampler
    if _sampler is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        import torch

        torch.set_num_threads(threads)
        _sampler = make_sampler(job)
    return _sampler.sample(prompts)
