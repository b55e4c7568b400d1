"""A sweep with real trainings and evaluations on a tiny LLaVA: what is shared, what is concluded, what is drawn."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sweep_world
from tiny_llava import ask_about, pair

from align.console import Console
from align.evaluate.models import contestants
from align.recipe import load_recipe
from align.report.sweep import conclusions, render_page, render_text
from align.runner import Runner
from align.stages import STAGES
from align.sweep.run import Plan, make_plan, run_sweep
from align.sweep.table import csv_text, sweep_table
from annotate.errors import UserError
from annotate.journal import read_journal
from annotate.jsonl import dump_line, read_records
from annotate.records import Item, Metric, PreferencePair

pytest.importorskip("torch")
AXES = ("sweep.dpo.trl.beta=[0.1, 0.5]", "sweep.pairs.fraction=[0, 0.5, 1]", "sweep.select=text_instructions")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep_world.make(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def swept(recipe: Path) -> tuple[Plan, dict[str, Any]]:
    plan = make_plan(recipe, [f"runs={recipe.parent / 'runs'}", *AXES])
    outcomes = run_sweep(plan, Console(quiet=True))
    assert {outcome.why for outcome in outcomes.values()} == {""}
    return plan, sweep_table(plan, outcomes)


def point(plan: Plan, name: str, stage: str) -> Path:
    return plan.folder / name / stage


def items(folder: Path) -> dict[tuple[str, str, str], str]:
    return {(i.model, i.suite, i.id): i.output for i in read_records(folder / "items.jsonl", Item)}


def test_each_training_is_made_once(swept: tuple[Plan, dict[str, Any]]) -> None:
    """SteerLM knows no beta: its adapters are the same files. Fraction 0 trains nothing."""
    plan, _ = swept
    weights = "adapter/adapter_model.safetensors"
    for fraction in ("0.5", "1"):
        one, other = (point(plan, f"beta-{beta}_fraction-{fraction}", "steerlm") / weights for beta in (0.1, 0.5))
        assert one.stat().st_ino == other.stat().st_ino
        one, other = (point(plan, f"beta-{beta}_fraction-{fraction}", "dpo") / weights for beta in (0.1, 0.5))
        assert one.read_bytes() != other.read_bytes()
    assert not point(plan, "beta-0.1_fraction-0", "dpo").exists()
    assert not (plan.recipe.folder / "dpo").exists()


def test_subsets_are_nested_for_every_method(swept: tuple[Plan, dict[str, Any]]) -> None:
    plan, table = swept
    half, whole = (
        [p.prompt.id for p in read_records(point(plan, name, "pairs") / "preference.jsonl", PreferencePair)]
        for name in ("beta-0.1_fraction-0.5", "beta-0.1_fraction-1")
    )
    assert 0 < len(half) < len(whole) and set(half) < set(whole)
    trained = {row["point"]: row["training"] for row in table["points"]}
    assert trained["beta-0.1_fraction-0.5"]["dpo"]["rows"] == len(half)
    assert trained["beta-0.1_fraction-0.5"]["steerlm"]["rows"] == 2 * len(half)  # both rated answers of a prompt
    assert trained["beta-0.1_fraction-0"] == {}


def test_the_untouched_model_is_asked_once(swept: tuple[Plan, dict[str, Any]]) -> None:
    """Its answers, the backbone's and SteerLM's stand in the journals of other points."""
    plan, _ = swept
    last = point(plan, "beta-0.5_fraction-1", "evaluate")
    own = read_journal(last / "journal.jsonl").items()
    others = [
        read_journal(point(plan, run.point.name, "evaluate") / "journal.jsonl").items()
        for run in plan.runs
        if run.point.name != "beta-0.5_fraction-1"
    ]
    new = [line for line in own if not any(line in other for other in others)]
    assert len(new) == 2  # two suites, answered by this point's DPO
    first = items(point(plan, "beta-0.1_fraction-1", "evaluate"))
    assert all(first[key] == output for key, output in items(last).items() if key[0] != "dpo")


def test_the_references_log_probabilities_are_kept_once(swept: tuple[Plan, dict[str, Any]]) -> None:
    plan, _ = swept
    (cache,) = (plan.folder / "reference").glob("*.jsonl")
    # one of the points that train on everything needed nothing new
    sums = Counter(json.loads(line)["key"] for line in cache.read_text().splitlines())
    assert set(sums.values()) == {1}


def test_the_table_has_one_row_per_point(swept: tuple[Plan, dict[str, Any]]) -> None:
    plan, table = swept
    assert [row["state"] for row in table["points"]] == ["untouched", "done", "done"] * 2
    assert table["models"] == ["steerlm", "steerlm_unprompted", "steerlm_brief", "dpo"] and set(table["baselines"]) == {
        "vlm",
        "backbone",
    }
    metrics = {
        (m.model, m.suite): m
        for m in read_records(point(plan, "beta-0.5_fraction-1", "evaluate") / "metrics.jsonl", Metric)
        if m.name == "headline"
    }
    for model in table["models"]:
        cell = table["points"][-1]["cells"][model]["open_visual"]
        wanted = metrics[model, "open_visual"]
        assert (cell["value"], cell["low"], cell["high"], cell["n"]) == (wanted.value, wanted.low, wanted.high, 4)
        assert table["points"][0]["cells"][model] == table["baselines"]["vlm"]
    rows = list(csv.DictReader(csv_text(table).splitlines()))
    assert [(row["dpo.trl.beta"], row["pairs.fraction"]) for row in rows] == [
        ("0.1", "0"), ("0.1", "0.5"), ("0.1", "1"), ("0.5", "0"), ("0.5", "0.5"), ("0.5", "1"),
    ]  # fmt: skip
    assert rows[0]["dpo open_visual n"] == "4" and rows[0]["dpo rows"] == ""


def test_choosing_by_what_the_report_shows_is_told(swept: tuple[Plan, dict[str, Any]]) -> None:
    plan, table = swept
    assert {s["suite"]: s["held_out"] for s in table["suites"]} == {"text_instructions": False, "open_visual": True}
    (warning,) = table["warnings"]
    assert warning.startswith(
        "the best point is chosen by text_instructions, and the report of "
        f"{plan.recipe.path} shows text_instructions on the same questions"
    )


def test_other_questions_may_be_chosen_by(swept: tuple[Plan, dict[str, Any]], recipe: Path) -> None:
    plan, _ = swept
    dev = f"sweep.evaluate.folder={recipe.parent}/demo/bench/test"
    other = make_plan(recipe, [f"runs={recipe.parent / 'runs'}", *AXES, dev])
    outcomes = dict.fromkeys((run.point.name for run in plan.runs), next(iter(_done())))
    table = sweep_table(other, outcomes)
    assert table["warnings"] == [] and table["fixed"] == {"evaluate.folder": f"{recipe.parent}/demo/bench/test"}
    assert {s["folder"] for s in table["suites"]} == {f"{recipe.parent}/demo/bench/test"}


def _done() -> Any:
    from align.sweep.run import Outcome

    yield Outcome()


def test_nothing_is_best_unasked(swept: tuple[Plan, dict[str, Any]]) -> None:
    plan, _ = swept
    bare = dataclasses.replace(
        plan, recipe=dataclasses.replace(plan.recipe, sweep={**plan.recipe.sweep, "select": None})
    )
    table = sweep_table(bare, {run.point.name: next(iter(_done())) for run in plan.runs})
    assert (table["select"], table["best"], table["warnings"]) == (None, {}, [])
    assert {s["held_out"] for s in table["suites"]} == {True}
    assert conclusions(table) == ["no point is called best: say by which suite in `sweep: {select: SUITE}`"]


# ----------------------------------------------------------------------------------------- what the reader is shown


def cell(value: float | None, half: float = 0.05) -> dict[str, Any]:
    bounds = (None, None) if value is None else (round(value - half, 4), round(value + half, 4))
    return {"value": value, "low": bounds[0], "high": bounds[1], "n": 40, "n_failed": 0}


def row(fraction: float, value: float | None) -> dict[str, Any]:
    cells = {"dpo": {"open_visual": cell(value)}, "sft": {"open_visual": cell(0.5)}}
    name = f"fraction-{fraction}"
    return {"point": name, "values": {"pairs.fraction": fraction}, "state": "done", "why": "", "cells": cells}


TABLE: Mapping[str, Any] = {
    "schema": "sweep/1",
    "name": "<demo>",
    "axes": {"pairs.fraction": [0, 0.5, 1]},
    "fixed": {},
    "select": "open_visual",
    "suites": [{"suite": "open_visual", "measure": "headline", "control": False, "held_out": False}],
    "models": ["dpo", "sft"],
    "baselines": {"vlm": {"open_visual": cell(0.3)}},
    "points": [row(0, 0.3), row(0.5, 0.4), {**row(1, 0), "state": "failed", "why": "<no disk>", "cells": {}}],
    "best": {"dpo": {"suite": "open_visual", "point": "fraction-0.5", "cell": cell(0.4), "not_worse": ["fraction-0"]}},
    "warnings": ["1 of 3 points failed: fraction-1"],
}


def test_the_terminal_shows_points_baselines_and_how_little_the_best_may_say() -> None:
    assert (
        render_text(TABLE)
        == """\
