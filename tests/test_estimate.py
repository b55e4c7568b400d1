"""The arithmetic of an estimate, number by number, and its lines on the terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from annotators import prompt

from annotate.estimate import estimate_calls, spelled
from annotate.lanes import Lane, LaneLimits
from annotate.prompting import render_question
from annotate.protocol import Outcome, Reply, Request, Traits
from annotate.stage import Estimate


class Service:
    """Says nothing; what it is like is in its traits."""

    def __init__(self, paid: bool = True, **traits: Any) -> None:
        self.paid, self.model, self.traits = paid, "judge", Traits(**traits)

    async def reply(self, request: Request) -> Reply:
        return Reply(outcome=Outcome.OK)


def dollars(usage: Mapping[str, int], batch: bool) -> float:
    """1 a million in, 10 a million out; half of it in a batch."""
    out = usage["output_tokens"] + usage["thought_tokens"]
    return (usage["input_tokens"] * 1 + out * 10) / 1e6 * (0.5 if batch else 1.0)


def asked(n: int, image: bool = True) -> list[Request]:
    """Questions of 400 letters, the line break below the image being one: 100 tokens each, beside the image."""
    question = prompt("q" * (400 - image), image=image)
    return [render_question(question, backend="b", model="m", decoding={}, images=()) for _ in range(n)]


def estimate(requests: list[Request], *lanes: Lane, **changes: Any) -> Estimate:
    options: dict[str, Any] = {
        "written": 50,
        "lines": {},
        "cost_of": dollars,
        "cached": 0,
        "prices_as_of": "2026-10-07",
    }
    return estimate_calls(requests, lanes=lanes or (lane(),), **{**options, **changes})


def lane(service: Service | None = None, **limits: Any) -> Lane:
    return Lane(service or Service(), LaneLimits(**limits), "")


def replied(*usages: dict[str, int]) -> dict[str, Any]:
    """The line of a call that got these replies."""
    return {"outcome": "ok", "replies": [{"text": "...", "usage": usage} for usage in usages]}


def test_by_rule_of_thumb() -> None:
    requests = asked(10, image=False)
    found = estimate(requests)
    assert (found.calls, found.input_tokens, found.image_tokens, found.output_tokens) == (10, 1000, 0, 500)
    assert (found.usd, found.usd_batch) == (pytest.approx(0.006), pytest.approx(0.003))  # 1000 x 1 + 500 x 10
    assert (found.basis, found.prices_as_of, found.paid) == ("rule of thumb", "2026-10-07", True)


def test_images_count_as_the_backend_says() -> None:
    found = estimate(asked(10), lane(Service(image_tokens=765)))
    assert (found.image_tokens, found.input_tokens) == (7650, 7650 + 1000)


@pytest.mark.parametrize(("room", "thought"), [(0, 0), (512, 5120), (8192, 15_000)])
def test_thoughts_cost_as_well_as_far_as_their_budget_goes(room: int, thought: int) -> None:
    found = estimate(asked(10, image=False), lane(Service(thinking_room=room)))
    assert found.thought_tokens == thought
    assert found.usd == pytest.approx((1000 + 10 * (500 + thought)) / 1e6)


def test_earlier_replies_beat_rules_of_thumb() -> None:
    lines = {
        "a": replied({"input_tokens": 3000, "output_tokens": 300, "thought_tokens": 900}),
        # Asked twice, for the first reply could not be read: both were paid for.
        "b": replied({"input_tokens": 3000, "output_tokens": 100}, {"input_tokens": 3000, "output_tokens": 500}),
        "c": replied({}),
        "d": {"outcome": "row_fatal", "replies": []},
    }
    found = estimate(asked(4), lines=lines)
    assert (found.input_tokens, found.output_tokens, found.thought_tokens) == (18_000, 1800, 1800)
    assert found.basis == "mean of 2 replies"
    assert found.usd == pytest.approx(
        4 * dollars({"input_tokens": 4500, "output_tokens": 450, "thought_tokens": 450}, False)
    )


def test_a_long_request_costs_what_one_costs_and_not_what_all_of_them_together_would() -> None:
    def tiered(usage: Mapping[str, int], batch: bool) -> float:
        return usage["input_tokens"] / 1e6 * (2 if usage["input_tokens"] > 200_000 else 1)

    lines = {"a": replied({"input_tokens": 150_000})}
    assert estimate(asked(10), lines=lines, cost_of=tiered).usd == pytest.approx(1.5)


def test_the_slower_of_the_limits_decides_over_all_lanes() -> None:
    requests = asked(100, image=False)  # 10,000 tokens
    assert estimate(requests, lane(requests_per_minute=10)).minutes == 10
    assert estimate(requests, lane(requests_per_minute=10, tokens_per_minute=500)).minutes == 20
    both = lane(requests_per_minute=10), lane(requests_per_minute=30)
    assert estimate(requests, *both).minutes == 2.5
    assert estimate(requests, lane(requests_per_minute=10), lane()).minutes == 0  # one lane may be as fast as it likes


def test_a_daily_limit_makes_days() -> None:
    requests = asked(6000, image=False)
    assert (estimate(requests, lane(requests_per_day=250)).days, estimate(requests).days) == (24, 0)
    two = estimate(requests, lane(requests_per_day=250), lane(requests_per_day=1750))
    assert (two.days, two.requests_per_day) == (3, 2000)


def test_a_batch_job_has_its_own_price_and_no_pace() -> None:
    found = estimate(asked(10, image=False), lane(Service(batch=True), requests_per_minute=1, requests_per_day=1))
    assert (found.usd, found.usd_batch, found.minutes, found.days) == (pytest.approx(0.003), None, 0, 0)


def test_without_a_price_there_are_no_dollars_and_without_a_bill_they_are_none() -> None:
    unpriced = estimate(asked(10), cost_of=lambda usage, batch: None)
    assert (unpriced.usd, unpriced.usd_batch) == (None, None)
    free = estimate(asked(10), lane(Service(paid=False)))
    assert (free.usd, free.usd_batch, free.prices_as_of) == (0.0, None, "")


def test_nothing_to_ask() -> None:
    found = estimate([], cached=7)
    assert (found.calls, found.cached, found.usd, found.input_tokens) == (0, 7, 0.0, 0)


# ----------------------------------------------------------------------------------------------------------- the lines


def test_a_paid_estimate_in_full() -> None:
    limits = {"requests_per_minute": 15, "requests_per_day": 250}
    found = estimate(asked(6000), lane(Service(thinking_room=1024), **limits), cached=20)
    assert spelled(found) == [
        "6000 calls, 20 answered already; about 2,148,000 input tokens (1,548,000 of them images), 300,000 output, "
        "6,144,000 thinking (by rule of thumb)",
        "about $66.59, $33.29 as a batch (prices of 2026-10-07)",
        "at least 6 h 40 min at the limits you set",
        "24 days at 250 requests a day",
    ]


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (Estimate(), ["no calls"]),
        (Estimate(cached=3), ["no calls (3 answered already)"]),
        (Estimate(output_tokens=64_000), ["no calls; up to 64,000 tokens are written here"]),  # sampling
        (Estimate(calls=1), ["1 call, free"]),
        (
            Estimate(calls=12, cached=6, minutes=2.2),
            ["12 calls, 6 answered already, free", "at least 3 min at the limits you set"],
        ),
        (
            Estimate(calls=2, paid=True, usd=None, input_tokens=10, output_tokens=20),
            [
                "2 calls; about 10 input tokens, 20 output",
                "price unknown: give a table with `prices:`, see annotate/prices.yaml",
            ],
        ),
    ],
)
def test_shorter_estimates(found: Estimate, lines: list[str]) -> None:
    assert spelled(found) == lines


def test_estimating_asks_for_no_library() -> None:
    code = "import annotate.estimate, sys; sys.exit(bool({'yaml', 'asyncio', 'tenacity'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
