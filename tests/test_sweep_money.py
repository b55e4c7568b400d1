"""A sweep with an annotator that has a price: nothing is paid for unasked, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import service_run
from loopback import Config, Service, serve

from align.console import Console
from align.sweep.run import make_plan, run_sweep
from annotate.errors import UserError


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serve(Config(wires=("openai",), key=service_run.KEY)) as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", service_run.KEY)


def sweep(recipe: Path, *changes: str, yes: bool = False) -> dict[str, tuple[int, str]]:
    plan = make_plan(recipe, [f"runs={recipe.parent / 'runs'}", *changes])
    return {name: (o.exit_code, o.why) for name, o in run_sweep(plan, Console(quiet=True), yes=yes).items()}


def calls(service: Service) -> int:
    """How often the service was called since its last reset."""
    return len(service.stats()["arrivals"])


def made(folder: Path, service: Service, **annotate: float) -> Path:
    questions = [f"What stands on table {i}?" for i in range(5)]
    return service_run.make(folder, questions, url=f"{service.url}/v1", backend="openai_chat", **annotate)


def test_a_point_that_would_spend_stops_first_whatever_the_budget(tmp_path: Path, service: Service) -> None:
    """Three points with a budget of one dollar each are no consent to three dollars."""
    service.reset(Config(wires=("openai",), key=service_run.KEY))
    recipe = made(tmp_path, service, budget_usd=1)
    found = sweep(recipe, "sweep.annotate.passes=[1, 2]")
    assert {code for code, _ in found.values()} == {2} and calls(service) == 0
    (one, two) = (why for _, why in found.values())
    assert one.startswith(f"annotate would spend money in {tmp_path}/runs/service/sweep/passes-1: 5 calls")
    assert one.endswith("Add --yes to go on; a budget_usd then holds for each run, not for all of them")
    assert "10 calls" in two


def test_what_all_points_share_is_asked_for_as_ever(tmp_path: Path, service: Service) -> None:
    service.reset(Config(wires=("openai",), key=service_run.KEY))
    recipe = made(tmp_path, service)
    pairs = ("pairs={}", "sweep.pairs.flip=[0, 1]")
    with pytest.raises(UserError, match=r"annotate would spend money: 5 calls.* Say `align annotate"):
        sweep(recipe, *pairs)
    assert calls(service) == 0
    assert sweep(recipe, *pairs, yes=True) == {"flip-0": (0, ""), "flip-1": (0, "")}
    assert calls(service) == 5


def test_a_reply_is_bought_once_for_all_points(tmp_path: Path, service: Service) -> None:
    service.reset(Config(wires=("openai",), key=service_run.KEY))
    recipe = made(tmp_path, service)
    points = {"passes-1": (0, ""), "passes-2": (0, "")}
    assert sweep(recipe, "sweep.annotate.passes=[1, 2]", yes=True) == points
    assert calls(service) == 10  # five for the first point, five more for the second pass
    assert sweep(recipe, "sweep.annotate.passes=[1, 2]") == points  # all there: nothing to pay, no yes needed
    assert calls(service) == 10