<demo>: 3 points

DPO             open visual
fraction        headline
-------------------------------
0               .30 [.25,.35]
0.5             .40 [.35,.45] ◀
1               failed
VLM             .30 [.25,.35]
SFT on teacher  .50 [.45,.55]

DPO: best by open visual is fraction-0.5 (.40 [.35,.45]); 1 of 1 other points are not significantly worse (paired, Holm,
  5%)
! 1 of 3 points failed: fraction-1
! fraction-1: <no disk>
"""
    )


@pytest.mark.parametrize(("axis", "head"), [("dpo.lora.r", "r"), ("round", "round")])
def test_points_with_equal_numbers_are_shown_where_the_axis_is_of_their_training(axis: str, head: str) -> None:
    """DPO learnt with rank 2 and with rank 4; that both answer alike is a result, not that the rank is none of its."""
    models = ("dpo",) if axis == "round" else ("dpo", "sft")
    points = [
        {**row(0, 0.3), "point": f"{n}", "values": {axis: n}, "cells": {m: row(0, 0.3)["cells"][m] for m in models}}
        for n in (2, 4)
    ]
    found = {**TABLE, "axes": {axis: [2, 4]}, "models": list(models), "points": points, "best": {}, "warnings": []}
    lines = render_text(found).splitlines()
    assert lines[2].startswith("DPO") and lines[3].split()[0] == head
    assert [line.split()[0] for line in lines[5:7]] == ["2", "4"]
    assert ("SFT on teacher" in render_text(found)) == (axis != "round")


def test_the_page_asks_nobody_and_escapes_what_it_shows() -> None:
    page = render_page(TABLE)
    assert "&lt;demo&gt;" in page and "<demo>" not in page and "&lt;no disk&gt;" in page
    assert "default-src 'none'" in page and "<script" not in page and 'src="http' not in page
    assert page.count("<svg") == 1 and "var(--dpo)" in page and "var(--vlm)" in page
    assert render_page(TABLE) == page  # the same bytes


def test_rows_that_a_model_cannot_tell_apart_are_shown_once() -> None:
    """Without turned labels nothing changes for rejection sampling; DPO is told apart."""
    points = []
    for flip in (0, 0.5):
        for fraction in (0.5, 1):
            made = row(fraction, fraction / 2 - flip / 4)
            made["cells"]["rejection"] = {"open_visual": cell(fraction / 4)}
            points.append({**made, "point": f"{fraction}-{flip}", "values": {"pairs.fraction": fraction, "flip": flip}})
    found = {**TABLE, "axes": {"pairs.fraction": [0.5, 1], "flip": [0, 0.5]}, "models": ["rejection", "dpo"]}
    shown = render_text({**found, "points": points, "best": {}, "select": None, "warnings": []})
    lines = [line for line in shown.splitlines()[2:] if not line.startswith("--")]
    assert (
        lines
        == """\
