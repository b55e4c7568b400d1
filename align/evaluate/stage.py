"""Stage `evaluate`: every model of the recipe on every benchmark (Multi-Modal Preference Alignment, section 4).

In: benchmark files, the models. Out:

    items.jsonl      one line per model, suite and question: the raw output and what the scorer made of it
    metrics.jsonl    one line per cell of the table, with its 95% interval
    verdicts.json    paired differences, Holm-adjusted p-values, verdicts, controls
    failures.jsonl   what could not be asked
    <suite>/…        of judged suites: answers and judgments in the benchmark's own layouts; judge_replies.jsonl
    questions.json   what each question is drawn together with: two runs are compared by it

A unit is one batch of answers (or, with a judge, the grading of one batch): the journal keeps raw outputs, scores are
made when the stage is compiled, so that a mended scorer re-reads old answers. Run it with `align evaluate RECIPE`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from align.benchmarks.places import places_json
from align.benchmarks.rows import Row
from align.context import Context
from align.evaluate.answers import answer_batch, input_sha256
from align.evaluate.judge import Grading, JudgeWork, plan_gradings
from align.evaluate.judging import Judging, Judgings
from align.evaluate.metrics import change_metric, suite_metrics
from align.evaluate.models import Contestant, contestants, template_warnings
from align.evaluate.plan import (
    Batch,
    Exam,
    Probe,
    decoding,
    limit_of,
    limit_option,
    load_exams,
    plan_probes,
    plan_units,
)
from align.evaluate.text import TextBatch, TextWork
from align.evaluate.told import not_asked_told, not_judged_told
from align.evaluate.verdicts import summary
from align.settings import Evaluate, Prompts
from annotate.records import Failure, Item, Metric, Reason
from annotate.stage import Compiled, Done, Estimate, Line, Progress, Unit

if TYPE_CHECKING:
    from align.models.load import LoadedModel

STAGE = "evaluate"
IMAGES = "images"
"""Folder of the workspace for images that stand in the rows of published files."""
_Loaded: TypeAlias = "tuple[Contestant, LoadedModel]"


def work(context: Context) -> EvaluateWork:
    recipe = context.recipe
    settings, prompts = recipe.evaluate or Evaluate(), recipe.prompts or Prompts()
    return EvaluateWork(
        settings=settings,
        exams=load_exams(settings, prompts, recipe.seed),
        contestants=contestants(context),
        root=Path(prompts.image_root),
        seed=recipe.seed,
        annotator=f"{recipe.annotate.backend} {recipe.annotate.model}" if recipe.annotate else "",
    )


class EvaluateWork:
    """The plan, and how to carry it out. Light until `execute`: no torch."""

    counts_steps = True
    """A judge's replies move the bar, not only the units of many that they make up."""

    def __init__(
        self,
        *,
        settings: Evaluate,
        exams: Sequence[Exam],
        contestants: Sequence[Contestant],
        root: Path,
        seed: int,
        annotator: str = "",
    ) -> None:
        self.settings, self.exams, self.contestants = settings, exams, contestants
        self.root, self.seed, self.annotator = root, seed, annotator
        self.answers: list[Unit] = plan_units(contestants, exams, settings, seed)
        self.probes = plan_probes(self.answers, settings, seed)
        judge = settings.judge
        self.judgings = Judgings(settings, judge, seed) if judge else None
        self.judging = JudgeWork(judge, root, self.judgings) if judge else None
        self.gradings = plan_gradings(self.answers, judge) if judge else []
        self.judged = self.judgings.plan(self.answers) if self.judgings else []
        self.text = TextWork(settings.text, contestants, seed)
        self.columns = [*exams, *self.text.exams]
        self._lines: dict[str, Line] = {}
        """What is known of answers: from earlier runs, and from this one."""
        self.workspace: Path | None = None
        """Of earlier runs, where there were some."""

    @property
    def units(self) -> Sequence[Unit]:
        return [*self.answers, *self.probes, *self.text.units, *self.gradings, *self.judged]

    @property
    def paid(self) -> bool:
        """Whether some unit costs money."""
        return self.judging is not None and self.judging.desk.paid

    # ---------------------------------------------------------------------------------------------------- execute

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        loaded: _Loaded | None = None
        asked = [unit for unit in pending if not isinstance(unit.payload, Grading | Judging)]
        for unit in sorted(asked, key=lambda unit: self.contestants.index(_asked(unit))):  # each model loaded once
            loaded = self._loaded(_asked(unit), loaded)
            if isinstance(unit.payload, TextBatch):
                done(unit.key, self.text.ask(unit.payload, loaded[1], workspace))
            elif isinstance(unit.payload, Probe):
                done(unit.key, self._ask_one_by_one(unit.payload.batch, loaded[1], workspace))
            else:
                done(unit.key, self._answer(unit, loaded[1], workspace))
        judged = [unit for unit in pending if isinstance(unit.payload, Grading | Judging)]
        for unit in judged:
            answers = unit.payload.answers
            if answers.key not in self._lines:
                loaded = self._loaded(answers.payload.contestant, loaded)
                self._answer(answers, loaded[1], workspace)
        if judged and self.judging:
            self.judging.folders |= self._folders(judged, workspace)
            graded = [(unit, self._lines[unit.payload.answers.key]) for unit in judged]
            again = {unit.key for unit in judged if unit.key in self._lines}
            self.judging.execute(graded, done, workspace, progress, again=again)

    def recall(self, lines: Mapping[str, Line], workspace: Path) -> None:
        """What the journal holds already: the judge is shown the answers that were recorded, not others like them.

        In the workspace lies what the judge answered of units that are not done.
        """
        self._lines |= lines
        self.workspace = workspace

    def _loaded(self, contestant: Contestant, last: _Loaded | None) -> _Loaded:
        """The model of this contestant; one at a time in memory. Adapters of one model share its encoded prompts."""
        if last and (last[0].folder, last[0].adapter) == (contestant.folder, contestant.adapter):
            return contestant, last[1]
        loaded = contestant.load()
        if last and last[0].folder == contestant.folder:
            loaded = replace(loaded, encoder=last[1].encoder)
        return contestant, loaded

    def _ask(self, batch: Batch, rows: Sequence[Row], loaded: LoadedModel, workspace: Path) -> dict[str, Any]:
        return answer_batch(
            loaded,
            batch.contestant,
            batch.suite,
            rows,
            root=self._root(batch, workspace),
            workspace=workspace,
            max_new_tokens=limit_of(batch.suite, self.settings),
            seed=self.seed,
            pictures=batch.pictures,
        )

    def _root(self, batch: Batch, workspace: Path) -> Path:
        """Where the images of a batch lie; those that stand in its rows are unpacked first."""
        if batch.held is None:
            return batch.root or self.root
        batch.held.unpack(batch.rows, workspace / IMAGES)
        return workspace / IMAGES

    def _folders(self, judged: Sequence[Unit], workspace: Path) -> dict[str, Path]:
        """Where the judge finds the images of published files."""
        batches = [unit.payload.answers.payload for unit in judged]
        roots = [(b, self._root(b, workspace)) for b in batches if b.root or b.held]
        return {image.sha256: root for b, root in roots for row in b.rows for image in row.prompt.images}

    def _ask_one_by_one(self, batch: Batch, loaded: LoadedModel, workspace: Path) -> dict[str, Any]:
        return {"outputs": [self._ask(batch, [row], loaded, workspace)["outputs"][0] for row in batch.rows]}

    def _answer(self, unit: Unit, loaded: LoadedModel, workspace: Path) -> dict[str, Any]:
        line = self._ask(unit.payload, unit.payload.rows, loaded, workspace)
        self._lines[unit.key] = line
        return line

    # ---------------------------------------------------------------------------------------------------- compile

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        items: list[Item] = []
        failures: list[Failure] = []
        halved = 0
        judgings, judging = self.judgings, self.judging
        judged = judgings.items(self.judged, lines) if judgings else []
        by_row = {(item.model, item.suite, item.id): item for item in judged}
        for contestant in self.contestants:
            for exam in self.exams:
                asked = (contestant, exam.suite)
                units = [u for u in self.answers if (u.payload.contestant, u.payload.suite) == asked]
                found = by_row | {
                    (item.model, item.suite, item.id): item
                    for u in units
                    for item in self._items(u.payload, lines[u.key])
                }
                keys = [(contestant.name, exam.suite.name, row.id) for row in exam.rows]
                items += [found[key] for key in keys if key in found]
                failures += [f for u in units for f in _failures(u.payload, lines[u.key])]
                halved += sum(bool(lines[u.key]["halved"]) for u in units)
        graded = judging.items(self.gradings, lines) if judging else []
        items += self.text.items(lines, workspace)
        failures += self.text.failures(STAGE, lines)
        metrics = [*self._metrics(items, graded), *self._changes(items)]
        verdicts = summary(
            items,
            exams=self.columns,
            contestants=self.contestants,
            margin=self.settings.margin,
            seed=self.seed,
            judge=self.settings.judge,
            annotator=self.annotator,
            halved=halved,
            moved=self._moved(lines),
            more=[
                *template_warnings(self.contestants),
                *(f"{e.suite.name}: {lost}" for e in self.exams if (lost := e.suite.lacks(e.rows))),
                *(judgings.told(self.exams, self.judged, lines) if judgings else ()),
                *self.text.warnings(lines),
            ],
        )
        return Compiled(
            files={
                "items.jsonl": [*items, *graded],
                "metrics.jsonl": metrics,
                "failures.jsonl": failures,
                "questions.json": places_json({e.suite.name: e.rows for e in self.columns}),
                "verdicts.json": verdicts,
                **(judgings.files(self.exams, self.judged, lines) if judgings else {}),
            },
            units=len(items) + len(failures),
            outputs=len(items),
            failures=len(failures),
            funnel=_funnel(items, failures, [*graded, *judged] if judging else None, halved),
            cost_usd=JudgeWork.cost([*self.gradings, *self.judged], lines),
            told="\n".join(
                [
                    *_noise_told(verdicts["noise"]),
                    *not_asked_told(failures, {e.suite.name: limit_option(e.suite) for e in self.exams}),
                    *not_judged_told([*self.gradings, *self.judged], lines),
                ]
            ),
        )

    def _moved(self, lines: Mapping[str, Line]) -> list[int]:
        """How many probed answers batch mates changed, and how many were probed."""
        in_batch: dict[tuple[str, str], Any] = {}
        for unit in self.answers:
            if unit.payload.contestant.name == "vlm":
                outputs = zip(unit.payload.rows, lines[unit.key]["outputs"], strict=True)
                in_batch |= {(unit.payload.suite.name, row.id): o for row, o in outputs}
        alone = [
            (in_batch[unit.payload.batch.suite.name, row.id], outputs)
            for unit in self.probes
            for row, outputs in zip(unit.payload.batch.rows, lines[unit.key]["outputs"], strict=True)
        ]
        return [sum(a != b for a, b in alone), len(alone)]

    def _items(self, batch: Batch, line: Line) -> Iterator[Item]:
        for row, outputs in zip(batch.rows, line["outputs"], strict=True):
            if outputs is None or batch.suite.score is None:
                continue
            score = batch.suite.score(row, outputs)
            yield Item(
                id=row.id,
                suite=batch.suite.name,
                model=batch.contestant.name,
                model_sha256=batch.contestant.sha256,
                decoding=decoding(batch.suite, self.settings.max_new_tokens, row.temperature, self.seed),
                input_sha256=input_sha256(batch.suite, row, batch.contestant.conditioning),
                output=outputs[0] if len(outputs) == 1 else json.dumps(outputs, ensure_ascii=False),
                parser=batch.suite.parser,
                value=score.value,
                state=score.state,
            )

    def _changes(self, items: Sequence[Item]) -> Iterator[Metric]:
        """Suites about corrupted images against the same about clean ones, where those are asked too."""
        found: dict[tuple[str, str], list[Item]] = {}
        for item in items:
            found.setdefault((item.model, item.suite), []).append(item)
        exams = {exam.suite.name: exam for exam in self.exams}
        for contestant in self.contestants:
            for name, exam in exams.items():
                clean = exams.get(exam.suite.clean) if exam.suite.corruption else None
                if clean and contestant.takes(exam.suite):
                    mine, others = (found.get((contestant.name, suite), []) for suite in (name, clean.suite.name))
                    yield change_metric(exam, clean, contestant.name, mine, others, self.seed)

    def _metrics(self, items: Sequence[Item], graded: Sequence[Item]) -> Iterator[Metric]:
        for contestant in self.contestants:
            for exam in self.columns:
                if contestant.takes(exam.suite) and self.text.asks(contestant, exam):
                    mine = [i for i in items if i.model == contestant.name and i.suite == exam.suite.name]
                    notes = [i for i in graded if i.model == contestant.name and i.suite == f"{exam.suite.name}:judge"]
                    yield from suite_metrics(exam, contestant.name, mine, notes, self.seed, self.settings.judge)

    def estimate(self, pending: Sequence[Unit]) -> Estimate:
        """With a judge, what it will be asked, and what it has answered; else what is written here."""
        if self.judging:
            named = {unit.key for unit in pending}
            asked = [(unit, unit.key in named) for unit in (*self.gradings, *self.judged)]
            found = self.judging.estimate(asked, self._lines, self.workspace)
            if found.calls:
                return found
        else:
            found = Estimate(cached=sum(u.records for u in self.units) - sum(u.records for u in pending))
        here = [unit for unit in pending if isinstance(unit.payload, Batch)]
        return replace(found, output_tokens=sum(u.records * limit_of(u.payload.suite, self.settings) for u in here))


