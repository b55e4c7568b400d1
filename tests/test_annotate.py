"""The stages `annotate` and `teach`: what goes in, what is asked in which order, what comes out."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from annotators import Listed, annotate, answers, prompt, quality, read_image, run_work
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from align.settings import Annotate, Teach
from annotate.prompting import Rated, write_reply
from annotate.protocol import Outcome, Reply, Request
from annotate.records import Annotated, Reason
from annotate.run import AnnotateWork, shown_order
from annotate.teach import TeachWork

# ------------------------------------------------------------------------------------------------------- the happy way


def test_rules_rate_every_completion_and_the_funnel_adds_up(tmp_path: Path) -> None:
    prompts = [prompt("Which colour?", image=True), prompt("And this?"), prompt("Nothing sampled."), prompt("Empty.")]
    completions = [
        *answers(prompts[0], "It is blue.", "It is red.", "red"),
        *answers(prompts[1], "red", "blue", "It is red."),
        *answers(prompts[3], "It is red.", "  "),
    ]
    work = AnnotateWork(prompts=prompts, completions=completions, settings=Annotate(), seed=0, read_image=read_image)
    _, compiled = run_work(work, tmp_path)
    first, second = compiled.files["annotated.jsonl"]
    # Wrong in the stated form 4, wrong in another 2; right in another form 8, right and in the stated form 12.
    assert quality(first) == [4, 12, 8]
    assert quality(second) == [8, 2, 12]
    assert first.annotations[0].ratings[0].rationale.startswith("Correctness ")
    assert [(f.record_id, f.reason) for f in compiled.files["failures.jsonl"]] == [
        (prompts[2].id, Reason.COMPLETIONS_MISSING),
        (prompts[3].id, Reason.COMPLETION_EMPTY),
    ]
    assert compiled.funnel == {"prompts": 4, "sampled": 2, "asked": 2, "replied": 2, "parsed": 2, "annotated": 2}
    assert compiled.units == compiled.outputs + compiled.failures == 4
    for record in compiled.files["annotated.jsonl"]:
        assert Annotated.from_json(record.to_json()) == record


def test_pointwise_asks_for_each_completion_and_pairwise_for_each_pair(tmp_path: Path) -> None:
    asked = prompt("Which colour?")
    completions = answers(asked, "It is red.", "It is blue.", "red")
    made = {}
    for mode in ("pointwise", "pairwise"):
        settings = Annotate(mode=mode)  # type: ignore[arg-type]
        work = AnnotateWork(prompts=[asked], completions=completions, settings=settings, seed=0, read_image=read_image)
        (made[mode],) = run_work(work, tmp_path)[1].files["annotated.jsonl"]
    assert [len(a.shown_order) for a in made["pointwise"].annotations] == [1, 1, 1]
    assert set(made["pointwise"].scores()) == {c.id for c in completions}
    verdicts = {}
    for a in made["pairwise"].annotations:
        winner = {"first": a.shown_order[0], "second": a.shown_order[1], "tie": None, None: None}[a.preference]
        verdicts[frozenset(a.shown_order)] = winner
    red, blue, word = (c.id for c in completions)
    assert verdicts == {frozenset((red, blue)): red, frozenset((red, word)): red, frozenset((blue, word)): word}


def test_the_teacher_answers_with_the_reference(tmp_path: Path) -> None:
    prompts = [prompt("Which colour?", image=True, reference="It is red."), prompt("No reference.")]
    work = TeachWork(prompts=prompts, settings=Teach(), seed=0, read_image=read_image)
    _, compiled = run_work(work, tmp_path)
    (completion,) = compiled.files["completions.jsonl"]
    assert (completion.prompt_id, completion.index, completion.text) == (prompts[0].id, 0, "It is red.")
    assert completion.model == "rules-1"
    (failure,) = compiled.files["failures.jsonl"]
    assert (failure.record_id, failure.reason) == (prompts[1].id, Reason.INVALID_INPUT)
    assert compiled.units == compiled.outputs + compiled.failures == 2


ALONE = """
import sys
from dataclasses import dataclass, field
from pathlib import Path
from annotate.records import Completion, Prompt, Turn
from annotate.run import AnnotateWork
from annotate.teach import TeachWork

@dataclass(frozen=True)
class Checks:
    duplicate: int = 0
    wrong_image: int = 0
    blind: int = 0

