"""What can go wrong while asking, and what it costs: tries, pauses, quotas, pace, money."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from annotators import HASTE, Listed, Priced, annotate, answers, prompt, quiet, read_image, run_work

from align.settings import Annotate
from annotate.errors import MmalignError, Stopped, UserError
from annotate.protocol import Annotator, Outcome, Reply, Request, Traits
from annotate.records import Failure, Image, Reason, replace
from annotate.run import AnnotateWork

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
        (Reply(outcome=Outcome.QUOTA_DAY), Stopped, r"come back in (\d+ h )?\d+ (min|s)"),
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
    first.traits = Traits(deterministic=True, paced=False)
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


def test_when_the_run_ends_nobody_waits_for_a_turn_and_nothing_more_is_sent(tmp_path: Path) -> None:
    fatal = Reply(outcome=Outcome.RUN_FATAL, detail="no such model")
    slow = Listed(TRANSIENT, Reply(outcome=Outcome.TRANSIENT, retry_after=600), fatal)
    start = time.monotonic()
    with pytest.raises(UserError, match="no such model"):
        # The third request, at 0.2 s, ends it; one waits for its turn, two wait to try again, one of them 10 minutes.
        annotate(tmp_path, slow, [prompt(f"Q {i}?") for i in range(9)], workers=4, requests_per_minute=600)
    assert len(slow.requests) == 3
    assert time.monotonic() - start < 30


def test_a_refused_row_is_a_failure_and_the_run_goes_on(tmp_path: Path) -> None:
    blocked = Reply(outcome=Outcome.ROW_FATAL, detail="SAFETY")
    _, compiled = annotate(tmp_path, Listed(blocked), [prompt("One?"), prompt("Two?")])
    failure = only_failure(compiled)
    assert (failure.record_id, failure.reason) == (prompt("One?").id, Reason.BLOCKED)
    assert "SAFETY" in failure.detail
    assert compiled.funnel["replied"] == compiled.outputs == 1


def test_an_unreadable_reply_is_asked_again_unless_it_would_only_come_again(tmp_path: Path) -> None:
    nonsense = "I would rather not."
    fixed = Listed(nonsense)
    fixed.traits = Traits(deterministic=True, paced=False)
    lines, compiled = annotate(tmp_path, fixed, [prompt("Q?")])
    assert only_failure(compiled).reason is Reason.UNPARSABLE
    assert only_failure(compiled).detail.endswith("no ratings found")
    assert len(fixed.requests) == 1
    assert [line["outcome"] for line in lines.values()] == ["unreadable"]

    random = Listed(nonsense, nonsense)
    lines, compiled = annotate(tmp_path, random, [prompt("Q?")])
    assert compiled.outputs == 1
    assert len({r.sha256 for r in random.requests}) == 3
    assert len({str(r.messages) for r in random.requests}) == 1  # bad output is never sent back
    (line,) = lines.values()
    assert [r["text"] for r in line["replies"][:2]] == [nonsense, nonsense]  # every raw text is kept
    assert line["outcome"] == "ok"

    lost = Listed(*[nonsense] * 3)
    _, compiled = annotate(tmp_path, lost, [prompt("Q?")])
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
    lines, compiled = run_work(work, tmp_path)
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
    _, compiled = run_work(work, tmp_path)
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
        assert work.estimate(pending).usd == pytest.approx(0.01 * len(pending))
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
