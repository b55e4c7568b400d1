"""The stages `annotate` and `teach`: real backends, and annotators written out here that answer from a list."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.settings import Annotate, Teach
from annotate.backends.registry import installed, make_annotator
from annotate.errors import MmalignError, Stopped, UserError
from annotate.jsonl import write_records
from annotate.limits import Pacer, Patience
from annotate.prompting import Rated, write_reply
from annotate.protocol import Annotator, Outcome, Reply, Request
from annotate.records import Annotated, Completion, Failure, Image, Prompt, Reason, Turn
from annotate.run import AnnotateWork, shown_order
from annotate.teach import TeachWork

HASTE = Patience(first_seconds=0.001, longest_seconds=0.004, pauses=3)
SEVEN = Image(path="7.png", sha256=hashlib.sha256(b"seven").hexdigest())
SCENE = {"form": "sentence", "claims": [{"vocabulary": ["red", "blue"], "truth": ["red"]}]}


def prompt(question: str, *, image: bool = False, **rest: Any) -> Prompt:
    turn = Turn(role="user", text=f"<image>\n{question}" if image else question, images=(SEVEN,) if image else ())
    return Prompt.of((turn,), **{"meta": {"answer_key": SCENE}, **rest})


def answers(to: Prompt, *texts: str) -> list[Completion]:
    return [Completion.of(prompt_id=to.id, model="vlm", index=i, text=text) for i, text in enumerate(texts)]


def read_image(image: Image) -> bytes:
    return {"7.png": b"seven"}[image.path]


def quiet(done: int, total: int, note: str = "") -> None:
    pass


def run(work: AnnotateWork | TeachWork, workspace: Path) -> tuple[dict[str, Any], Any]:
    """Execute all units and compile: the journal lines and what the stage hands on."""
    lines: dict[str, Any] = {}
    work.execute(work.units, lines.__setitem__, workspace, quiet)
    return lines, work.compile(lines, workspace)


def quality(record: Annotated) -> list[float]:
    """Helpfulness + correctness + coherence of each completion."""
    scores = record.scores()
    return [sum(scores[c.id][n] for n in ("helpfulness", "correctness", "coherence")) for c in record.completions]


class Listed:
    """An annotator that answers with the replies of a list, one after the other, and then with full marks."""

    paid = False
    model = "listed"

    def __init__(self, *replies: Reply | str | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []

    async def reply(self, request: Request) -> Reply:
        self.requests.append(request)
        reply = self.replies.pop(0) if self.replies else full_marks(request)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Reply) else Reply(outcome=Outcome.OK, text=reply)


class Priced(Listed):
    """It costs a cent each time."""

    paid = True

    def cost_usd(self, usage: Mapping[str, int]) -> float | None:
        return 0.01


def full_marks(request: Request) -> str:
    marks = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 4)
    return write_reply("Fine.", [Rated(scores=marks)] * len(request.completions))


def annotate(tmp_path: Path, annotator: Annotator, prompts: Sequence[Prompt], **settings: Any) -> tuple[Any, Any]:
    completions = [c for p in prompts for c in answers(p, "It is red.", "It is blue.")]
    work = AnnotateWork(
        prompts=prompts,
        completions=completions,
        settings=Annotate(**{"workers": 1, **settings}),
        seed=0,
        read_image=read_image,
        annotator=annotator,
        patience=HASTE,
    )
    return run(work, tmp_path)


# ------------------------------------------------------------------------------------------------------- the happy way


def test_rules_rate_every_completion_and_the_funnel_adds_up(tmp_path: Path) -> None:
    prompts = [prompt("Which colour?", image=True), prompt("And this?"), prompt("Nothing sampled."), prompt("Empty.")]
    completions = [
        *answers(prompts[0], "It is blue.", "It is red.", "red"),
        *answers(prompts[1], "red", "blue", "It is red."),
        *answers(prompts[3], "It is red.", "  "),
    ]
    work = AnnotateWork(prompts=prompts, completions=completions, settings=Annotate(), seed=0, read_image=read_image)
    _, compiled = run(work, tmp_path)
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
        (made[mode],) = run(work, tmp_path)[1].files["annotated.jsonl"]
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
    _, compiled = run(work, tmp_path)
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
    workers: int = 4
    budget_usd: float | None = None

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
    _, compiled = run(work, Path("nowhere"))
    (record,) = compiled.files["annotated.jsonl"]
    for completion, (h, c) in zip(record.completions, marks, strict=True):
        assert record.scores()[completion.id]["helpfulness"] == h
        assert record.scores()[completion.id]["correctness"] == c
    for annotation in record.annotations:
        for rating in annotation.ratings:
            assert rating.rationale == next(c.text for c in record.completions if c.id == rating.completion_id)


# -------------------------------------------------------------------------------------------------- what can go wrong

TRANSIENT = Reply(outcome=Outcome.TRANSIENT, detail="503")
BUSY = Reply(outcome=Outcome.RATE_MINUTE, retry_after=0.001)


def only_failure(compiled: Any) -> Failure:
    (failure,) = compiled.files["failures.jsonl"]
    assert compiled.units == compiled.outputs + compiled.failures
    assert isinstance(failure, Failure)
    return failure


def test_transient_errors_are_tried_six_times(tmp_path: Path) -> None:
    lines, compiled = annotate(tmp_path, Listed(*[TRANSIENT] * 5), [prompt("Q?")])
    assert compiled.outputs == 1
    assert [line["attempts"] for line in lines.values()] == [6]
    _, compiled = annotate(tmp_path, Listed(*[TRANSIENT] * 6), [prompt("Q?")])
    assert only_failure(compiled).reason is Reason.SERVICE


def test_being_too_fast_uses_up_no_attempt(tmp_path: Path) -> None:
    annotator = Listed(BUSY, TRANSIENT, BUSY, BUSY, *[TRANSIENT] * 4, BUSY)
    lines, compiled = annotate(tmp_path, annotator, [prompt("Q?")])
    assert compiled.outputs == 1
    assert [line["attempts"] for line in lines.values()] == [6]


def test_a_service_that_lets_nothing_through_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="lets nothing through"):
        annotate(tmp_path, Listed(*[BUSY] * 10), [prompt("Q?")])


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (Reply(outcome=Outcome.QUOTA_DAY, retry_after=7260.0), Stopped, "come back in 2 h 1 min"),
        (Reply(outcome=Outcome.QUOTA_DAY), Stopped, "come back tomorrow"),
        (Reply(outcome=Outcome.RUN_FATAL, detail="API key not valid"), UserError, "API key not valid"),
    ],
)
def test_the_end_of_a_run_keeps_what_was_answered(
    tmp_path: Path, reply: Reply, error: type[MmalignError], message: str
) -> None:
    prompts = [prompt(f"Question {i}?") for i in range(4)]
    completions = [c for p in prompts for c in answers(p, "It is red.", "It is blue.")]
    kept: dict[str, Any] = {}

    def work(annotator: Annotator) -> AnnotateWork:
        return AnnotateWork(
            prompts=prompts,
            completions=completions,
            settings=Annotate(workers=1),
            seed=0,
            read_image=read_image,
            annotator=annotator,
            patience=HASTE,
        )

    first = Listed()
    first.replies = [Reply(outcome=Outcome.OK, text="unreadable"), reply]
    planned = work(first)
    with pytest.raises(error, match=message) as stopped:
        planned.execute(planned.units, kept.__setitem__, tmp_path, quiet)
    assert "1 of 4" in str(stopped.value)
    again = Listed()
    planned = work(again)
    pending = [unit for unit in planned.units if unit.key not in kept]
    planned.execute(pending, kept.__setitem__, tmp_path, quiet)
    assert len(again.requests) == 3  # the one that was answered is not asked again
    assert planned.compile(kept, tmp_path).outputs == 3


def test_a_refused_row_is_a_failure_and_the_run_goes_on(tmp_path: Path) -> None:
    blocked = Reply(outcome=Outcome.ROW_FATAL, detail="SAFETY")
    _, compiled = annotate(tmp_path, Listed(blocked), [prompt("One?"), prompt("Two?")])
    failure = only_failure(compiled)
    assert (failure.record_id, failure.reason) == (prompt("One?").id, Reason.BLOCKED)
    assert "SAFETY" in failure.detail
    assert compiled.funnel["replied"] == compiled.outputs == 1


def test_an_unreadable_reply_is_asked_again_only_where_decoding_is_random(tmp_path: Path) -> None:
    nonsense = "I would rather not."
    fixed = Listed(nonsense)
    lines, compiled = annotate(tmp_path, fixed, [prompt("Q?")])
    assert only_failure(compiled).reason is Reason.UNPARSABLE
    assert only_failure(compiled).detail.endswith("no ratings found")
    assert len(fixed.requests) == 1
    assert [line["outcome"] for line in lines.values()] == ["unreadable"]

    random = Listed(nonsense, nonsense)
    lines, compiled = annotate(tmp_path, random, [prompt("Q?")], temperature=0.7)
    assert compiled.outputs == 1
    assert len({r.sha256 for r in random.requests}) == 3
    assert len({str(r.messages) for r in random.requests}) == 1  # bad output is never sent back
    (line,) = lines.values()
    assert [r["text"] for r in line["replies"][:2]] == [nonsense, nonsense]  # every raw text is kept
    assert line["outcome"] == "ok"

    lost = Listed(*[nonsense] * 3)
    _, compiled = annotate(tmp_path, lost, [prompt("Q?")], temperature=0.7)
    assert only_failure(compiled).reason is Reason.UNPARSABLE


def test_reading_again_asks_nothing(tmp_path: Path) -> None:
    annotator = Listed()
    asked = prompt("Q?")
    work = AnnotateWork(
        prompts=[asked],
        completions=answers(asked, "It is red."),
        settings=Annotate(),
        seed=0,
        read_image=read_image,
        annotator=annotator,
    )
    lines, compiled = run(work, tmp_path)
    assert work.compile(lines, tmp_path) == compiled
    assert len(annotator.requests) == 1


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda image: Path("/nowhere/7.png").read_bytes(), Reason.IMAGE_MISSING),
        (lambda image: b"eight", Reason.IMAGE_UNREADABLE),  # changed since the check
    ],
)
def test_an_image_that_cannot_be_read_is_a_failure(
    tmp_path: Path, read: Callable[[Image], bytes], reason: Reason
) -> None:
    prompts = [prompt("With?", image=True), prompt("Without?")]
    completions = [c for p in prompts for c in answers(p, "It is red.")]
    annotator = Listed()
    work = AnnotateWork(
        prompts=prompts, completions=completions, settings=Annotate(), seed=0, read_image=read, annotator=annotator
    )
    _, compiled = run(work, tmp_path)
    assert (only_failure(compiled).record_id, only_failure(compiled).reason) == (prompts[0].id, reason)
    assert len(annotator.requests) == 1  # nothing was sent for the one without its image


def test_an_annotator_that_breaks_is_no_failure_of_the_record(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        annotate(tmp_path, Listed(ZeroDivisionError("bug")), [prompt("Q?")])


def test_completions_of_other_prompts_are_refused() -> None:
    ours, other = prompt("Ours?"), prompt("Other?")
    completions = [*answers(ours, "a", "b"), *answers(other, "c"), replace(answers(ours, "d")[0], index=0)]
    with pytest.raises(UserError) as error:
        AnnotateWork(prompts=[ours], completions=completions, settings=Annotate(), seed=0, read_image=read_image)
    assert len(error.value.faults) == 2  # the one of another prompt, and the second with index 0


# ----------------------------------------------------------------------------------------------------- pace and money


def test_requests_are_paced() -> None:
    async def three() -> float:
        pacer = Pacer(1200, Patience())  # one each 0.05 s
        start = asyncio.get_running_loop().time()
        await asyncio.gather(*(pacer.admit() for _ in range(5)))
        return asyncio.get_running_loop().time() - start

    assert 0.2 <= asyncio.run(three()) < 0.4


def test_a_pause_holds_everybody_and_many_rejections_are_one_pause() -> None:
    async def paused() -> float:
        pacer = Pacer(None, Patience(pauses=1))
        start = asyncio.get_running_loop().time()
        for _ in range(20):
            pacer.pause(0.1, "too fast")
        await asyncio.gather(pacer.admit(), pacer.admit())
        return asyncio.get_running_loop().time() - start

    assert 0.1 <= asyncio.run(paused()) < 0.3


def test_many_are_in_flight_at_once(tmp_path: Path) -> None:
    class Slow(Listed):
        now = most = 0

        async def reply(self, request: Request) -> Reply:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return await super().reply(request)

    slow = Slow()
    _, compiled = annotate(tmp_path, slow, [prompt(f"Q {i}?") for i in range(20)], workers=6)
    assert (slow.most, compiled.outputs) == (6, 20)


def test_the_budget_is_never_passed_over_all_runs(tmp_path: Path) -> None:
    prompts = [prompt(f"Q {i}?") for i in range(9)]
    lines: dict[str, Any] = {}
    for budget, so_far in ((0.045, 4), (0.045, 4), (0.1, 9)):
        annotator = Priced()
        work = AnnotateWork(
            prompts=prompts,
            completions=[c for p in prompts for c in answers(p, "It is red.")],
            settings=Annotate(budget_usd=budget, workers=1),
            seed=0,
            read_image=read_image,
            annotator=annotator,
        )
        pending = [unit for unit in work.units if unit.key not in lines]
        assert work.estimate(pending).usd == 0.01
        if so_far < 9:
            with pytest.raises(Stopped, match="budget_usd"):
                work.execute(pending, lines.__setitem__, tmp_path, quiet)
        else:
            work.execute(pending, lines.__setitem__, tmp_path, quiet)
        assert len(lines) == so_far
    assert work.compile(lines, tmp_path).cost_usd == pytest.approx(0.09)


def test_a_budget_needs_a_price(tmp_path: Path) -> None:
    class Unpriced(Listed):
        paid = True

    unpriced = Unpriced()
    with pytest.raises(UserError, match="no price of listed is known"):
        annotate(tmp_path, unpriced, [prompt("Q?")], budget_usd=1.0)
    assert unpriced.requests == []
    _, compiled = annotate(tmp_path, unpriced, [prompt("Q?")])
    assert compiled.files["annotated.jsonl"][0].annotations[0].cost_usd is None


def test_the_estimate_counts_calls_and_tokens() -> None:
    prompts = [prompt("Which colour?", image=True), prompt("And this?")]
    completions = [c for p in prompts for c in answers(p, "It is red.", "It is blue.")]
    settings = Annotate(passes=3, requests_per_minute=2)
    work = AnnotateWork(prompts=prompts, completions=completions, settings=settings, seed=0, read_image=read_image)
    estimate = work.estimate(work.units[1:])
    assert (estimate.calls, estimate.cached, estimate.minutes, estimate.usd, estimate.paid) == (5, 1, 2.5, 0.0, False)
    assert 5 * 1000 < estimate.input_tokens < 5 * 3000
    assert estimate.output_tokens == 5 * 500


# ------------------------------------------------------------------------------------------------------------- replay


def replaying(file: Path, prompts: Sequence[Prompt], completions: Sequence[Completion], seed: int) -> AnnotateWork:
    settings = Annotate(backend="replay", options={"file": str(file)})
    return AnnotateWork(prompts=prompts, completions=completions, settings=settings, seed=seed, read_image=read_image)


def recorded(tmp_path: Path) -> tuple[list[Prompt], list[Completion], Any]:
    """Three prompts rated by `rules`, with replies.jsonl and annotated.jsonl on disk."""
    prompts = [prompt(f"Which colour {i}?") for i in range(3)]
    completions = [c for p in prompts for c in answers(p, "It is blue.", "It is red.", "red")]
    work = AnnotateWork(prompts=prompts, completions=completions, settings=Annotate(), seed=0, read_image=read_image)
    _, compiled = run(work, tmp_path)
    for name in ("replies.jsonl", "annotated.jsonl"):
        write_records(tmp_path / name, compiled.files[name])
    return prompts, completions, compiled


def test_replies_of_a_run_can_be_replayed(tmp_path: Path) -> None:
    prompts, completions, original = recorded(tmp_path)
    _, replayed = run(replaying(tmp_path / "replies.jsonl", prompts, completions, seed=0), tmp_path)
    assert [a.scores() for a in replayed.files["annotated.jsonl"]] == [
        a.scores() for a in original.files["annotated.jsonl"]
    ]
    assert replayed.files["annotated.jsonl"][0].annotations[0].model.startswith("recorded@")


def test_replies_are_not_given_for_another_order_but_annotations_are(tmp_path: Path) -> None:
    prompts, completions, original = recorded(tmp_path)
    _, replayed = run(replaying(tmp_path / "replies.jsonl", prompts, completions, seed=3), tmp_path)
    assert {f.reason for f in replayed.files["failures.jsonl"]} == {Reason.NOT_RECORDED}
    _, replayed = run(replaying(tmp_path / "annotated.jsonl", prompts, completions, seed=3), tmp_path)
    assert [a.scores() for a in replayed.files["annotated.jsonl"]] == [
        a.scores() for a in original.files["annotated.jsonl"]
    ]


def test_with_a_partial_file_the_missing_prompts_are_failures(tmp_path: Path) -> None:
    prompts, completions, original = recorded(tmp_path)
    write_records(tmp_path / "partial.jsonl", original.files["replies.jsonl"][1:])
    _, replayed = run(replaying(tmp_path / "partial.jsonl", prompts, completions, seed=0), tmp_path)
    (failure,) = replayed.files["failures.jsonl"]
    assert (failure.record_id, failure.reason) == (prompts[0].id, Reason.NOT_RECORDED)
    assert [a.prompt.id for a in replayed.files["annotated.jsonl"]] == [p.id for p in prompts[1:]]
    assert replayed.units == replayed.outputs + replayed.failures == 3


def test_another_recording_is_another_annotator(tmp_path: Path) -> None:
    prompts, completions, original = recorded(tmp_path)
    write_records(tmp_path / "partial.jsonl", original.files["replies.jsonl"][1:])
    one, other = (
        {unit.key for unit in replaying(tmp_path / name, prompts, completions, seed=0).units}
        for name in ("replies.jsonl", "partial.jsonl")
    )
    assert not one & other


def test_a_teacher_can_be_replayed_from_its_completions(tmp_path: Path) -> None:
    prompts = [prompt("Which colour?", reference="It is red."), prompt("Another?", reference="Blue.")]
    _, taught = run(TeachWork(prompts=prompts, settings=Teach(), seed=0, read_image=read_image), tmp_path)
    write_records(tmp_path / "completions.jsonl", taught.files["completions.jsonl"][:1])
    settings = Teach(backend="replay", options={"file": str(tmp_path / "completions.jsonl")})
    _, replayed = run(TeachWork(prompts=prompts, settings=settings, seed=0, read_image=read_image), tmp_path)
    assert [c.text for c in replayed.files["completions.jsonl"]] == ["It is red."]
    assert [f.reason for f in replayed.files["failures.jsonl"]] == [Reason.NOT_RECORDED]


def test_a_bad_recording_is_refused_with_every_faulty_line(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    file.write_text(
        '{"prompt_id": "a", "text": "fine"}\n{"prompt_id": "a", "text": "again"}\n'
        '{"prompt": "a", "text": "fine"}\n{"prompt_id": "b", "text": 7}\n[]\n'
    )
    with pytest.raises(UserError) as error:
        make_annotator("replay", "", {"file": str(file)})
    assert [fault.split(":")[-2][-1] for fault in error.value.faults] == ["2", "3", "4", "5"]


# ----------------------------------------------------------------------------------------------------------- registry


def test_annotators_are_found_by_name() -> None:
    assert {"rules", "replay"} <= set(installed())
    for name, options, message in (
        ("rule", {}, "no annotator 'rule'; did you mean 'rules'?  Installed: "),
        ("replay", {}, "annotator 'replay' needs the option 'file'"),
        ("replay", {"file": "x", "fiel": "y"}, "has no option 'fiel'; did you mean 'file'?  Known: file"),
        ("replay", {"file": "/nowhere/x.jsonl"}, "/nowhere/x.jsonl: cannot be read"),
        ("rules", {"strict": True}, "annotator 'rules' has no option 'strict'."),
    ):
        with pytest.raises(UserError) as error:
            make_annotator(name, "", options)
        assert message in str(error.value)


def test_every_order_of_four_can_come_up() -> None:
    seen = {shown_order(4, position=p, pass_index=0, seed=s) for p in range(8) for s in range(60)}
    assert seen == set(permutations(range(4)))
