"""Stage `sample`: n completions of every prompt by the model (Multi-Modal Preference Alignment, section 3.1).

In: the recipe's prompts and its VLM. Out: `completions.jsonl`, n lines per prompt in the order of the prompts,

    {"schema":"completion/1","id":"6f0c…","prompt_id":"91ab…","index":0,"text":"The 7 is red.","finish_reason":"stop",…}

and `failures.jsonl`; with `logprobs: true` also `logprobs.jsonl`, a line per completion in the same order:

    {"completion_id":"6f0c…","prompt_id":"91ab…","index":0,"model":"04dd…","sum":-7.2,"n_tokens":8,"per_token":[-0.1,…]}

A unit is one batch. Run it with `align sample RECIPE`; docs/engines.md says what can do the work, and where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from align.context import Context, PromptSet
from align.models.digest import TEMPLATE_SHA256
from align.sample.batches import plan_batches, tokens_of
from align.sample.worker import STAGE, Job
from align.settings import Sample
from annotate.errors import UserError
from annotate.records import Completion, Failure, Prompt, sha256_of
from annotate.stage import Compiled, Done, Estimate, Line, Progress, Unit

__all__ = ["STAGE", "SampleWork", "work"]


def work(context: Context) -> SampleWork:
    return SampleWork(
        settings=context.recipe.sample or Sample(),
        seed=context.recipe.seed,
        prompts=context.prompts(),
        model=context.model,
        model_sha256=context.model_sha256,
    )


class SampleWork:
    """The plan, and how to carry it out. Light until `execute`: no torch."""

    def __init__(
        self,
        *,
        settings: Sample,
        seed: int,
        prompts: PromptSet,
        model: Path,
        model_sha256: str,
        adapter: Path | None = None,
    ) -> None:
        """`model_sha256` is of the model with the adapter, where there is one (`align.models.load.digest_of`)."""
        self._settings = settings
        self._adapter = adapter
        self._seed = seed
        self._prompts = prompts
        self._model = model
        self._model_sha256 = model_sha256
        batches = plan_batches(
            prompts.prompts,
            settings.batch_size,
            lambda p: p.turns,
            most_tokens=settings.batch_tokens,
            tokens=lambda p: tokens_of(p.turns) + settings.n * settings.max_new_tokens,
        )
        self._units = [Unit(key=self._key(batch), payload=batch, records=len(batch)) for batch in batches]

    def _decoding(self) -> dict[str, Any]:
        s = self._settings
        return {"temperature": s.temperature, "top_p": s.top_p, "max_new_tokens": s.max_new_tokens}

    def _key(self, batch: Sequence[Prompt]) -> str:
        return sha256_of(
            {
                "model": self._model_sha256,
                "decoding": self._decoding(),
                "n": self._settings.n,
                "seed": self._seed,
                "template": TEMPLATE_SHA256,
                "prompts": [p.id for p in batch],
                # what is not the default: journals of before these options stay good
                **({"engine": self._settings.engine} if self._settings.engine != "transformers" else {}),
                **({"logprobs": True} if self._settings.logprobs else {}),
            }
        )

    @property
    def units(self) -> Sequence[Unit]:
        return self._units

    def estimate(self, pending: Sequence[Unit]) -> Estimate:
        prompts = sum(unit.records for unit in pending)
        done = sum(unit.records for unit in self._units) - prompts
        return Estimate(calls=0, cached=done, output_tokens=prompts * self._settings.n * self._settings.max_new_tokens)

    @property
    def job(self) -> Job:
        """What every worker is told."""
        s = self._settings
        return Job(
            model=self._model.absolute(),
            model_sha256=self._model_sha256,
            adapter=self._adapter,
            root=self._prompts.root.absolute(),
            n=s.n,
            seed=self._seed,
            decoding=self._decoding(),
            engine=s.engine,
            logprobs=s.logprobs,
            gpus=s.gpus_per_worker,
            most_images=max((len(p.images) for p in self._prompts.prompts), default=0),
        )

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        if not pending:
            return
        check(self._settings)
        from align.sample.spread import sample_here, sample_in_processes, visible_gpus

        batches = [(unit.key, unit.payload) for unit in pending]
        if self._settings.spread == "ray":
            from align.sample.ray_engine import fleet_of, sample_on_ray

            sample_on_ray(self.job, fleet_of(self._settings), batches, done, workspace / "ray.log")
            return
        workers = self._settings.workers or len(visible_gpus()) // self._settings.gpus_per_worker or 1
        if workers == 1:
            return sample_here(self.job, batches, done)
        return sample_in_processes(self.job, workers, batches, done)

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        completions: dict[str, list[Completion]] = {}
        logprobs: dict[str, list[Mapping[str, Any]]] = {}
        failures: dict[str, Failure] = {}
        halved = 0
        for unit in self._units:
            line = lines[unit.key]
            halved += bool(line["halved"])
            for row in line["completions"]:
                completion = Completion.from_json(row)
                completions.setdefault(completion.prompt_id, []).append(completion)
            for row in line.get("logprobs", ()):
                logprobs.setdefault(row["prompt_id"], []).append(row)
            for row in line["failures"]:
                failure = Failure.from_json(row)
                failures[failure.record_id] = failure
        order = [p.id for p in self._prompts.prompts]
        sampled = [c for prompt_id in order for c in completions.get(prompt_id, ())]
        skipped = self._prompts.failures
        failed = [*skipped, *(failures[prompt_id] for prompt_id in order if prompt_id in failures)]
        reasons = Counter(f.reason.value for f in failed)
        rows = [row for prompt_id in order for row in logprobs.get(prompt_id, ())]
        kept = {"logprobs.jsonl": rows} if self._settings.logprobs else {}
        left_out = sum("left_out" in row for row in rows)
        return Compiled(
            files={"completions.jsonl": sampled, "failures.jsonl": failed, **kept},
            units=len(order) + len(skipped),
            outputs=len(completions),
            failures=len(failed),
            funnel={
                "prompts": len(order) + len(skipped),
                **({"duplicates, kept once": self._prompts.duplicates} if self._prompts.duplicates else {}),
                **{f"failed: {reason}": count for reason, count in sorted(reasons.items())},
                "prompts sampled": len(completions),
                "completions": len(sampled),
                "cut at max_new_tokens": sum(c.finish_reason == "length" for c in sampled),
                "empty": sum(not c.text for c in sampled),
                **({"without log-probabilities": left_out} if left_out else {}),
                **({"batches halved for memory (byte-identity void)": halved} if halved else {}),
            },
        )


def check(settings: Sample) -> None:
    """Raise `UserError` for what this installation, or this engine, cannot do."""
    faults = []
    if settings.engine == "vllm" and find_spec("vllm") is None:
        faults.append("sample.engine: vllm is not installed; say: pip install 'mmalign[vllm]'")
    if settings.engine == "vllm" and settings.logprobs:
        faults.append(
            "sample.logprobs: only with engine: transformers; vLLM's numbers are not those of the model that is trained"
        )
    if settings.spread == "ray" and find_spec("ray") is None:
        faults.append("sample.spread: ray is not installed; say: pip install 'mmalign[ray]'")
    if settings.gpus_per_worker > 1 and settings.engine != "vllm":
        faults.append("sample.gpus_per_worker: only engine: vllm splits a model over several GPUs")
    if faults:
        raise UserError(*faults)
