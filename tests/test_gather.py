"""Between coroutines that ask and the one thread that answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_judge import request, save_rubric
from tiny_llava import ask_about

from align.models.gather import Gather
from align.models.judge import Say
from annotate.protocol import Outcome, Reply, Request


@pytest.fixture
def requests(tmp_path: Path) -> list[Request]:
    rubric = save_rubric(tmp_path)
    return [request(rubric, ask_about(text=f"Question {i}"), ["x"]) for i in range(8)]


def said(text: str) -> Reply:
    return Reply(outcome=Outcome.OK, text=text)


def number(asked: Request) -> str:
    return asked.prompt.turns[-1].text.split()[-1]


def test_what_waits_together_goes_together_and_each_gets_its_own_answer(requests: list[Request]) -> None:
    rounds: list[list[str]] = []

    def serve(asked: Sequence[Request], say: Say) -> None:
        rounds.append([number(r) for r in asked])
        time.sleep(0.05)
        for i in reversed(range(len(asked))):
            say(i, said(number(asked[i])))

    async def run() -> list[str]:
        gather = Gather(serve, most=4, quiet_ms=20)
        first = [asyncio.create_task(gather.reply(r)) for r in requests[:3]]
        await asyncio.sleep(0.04)  # the first round is under way; what comes now waits for the next
        replies = await asyncio.gather(*first, *(gather.reply(r) for r in requests[3:]))
        await gather.close()
        return [reply.text for reply in replies]

    assert asyncio.run(run()) == list("01234567")
    assert rounds == [list("012"), list("34567")]


def test_an_answer_arrives_before_its_round_is_over(requests: list[Request]) -> None:
    def serve(asked: Sequence[Request], say: Say) -> None:
        say(0, said("early"))
        time.sleep(0.3)
        say(1, said("late"))

    async def run() -> tuple[float, float]:
        gather = Gather(serve, most=2, quiet_ms=20)
        started = time.monotonic()

        async def seconds(asked: Request) -> float:
            await gather.reply(asked)
            return time.monotonic() - started

        early, late = await asyncio.gather(*(seconds(r) for r in requests[:2]))
        await gather.close()
        return early, late

    early, late = asyncio.run(run())
    assert early < 0.2 < late


def test_what_is_left_unanswered_is_asked_again_and_an_error_is_told_to_all(requests: list[Request]) -> None:
    def forgets(asked: Sequence[Request], say: Say) -> None:
        say(1, said("second"))

    def breaks(asked: Sequence[Request], say: Say) -> None:
        raise ZeroDivisionError("a fault")

    async def run() -> None:
        forgetful, broken = (Gather(serve, most=2, quiet_ms=5) for serve in (forgets, breaks))
        replies = await asyncio.gather(*(forgetful.reply(r) for r in requests[:2]))
        assert [r.outcome for r in replies] == [Outcome.TRANSIENT, Outcome.OK]
        errors = await asyncio.gather(*(broken.reply(r) for r in requests[:2]), return_exceptions=True)
        assert [type(e) for e in errors] == [ZeroDivisionError, ZeroDivisionError]
        # the next round is another chance
        assert isinstance((await asyncio.gather(broken.reply(requests[2]), return_exceptions=True))[0], Exception)
        await forgetful.close()
        await broken.close()

    asyncio.run(run())


def test_closing_stops_the_thread_and_leaves_nobody_behind(requests: list[Request]) -> None:
    def serve(asked: Sequence[Request], say: Say) -> None:
        gather.stopped.wait(10)

    gather = Gather(serve, most=2, quiet_ms=5)

    async def run() -> None:
        task = asyncio.create_task(gather.reply(requests[0]))
        await asyncio.sleep(0.1)
        task.cancel()
        started = time.monotonic()
        await gather.close()
        assert time.monotonic() - started < 1
        assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task() and t is not task] == []

    asyncio.run(run())
