"""Text benchmarks within the stage `evaluate`: what is asked of whom, and the cells of the table that come of it.

A unit is a slice of one task asked of one model; its key hashes the model's digest, the rows, the examples and the
version of lm-eval, so that a killed run goes on and no model is ever given another one's answers. Raw log-likelihoods
and texts are what is recorded; scores are made of them when the stage is compiled.

A model is asked once, in the benchmark's own words: lm-eval's prompts, no chat template, no conditioning text. Where
the table has several rows of one set of weights (SteerLM), the row that is asked without such a text has the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from align.benchmarks.rows import Row
from align.benchmarks.suite import Score, Suite
from align.benchmarks.text_rows import MACRO, Document, Part, TextSuite, load_text
from align.evaluate.models import Contestant
from align.evaluate.plan import Exam
from align.settings import Text
from annotate.records import Failure, Item, Reason, sha256_of
from annotate.stage import Line, Unit

if TYPE_CHECKING:
    from align.evaluate.lm_eval_tasks import Harness
    from align.models.load import LoadedModel

SLICE = 64
"""Documents of a unit: what is lost at most when a run is killed."""


@dataclass(frozen=True)
class TextBatch:
    """Some documents of one task, asked of one model: the payload of a unit."""

    contestant: Contestant
    suite: TextSuite
    part: Part
    start: int
    stop: int

    @property
    def documents(self) -> Sequence[Document]:
        return self.part.documents[self.start : self.stop]


def installed_version() -> str:
    """Of lm-eval, or nothing."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return ""


def asked_once(contestants: Sequence[Contestant]) -> list[Contestant]:
    """One row of the table for each set of weights, the one without a conditioning text where there is such a row."""
    chosen: dict[str, Contestant] = {}
    for contestant in sorted(contestants, key=lambda c: bool(c.conditioning)):
        chosen.setdefault(contestant.sha256, contestant)
    return [c for c in contestants if chosen[c.sha256] is c]


def exam_of(suite: TextSuite) -> Exam:
    """A suite with its documents, of which statistics need id, cluster and category: what a row has of them too."""
    asked = Suite(
        name=suite.name,
        file=suite.name,
        text=True,
        parser="lm-eval",
        score=_never,
        measures=suite.measures,
        headline=suite.headline,
        images="none",
    )
    return Exam(asked, cast("tuple[Row, ...]", suite.documents))


def _never(row: Row, outputs: Sequence[str]) -> Score:
    raise AssertionError("scored by lm-eval")


def decoding(part: Part) -> dict[str, Any]:
    """How answers are made; goes into every Item."""
    return {"by": f"lm-eval {installed_version()}", "task": part.name, "ask": part.ask, "shots": part.shots}


class TextWork:
    """The text part of the stage; light until `execute` or `items`."""

    def __init__(self, settings: Text | None, contestants: Sequence[Contestant], seed: int) -> None:
        self.settings, self.seed = settings or Text(), seed
        self.suites = load_text(settings) if settings else ()
        self.contestants = asked_once(contestants)
        self.units = list(self._plan())
        self.exams = [exam_of(suite) for suite in self.suites]
        """The suites as the table and the verdict take them."""

    def _plan(self) -> Iterator[Unit]:
        harness = installed_version()
        for contestant in self.contestants:
            for suite in self.suites:
                for part in suite.parts:
                    examples = sha256_of(part.examples) if part.shots else ""
                    for start in range(0, len(part.documents), SLICE):
                        batch = TextBatch(contestant, suite, part, start, start + SLICE)
                        decides: dict[str, Any] = {
                            "lm-eval": harness,
                            "model": contestant.sha256,
                            "task": part.name,
                            "shots": part.shots,
                            "examples": examples,
                            "start": start,
                            "rows": [document.sha256 for document in batch.documents],
                            "ask": part.ask,
                            "batch_size": self.settings.batch_size,
                        }
                        yield Unit(sha256_of(decides), batch, len(batch.documents))

    def ask(self, batch: TextBatch, loaded: LoadedModel, workspace: Path) -> dict[str, Any]:
        """The line to record for a unit."""
        size = self.settings.batch_size
        return self._harness(workspace).ask(loaded, batch.part, batch.start, batch.stop, batch_size=size)

    def asks(self, contestant: Contestant, exam: Exam) -> bool:
        """Whether this row of the table has numbers in this column."""
        return exam.suite.name not in {s.name for s in self.suites} or contestant in self.contestants

    def _harness(self, workspace: Path) -> Harness:
        if "harness" not in self.__dict__:
            from align.evaluate.lm_eval_tasks import Harness

            self.harness = Harness(workspace / "text")
        return self.harness

    # ---------------------------------------------------------------------------------------------------- compile

    def items(self, lines: Mapping[str, Line], workspace: Path) -> list[Item]:
        """What was answered, scored."""
        return [item for unit in self.units for item in self._items(unit.payload, lines[unit.key], workspace)]

    def _items(self, batch: TextBatch, line: Line, workspace: Path) -> Iterator[Item]:
        harness = self._harness(workspace)
        replies = zip(batch.documents, line["outputs"], line["inputs"], strict=True)
        for i, (document, output, asked) in enumerate(replies, start=batch.start):
            if output is None:
                continue
            value = harness.values(batch.part, i, output)
            yield Item(
                id=document.id,
                suite=batch.suite.name,
                model=batch.contestant.name,
                model_sha256=batch.contestant.sha256,
                decoding=decoding(batch.part),
                input_sha256=asked,
                output=json.dumps(output, ensure_ascii=False),
                parser=harness.parser(batch.part),
                value={} if value is None else self._value(batch, value),
                state="unparsed" if value is None else "ok",
            )

    def _value(self, batch: TextBatch, value: dict[str, float]) -> dict[str, float]:
        """Of a suite of parts also what a question adds to their mean: parts weigh alike, however many questions."""
        suite = batch.suite
        if suite.headline != MACRO:
            return value
        weight = len(suite.documents) / (len(suite.parts) * len(batch.part.documents))
        return value | {MACRO: value[suite.spec.headline] * weight}

    def failures(self, stage: str, lines: Mapping[str, Line]) -> Iterator[Failure]:
        """What could not be asked."""
        for unit in self.units:
            batch: TextBatch = unit.payload
            for record_id, fault in lines[unit.key]["faults"].items():
                where = f"{batch.contestant.name}/{batch.part.name}/{record_id}"
                yield Failure(stage=stage, record_id=where, reason=Reason(fault["reason"]), detail=fault["detail"])

    def warnings(self, lines: Mapping[str, Line]) -> list[str]:
        """What a reader must know."""
        cut: dict[tuple[str, str], int] = {}
        for unit in self.units:
            key = (unit.payload.suite.name, unit.payload.contestant.name)
            cut[key] = cut.get(key, 0) + len(lines[unit.key]["cut"])
        return [
            f"{suite}: {n} question(s) lost their beginning to fit into {model}, as lm-eval does it"
            for (suite, model), n in cut.items()
            if n
        ]