@dataclass(frozen=True)
class Settings:
    backend: str = "rules"
    model: str = ""
    rubric: str = "helpsteer"
    mode: str = "listwise"
    passes: int = 2
    max_output_tokens: int = 512
    temperature: float = 0.0
    options: dict = field(default_factory=dict)
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    requests_per_day: int | None = None
    lanes: tuple = ()
    workers: int | None = None
    attempts: int = 6
    wait_quota: bool = False
    budget_usd: float | None = None
    prices: str = ""
    checks: Checks = Checks()

key = {"form": "any", "claims": [{"vocabulary": ["red", "blue"], "truth": ["red"]}]}
asked = Prompt.of((Turn(role="user", text="Which colour?"),), reference="It is red.", meta={"answer_key": key})
said = [Completion.of(prompt_id=asked.id, model="m", index=i, text=t) for i, t in enumerate(["red", "blue"])]
rest = {"prompts": [asked], "settings": Settings(), "seed": 0, "read_image": lambda image: b""}
for work in (AnnotateWork(completions=said, **rest), TeachWork(**rest)):
    lines = {}
    work.execute(work.units, lines.__setitem__, Path.cwd(), lambda done, total, note="": None)
    print(work.compile(lines, Path.cwd()).outputs)
print(sorted({name.split(".")[0] for name in sys.modules} & {"align", "torch", "transformers", "numpy"}))
"""


def test_it_works_alone_without_align_and_torch(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["2", "1", "[]"]


def test_it_works_where_a_loop_is_running_as_in_a_notebook(tmp_path: Path) -> None:
    async def cell() -> Any:
        return annotate(tmp_path, Listed(), [prompt("Q?")])[1]

    assert asyncio.run(cell()).outputs == 1


# ------------------------------------------------------------------------------------------------------- shown order


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_every_completion_stands_equally_often_in_every_place(n: int) -> None:
    rows = [shown_order(n, position=p, pass_index=0, seed=7) for p in range(n * 6)]
    for place in range(n):
        assert Counter(row[place] for row in rows) == dict.fromkeys(range(n), 6)
    passes = [shown_order(n, position=3, pass_index=k, seed=7) for k in range(n)]
    for place in range(n):
        assert {row[place] for row in passes} == set(range(n))


def test_orders_are_seeded_and_differ() -> None:
    def rows(seed: int) -> list[tuple[int, ...]]:
        return [shown_order(4, position=p, pass_index=0, seed=seed) for p in range(40)]

    assert rows(0) == rows(0) != rows(1)
    assert len(set(rows(0))) > 12


class ByText:
    """Gives each completion the marks that its text names, `h c`, wherever it stands."""

    paid = False
    model = "by-text"

    async def reply(self, request: Request) -> Reply:
        rated = []
        for completion in request.completions:
            h, c = (int(word) for word in completion.text.split())
            scores = {"helpfulness": h, "correctness": c, "coherence": 0, "complexity": 0, "verbosity": 0}
            rated.append(Rated(scores=scores, rationale=completion.text))
        return Reply(outcome=Outcome.OK, text=write_reply("", rated))


@hypothesis_settings(deadline=None, max_examples=50)
@given(
    marks=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5),
    position=st.integers(0, 9),
    seed=st.integers(0, 99),
    passes=st.integers(1, 3),
)
def test_scores_stay_with_their_completion_however_it_is_shown(
    marks: list[tuple[int, int]], position: int, seed: int, passes: int
) -> None:
    asked = [prompt(f"Question {i}?") for i in range(position + 1)]
    texts = [f"{h} {c}" for h, c in marks]
    work = AnnotateWork(
        prompts=asked,
        completions=answers(asked[-1], *texts),
        settings=Annotate(passes=passes),
        seed=seed,
        read_image=read_image,
        annotator=ByText(),
    )
    with TemporaryDirectory() as workspace:
        _, compiled = run_work(work, Path(workspace))
    (record,) = compiled.files["annotated.jsonl"]
    for completion, (h, c) in zip(record.completions, marks, strict=True):
        assert record.scores()[completion.id]["helpfulness"] == h
        assert record.scores()[completion.id]["correctness"] == c
    for annotation in record.annotations:
        for rating in annotation.ratings:
            assert rating.rationale == next(c.text for c in record.completions if c.id == rating.completion_id)


def test_every_order_of_four_can_come_up() -> None:
    seen = {shown_order(4, position=p, pass_index=0, seed=s) for p in range(8) for s in range(60)}
    assert seen == set(permutations(range(4)))
