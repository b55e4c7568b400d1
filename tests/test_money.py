"""Prices and estimates: what is known before any is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from annotators import Priced, answers, prompt, read_image

from align.settings import Annotate, Teach
from annotate.errors import UserError
from annotate.estimate import spelled
from annotate.lanes import Lane, LaneLimits
from annotate.prices import SHIPPED, Prices
from annotate.protocol import Outcome, Reply, Request, Traits
from annotate.run import AnnotateWork
from annotate.stage import Estimate
from annotate.teach import TeachWork

MILLION = {"input_tokens": 1_000_000}


class Service:
    """Paid, priced by the table; says nothing."""

    paid = True

    def __init__(self, model: str = "gemini-2.5-flash", **traits: Any) -> None:
        self.model, self.traits = model, Traits(**traits)

    async def reply(self, request: Request) -> Reply:
        return Reply(outcome=Outcome.OK)


def work_of(annotator: Any, n: int = 10, **settings: Any) -> AnnotateWork:
    prompts = [prompt(f"Which colour has box {i}?", image=True) for i in range(n)]
    return AnnotateWork(
        prompts=prompts,
        completions=[c for p in prompts for c in answers(p, "It is red.", "It is blue.", "red", "blue")],
        settings=Annotate(**settings),
        seed=0,
        read_image=read_image,
        annotator=annotator,
    )


# ------------------------------------------------------------------------------------------------------------- prices


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("gemini-2.5-flash", 0.30),
        ("models/gemini-2.5-flash", 0.30),
        ("gemini-2.5-flash-lite", 0.10),
        ("gemini-2.5-flash-preview-05-20", 0.30),
        ("gemini-2.5-flash-001", 0.30),
        ("gpt-4o-2024-08-06", 2.50),
        ("gpt-4o-mini-2024-07-18", 0.15),
        ("gpt-4o-audio", None),  # another model, whatever its name begins with
        ("gpt-4", None),
        ("llava-critic-7b", None),
    ],
)
def test_a_model_has_the_price_of_its_own_name_or_of_the_one_it_is_a_version_of(
    model: str, dollars: float | None
) -> None:
    assert Prices.load().cost_usd(model, MILLION, batch=False) == dollars


def test_thinking_is_billed_as_output_long_prompts_at_their_own_price_batches_at_half() -> None:
    prices = Prices.load()
    usage = {"input_tokens": 100_000, "output_tokens": 10_000, "thought_tokens": 30_000}
    # 0.1 M x 1.25 + 0.04 M x 10
    assert prices.cost_usd("gemini-2.5-pro", usage, batch=False) == pytest.approx(0.525)
    assert prices.cost_usd("gemini-2.5-pro", usage, batch=True) == pytest.approx(0.2625)
    # 0.3 M x 2.50 + 0.04 M x 15
    longer = {**usage, "input_tokens": 300_000}
    assert prices.cost_usd("gemini-2.5-pro", longer, batch=False) == pytest.approx(1.35)


def test_a_table_of_ones_own_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text("as_of: 2027-01-01\nservices: {mine: {models: {judge: {input: 2, output: 4}}}}\n")
    prices = Prices.load(str(table))
    assert (prices.as_of, prices.cost_usd("judge", MILLION, batch=True)) == ("2027-01-01", 2.0)
    estimate = work_of(Service("judge"), prices=str(table)).estimate
    assert estimate(work_of(Service("judge"), prices=str(table)).units).prices_as_of == "2027-01-01"


def test_all_faults_of_a_table_are_told_with_their_places(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text(
        "as_of: 2027-01-01\n"
        "services:\n"
        "  one: {models: {a: {input: free, output: 1}, b: {input: 1}, c: {input: 1, output: 1, long_from: 5}}}\n"
        "  two: {models: {a: {input: 1, output: 1, cached: 1}}}\n"
        "  three: {batch: half}\n"
    )
    with pytest.raises(UserError) as error:
        Prices.load(str(table))
    told = "\n".join(error.value.faults)
    for part in (
        "one.models.a.input",
        "one.models.b.output",
        "one.models.c",
        "two.models.a: stands",
        "cached",
        "three",
    ):
        assert part in told
    with pytest.raises(UserError, match="no price table"):
        Prices.load(str(tmp_path / "none.yaml"))
    assert Prices.load().as_of and SHIPPED.exists()


# ---------------------------------------------------------------------------------------------------------- estimates


def test_an_estimate_names_tokens_dollars_minutes_and_days() -> None:
    work = work_of(Service(), n=100, requests_per_minute=5, requests_per_day=30)
    found = work.estimate(work.units[20:])
    assert (found.calls, found.cached, found.paid, found.basis) == (80, 20, True, "rule of thumb")
    assert found.image_tokens == 80 * 258
    assert found.input_tokens > found.image_tokens and found.output_tokens == 80 * 800
    dollars = (found.input_tokens * 0.30 + found.output_tokens * 2.50) / 1e6
    assert found.usd == pytest.approx(dollars, rel=0.01)
    assert found.usd_batch == pytest.approx(dollars / 2, rel=0.01)
    assert (found.minutes, found.days) == (16.0, 3)
    assert spelled(found)[2:] == ["at least 16 min at the limits you set", "3 days at 30 requests a day"]


def test_tokens_a_minute_may_be_what_takes_the_time() -> None:
    work = work_of(Service(), n=10, requests_per_minute=1000, tokens_per_minute=1000)
    found = work.estimate(work.units)
    assert found.minutes == pytest.approx(found.input_tokens / 1000)


def test_lanes_share_the_work_and_one_without_limit_leaves_it_open() -> None:
    work = work_of(Service(), n=60)
    limits = [LaneLimits(requests_per_minute=10, requests_per_day=20), LaneLimits(requests_per_minute=20)]
    work.lanes = [Lane(Service(), limit, f"-{i}") for i, limit in enumerate(limits)]
    found = work.estimate(work.units)
    assert (found.minutes, found.days) == (2.0, 0)


def test_replies_that_are_there_beat_rules_of_thumb() -> None:
    work = work_of(Service(), n=10)
    usage = {"input_tokens": 3000, "output_tokens": 400, "thought_tokens": 1600}
    lines = {work.units[i].key: {"outcome": "ok", "replies": [{"usage": usage}]} for i in range(2)}
    found = work.estimate(work.units[2:], lines)
    assert (found.input_tokens, found.output_tokens, found.thought_tokens) == (24000, 3200, 12800)
    assert found.basis == "mean of 2 replies"
    assert found.usd == pytest.approx(8 * (3000 * 0.30 + 2000 * 2.50) / 1e6)
    assert "12,800 thinking" in spelled(found)[0]


def test_a_batch_job_is_priced_as_one_and_takes_no_minutes() -> None:
    work = work_of(Service(batch=True), n=10, requests_per_minute=1)
    now = work_of(Service(), n=10).estimate(work.units)
    found = work.estimate(work.units)
    assert found.usd == pytest.approx(now.usd_batch)
    assert (found.usd_batch, found.minutes) == (None, 0.0)


def test_what_has_no_price_says_so_and_what_is_free_is_free() -> None:
    unknown = work_of(Service("llava-critic-7b")).estimate(work_of(Service("llava-critic-7b")).units)
    assert unknown.usd is None and "price unknown" in spelled(unknown)[1]
    free = TeachWork(prompts=[prompt("Q?")], settings=Teach(), seed=0, read_image=read_image)
    assert free.estimate(free.units).usd == 0.0
    assert spelled(free.estimate(free.units)) == ["1 call, free"]
    assert spelled(Estimate(calls=0, cached=3)) == ["no calls (3 answered already)"]


def test_a_backend_may_know_its_own_price() -> None:
    work = work_of(Priced(), n=10)
    assert work.estimate(work.units).usd == pytest.approx(0.1)
    assert work.estimate(work.units).prices_as_of == ""