rejection sampling  flip  open visual
fraction                  headline
0.5                 ·     .12 [.07,.17]
1                   ·     .25 [.20,.30]
VLM                       .30 [.25,.35]

DPO       flip  open visual
fraction        headline
0.5       0     .25 [.20,.30]
1         0     .50 [.45,.55]
0.5       0.5   .12 [.07,.17]
1         0.5   .38 [.33,.42]
VLM             .30 [.25,.35]

no point is called best: say by which suite in `sweep: {select: SUITE}`""".splitlines()
    )


def test_each_axis_varied_alone_has_its_figure() -> None:
    rows = [row(0.5, 0.4), row(1, 0.5), {**row(0, 0.3), "values": {"dpo.trl.loss_type": "ipo"}}]
    found = {**TABLE, "axes": {"pairs.fraction": [0.5, 1], "dpo.trl.loss_type": ["ipo"]}, "points": rows, "best": {}}
    assert render_page(found).count("<svg") == 2


# ------------------------------------------------------------------------------------------- SteerLM asked three ways


def test_steerlm_is_asked_in_three_ways(swept: tuple[Plan, dict[str, Any]]) -> None:
    plan, _ = swept
    run = next(run for run in plan.runs if run.point.name == "beta-0.1_fraction-1")
    runner = Runner(run.recipe, Console(quiet=True))
    found = {c.name: c.conditioning for c in contestants(runner.context(STAGES["evaluate"]))}
    all_four = "Helpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:4"
    assert found["steerlm"].endswith(all_four) and found["steerlm_unprompted"] == ""
    assert found["steerlm_brief"] == found["steerlm"].replace("Complexity:4,Verbosity:4", "Complexity:2,Verbosity:2")
    verdicts = json.loads((run.recipe.folder / "evaluate/verdicts.json").read_text())
    assert verdicts["asked_with"] == {name: text for name, text in found.items() if text}
    # on text as on images, and what is asked differs
    asked = read_records(run.recipe.folder / "evaluate/items.jsonl", Item)
    inputs = {(i.model, i.suite, i.id): i.input_sha256 for i in asked}
    ways = ("steerlm", "steerlm_unprompted", "steerlm_brief")
    for suite, question in {(i[1], i[2]) for i in inputs}:
        assert len({inputs[way, suite, question] for way in ways}) == 3
        assert inputs["steerlm_unprompted", suite, question] == inputs["vlm", suite, question]


def test_one_way_will_do(recipe: Path) -> None:
    few = load_recipe(recipe, [f"runs={recipe.parent / 'runs'}", "evaluate.conditioning=[none]"])
    assert few.evaluate is not None and few.evaluate.conditioning == ("none",)
    with pytest.raises(UserError, match="none of full, none, brief"):
        load_recipe(recipe, ["evaluate.conditioning=[nothing]"])


# -------------------------------------------------------------------------------------------------- mixed preferences

HELPSTEER = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 1}
BAD = dict.fromkeys(HELPSTEER, 0)
TEXT = [
    {"prompt": "Name a fruit.", "response": "A plum.", **HELPSTEER},
    {"prompt": "Name a fruit.", "response": "A chair.", **BAD},
    {"prompt": "Name a bird.", "response": "A crow.", **HELPSTEER},
    {"prompt": "Name a bird.", "response": "A rook.", **HELPSTEER},  # no margin
]
READY = [
    pair(ask_about(text="Say yes."), "Yes.", "No."),
    pair(ask_about(text="Name a fruit."), "A fig.", "A car."),  # stands in the other file
]


def test_image_pairs_and_text_pairs_in_one_run(recipe: Path, tmp_path: Path) -> None:
    """Ratings are paired by the recipe's rule, ready pairs taken as they are; DPO trains on all of them."""
    (tmp_path / "helpsteer.jsonl").write_text("".join(map(dump_line, TEXT)))
    (tmp_path / "ready.jsonl").write_text("".join(map(dump_line, READY)))
    also = f"pairs.also=[{tmp_path}/helpsteer.jsonl, {tmp_path}/ready.jsonl]"
    changes = [f"runs={recipe.parent / 'runs'}", also, "dpo.trl.max_steps=-1", "dpo.trl.num_train_epochs=1"]
    mixed = load_recipe(recipe, changes)
    Runner(mixed, Console(quiet=True)).bring("dpo")
    funnel = json.loads((mixed.folder / "pairs/funnel.json").read_text())
    own = sum(n["kept"] for source, n in funnel["sources"].items() if source not in ("helpsteer", "ready"))
    assert funnel["sources"]["helpsteer"] == {"prompts": 2, "annotated": 2, "rated": 2, "margin": 1, "kept": 1}
    assert funnel["sources"]["ready"] == {"prompts": 2, "annotated": 2, "rated": 2, "margin": 2, "kept": 1}
    pairs = list(read_records(mixed.folder / "pairs/preference.jsonl", PreferencePair))
    assert len(pairs) == own + 2 and any(p.prompt.images for p in pairs)
    assert [(p.prompt.source, p.chosen.text, p.rejected.text) for p in pairs[-2:]] == [
        ("helpsteer", "A plum.", "A chair."),
        ("ready", "Yes.", "No."),
    ]
    manifest = json.loads((mixed.folder / "dpo/manifest.json").read_text())
    assert manifest["funnel"]["rows trained on"] == own + 2
    # the other training sets are as they were
    assert (mixed.folder / "pairs/steerlm.jsonl").read_text().count("\n") == 2 * 12


