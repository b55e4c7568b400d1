"""A judge's grade beside the objective score of an open answer: the same protocol, rubric and parser as annotation.

One answer is shown at a time, without saying which model wrote it; two models that say the same to the same question
are graded once. An answer whose grade cannot be had is `judge_failed`, never a score. An empty answer is not shown to
the judge: it has the lowest grade by definition (left out, it would raise the mean of a model that says nothing). The
number is helpfulness + correctness + coherence, 0 to 12, as in the pairs; for a dialogue, the mean over its turns.

The judge's answers are kept one by one in a journal of their own (`desk.py`), so that a killed batch buys none twice.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from align.benchmarks.rows import Row
from align.benchmarks.scoring import EXACT_FORM
from align.benchmarks.suite import mean
from align.evaluate.desk import Desk
from align.evaluate.judging import STAND_IN, Judgings
from align.evaluate.plan import Batch
from align.settings import Annotate, Judge
from annotate.calls import Call
from annotate.records import (
    IMAGE_PLACEHOLDER,
    Annotated,
    Completion,
    Image,
    Item,
    Prompt,
    Turn,
    canonical_json,
    sha256_of,
)
from annotate.run import AnnotateWork
from annotate.stage import Done, Estimate, Line, Progress, Unit

RUBRIC = "helpsteer"
SUMMED = ("helpfulness", "correctness", "coherence")
RUBRIC_MEASURE = mean("rubric")


@dataclass(frozen=True)
class Grading:
    """The payload of a unit: grade what the unit `answers` said."""

    answers: Unit


def judge_name(judge: Judge) -> str:
    return f"{judge.backend} {judge.model}".strip()


def plan_gradings(answers: Sequence[Unit], judge: Judge) -> list[Unit]:
    """One unit per batch of open answers; its key holds the answers' key, since answers are not known yet.

    And how they are asked about: the key that one and the same answer has as a call (judge, rubric, decoding, words).
    """
    by = JudgeWork(judge, Path()).way
    open_ended = [unit for unit in answers if unit.payload.suite.parser == EXACT_FORM]
    return [Unit(sha256_of({"answers": u.key, "judge": by}), Grading(u), u.records) for u in open_ended]


def turn_prompts(batch: Batch, row: Row, outputs: Sequence[str]) -> Iterator[tuple[Prompt, str]]:
    """Each turn as a prompt of its own, the model's earlier answers in it, with the answer to be graded."""
    turns: tuple[Turn, ...] = (batch.suite.first_turn(row),)
    for i, (question, output) in enumerate(zip(row.questions, outputs, strict=True)):
        if i:
            said = Turn(role="assistant", text=outputs[i - 1].replace(IMAGE_PLACEHOLDER, "image"))
            turns = (*turns, said, Turn(role="user", text=question.text))
        meta: dict[str, Any] = {"kind": question.kind}
        if question.answer_key is not None:
            meta["answer_key"] = question.answer_key
        reference = question.accepted.get(question.form or "sentence", question.answer)
        yield Prompt.of(turns, source=batch.suite.name, reference=reference, meta=meta), output


