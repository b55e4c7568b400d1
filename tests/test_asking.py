"""A run of many requests: who goes first, by which key, what a day's quota, an outage and a kill cost."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from annotators import HASTE, Listed, answers, prompt, quiet, read_image, run_work

from align.settings import Annotate, Checks
from annotate.checks import plan_checks
from annotate.errors import Stopped, UserError
from annotate.journal import Journal, read_journal
from annotate.keys import read_key
from annotate.lanes import Lane, LaneLimits, make_lanes
from annotate.limits import Patience
from annotate.prompting import Rated, write_reply
from annotate.protocol import Annotator, Outcome, Reply, Request, Traits
from annotate.records import Completion, Image, Prompt, Reason, Turn
from annotate.run import AnnotateWork

FULL = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 4, "verbosity": 4}
BUSY = Reply(outcome=Outcome.RATE_MINUTE, retry_after=0.01)
DOWN = Reply(outcome=Outcome.TRANSIENT, detail="503")


def fine(request: Request, **rest: Any) -> Reply:
    return Reply(outcome=Outcome.OK, text=write_reply("", [Rated(scores=FULL)] * len(request.completions)), **rest)


def asked(n: int) -> tuple[list[Prompt], list[Completion]]:
    prompts = [prompt(f"Question {i}?") for i in range(n)]
    return prompts, [c for p in prompts for c in answers(p, "It is red.")]


def work_of(n: int, annotator: Annotator | None, patience: Patience = HASTE, **settings: Any) -> AnnotateWork:
    prompts, completions = asked(n)
    return AnnotateWork(
        prompts=prompts,
        completions=completions,
        settings=Annotate(**settings),
        seed=0,
        read_image=read_image,
        annotator=annotator,
        patience=patience,
    )


def question(request: Request) -> int:
    return int(request.prompt.turns[0].text.split()[1].rstrip("?"))


class Service:
    """Answers after a moment; `says` may answer otherwise. Remembers who came when."""

    model = "service"

    def __init__(self, *, seconds: float = 0.0, paid: bool = False, **traits: Any) -> None:
        self.paid, self.seconds, self.traits = paid, seconds, Traits(**{"paced": False, **traits})
        self.came: list[int] = []
        self.now = self.most = 0

    def says(self, request: Request) -> Reply | None:
        return None

    def cost_usd(self, usage: Any) -> float:
        return 0.01

    async def reply(self, request: Request) -> Reply:
        self.came.append(question(request))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1
        return self.says(request) or fine(request)


# ----------------------------------------------------------------------------------------------------------- the queue


def test_what_was_sent_before_goes_before_what_is_new(tmp_path: Path) -> None:
    class Hiccup(Service):
        def says(self, request: Request) -> Reply | None:
            return DOWN if self.came.count(question(request)) == 1 and question(request) == 0 else None

    service = Hiccup()
    run_work(work_of(6, service, workers=1), tmp_path)
    assert service.came == [0, 0, 1, 2, 3, 4, 5]


def test_nobody_waits_for_the_slow(tmp_path: Path) -> None:
    class OneSlow(Service):
        async def reply(self, request: Request) -> Reply:
            if question(request) == 0:
                await asyncio.sleep(0.2)
                self.came.append(-1)
                return fine(request)
            return await super().reply(request)

    service = OneSlow()
    run_work(work_of(30, service, workers=3), tmp_path)
    assert service.came[-1] == -1 and len(service.came) == 30


@pytest.mark.parametrize(("traits", "workers", "most"), [({"in_flight": 5}, None, 5), ({}, 7, 7), ({}, None, 40)])
def test_requests_in_flight_are_bounded(tmp_path: Path, traits: Any, workers: int | None, most: int) -> None:
    service = Service(seconds=0.4, **traits)
    _, compiled = run_work(work_of(40, service, workers=workers), tmp_path)
    assert (service.most, compiled.outputs) == (most, 40)


def test_a_batch_backend_gets_everything_at_once(tmp_path: Path) -> None:
    service = Service(seconds=3.0, batch=True, paced=True)
    run_work(work_of(1200, service), tmp_path)
    assert service.most > 1000


def test_rejections_use_up_no_attempt_and_lose_no_row(tmp_path: Path) -> None:
    class Bucket(Service):
        """Lets ten in, and after that one every ten milliseconds."""

        level, at = 10.0, 0.0

        def says(self, request: Request) -> Reply | None:
            now = asyncio.get_running_loop().time()
            self.level, self.at = min(10.0, self.level + 100 * (now - self.at)), now
            if self.level < 1:
                return BUSY
            self.level -= 1
            return None

    service = Bucket()
    lines, compiled = run_work(work_of(60, service), tmp_path)
    assert compiled.outputs == 60
    assert Counter(line["attempts"] for line in lines.values()) == {1: 60}
    assert len(service.came) > 60


# ------------------------------------------------------------------------------------------------------ several keys


def with_lanes(work: AnnotateWork, *services: Service, limits: Sequence[LaneLimits] = ()) -> AnnotateWork:
    chosen = limits or [LaneLimits()] * len(services)
    work.lanes = [Lane(s, limit, f"-{i}") for i, (s, limit) in enumerate(zip(services, chosen, strict=True))]
    return work


def test_several_lanes_share_the_work_each_at_its_own_pace(tmp_path: Path) -> None:
    slow, fast = Service(seconds=0.01), Service(seconds=0.01)
    limits = [LaneLimits(requests_per_minute=600), LaneLimits(requests_per_minute=6000)]
    work = with_lanes(work_of(120, slow), slow, fast, limits=limits)
    _, compiled = run_work(work, tmp_path)
    assert compiled.outputs == 120
    assert sorted(slow.came + fast.came) == list(range(120))
    assert len(fast.came) > 3 * len(slow.came) > 0


def test_lanes_are_made_of_options_and_must_reply_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no option 'modle'"):
        make_lanes(Annotate(backend="rules", lanes=({"modle": "rules-1"},)))
    two = Annotate(backend="replay", options={}, lanes=({"file": "a.jsonl"}, {"file": "b.jsonl"}))
    for name in ("a", "b"):
        Path(f"{name}.jsonl").write_text(f'{{"prompt_id": "{name}", "text": "x"}}\n')
    with pytest.raises(UserError, match="lane 2 would not reply as lane 1 does"):
        make_lanes(two)
    with pytest.raises(UserError, match="lane 2 is the same as an earlier one"):
        make_lanes(replace(two, lanes=({"file": "a.jsonl"}, {"file": "a.jsonl"})))
    with pytest.raises(UserError, match="requests_per_day must be a number above 0"):
        make_lanes(replace(two, lanes=({"file": "a.jsonl", "requests_per_day": 0},)))


# --------------------------------------------------------------------------------------------------------- the day


def test_a_declared_day_stops_the_run_and_counts_over_runs(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}
    service = Service()
    work = work_of(10, service, requests_per_day=4)
    for sent in (4, 4):
        pending = [unit for unit in work.units if unit.key not in kept]
        with pytest.raises(Stopped, match=r"requests_per_day 4.*come back in .*4 of 10|come back in .*0 of 6"):
            work.execute(pending, kept.__setitem__, tmp_path, quiet)
        assert len(service.came) == len(kept) == sent
    again = work_of(10, service)
    again.execute([u for u in again.units if u.key not in kept], kept.__setitem__, tmp_path, quiet)
    assert sorted(service.came) == list(range(10))


def test_the_day_of_one_key_is_not_that_of_another(tmp_path: Path) -> None:
    one, two = Service(seconds=0.001), Service(seconds=0.001)
    limits = [LaneLimits(requests_per_day=3), LaneLimits()]
    _, compiled = run_work(with_lanes(work_of(20, one), one, two, limits=limits), tmp_path)
    assert (len(one.came), len(two.came), compiled.outputs) == (3, 17, 20)


def test_a_service_says_that_its_day_is_over(tmp_path: Path) -> None:
    class Quota(Service):
        over = True

        def says(self, request: Request) -> Reply | None:
            if len(self.came) > 5 and self.over:
                return Reply(outcome=Outcome.QUOTA_DAY, detail="250 requests per day", retry_after=0.3)
            return None

    service = Quota()
    with pytest.raises(Stopped, match=r"250 requests per day.*come back in 0 s.*--wait-quota.*5 of 10"):
        run_work(work_of(10, service, workers=1), tmp_path)
    assert service.came == [0, 1, 2, 3, 4, 5]

    class Waits(Quota):
        def says(self, request: Request) -> Reply | None:
            if len(self.came) > 5 and self.over:
                self.over = False
                return Reply(outcome=Outcome.QUOTA_DAY, retry_after=0.3)
            return None

    patient = Waits()
    _, compiled = run_work(work_of(10, patient, workers=1, wait_quota=True), tmp_path / "waits")
    assert compiled.outputs == 10
    assert patient.came == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9]


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_a_service_that_is_down_is_waited_for_and_costs_no_row(tmp_path: Path) -> None:
    class Outage(Service):
        since: float | None = None

        def says(self, request: Request) -> Reply | None:
            now = time.monotonic()
            if len(self.came) > 20 and self.since is None:
                self.since = now
            return DOWN if self.since is not None and now - self.since < 0.4 else None

    patience = Patience(first_seconds=0.02, longest_seconds=0.1, attempts=2)
    _, compiled = run_work(work_of(60, Outage(), patience, workers=10), tmp_path)
    # Two errors end a row; but when all rows meet errors, none ends after the first few.
    assert compiled.outputs >= 60 - patience.errors

    class Gone(Service):
        def says(self, request: Request) -> Reply | None:
            return DOWN

    with pytest.raises(Stopped, match=r"nothing but errors \(503\)"):
        run_work(work_of(60, Gone(), replace(patience, outages=3), workers=30), tmp_path / "gone")
    with pytest.raises(Stopped, match=r"nothing but errors \(503\)"):  # also where all rows are under way at once
        run_work(work_of(12, Gone(), replace(patience, outages=3, attempts=6)), tmp_path / "few")


def test_twenty_refusals_in_a_row_stop_the_run(tmp_path: Path) -> None:
    class Refuses(Service):
        def says(self, request: Request) -> Reply | None:
            return Reply(outcome=Outcome.ROW_FATAL, detail="400 unknown field") if question(request) > 3 else None

    service = Refuses(paid=True)
    with pytest.raises(UserError, match=r"20 requests in a row were refused.*400 unknown field.*--retry-failed"):
        run_work(work_of(100, service, workers=1), tmp_path)
    assert len(service.came) in (24, 25)  # one may be under way while the twentieth is written down


def test_a_reply_that_is_cut_off_is_asked_once_more_with_twice_the_room(tmp_path: Path) -> None:
    class Short(Service):
        rooms: list[int]

        async def reply(self, request: Request) -> Reply:
            self.rooms = [*getattr(self, "rooms", []), request.decoding["max_output_tokens"]]
            whole = fine(request).text
            if request.decoding["max_output_tokens"] < self.needs:
                cut = Reply(outcome=Outcome.ROW_FATAL, reason=Reason.CUT_OFF, text=whole[:40], finish="MAX_TOKENS")
                return replace(cut, usage={"output_tokens": 7})
            return Reply(outcome=Outcome.OK, text=whole)

        needs = 150

    service = Short()
    lines, compiled = run_work(work_of(1, service, max_output_tokens=100), tmp_path)
    assert (service.rooms, compiled.outputs) == ([100, 200], 1)
    (line,) = lines.values()
    assert [r["finish"] for r in line["replies"]] == ["MAX_TOKENS", ""]  # what was paid for is kept
    service = Short()
    service.needs = 999
    _, compiled = run_work(work_of(1, service, max_output_tokens=100), tmp_path / "never")
    assert service.rooms == [100, 200]
    assert compiled.files["failures.jsonl"][0].reason is Reason.CUT_OFF


def test_an_unreadable_reply_is_not_bought_again_after_a_kill(tmp_path: Path) -> None:
    nonsense = Reply(outcome=Outcome.OK, text="I would rather not.")
    killed = Listed(nonsense, nonsense, KeyError("the process ends here"))
    with pytest.raises(KeyError):
        run_work(work_of(1, killed), tmp_path)
    again = Listed()
    lines, compiled = run_work(work_of(1, again), tmp_path)
    assert (len(again.requests), compiled.outputs) == (1, 1)
    (line,) = lines.values()
    assert [r["text"] for r in line["replies"]][:2] == [nonsense.text] * 2


def test_what_was_unreadable_is_asked_for_under_a_new_key(tmp_path: Path) -> None:
    """By --retry-failed; under the old keys a batch service would hand out the same replies again."""
    nonsense = Reply(outcome=Outcome.OK, text="I would rather not.")
    lines, _ = run_work(work_of(1, Listed(*[nonsense] * 3)), tmp_path)
    (line,) = lines.values()
    assert line["outcome"] == "unreadable" and len(line["replies"]) == 3
    fresh = Listed(nonsense)
    lines, compiled = run_work(work_of(1, fresh), tmp_path)
    assert compiled.outputs == 1 and len(fresh.requests) == 2
    asked_before = {reply["request_sha256"] for reply in line["replies"]}
    assert not asked_before & {request.sha256 for request in fresh.requests}


def test_a_budget_holds_also_for_many_at_once(tmp_path: Path) -> None:
    service = Service(seconds=0.02, paid=True)
    with pytest.raises(Stopped, match=r"budget_usd \$0\.25 is reached: \$0\.25 are spent"):
        run_work(work_of(100, service, budget_usd=0.25), tmp_path)
    assert len(service.came) == 25


def test_a_budget_does_not_end_a_run_that_only_might_cost_too_much(tmp_path: Path) -> None:
    """Ten at ten cents each may be under way at once; each costs one, so that all hundred go."""

    class Cheap(Service):
        def cost_usd(self, usage: Any) -> float:
            return 0.1 if usage.get("output_tokens", 0) > 10 else 0.01

    service = Cheap(seconds=0.005, paid=True)
    _, compiled = run_work(work_of(100, service, budget_usd=1.5), tmp_path)
    assert (compiled.outputs, round(compiled.cost_usd, 2)) == (100, 1.0)
    assert service.most <= 15


def test_a_key_in_a_reply_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", "abc-123-secret")
    read_key("SERVICE_KEY")
    leaky = Listed(
        Reply(outcome=Outcome.OK, text="key abc-123-secret is fine"),
        Reply(outcome=Outcome.ROW_FATAL, detail="key abc-123-secret is not allowed"),
    )
    lines, compiled = run_work(work_of(1, leaky), tmp_path)
    assert "abc-123-secret" not in str(lines) + str(compiled.files)
    assert "[key]" in str(lines)
    assert all(b"abc-123-secret" not in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())


# ----------------------------------------------------------------------------------------------- orders and checks


def test_the_order_of_the_prompt_file_buys_nothing_anew(tmp_path: Path) -> None:
    prompts = [prompt(f"Question {i}?") for i in range(8)]
    said = {p.id: answers(p, "a", "b", "c", "d") for p in prompts}

    def work(these: Sequence[Prompt], annotator: Annotator) -> AnnotateWork:
        completions = [c for p in these for c in said[p.id]]
        return AnnotateWork(
            prompts=these,
            completions=completions,
            settings=Annotate(),
            seed=0,
            read_image=read_image,
            annotator=annotator,
        )

    lines, _ = run_work(work(prompts[:6], Listed()), tmp_path)
    other = Listed()
    turned = work([prompts[7], *prompts[5::-1], prompts[6]], other)
    pending = [unit for unit in turned.units if unit.key not in lines]
    assert len(pending) == 2  # the new ones
    turned.execute(pending, lines.__setitem__, tmp_path, quiet)
    for record in turned.compile(lines, tmp_path).files["annotated.jsonl"]:
        (annotation,) = record.annotations
        assert list(annotation.shown_order) == lines[key_of(turned, record.prompt)]["shown"]


def key_of(work: AnnotateWork, of: Prompt) -> str:
    return next(unit.key for unit in work.units if unit.payload.prompt == of)


def test_checks_are_asked_besides_and_kept_apart(tmp_path: Path) -> None:
    prompts = [prompt(f"Question {i}?", image=True) for i in range(4)]
    completions = [c for p in prompts for c in answers(p, "It is red.", "It is blue.")]

    def work(**checks: int) -> AnnotateWork:
        return AnnotateWork(
            prompts=prompts,
            completions=completions,
            settings=Annotate(checks=Checks(**checks)),
            seed=0,
            read_image=read_image,
        )

    lines, compiled = run_work(work(duplicate=2, blind=3, wrong_image=2), tmp_path)
    kinds = Counter(check["kind"] for check in compiled.files["checks.jsonl"])
    assert kinds == {"duplicate": 2, "blind": 3}  # all prompts show the same image: no other to be shown
    for check in compiled.files["checks.jsonl"]:
        assert len(check["shown"]) == len(check["scores"]) == (3 if check["kind"] == "duplicate" else 2)
        by_id = {}
        for completion_id, scores in zip(check["shown"], check["scores"], strict=True):
            assert by_id.setdefault(completion_id, scores) == scores  # `rules` is consistent
    assert len(compiled.files["annotated.jsonl"]) == 4
    assert all(len(record.annotations) == 1 for record in compiled.files["annotated.jsonl"])
    assert compiled.units == compiled.outputs == 9
    more = work(duplicate=3, blind=3)
    assert len([u for u in more.units if u.key not in lines]) == 1  # those asked before are not asked again
    with pytest.raises(UserError, match="mode listwise"):
        AnnotateWork(
            prompts=prompts,
            completions=completions,
            settings=Annotate(mode="pointwise", checks=Checks(duplicate=1)),
            seed=0,
            read_image=read_image,
        )


def test_a_missing_key_is_said_with_the_variable() -> None:
    os.environ.pop("NO_SUCH_KEY", None)
    os.environ["ODD_KEY"] = "put your key here"
    with pytest.raises(UserError, match="ODD_KEY holds no key"):
        read_key("ODD_KEY")
    with pytest.raises(UserError, match="set the environment variable NO_SUCH_KEY"):
        read_key("NO_SUCH_KEY")


def test_half_a_character_from_a_service_stops_nothing(tmp_path: Path) -> None:
    broken = Listed(Reply(outcome=Outcome.OK, text="I would rather not \ud83d."))
    work = work_of(1, broken)
    with Journal(tmp_path / "journal.jsonl") as journal:
        work.execute(work.units, journal.append, tmp_path, quiet)
    (line,) = read_journal(tmp_path / "journal.jsonl").values()
    assert line["replies"][0]["text"] == "I would rather not ?."
    assert line["outcome"] == "ok"


def test_a_lane_that_is_dead_is_left_out(tmp_path: Path) -> None:
    class Dead(Service):
        def says(self, request: Request) -> Reply | None:
            return DOWN

    dead, alive = Dead(), Service(seconds=0.003)
    work = with_lanes(work_of(300, dead, Patience(first_seconds=0.001, longest_seconds=0.002, outages=3)), dead, alive)
    work.lanes[1].most_in_flight = 4
    _, compiled = run_work(work, tmp_path)
    assert compiled.outputs >= 300 - work.patience.errors  # those that met it before it was known to be down


def test_refusals_are_kept_before_they_stop_the_run(tmp_path: Path) -> None:
    class Refuses(Service):
        def says(self, request: Request) -> Reply | None:
            return Reply(outcome=Outcome.ROW_FATAL, detail="SAFETY")

    kept: dict[str, Any] = {}
    service = Refuses(paid=True, seconds=0.05)
    work = work_of(60, service)
    with pytest.raises(UserError, match="20 requests in a row"):
        work.execute(work.units, kept.__setitem__, tmp_path, quiet)
    assert len(kept) == len(service.came) >= 20


def test_a_day_that_cannot_be_counted_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "requests.txt").mkdir()  # nothing can be written there
    with pytest.raises(OSError, match=r"requests\.txt"):
        run_work(work_of(5, Service(), requests_per_day=3), tmp_path)


def test_a_wrong_image_stays_the_same_when_prompts_are_added() -> None:
    def seen(i: int) -> Prompt:
        image = Image(path=f"{i}.png", sha256=f"{i:064d}")
        return Prompt.of((Turn(role="user", text=f"<image>\nQuestion {i}?", images=(image,)),))

    def drawn(n: int) -> dict[str, str]:
        prompts = [seen(i) for i in range(n)]
        said = {p.id: tuple(answers(p, "a", "b")) for p in prompts}
        checks = plan_checks(prompts, said, Checks(wrong_image=n), mode="listwise", seed=0)
        assert all(check.prompt.images[0].sha256 != check.of.images[0].sha256 for check in checks)
        return {check.of.id: check.prompt.images[0].sha256 for check in checks}

    before, after = drawn(20), drawn(22)
    assert sum(after[prompt_id] != sha256 for prompt_id, sha256 in before.items()) <= 6