def _asked(unit: Unit) -> Contestant:
    """Whom a unit asks."""
    found: Contestant = (unit.payload.batch if isinstance(unit.payload, Probe) else unit.payload).contestant
    return found


def _noise_told(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        found = row["minus_clean"]
        between = "" if found["low"] is None else f" [{found['low']:+.3f}, {found['high']:+.3f}]"
        yield f"{row['suite']} minus {row['clean']}, {row['model']}: {found['mean']:+.3f}{between}, n {found['n']}"


def _funnel(
    items: Sequence[Item], failures: Sequence[Failure], judged: Sequence[Item] | None, halved: int
) -> dict[str, int]:
    """What became of the questions; `judged` None where there is no judge."""
    counts = {
        "questions asked": len(items) + len(failures),
        "answered": len(items),
        "unparsed": sum(item.state == "unparsed" for item in items),
    }
    if judged is not None:
        failed = sum(item.state == "judge_failed" for item in judged)
        counts |= {"graded by the judge": len(judged) - failed, "judge failed": failed}
    return counts | ({"batches halved for memory (byte-identity void)": halved} if halved else {})


def _failures(batch: Batch, line: Line) -> Iterator[Failure]:
    for row in batch.rows:
        if row.id in line["faults"]:
            fault = line["faults"][row.id]
            where = f"{batch.contestant.name}/{batch.suite.name}/{row.id}"
            yield Failure(stage=STAGE, record_id=where, reason=Reason(fault["reason"]), detail=fault["detail"])
