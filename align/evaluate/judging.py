"""Suites that a judge grades (`align/benchmarks/judge_asks.py`): from a model's answers to items and to files.

A unit is the judging of one batch of answers; its line holds the judge's raw replies, by row, ask and repeat, so that
they can be read again with a better parser:

    {"replies": {"81/turn_1/0": {"outcome": "ok", "replies": [{"text": "… [[7]]", "model_version": "…"}], …}, …},
     "outcome": "ok"}

Items stand under the suite's own name; their value is the judge's grade. A row whose grade cannot be had is
`judge_failed` and has no value.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from align.benchmarks.judge_asks import Answered, Ask, Judged, Judgement, Writing
from align.benchmarks.judge_prompts import JudgePrompts, load_judge_prompts
from align.benchmarks.rows import Row
from align.evaluate.answers import input_sha256
from align.evaluate.plan import Batch, Exam, decoding, limit_of
from align.settings import Evaluate, Judge
from annotate.prompting import render_question
from annotate.protocol import Request
from annotate.records import Item, Prompt, Turn, sha256_of
from annotate.stage import Line, Unit

STAND_IN = "word " * 300
"""An answer that is not known yet, in an estimate."""


@dataclass(frozen=True)
class Judging:
    """The payload of a unit: judge what the unit `answers` said."""

    answers: Unit


@dataclass(frozen=True, kw_only=True)
class JudgeCall:
    """One free-form request to the judge."""

    prompt: Prompt
    repeat: int
    backend: str
    model: str
    decoding: Mapping[str, Any]
    judged: Judged

    def request(self, attempt: int = 0, room: int = 1) -> Request:
        decoding = {**self.decoding, "max_output_tokens": self.decoding["max_output_tokens"] * room}
        made = render_question(
            self.prompt, backend=self.backend, model=self.model, decoding=decoding, images=(), attempt=attempt
        )
        if not self.repeat:
            return made
        return replace(made, pass_index=self.repeat, sha256=sha256_of([made.sha256, self.repeat]))

    def readable(self, text: str, cut_off: bool = False) -> bool:
        return self.judged.read(text) is not None

    def note(self) -> Mapping[str, Any]:
        return {}


class Judgings:
    """What the judge is asked of judged suites, and what its replies say."""

    def __init__(self, settings: Evaluate, judge: Judge, seed: int) -> None:
        self.settings, self.judge, self.seed = settings, judge, seed

    @cached_property
    def prompts(self) -> JudgePrompts:
        return load_judge_prompts(self.judge.prompts)

    def plan(self, answers: Sequence[Unit]) -> list[Unit]:
        """One unit per batch of answers; its key holds all that decides what the judge says of them."""
        judge = self.judge
        by = [judge.backend, judge.model, dict(judge.options), judge.temperature, judge.max_output_tokens]
        units = []
        for unit in answers:
            if (judged := unit.payload.suite.judged) is None:
                continue
            truths = [[q.truth for q in row.questions] for row in unit.payload.rows]
            key = {"answers": unit.key, "judge": by, "repeats": judge.repeats, "truths": truths}
            key["prompts"] = self.prompts.sha256(judged.prompts)
            units.append(Unit(sha256_of(key), Judging(unit), unit.records))
        return units

    # --------------------------------------------------------------------------------------------------------- asking

    def calls(self, batch: Batch, line: Line, model: str, decides: Mapping[str, Any]) -> dict[str, JudgeCall]:
        """`row/ask/repeat` -> the call, for all rows that were answered."""
        judge, judged = self.judge, _judged(batch)
        how = {"temperature": judge.temperature, "max_output_tokens": judge.max_output_tokens, **decides}
        return {
            f"{row.id}/{ask.name}/{repeat}": JudgeCall(
                prompt=self._prompt(ask), repeat=repeat, backend=judge.backend, model=model, decoding=how, judged=judged
            )
            for row, outputs in zip(batch.rows, line["outputs"], strict=True)
            if outputs is not None
            for ask in judged.asks(row, outputs)
            for repeat in range(judge.repeats)
        }

    def _prompt(self, ask: Ask) -> Prompt:
        system, text = self._rendered(ask)
        turns = [Turn(role="system", text=system)] if system else []
        return Prompt.of((*turns, Turn(role="user", text=text)), source="judge")

    def _rendered(self, ask: Ask) -> tuple[str, str]:
        system, text = self.prompts.render(ask.prompt, **ask.texts)
        return (system if ask.system is None else ask.system), text

    # -------------------------------------------------------------------------------------------------------- reading

    def items(self, judgings: Sequence[Unit], lines: Mapping[str, Line]) -> list[Item]:
        """One Item per row and model, under the suite's own name."""
        return [
            self._item(unit.payload.answers.payload, answered)
            for unit in judgings
            for answered in self.answered(unit, lines)
        ]

    def answered(self, unit: Unit, lines: Mapping[str, Line]) -> Iterator[Answered]:
        """The rows of a batch that were answered, with all that was said of them."""
        batch, line, replies = unit.payload.answers.payload, lines[unit.payload.answers.key], lines[unit.key]["replies"]
        for row, outputs in zip(batch.rows, line["outputs"], strict=True):
            if outputs is not None:
                yield Answered(row=row, outputs=outputs, judgements=self._judgements(batch, row, outputs, replies))

    def _judgements(
        self, batch: Batch, row: Row, outputs: Sequence[str], replies: Mapping[str, Line]
    ) -> list[Judgement]:
        judged, made = _judged(batch), []
        for ask in judged.asks(row, outputs):
            text = self._rendered(ask)[1]
            for repeat in range(self.judge.repeats):
                said = replies[f"{row.id}/{ask.name}/{repeat}"]["replies"]
                read = [(judged.read(reply["text"]), reply) for reply in said]
                grade, reply = next((r for r in read if r[0] is not None), read[-1] if read else (None, {}))
                made.append(
                    Judgement(
                        row=row,
                        ask=ask,
                        repeat=repeat,
                        text=text,
                        reply=reply.get("text", ""),
                        grade=grade,
                        judge=reply.get("model_version", ""),
                    )
                )
        return made

    def _item(self, batch: Batch, answered: Answered) -> Item:
        judged, suite, row = _judged(batch), batch.suite, answered.row
        grades: dict[str, list[Any]] = {}
        for found in answered.judgements:
            grades.setdefault(found.ask.name, []).append(found.grade)
        value = judged.worth(row, answered.outputs, grades, suite.headline)
        outputs = list(answered.outputs)
        return Item(
            id=row.id,
            suite=suite.name,
            model=batch.contestant.name,
            model_sha256=batch.contestant.sha256,
            decoding=decoding(suite, limit_of(suite, self.settings), row.temperature, self.seed),
            input_sha256=input_sha256(suite, row, batch.contestant.conditioning),
            output=outputs[0] if len(outputs) == 1 else json.dumps(outputs, ensure_ascii=False),
            parser=f"{judged.parser} {self.judge.backend} {self.judge.model} {self.prompts.sha256(judged.prompts)[:8]}",
            value=value or {},
            state="judge_failed" if value is None else "ok",
        )

    # ---------------------------------------------------------------------------------------------------------- files

    def files(self, exams: Sequence[Exam], judgings: Sequence[Unit], lines: Mapping[str, Line]) -> dict[str, Any]:
        """Each suite's answers and judgments in its own layout, and the judge's raw replies for `replay`."""
        made: dict[str, Any] = {}
        replies: dict[tuple[str, int], dict[str, Any]] = {}
        name = (self.judge.model or self.judge.backend).replace("/", "_")
        for exam in exams:
            if exam.suite.judged is None:
                continue
            models: dict[str, list[Answered]] = {}
            order = {row.id: i for i, row in enumerate(exam.rows)}
            for unit in judgings:
                batch = unit.payload.answers.payload
                if batch.suite.name == exam.suite.name:
                    models.setdefault(batch.contestant.name, []).extend(self.answered(unit, lines))
                    for said in self._recordings(batch, lines[unit.payload.answers.key], lines[unit.key]):
                        replies[said["prompt_id"], said["pass_index"]] = said
            for answered in models.values():
                answered.sort(key=lambda found: order[found.row.id])
            writing = Writing(judge=name, repeats=self.judge.repeats, models=models)
            for path, text in exam.suite.judged.files(writing).items():
                made[f"{exam.suite.name}/{path}"] = text
        return made | {"judge_replies.jsonl": list(replies.values())} if judgings else {}

    def _recordings(self, batch: Batch, answers: Line, line: Line) -> Iterator[dict[str, Any]]:
        """Lines that the `replay` backend can read."""
        for label, call in self.calls(batch, answers, "", {}).items():
            for reply in line["replies"][label]["replies"][-1:]:
                yield {
                    "prompt_id": call.prompt.id,
                    "pass_index": call.repeat,
                    "text": reply["text"],
                    "usage": reply["usage"],
                    "model_version": reply["model_version"],
                }

    def told(self, exams: Sequence[Exam], judgings: Sequence[Unit], lines: Mapping[str, Line]) -> list[str]:
        """What a reader must know of the judge before believing its grades."""
        said = []
        for exam in exams:
            judged = exam.suite.judged
            if judged is None:
                continue
            name = exam.suite.name
            mine = [u for u in judgings if u.payload.answers.payload.suite.name == name]
            found = [j for unit in mine for answered in self.answered(unit, lines) for j in answered.judgements]
            failed = sum(j.grade is None for j in found)
            judges = Counter(j.judge for j in found if j.judge)
            sha256 = self.prompts.sha256(judged.prompts)[:12]
            said.append(
                f"{name}: judged by {' and '.join(judges) or 'a judge that does not tell its version'}, instructed by "
                f"{self.prompts.origins(judged.prompts)} (sha256 {sha256}), {self.judge.repeats} time(s) each"
            )
            if failed:
                said.append(
                    f"{name}: {failed} of {len(found)} replies of the judge gave no grade; they are in no score"
                )
            if len(judges) > 1:
                said.append(f"{name}: the judge was more than one model: {', '.join(judges)}")
            said += [f"{name}: {what}" for what in judged.told(exam.rows)]
        return said


def _judged(batch: Batch) -> Judged:
    assert batch.suite.judged is not None
    return batch.suite.judged
