"""Stage `sample`: n completions of every prompt by the model (Multi-Modal Preference Alignment, section 3.1).

In: the recipe's prompts and its VLM. Out: `completions.jsonl`, n lines per prompt in the order of the prompts,

    {"schema":"completion/1","id":"6f0c…","prompt_id":"91ab…","index":0,"text":"The 7 is red.","finish_reason":"stop",…}

and `failures.jsonl`. A unit is one batch. Run it with `align sample RECIPE`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.context import Context, PromptSet
from align.models.digest import TEMPLATE_SHA256
from align.sample.batches import plan_batches
from align.settings import Sample
from annotate.errors import UserError
from annotate.pixels import UnreadableImage
from annotate.records import Completion, Failure, Prompt, Reason, sha256_of
from annotate.stage import Compiled, Done, Estimate, Line, Progress, Unit

if TYPE_CHECKING:
    from align.models.load import LoadedModel

STAGE = "sample"


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

    def __init__(self, *, settings: Sample, seed: int, prompts: PromptSet, model: Path, model_sha256: str) -> None:
        self._settings = settings
        self._seed = seed
        self._prompts = prompts
        self._model = model
        self._model_sha256 = model_sha256
        batches = plan_batches(prompts.prompts, settings.batch_size, lambda p: p.turns)
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
            }
        )

    @property
    def units(self) -> Sequence[Unit]:
        return self._units

    def estimate(self, pending: Sequence[Unit]) -> Estimate:
        prompts = sum(unit.records for unit in pending)
        done = sum(unit.records for unit in self._units) - prompts
        return Estimate(calls=0, cached=done, output_tokens=prompts * self._settings.n * self._settings.max_new_tokens)

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        if not pending:
            return
        from align.models.load import load_vlm

        loaded = load_vlm(self._model)
        for unit in pending:
            done(unit.key, self._run_batch(loaded, unit.payload))

    def _run_batch(self, loaded: LoadedModel, batch: Sequence[Prompt]) -> Line:
        """One journal line: the completions and failures of a batch, and whether memory forced it apart."""
        import torch

        from align.sample.engine import Ask, Decoding, generate

        failures = {p.id: failure for p in batch if (failure := self._fault(loaded, p)) is not None}
        good = [p for p in batch if p.id not in failures]
        asks = [Ask(key=p.id, turns=p.turns, images=self._paths(p)) for p in good]
        try:
            made = generate(loaded, asks, n=self._settings.n, decoding=Decoding(**self._decoding()), seed=self._seed)
        except torch.OutOfMemoryError as error:
            failures |= {p.id: _failure(p, Reason.OUT_OF_MEMORY, str(error).splitlines()[0]) for p in good}
            return {"completions": [], "failures": [f.to_json() for f in failures.values()], "halved": True}
        completions = [
            Completion.of(
                prompt_id=prompt.id,
                model=self._model_sha256,
                index=index,
                text=draw.text,
                decoding=self._decoding(),
                seed=self._seed,
                finish_reason=draw.finish_reason,
                n_tokens=draw.n_tokens,
            )
            for prompt, draws in zip(good, made.draws, strict=True)
            for index, draw in enumerate(draws)
        ]
        return {
            "completions": [c.to_json() for c in completions],
            "failures": [f.to_json() for f in failures.values()],
            "halved": made.halved,
        }

    def _paths(self, prompt: Prompt) -> tuple[Path, ...]:
        return tuple(self._prompts.image_path(image) for image in prompt.images)

    def _fault(self, loaded: LoadedModel, prompt: Prompt) -> Failure | None:
        """Why this prompt cannot be sampled now, although it was good when the recipe was checked."""
        for image in prompt.images:
            try:
                found = hashlib.sha256(self._prompts.image_path(image).read_bytes()).hexdigest()
            except OSError as error:
                return _failure(prompt, Reason.IMAGE_UNREADABLE, f"{image.path}: {error.strerror}")
            if found != image.sha256:
                return _failure(prompt, Reason.IMAGE_UNREADABLE, f"{image.path}: changed since it was checked")
        try:
            length = len(loaded.encoder.prompt(prompt.turns, self._paths(prompt)).ids)
        except UserError as error:
            return _failure(prompt, Reason.INVALID_INPUT, str(error))
        except UnreadableImage as error:
            return _failure(prompt, Reason.IMAGE_UNREADABLE, f"an image {error}")
        except (OSError, ValueError) as error:  # its text may hold the path of this machine: not for an output
            return _failure(prompt, Reason.IMAGE_UNREADABLE, f"an image cannot be decoded ({type(error).__name__})")
        limit = loaded.n_positions
        if limit is not None and length + self._settings.max_new_tokens > limit:
            detail = f"{length} tokens and up to {self._settings.max_new_tokens} new ones; the model takes {limit}"
            return _failure(prompt, Reason.TOO_LONG, detail)
        return None

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        completions: dict[str, list[Completion]] = {}
        failures: dict[str, Failure] = {}
        halved = 0
        for unit in self._units:
            line = lines[unit.key]
            halved += bool(line["halved"])
            for row in line["completions"]:
                completion = Completion.from_json(row)
                completions.setdefault(completion.prompt_id, []).append(completion)
            for row in line["failures"]:
                failure = Failure.from_json(row)
                failures[failure.record_id] = failure
        order = [p.id for p in self._prompts.prompts]
        sampled = [c for prompt_id in order for c in completions.get(prompt_id, ())]
        skipped = self._prompts.failures
        failed = [*skipped, *(failures[prompt_id] for prompt_id in order if prompt_id in failures)]
        reasons = Counter(f.reason.value for f in failed)
        return Compiled(
            files={"completions.jsonl": sampled, "failures.jsonl": failed},
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
                **({"batches halved for memory (byte-identity void)": halved} if halved else {}),
            },
        )


def _failure(prompt: Prompt, reason: Reason, detail: str) -> Failure:
    return Failure(stage=STAGE, record_id=prompt.id, reason=reason, detail=detail)