def test_a_file_that_changed_makes_the_pairs_stale_and_one_that_is_gone_is_told_first(
    recipe: Path, tmp_path: Path
) -> None:
    from align.base import Models
    from align.state import state_of

    file = tmp_path / "ready.jsonl"
    file.write_text("".join(map(dump_line, READY)))
    mixed = load_recipe(recipe, [f"runs={recipe.parent / 'runs'}", f"pairs.also=[{file}]", "dpo=null", "steerlm=null"])
    Runner(mixed, Console(quiet=True)).bring("pairs")
    file.write_text("".join(map(dump_line, READY[:1])))
    assert state_of(mixed, STAGES["pairs"], Models(mixed)).why == "pairs.also.0 file changed"
    file.write_text('{"schema":"preference_pair/1"}\n')
    with pytest.raises(UserError, match=r"pairs.also: .*ready.jsonl:1: "):
        Runner(mixed, Console(quiet=True)).bring("pairs")
    gone = load_recipe(recipe, [f"runs={tmp_path}", f"pairs.also=[{tmp_path}/nowhere.jsonl]"])
    with pytest.raises(UserError, match=r"^command line  pairs.also: .*nowhere.jsonl: is not there; is the path"):
        Runner(gone, Console(quiet=True)).bring("pairs")


def test_files_that_the_pair_builder_wrote_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    from align.pairs.also import prompt_of, read_also

    files = [tmp_path / "helpsteer" / "preference.jsonl", tmp_path / "ultrafeedback" / "preference.jsonl"]
    for file, row in zip(files, READY, strict=True):
        file.parent.mkdir()
        file.write_text(dump_line(row))
    others = read_also([str(file) for file in files], tmp_path)
    assert [prompt_of(other).source for other in others] == ["helpsteer", "ultrafeedback"]


