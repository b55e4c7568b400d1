"""The annotator `local_ray`: the same judge in two workers of a real Ray on this machine."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from annotators import run_work
from small_judge import pictures, request, save_rubric, save_small_judge
from tiny_llava import ask_about

from align.models.annotator import LocalAnnotator
from align.models.annotator_ray import RayAnnotator, by_length
from align.models.ray_job import JudgeWorker, Starts
from align.settings import Annotate
from annotate.backends.registry import make_annotator
from annotate.errors import UserError
from annotate.protocol import Outcome, Reply, Request
from annotate.records import Completion, Image
from annotate.run import AnnotateWork

if find_spec("ray") is None:
    pytest.skip("needs ray", allow_module_level=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    save_rubric(root)
    save_small_judge(root / "judge")
    return root


@pytest.fixture(scope="module")
def seen(home: Path) -> list[tuple[Image, bytes]]:
    return pictures(home, 4)


@pytest.fixture(scope="module")
def requests(home: Path, seen: list[tuple[Image, bytes]]) -> list[Request]:
    """Twenty-four with pictures and four without, of many lengths."""
    rubric = home / "small.md"
    texts = [["It is red."] * n for n in (1, 2, 3, 4, 5, 6)]
    shown = [request(rubric, ask_about(i), t, [data], room=24) for t in texts for i, data in seen]
    return shown + [request(rubric, ask_about(), t, room=24) for t in texts[:4]]


# -------------------------------------------------------------------------------------------------- what needs no Ray


def test_a_workers_batch_holds_like_lengths_and_the_longest_go_first(requests: list[Request]) -> None:
    order = by_length(requests)
    assert sorted(order) == list(range(28))
    assert [len(requests[i].images) for i in order] == [1] * 24 + [0] * 4
    with_images = [len(requests[i].completions) for i in order[:24]]
    assert with_images == sorted(with_images, reverse=True)
    assert [len(requests[i].completions) for i in order[24:]] == [4, 3, 2, 1]


def test_few_requests_are_shared_out(home: Path, requests: list[Request]) -> None:
    fleet = RayAnnotator(model=str(home / "judge"), workers=2, batch_size=4)
    assert [len(batch) for batch in fleet.batches(requests)] == [4] * 7
    assert [len(batch) for batch in fleet.batches(requests[:5])] == [3, 2]
    assert fleet.batches(requests[:1]) == [[0]]


def test_it_has_the_options_of_local_and_those_of_a_fleet(home: Path) -> None:
    annotator = make_annotator("local_ray", str(home / "judge"), {"workers": 8, "scaffold": True, "rows_per_job": 100})
    assert isinstance(annotator, RayAnnotator)
    local = LocalAnnotator(model=str(home / "judge"), scaffold=True)
    assert (annotator.model, annotator.traits.decides) == (local.model, local.traits.decides)
    assert annotator.traits.in_flight == 100
    with pytest.raises(UserError, match=r"workers and options\.rows_per_job must be at least 1"):
        RayAnnotator(model=str(home / "judge"), workers=0)
    with pytest.raises(UserError, match=r"options\.batch_size must be at least 1"):
        RayAnnotator(model=str(home / "judge"), batch_size=0)
    with pytest.raises(UserError, match="not on this machine"):
        RayAnnotator(model="nowhere").check()


def test_a_batch_that_kills_its_workers_is_given_up_and_its_rows_asked_one_by_one(
    home: Path, requests: list[Request]
) -> None:
    fleet = RayAnnotator(model=str(home / "judge"), batch_size=2)
    worker = JudgeWorker(fleet.settings, Starts().begin)
    rows = {"batch": [pickle.dumps([(7, requests[0]), (3, requests[1])])]}
    first, second, third = (pickle.loads(worker(rows)["replies"][0]) for _ in range(3))  # as if it had died of it twice
    assert first == second
    assert [i for i, _ in first] == [7, 3]
    assert [(i, reply.outcome) for i, reply in third] == [(7, Outcome.TRANSIENT), (3, Outcome.TRANSIENT)]
    assert third[0][1].detail == "its worker died, more than once"
    fleet.alone |= {requests[0].sha256, requests[1].sha256}
    assert fleet.batches(requests[:4]) == [[2], [3], [0], [1]]


# ------------------------------------------------------------------------------------------------------------ with Ray


def ask(annotator: LocalAnnotator | RayAnnotator, requests: Sequence[Request], workspace: Path) -> list[Reply]:
    async def run() -> list[Reply]:
        annotator.check()
        try:
            await annotator.open(workspace)
            return await asyncio.gather(*(annotator.reply(r) for r in requests))
        finally:
            await annotator.close()

    return asyncio.run(run())


@pytest.mark.slow
def test_two_workers_give_the_replies_of_local(home: Path, requests: list[Request], tmp_path: Path) -> None:
    fleet = RayAnnotator(model=str(home / "judge"), workers=2, batch_size=2)
    replies = ask(fleet, requests, tmp_path)
    assert replies == ask(LocalAnnotator(model=str(home / "judge")), requests, tmp_path)
    assert len({r.text for r in replies}) > 20
    assert len(fleet.answered_by) == 2
    assert sum(fleet.answered_by.values()) == 14
    # it ran apart from this process, and soon all that it started is gone
    assert "ray" not in sys.modules
    until = time.monotonic() + 20
    while any(runs(int(worker.split(":")[1])) for worker in fleet.answered_by):
        assert time.monotonic() < until
        time.sleep(0.2)


def runs(process: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_what_a_dead_worker_had_in_hand_is_done_by_another(home: Path, requests: list[Request], tmp_path: Path) -> None:
    fleet = RayAnnotator(model=str(home / "judge"), workers=2, batch_size=2)

    async def run() -> list[Reply]:
        await fleet.open(tmp_path)
        tasks = [asyncio.create_task(fleet.reply(r)) for r in requests]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        (first, *_) = fleet.answered_by
        os.kill(int(first.split(":")[1]), signal.SIGKILL)
        replies = await asyncio.gather(*tasks)
        await fleet.close()
        return replies

    replies = asyncio.run(run())
    assert replies == ask(LocalAnnotator(model=str(home / "judge")), requests, tmp_path)
    assert len(fleet.answered_by) > 1


@pytest.mark.slow
def test_a_job_that_dies_is_started_anew_and_a_close_in_its_midst_is_quick(
    home: Path, requests: list[Request], tmp_path: Path
) -> None:
    fleet = RayAnnotator(model=str(home / "judge"), workers=1, quiet_ms=50)

    async def run() -> None:
        await fleet.open(tmp_path)
        assert fleet.job is not None
        asked = asyncio.create_task(fleet.reply(requests[0]))
        await asyncio.sleep(0.2)
        fleet.job.kill()
        assert (await asked).outcome is Outcome.TRANSIENT
        assert (await fleet.reply(requests[0])).text
        again = asyncio.create_task(fleet.reply(requests[1]))
        await asyncio.sleep(0.2)
        again.cancel()
        started = time.monotonic()
        await fleet.close()
        assert time.monotonic() - started < 20

    asyncio.run(run())


@pytest.mark.slow
def test_more_workers_than_there_is_room_for_are_refused(home: Path, tmp_path: Path) -> None:
    fleet = RayAnnotator(model=str(home / "judge"), workers=3, cpus_per_worker=0, gpus_per_worker=1000)
    with pytest.raises(UserError, match=r"3 workers with 1000 GPUs each need 3000, and this machine has"):
        ask(fleet, [], tmp_path)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_run_with_the_reason(
    home: Path, seen: list[tuple[Image, bytes]], tmp_path: Path
) -> None:
    model = save_small_judge(tmp_path / "judge")
    prompts = [ask_about(image) for image, _ in seen]
    work = AnnotateWork(
        prompts=prompts,
        completions=[Completion.of(prompt_id=p.id, model="vlm", index=0, text="x") for p in prompts],
        settings=Annotate(
            backend="local_ray", model=str(model), rubric=str(home / "small.md"), options={"quiet_ms": 50}
        ),
        seed=0,
        read_image=lambda image: (home / image.path).read_bytes(),
    )
    (model / "generation_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"refuses every request: worker .*: its files have changed"):
        run_work(work, tmp_path)
