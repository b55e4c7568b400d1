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
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

from annotate.calls import ReadImage
from annotate.checks import Check, CheckSettings, plan_checks
from annotate.errors import UserError
from annotate.limits import Patience
from annotate.prompting import Mode, ParsedReply, ReplyError, parse_reply, render_request
from annotate.protocol import Annotator, Request
from annotate.records import (
    Annotated,
    Annotation,
    Completion,
    Failure,
    Prompt,
    Rating,
    Reason,
    Rubric,
    content_id,
    sha256_of,
)
from annotate.rubric import load_rubric
from annotate.stage import Compiled, Line, Unit
from annotate.work import AskingWork, WorkSettings

STAGE = "annotate"


class AnnotateSettings(WorkSettings, Protocol):
    """What the recipe's `annotate` block says; `align.settings.Annotate` is one."""

    @property
    def rubric(self) -> str: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def passes(self) -> int: ...
    @property
    def checks(self) -> CheckSettings: ...


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
    """As it is sent; a check sends another than the one it is of."""
    shown: tuple[Completion, ...]
    pass_index: int
    settings: AnnotateSettings
    model: str
    decides: Mapping[str, Any]
    rubric: Rubric
    guide: str
    check: Check | None = None

    def request(self, attempt: int = 0, room: int = 1) -> Request:
        settings = self.settings
        decoding = {"temperature": settings.temperature, "max_output_tokens": settings.max_output_tokens * room}
        return render_request(
            self.prompt,
            self.shown,
            self.rubric,
            self.guide,
            mode=settings.mode,
            backend=settings.backend,
            model=self.model,
            decoding={**decoding, **self.decides},
            images=(),
            pass_index=self.pass_index,
            attempt=attempt,
        )

    def key(self, seed: int) -> str:
        """Everything that is sent but the order: a prompt file that was sorted anew does not buy anything anew.

        Which order it was is in the line; `seed` decides it.
        """
        in_order = replace(self, shown=tuple(sorted(self.shown, key=lambda c: c.index)))
        kind = self.check.kind if self.check else ""
        return sha256_of([in_order.request().sha256, seed, kind])

    def note(self) -> Mapping[str, Any]:
        return {"shown": [c.id for c in self.shown]}

    def as_asked(self, line: Line) -> _RatingCall:
        """The call with the order in which the completions were shown when it was asked."""
        by_id = {c.id: c for c in self.shown}
        return replace(self, shown=tuple(by_id[completion_id] for completion_id in line["shown"]))

    def parse(self, text: str, cut_off: bool = False) -> ParsedReply:
        return parse_reply(
            text,
            len(self.shown),
            self.rubric,
            pairwise=self.settings.mode == "pairwise",
            completions=[c.text for c in self.shown],
            cut_off=cut_off,
        )

    def readable(self, text: str, cut_off: bool = False) -> bool:
        try:  # what is cut off after its last rating is complete
            self.parse(text, cut_off)
        except ReplyError:
            return False
        return True

    def failure(self, reason: Reason, detail: str) -> Failure:
        shown = ", ".join(str(c.index) for c in self.shown)
        what = f"check {self.check.kind}" if self.check else f"pass {self.pass_index}"
        prompt = self.check.of if self.check else self.prompt
        return Failure(stage=STAGE, record_id=prompt.id, reason=reason, detail=f"{what}, completions {shown}: {detail}")


