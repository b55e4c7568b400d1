"""The stage `annotate`: completions in, scores with reasons out.

    work = AnnotateWork(prompts=..., completions=..., settings=..., seed=0, read_image=...)
    work.execute(work.units, done, workspace, progress)     # asks; one line per request
    compiled = work.compile(lines, workspace)               # reads the replies; asks nothing

It is plain Python around an asynchronous core (`asking.py`), needs neither `align` nor torch, and opens no file but
the rubric. One line of annotated.jsonl, shortened:

    {"schema":"annotated/1","prompt":{…},"completions":[{…},{…}],"annotations":[{"mode":"listwise","pass_index":0,
     "shown_order":["b2…","a1…"],"ratings":[{"completion_id":"b2…","scores":{"helpfulness":3,…},"rationale":"…"},…],…}]}
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

from annotate.asking import Limits, ReadImage, ask_all, tokens_of
from annotate.backends.registry import make_annotator
from annotate.errors import UserError
from annotate.limits import Patience
from annotate.prompting import Mode, ParsedReply, ReplyError, parse_reply, render_request
from annotate.protocol import Annotator, Priced, Request
from annotate.records import Annotated, Annotation, Completion, Failure, Prompt, Rating, Reason, Rubric, content_id
from annotate.rubric import load_rubric
from annotate.stage import Compiled, Done, Estimate, Line, Progress, Unit

STAGE = "annotate"


class AnnotateSettings(Limits, Protocol):
    """What the recipe's `annotate` block says; `align.settings.Annotate` is one."""

    @property
    def backend(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def rubric(self) -> str: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def passes(self) -> int: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


def shown_order(n: int, *, position: int, pass_index: int, seed: int, salt: str = "") -> tuple[int, ...]:
    """In which order to show n completions of the prompt at `position`: a row of a seeded Latin square.

    Within each n prompts, and for each prompt within n passes, every completion stands once in every place, so a
    preference for a place cannot favour any of them. Prompts added at the end change nothing for those before.
    """
    order = list(range(n))
    random.Random(f"{seed}/{salt}/{n}/{position // n}").shuffle(order)
    start = (position + pass_index) % n
    return tuple(order[start:] + order[:start])


@dataclass(frozen=True, kw_only=True)
class _RatingCall:
    """One request: these completions of the prompt, shown in this order."""

    prompt: Prompt
    shown: tuple[Completion, ...]
    pass_index: int
    settings: AnnotateSettings
    model: str
    rubric: Rubric
    guide: str

    def request(self, images: Sequence[bytes], attempt: int) -> Request:
        settings = self.settings
        return render_request(
            self.prompt,
            self.shown,
            self.rubric,
            self.guide,
            mode=settings.mode,
            backend=settings.backend,
            model=self.model,
            decoding={"temperature": settings.temperature, "max_output_tokens": settings.max_output_tokens},
            images=images,
            pass_index=self.pass_index,
            attempt=attempt,
        )

    def parse(self, text: str) -> ParsedReply:
        return parse_reply(text, len(self.shown), self.rubric, pairwise=self.settings.mode == "pairwise")

    def readable(self, text: str) -> bool:
        try:
            self.parse(text)
        except ReplyError:
            return False
        return True


class AnnotateWork:
    """Work of the stage `annotate` (see `annotate.stage`)."""

    def __init__(
        self,
        *,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        settings: AnnotateSettings,
        seed: int,
        read_image: ReadImage,
        annotator: Annotator | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Plan the requests. `annotator` is made from the settings where it is not given.

        Raises `UserError` where the completions are not of these prompts, or the settings name no annotator or rubric.
        """
        self.prompts = prompts
        self.settings = settings
        self.seed = seed
        self.read_image = read_image
        self.patience = patience or Patience()
        self.rubric, self.guide = load_rubric(settings.rubric)
        self.annotator = annotator or make_annotator(settings.backend, settings.model, settings.options)
        self.completions = _by_prompt(prompts, completions)
        self.not_asked = {p.id: f for p in prompts if (f := _not_askable(p, self.completions[p.id]))}
        calls = [call for i, prompt in enumerate(prompts) for call in self._calls(i, prompt)]
        self.units = [Unit(key=call.request((), 0).sha256, payload=call) for call in calls]

    def _calls(self, position: int, prompt: Prompt) -> Iterator[_RatingCall]:
        """The requests of one prompt: one per pass, and within it one per completion or per pair where so asked."""
        if prompt.id in self.not_asked:
            return
        all_of_it = self.completions[prompt.id]
        groups: list[tuple[Completion, ...]] = [all_of_it]
        if self.settings.mode == "pointwise":
            groups = [(c,) for c in all_of_it]
        elif self.settings.mode == "pairwise":
            groups = list(combinations(all_of_it, 2))
        for pass_index in range(self.settings.passes):
            for group in groups:
                salt = "" if len(group) == len(all_of_it) else "-".join(str(c.index) for c in group)
                order = shown_order(len(group), position=position, pass_index=pass_index, seed=self.seed, salt=salt)
                yield _RatingCall(
                    prompt=prompt,
                    shown=tuple(group[i] for i in order),
                    pass_index=pass_index,
                    settings=self.settings,
                    model=self.annotator.model,
                    rubric=self.rubric,
                    guide=self.guide,
                )

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        ask_all(
            self.annotator,
            {unit.key: unit.payload for unit in pending},
            limits=self.settings,
            read_image=self.read_image,
            done=done,
            workspace=workspace,
            progress=progress,
            patience=self.patience,
        )

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        """annotated.jsonl, failures.jsonl, and replies.jsonl: the raw texts, which `replay` can read."""
        annotations: dict[str, list[Annotation]] = {}
        failures: list[Failure] = list(self.not_asked.values())
        replies: list[dict[str, Any]] = []
        funnel = Counter(prompts=len(self.prompts), sampled=len(self.prompts) - len(self.not_asked))
        funnel.update(asked=len(self.units), replied=0, parsed=0)
        for unit in self.units:
            line = lines[unit.key]
            replies += _recording(unit.payload, line)
            made = self._annotation(unit.payload, line)
            funnel["replied"] += bool(line["replies"])
            if isinstance(made, Failure):
                failures.append(made)
            else:
                funnel["parsed"] += 1
                annotations.setdefault(made.prompt_id, []).append(made)
        annotated = [
            Annotated(prompt=p, completions=self.completions[p.id], annotations=tuple(annotations[p.id]))
            for p in self.prompts
            if p.id in annotations
        ]
        funnel["annotated"] = len(annotated)
        place = {p.id: i for i, p in enumerate(self.prompts)}
        failures.sort(key=lambda f: place[f.record_id])
        return Compiled(
            files={"annotated.jsonl": annotated, "failures.jsonl": failures, "replies.jsonl": replies},
            units=len(self.units) + len(self.not_asked),
            outputs=funnel["parsed"],
            failures=len(failures),
            funnel=dict(funnel),
            cost_usd=sum(line["cost_usd"] or 0.0 for line in lines.values()),
        )

    def _annotation(self, call: _RatingCall, line: Line) -> Annotation | Failure:
        """What one line says: the first of its replies that can be read, or why there is none."""
        unread = ""
        for reply in line["replies"]:
            try:
                parsed = call.parse(reply["text"])
            except ReplyError as error:
                unread = str(error)
                continue
            ratings = tuple(
                Rating(completion_id=c.id, scores=r.scores, rationale=r.rationale)
                for c, r in zip(call.shown, parsed.ratings, strict=bool(parsed.ratings))
            )
            return Annotation(
                id=content_id([reply["request_sha256"], reply["text"]]),
                prompt_id=call.prompt.id,
                mode=self.settings.mode,
                pass_index=call.pass_index,
                shown_order=tuple(c.id for c in call.shown),
                ratings=ratings,
                preference=parsed.preference,
                reasoning=parsed.reasoning,
                backend=self.settings.backend,
                model=self.annotator.model,
                model_version=reply["model_version"],
                rubric=self.rubric.name,
                rubric_sha256=self.rubric.sha256,
                request_sha256=reply["request_sha256"],
                usage=dict(reply["usage"]),
                cost_usd=line["cost_usd"],
            )
        if line["reason"] is not None:
            return _failure(call, Reason(line["reason"]), line["detail"])
        return _failure(call, Reason.UNPARSABLE, unread)

    def estimate(self, pending: Sequence[Unit]) -> Estimate:
        calls: list[_RatingCall] = [unit.payload for unit in pending]
        requests = [call.request((), 0) for call in calls]
        output = sum(min(self.settings.max_output_tokens, 200 + 150 * len(call.shown)) for call in calls)
        return estimate(self.annotator, self.settings, requests, output, cached=len(self.units) - len(pending))


def estimate(annotator: Annotator, limits: Limits, requests: Sequence[Request], output: int, cached: int) -> Estimate:
    """What these requests would take; `output` is the guessed length of all their replies, in tokens."""
    input_tokens = sum(tokens_of(r) for r in requests)
    usd: float | None = 0.0
    if annotator.paid:
        usage = {"input_tokens": input_tokens, "output_tokens": output}
        usd = annotator.cost_usd(usage) if isinstance(annotator, Priced) else None
    pace = limits.requests_per_minute
    return Estimate(
        calls=len(requests),
        cached=cached,
        input_tokens=input_tokens,
        output_tokens=output,
        usd=usd,
        minutes=len(requests) / pace if pace else 0.0,
        paid=annotator.paid,
    )


def _by_prompt(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, tuple[Completion, ...]]:
    """The completions of each prompt, by index. Raises `UserError` with all that don't fit."""
    found: dict[str, list[Completion]] = {p.id: [] for p in prompts}
    faults = []
    for c in completions:
        if c.prompt_id not in found:
            faults.append(f"completion {c.id}: there is no prompt {c.prompt_id}; is it of another prompt file?")
        elif any(c.index == other.index for other in found[c.prompt_id]):
            faults.append(f"completion {c.id}: prompt {c.prompt_id} already has a completion with index {c.index}")
        else:
            found[c.prompt_id].append(c)
    if faults:
        raise UserError(*faults)
    return {prompt_id: tuple(sorted(cs, key=lambda c: c.index)) for prompt_id, cs in found.items()}


def _not_askable(prompt: Prompt, completions: Sequence[Completion]) -> Failure | None:
    """Why the completions of a prompt cannot be rated, if so."""
    missing = sorted(set(range(1 + max((c.index for c in completions), default=0))) - {c.index for c in completions})
    empty = [c.index for c in completions if not c.text.strip()]
    if missing:
        detail = f"no completion {', '.join(map(str, missing))}"
        return Failure(stage=STAGE, record_id=prompt.id, reason=Reason.COMPLETIONS_MISSING, detail=detail)
    if empty:
        detail = f"completion {', '.join(map(str, empty))} has no text"
        return Failure(stage=STAGE, record_id=prompt.id, reason=Reason.COMPLETION_EMPTY, detail=detail)
    return None


def _failure(call: _RatingCall, reason: Reason, detail: str) -> Failure:
    shown = ", ".join(str(c.index) for c in call.shown)
    where = f"pass {call.pass_index}, completions {shown}"
    return Failure(stage=STAGE, record_id=call.prompt.id, reason=reason, detail=f"{where}: {detail}")


def _recording(call: _RatingCall, line: Line) -> Iterator[dict[str, Any]]:
    """The last raw reply of a request, as a line that the `replay` backend can read."""
    for reply in line["replies"][-1:]:
        yield {
            "prompt_id": call.prompt.id,
            "shown_order": [c.id for c in call.shown],
            "pass_index": call.pass_index,
            "text": reply["text"],
            "usage": reply["usage"],
            "model_version": reply["model_version"],
        }