@pytest.mark.parametrize(("flip", "sides"), [(0, ("Yes.", "No.", 3)), (1, ("No.", "Yes.", -3))])
def test_fraction_and_flip_reach_ready_pairs(tmp_path: Path, flip: float, sides: tuple[str, str, float]) -> None:
    from align.pairs.also import made_of, read_also
    from align.pairs.sets import Maker
    from align.settings import Pairs

    (tmp_path / "ready.jsonl").write_text(dump_line(READY[0]))
    others = read_also([str(tmp_path / "ready.jsonl")], tmp_path)
    (made,) = made_of(others, Maker(Pairs(flip=flip), seed=0), set())
    (pair,) = made.sets["preference"]
    assert isinstance(pair, PreferencePair)
    assert (pair.chosen.text, pair.rejected.text, pair.margin) == sides
    (none,) = made_of(others, Maker(Pairs(fraction=1e-9), seed=0), set())
    assert none.sets["preference"][0].detail == "outside the fraction 1e-09"


def test_token_weights_are_refused_by_name(recipe: Path) -> None:
    for key in ("dpo.token_weights=true", "dpo.trl.token_weights=true"):
        with pytest.raises(UserError, match=r"token-weighted \(fine-grained\) DPO is not offered"):
            load_recipe(recipe, [key])


def test_a_file_of_no_known_format_is_told_in_words_of_the_recipe(tmp_path: Path) -> None:
    from align.pairs.also import read_also

    file = tmp_path / "mix.jsonl"
    file.write_text('{"question": "Say yes.", "good": "Yes.", "bad": "No."}\n')
    with pytest.raises(UserError) as told:
        read_also([str(file)], tmp_path)
    assert str(told.value) == (
        f"pairs.also: {file}: no format has the keys of its first row (question, good, bad); make one of a known "
        f"format of it, `align convert {file} OUT.jsonl --from FORMAT --to mmalign`, and name that one here"
    )
