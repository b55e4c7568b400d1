"""Completions of one batch of prompts, as the journal keeps them: what runs in this process, in others, on clusters.

    sampler = make_sampler(job)              loads the model
    sampler.sample(prompts)                  {"completions": [...], "failures": [...], "halved": false}

Light until a sampler is made: no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from annotate.errors import UserError
from annotate.pixels import UnreadableImage
from annotate.records import Completion, Failure, Prompt, Reason
from annotate.stage import Line

if TYPE_CHECKING:
    from align.models.encode import Encoder
    from align.sample.engine import Draw

STAGE = "sample"


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker has to know, wherever it runs; paths are the same on every machine."""

    model: Path
    model_sha256: str
    adapter: Path | None = None
    root: Path
    """What image paths are relative to."""
    n: int
    seed: int
    decoding: Mapping[str, Any]
    """temperature, top_p, max_new_tokens."""
    engine: Literal["transformers", "vllm"] = "transformers"
    logprobs: bool = False
    gpus: int = 1
    """For one model, where the engine can split it."""
    most_images: int = 1
    """Of any prompt of the stage."""

    def paths(self, prompt: Prompt) -> tuple[Path, ...]:
        return tuple(self.root / image.path for image in prompt.images)


class Sampler(Protocol):
    """A loaded model that answers batches."""

    def sample(self, prompts: Sequence[Prompt]) -> Line: ...


def make_sampler(job: Job) -> Sampler:
    """Load the model of the job's engine. Raises `UserError` where it cannot."""
    if job.engine == "vllm":
        from align.sample.vllm_engine import VllmSampler

        return VllmSampler(job)
    return TransformersSampler(job)


class TransformersSampler:
    """By the model as transformers loads it."""

    def __init__(self, job: Job) -> None:
        from align.models.load import load_vlm

        self.job = job
        self.loaded = load_vlm(job.model, adapter=job.adapter)

    def sample(self, prompts: Sequence[Prompt]) -> Line:
        """One journal line: the completions and failures of a batch, and whether memory forced it apart."""
        from align.sample.engine import Ask, Decoding, generate, out_of_memory

        job = self.job
        sorted_out = sort_out(job, prompts, self.loaded.encoder, self.loaded.n_positions)
        asks = [Ask(key=p.id, turns=p.turns, images=job.paths(p)) for p in sorted_out.good]
        decoding = Decoding(**job.decoding)
        try:
            made = generate(self.loaded, asks, n=job.n, decoding=decoding, seed=job.seed, logprobs=job.logprobs)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            what = str(error).splitlines()[0]
            sorted_out.failures.update({p.id: failure(p, Reason.OUT_OF_MEMORY, what) for p in sorted_out.good})
            return line_of(job, (), (), sorted_out.failures, halved=True)
        return line_of(job, sorted_out.good, made.draws, sorted_out.failures, halved=made.halved)


@dataclass(frozen=True)
class SortedOut:
    """The prompts that can be sampled, and why the others cannot."""

    good: list[Prompt] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)


def sort_out(job: Job, prompts: Sequence[Prompt], encoder: Encoder, n_positions: int | None) -> SortedOut:
    """Look at each prompt once more: all were good when the recipe was checked."""
    out = SortedOut()
    for prompt in prompts:
        fault = _fault(job, prompt, encoder, n_positions)
        if fault is None:
            out.good.append(prompt)
        else:
            out.failures[prompt.id] = fault
    return out


def _fault(job: Job, prompt: Prompt, encoder: Encoder, n_positions: int | None) -> Failure | None:
    """Why this prompt cannot be sampled now."""
    for image in prompt.images:
        try:
            found = hashlib.sha256((job.root / image.path).read_bytes()).hexdigest()
        except OSError as error:
            return failure(prompt, Reason.IMAGE_UNREADABLE, f"{image.path}: {error.strerror}")
        if found != image.sha256:
            return failure(prompt, Reason.IMAGE_UNREADABLE, f"{image.path}: changed since it was checked")
    try:
        length = len(encoder.prompt(prompt.turns, job.paths(prompt)).ids)
    except UserError as error:
        return failure(prompt, Reason.INVALID_INPUT, str(error))
    except UnreadableImage as error:
        return failure(prompt, Reason.IMAGE_UNREADABLE, f"an image {error}")
    except (OSError, ValueError) as error:  # its text may hold the path of this machine: not for an output
        return failure(prompt, Reason.IMAGE_UNREADABLE, f"an image cannot be decoded ({type(error).__name__})")
    most = job.decoding["max_new_tokens"]
    if n_positions is not None and length + most > n_positions:
        detail = f"{length} tokens and up to {most} new ones; the model takes {n_positions}"
        return failure(prompt, Reason.TOO_LONG, detail)
    return None


def line_of(
    job: Job,
    prompts: Sequence[Prompt],
    draws: Sequence[Sequence[Draw]],
    failures: Mapping[str, Failure],
    *,
    halved: bool,
    made_by: Mapping[str, Any] | None = None,
) -> Line:
    """The journal's line. `made_by`: what is to be said of the engine beside the decoding, in each completion."""
    completions, logps = [], []
    for prompt, own in zip(prompts, draws, strict=True):
        for index, draw in enumerate(own):
            completion = Completion.of(
                prompt_id=prompt.id,
                model=job.model_sha256,
                index=index,
                text=draw.text,
                decoding={**job.decoding, **(made_by or {})},
                seed=job.seed,
                finish_reason=draw.finish_reason,
                n_tokens=draw.n_tokens,
            )
            completions.append(completion.to_json())
            logps.append(_logprobs_row(completion, draw))
    line: dict[str, Any] = {
        "completions": completions,
        "failures": [f.to_json() for f in failures.values()],
        "halved": halved,
    }
    return line | {"logprobs": logps} if job.logprobs else line


def _logprobs_row(completion: Completion, draw: Draw) -> dict[str, Any]:
    row: dict[str, Any] = {
        "completion_id": completion.id,
        "prompt_id": completion.prompt_id,
        "index": completion.index,
        "model": completion.model,
    }
    if draw.logps is None:
        return row | {"left_out": draw.no_logps}
    per_token = [round(logp, 6) for logp in draw.logps]
    return row | {"sum": round(sum(draw.logps), 6), "n_tokens": len(per_token), "per_token": per_token}


def failure(prompt: Prompt, reason: Reason, detail: str) -> Failure:
    return Failure(stage=STAGE, record_id=prompt.id, reason=reason, detail=detail)