class JudgeWork:
    """All that is judged: open answers by the rubric (this file), judged suites by their own rules (`judging.py`)."""

    def __init__(self, judge: Judge, root: Path, judgings: Judgings | None = None) -> None:
        self.judge, self.root, self.judgings = judge, root, judgings
        self.folders: dict[str, Path] = {}
        """Where an image lies, by its hash, if not below `root`."""

    @cached_property
    def desk(self) -> Desk:
        return Desk(self.judge, self._read)

    @property
    def way(self) -> str:
        """Changes with all that decides a reply, the answers apart."""
        prompt = Prompt.of((Turn(role="user", text="?"),))
        said = Completion.of(prompt_id=prompt.id, model="judged", index=0, text="!")
        return self._asked([prompt], [said]).units[0].key

    def _annotation(self, batch: Batch, line: Line) -> AnnotateWork:
        """The batch's answers as prompts and completions; the same answer to the same prompt stands once."""
        prompts: dict[str, Prompt] = {}
        said: dict[str, dict[str, None]] = {}
        for row, outputs in zip(batch.rows, line["outputs"], strict=True):
            for prompt, output in turn_prompts(batch, row, outputs or []) if outputs else ():
                if output.strip():
                    prompts[prompt.id] = prompt
                    said.setdefault(prompt.id, {})[output] = None
        completions = [
            Completion.of(prompt_id=prompt_id, model="judged", index=i, text=text)
            for prompt_id, texts in said.items()
            for i, text in enumerate(texts)
        ]
        return self._asked(list(prompts.values()), completions)

    def _asked(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> AnnotateWork:
        settings = Annotate(
            backend=self.judge.backend,
            model=self.judge.model,
            rubric=RUBRIC,
            mode="pointwise",
            options=self.judge.options,
            temperature=self.judge.temperature,
            max_output_tokens=self.judge.max_output_tokens,
        )
        return AnnotateWork(
            prompts=prompts,
            completions=completions,
            settings=settings,
            seed=0,
            read_image=self._read,
            annotator=self.desk.annotator,
        )

    def _read(self, image: Image) -> bytes:
        return (self.folders.get(image.sha256, self.root) / image.path).read_bytes()

    def _calls(self, unit: Unit, answers: Line) -> dict[str, tuple[str, Call]]:
        """What one unit is made of: its line's name for a reply -> the key and the call."""
        batch = unit.payload.answers.payload
        if isinstance(unit.payload, Grading):
            return {asked.key: (asked.key, asked.payload) for asked in self._annotation(batch, answers).units}
        assert self.judgings is not None
        lane = self.desk.lanes[0]
        calls = self.judgings.calls(batch, answers, self.desk.annotator.model, lane.traits.decides)
        return {label: (call.request().sha256, call) for label, call in calls.items()}

    def execute(
        self,
        graded: Sequence[tuple[Unit, Line]],
        done: Done,
        workspace: Path,
        progress: Progress,
        *,
        again: Collection[str] = (),
    ) -> None:
        """Each unit with the recorded answers it is of; units in `again` ask anew for what failed."""
        named = {unit.key: self._calls(unit, answers) for unit, answers in graded}

        def settled(unit: str, lines: Mapping[str, Line]) -> None:
            replies = {label: lines[key] for label, (key, _) in named[unit].items()}
            outcomes = [reply["outcome"] for reply in replies.values() if reply["outcome"] != "ok"]
            done(unit, {"replies": replies, "outcome": outcomes[0] if outcomes else "ok"})

        wanted = {unit: dict(calls.values()) for unit, calls in named.items()}
        self.desk.settle(wanted, settled, workspace, progress, again=again)

    def items(self, gradings: Sequence[Unit], lines: Mapping[str, Line]) -> list[Item]:
        """One Item per question and model, in suite `<suite>:judge`."""
        return [
            item
            for unit in gradings
            for item in self._batch_items(
                unit.payload.answers.payload, lines[unit.payload.answers.key], lines[unit.key]
            )
        ]

    def _batch_items(self, batch: Batch, answers: Line, grading: Line) -> Iterator[Item]:
        work = self._annotation(batch, answers)
        compiled = work.compile(grading["replies"], Path())
        scores: dict[str, dict[str, float]] = {}
        for annotated in cast(list[Annotated], compiled.files["annotated.jsonl"]):
            by_id = {c.id: c.text for c in annotated.completions}
            for completion_id, grades in annotated.scores().items():
                scores[canonical_json([annotated.prompt.id, by_id[completion_id]])] = grades
        lowest = {name: float(scale.low) for name, scale in work.rubric.attributes.items()}
        for row, outputs in zip(batch.rows, answers["outputs"], strict=True):
            if outputs is not None:
                asked = turn_prompts(batch, row, outputs)
                found = [scores.get(canonical_json([p.id, said])) if said.strip() else lowest for p, said in asked]
                yield _item(batch, row, outputs, found, work)

    def estimate(
        self, asked: Sequence[tuple[Unit, bool]], lines: Mapping[str, Line], workspace: Path | None
    ) -> Estimate:
        """Of all units, each with whether it is still to be done: calls that are missing, calls that are answered.

        `lines`: what the stage's journal holds. Answers that are not there yet are taken to be of 300 words.
        """
        calls: dict[str, Call] = {}
        settled, again = set(), set()
        for unit, pending in asked:
            answers = lines.get(unit.payload.answers.key)
            if answers is None and not pending:
                continue  # another run's line is taken for it
            if answers is None:
                stand_in = {"outputs": [[STAND_IN] * len(row.questions) for row in unit.payload.answers.payload.rows]}
                made = self._calls(unit, stand_in)
                # What models will say alike is not known: none of these calls is another's.
                calls |= {f"{unit.key}/{label}": call for label, (_, call) in made.items()}
                continue
            made = self._calls(unit, answers)
            calls |= dict(made.values())
            if not pending:
                settled |= {key for key, _ in made.values()}
            elif unit.key in lines:
                again |= {key for key, _ in made.values()}
        return self.desk.estimate_all(calls, settled, again, workspace)

    @staticmethod
    def cost(gradings: Sequence[Unit], lines: Mapping[str, Line]) -> float:
        """Dollars paid; the same reply for two models was paid once."""
        paid = {}
        for unit in gradings:
            for label, line in lines[unit.key]["replies"].items():
                asked = line["replies"][0]["request_sha256"] if line["replies"] else f"{unit.key}/{label}"
                paid[asked] = line["cost_usd"] or 0.0
        return sum(paid.values())


def _item(
    batch: Batch, row: Row, outputs: Sequence[str], scores: Sequence[dict[str, float] | None], work: AnnotateWork
) -> Item:
    value: dict[str, float] = {}
    whole = [s for s in scores if s is not None]
    if len(whole) == len(outputs):
        value = {name: sum(s[name] for s in whole) / len(whole) for name in whole[0]}
        value["rubric"] = sum(value[name] for name in SUMMED)
    return Item(
        id=row.id,
        suite=f"{batch.suite.name}:judge",
        model=batch.contestant.name,
        model_sha256=batch.contestant.sha256,
        decoding={},
        input_sha256=sha256_of([row.id, list(outputs)]),
        output=outputs[0] if len(outputs) == 1 else json.dumps(list(outputs), ensure_ascii=False),
        parser=f"{work.settings.backend} {work.settings.model} {work.rubric.name} {work.rubric.sha256[:8]}",
        value=value,
        state="ok" if value else "judge_failed",
    )