class AnnotateWork(AskingWork):
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
        super().__init__(settings, read_image, annotator, patience)
        self.prompts = prompts
        self.settings = settings
        self.seed = seed
        self.rubric, self.guide = load_rubric(settings.rubric)
        self.completions = _by_prompt(prompts, completions)
        self.not_asked = {p.id: f for p in prompts if (f := _not_askable(p, self.completions[p.id]))}
        calls = [call for i, prompt in enumerate(prompts) for call in self._calls(i, prompt)]
        self.units = [Unit(key=call.key(seed), payload=call) for call in [*calls, *self._checks()]]

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
                yield self._call(prompt, tuple(group[i] for i in order), pass_index)

    def _checks(self) -> Iterator[_RatingCall]:
        askable = [p for p in self.prompts if p.id not in self.not_asked]
        settings = self.settings
        for check in plan_checks(askable, self.completions, settings.checks, mode=settings.mode, seed=self.seed):
            yield self._call(check.prompt, check.shown, 0, check)

    def _call(
        self, prompt: Prompt, shown: tuple[Completion, ...], pass_index: int, check: Check | None = None
    ) -> _RatingCall:
        return _RatingCall(
            prompt=prompt,
            shown=shown,
            pass_index=pass_index,
            settings=self.settings,
            model=self.annotator.model,
            decides=self.lanes[0].traits.decides,
            rubric=self.rubric,
            guide=self.guide,
            check=check,
        )

    # ------------------------------------------------------------------------------------------------------- reading

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        """annotated.jsonl, failures.jsonl, and replies.jsonl: the raw texts, which `replay` can read.

        checks.jsonl besides, where checks were asked.
        """
        annotations: dict[str, list[Annotation]] = {}
        failures: list[Failure] = list(self.not_asked.values())
        replies: list[dict[str, Any]] = []
        checks: list[dict[str, Any]] = []
        funnel = Counter(prompts=len(self.prompts), sampled=len(self.prompts) - len(self.not_asked))
        funnel.update(asked=len(self.units), replied=0, parsed=0)
        for unit in self.units:
            line = lines[unit.key]
            call: _RatingCall = unit.payload.as_asked(line)
            replies += _recording(call, line)
            made = self._annotation(call, line)
            funnel["replied"] += bool(line["replies"])
            if isinstance(made, Failure):
                failures.append(made)
                continue
            funnel["parsed"] += 1
            if call.check:
                checks.append(_checked(call.check, made))
            else:
                annotations.setdefault(made.annotation.prompt_id, []).append(made.annotation)
        annotated = [
            Annotated(prompt=p, completions=self.completions[p.id], annotations=tuple(annotations[p.id]))
            for p in self.prompts
            if p.id in annotations
        ]
        funnel["annotated"] = len(annotated)
        place = {p.id: i for i, p in enumerate(self.prompts)}
        failures.sort(key=lambda f: place[f.record_id])
        files: dict[str, Any] = {"annotated.jsonl": annotated, "failures.jsonl": failures, "replies.jsonl": replies}
        return Compiled(
            files=files | ({"checks.jsonl": checks} if any(u.payload.check for u in self.units) else {}),
            units=len(self.units) + len(self.not_asked),
            outputs=funnel["parsed"],
            failures=len(failures),
            funnel=dict(funnel),
            cost_usd=sum(line["cost_usd"] or 0.0 for line in lines.values()),
        )

    def _annotation(self, call: _RatingCall, line: Line) -> _Read | Failure:
        """What one line says: the first of its replies that can be read, or why there is none."""
        unread = ""
        for reply in line["replies"]:
            try:
                parsed = call.parse(reply["text"], reply["cut_off"])
            except ReplyError as error:
                unread = str(error)
                continue
            return _Read(parsed, self._record(call, reply, parsed, line["cost_usd"]))
        if line["reason"] is not None:
            return call.failure(Reason(line["reason"]), line["detail"])
        return call.failure(Reason.UNPARSABLE, unread)

    def _record(
        self, call: _RatingCall, reply: Mapping[str, Any], parsed: ParsedReply, cost_usd: float | None
    ) -> Annotation:
        by_id = {
            c.id: Rating(completion_id=c.id, scores=r.scores, rationale=r.rationale)
            for c, r in zip(call.shown, parsed.ratings, strict=bool(parsed.ratings))
        }
        return Annotation(
            id=content_id([reply["request_sha256"], reply["text"]]),
            prompt_id=call.prompt.id,
            mode=self.settings.mode,
            pass_index=call.pass_index,
            shown_order=tuple(dict.fromkeys(c.id for c in call.shown)),
            ratings=tuple(by_id.values()),
            preference=parsed.preference,
            reasoning=parsed.reasoning,
            backend=self.settings.backend,
            model=self.annotator.model,
            model_version=reply["model_version"],
            rubric=self.rubric.name,
            rubric_sha256=self.rubric.sha256,
            request_sha256=reply["request_sha256"],
            usage=dict(reply["usage"]),
            cost_usd=cost_usd,
        )

    def written(self, pending: Sequence[Unit]) -> int:
        shown = sum(len(unit.payload.shown) for unit in pending) / max(1, len(pending))
        return round(200 + 150 * shown)


@dataclass(frozen=True)
class _Read:
    """A reply that was understood, and the record made of it."""

    parsed: ParsedReply
    annotation: Annotation


def _checked(check: Check, read: _Read) -> dict[str, Any]:
    """A line of checks.jsonl."""
    scores = [rated.scores for rated in read.parsed.ratings]
    return {"kind": check.kind, "prompt_id": check.of.id, "shown": [c.id for c in check.shown], "scores": scores}


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
