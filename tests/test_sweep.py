"""Sweeps: which points there are, what they share, what becomes of one that fails, and of a killed one."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
import small_run
import sweep_command

from align.console import Console
from align.recipe import load_recipe
from align.runner import Runner
from align.sweep.grid import Point, points, read_sweep, short_key
from align.sweep.run import common_states, exit_code, foresee, make_plan, run_sweep
from align.sweep.table import csv_text, sweep_table
from annotate.errors import UserError
from annotate.journal import read_journal
from annotate.jsonl import read_records, write_records
from annotate.records import PreferencePair

QUIET = Console(quiet=True)


def sweep(recipe: Path, *changes: str, yes: bool = False) -> dict[str, int]:
    """Run it; point -> exit code."""
    plan = make_plan(recipe, [f"runs={recipe.parent / 'runs'}", *changes])
    return {name: outcome.exit_code for name, outcome in run_sweep(plan, QUIET, yes=yes).items()}


# ----------------------------------------------------------------------------------------------------------- points


def test_a_list_is_an_axis_and_anything_else_a_change_for_all_points() -> None:
    block = {"dpo.trl.beta": [0.1, 0.2], "dpo": {"lora": {"r": [4]}}, "evaluate.folder": "dev", "select": "pope"}
    found = read_sweep(block)
    assert found.axes == {"dpo.trl.beta": (0.1, 0.2), "dpo.lora.r": (4,)}
    assert (found.fixed, found.select) == ({"evaluate.folder": "dev"}, "pope")


def test_the_grid_is_full_and_the_last_axis_is_fastest() -> None:
    found = points(read_sweep({"dpo.trl.beta": [0.1, 0.2], "pairs.flip": [0, 0.5]}))
    assert [p.name for p in found] == ["beta-0.1_flip-0", "beta-0.1_flip-0.5", "beta-0.2_flip-0", "beta-0.2_flip-0.5"]
    assert found[1].changes == {"dpo.trl.beta": 0.1, "pairs.flip": 0.5}


def test_each_axis_alone() -> None:
    found = points(read_sweep({"dpo.trl.beta": [0.1, 0.2], "pairs.flip": [0.5]}), one_by_one=True)
    assert [(p.name, dict(p.values)) for p in found] == [
        ("beta-0.1", {"dpo.trl.beta": 0.1}),
        ("beta-0.2", {"dpo.trl.beta": 0.2}),
        ("flip-0.5", {"pairs.flip": 0.5}),
    ]


def test_names_are_those_of_folders_and_never_the_same() -> None:
    keys = ["dpo.trl.learning_rate", "sft.trl.learning_rate", "pairs.flip"]
    assert [short_key(key, keys) for key in keys] == ["dpo.trl.learning_rate", "sft.trl.learning_rate", "flip"]
    (rate,) = points(read_sweep({"dpo.trl.learning_rate": [5e-5]}))
    assert rate.name == "learning-rate-5e-05"
    # letters and digits alone do not tell these two apart
    one, other = points(read_sweep({"annotate.model": ["a/b", "a:b"]}))
    assert one.name != other.name and one.name.startswith("model-a-b-") and other.name.startswith("model-a-b-")
    (long,) = points(read_sweep({"pairs.steerlm_template": ["x{labels}" * 40]}))
    assert len(long.name) <= 100


def test_at_fraction_0_nothing_is_trained_on_pairs() -> None:
    point = Point(name="", values={"pairs.fraction": 0, "dpo.trl.beta": 0.1, "sample.n": 2})
    assert point.untouched
    assert point.changes == {"sample.n": 2, "pairs": None, "dpo": None, "steerlm": None, "rejection": None}
    assert not Point(name="", values={"pairs.fraction": 0.5}).untouched


FAULTY = """\
name: good
model: some/model
prompts:   {file: prompts.jsonl}
sample:    {n: 2}
annotate:  {backend: rules}
pairs:     {min_margin: 1}
dpo:       {trl: {beta: 5e-2}}
evaluate:  {suites: [pope]}
sweep:
  dpo.trl.beta: [0.1, 0, "x"]
  dpo.lora.q: [1]
  pairs.fraction: [0, 0.5, 2]
  steerlm.lora.r: [1]
"""


def faults(folder: Path, text: str) -> list[str]:
    (folder / "x.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(folder / "x.yaml")
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]


def test_every_value_is_checked_with_the_recipe_at_its_line(tmp_path: Path) -> None:
    assert sorted(faults(tmp_path, FAULTY)) == [
        "x.yaml:10  dpo.trl.beta: 0 is impossible; it must be above 0",
        "x.yaml:10  dpo.trl.beta: expected a number, got text 'x'",
        "x.yaml:11  dpo.lora.q: unknown key; known: r, alpha, dropout, target",
        "x.yaml:12  pairs.fraction: 2.0 is impossible; it must be above 0 and at most 1",
        "x.yaml:13  steerlm.lora.r: the recipe has no block `steerlm`; add `steerlm: {...}` to the file",
    ]


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        ("{select: pope}", "sweep: has no axis; write a key of the recipe with the list of its values"),
        ("{dpo.trl.beta: []}", "sweep.dpo.trl.beta: has no value; write a list of them"),
        ("{dpo.trl.beta: [0.1, 0.1]}", "sweep.dpo.trl.beta: holds a value twice"),
        ("{name: [a, b]}", "sweep.name: cannot be swept: each point is a run of its own below the recipe's"),
        ("{seed: [1, 2], select: mmm}", "sweep.select: 'mmm' is no suite of this recipe: pope"),
        ("{seed: [1, -2]}", "seed: -2 is impossible; it must be at least 0"),
    ],
)
def test_a_block_that_makes_no_sense(tmp_path: Path, block: str, fault: str) -> None:
    (told,) = faults(tmp_path, FAULTY[: FAULTY.index("sweep:")] + f"sweep: {block}\n")
    assert told.startswith(f"x.yaml:9  {fault}")


def test_a_sweep_can_be_said_on_the_command_line_alone(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    plan = make_plan(recipe, [f"runs={tmp_path / 'runs'}", "sweep.pairs.min_margin=[1, 2]"])
    assert [run.recipe.pairs.min_margin for run in plan.runs] == [1.0, 2.0]
    assert [run.recipe.folder for run in plan.runs] == [
        tmp_path / "runs/small/sweep/min-margin-1",
        tmp_path / "runs/small/sweep/min-margin-2",
    ]
    with pytest.raises(UserError, match="has no sweep; add"):
        make_plan(recipe)


def test_other_verbs_do_not_care_for_the_sweep(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    plain = load_recipe(recipe)
    swept = load_recipe(recipe, ["sweep.pairs.flip=[0, 1]"])
    assert swept.block("pairs") == plain.block("pairs") and plain.sweep == {}


# ---------------------------------------------------------------------------------------------------------- sharing


def test_what_points_have_in_common_is_made_once_and_linked(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    assert sweep(recipe, "sweep.pairs.flip=[0, 1]") == {"flip-0": 0, "flip-1": 0}
    run = tmp_path / "runs/small"
    made = (run / "annotate/annotated.jsonl").stat()
    for point in ("flip-0", "flip-1"):
        assert (run / "sweep" / point / "annotate/annotated.jsonl").stat().st_ino == made.st_ino
    straight, turned = (
        list(read_records(run / "sweep" / point / "pairs/preference.jsonl", PreferencePair))
        for point in ("flip-0", "flip-1")
    )
    assert [(p.chosen, p.rejected) for p in straight] == [(p.rejected, p.chosen) for p in turned]
    # the file that the other set is in is the same, and so is all that would be trained on it
    assert (run / "sweep/flip-0/pairs/rejection.jsonl").read_bytes() == (
        run / "sweep/flip-1/pairs/rejection.jsonl"
    ).read_bytes()


def test_a_point_that_is_the_recipe_itself_costs_nothing(tmp_path: Path) -> None:
    """Whoever ran the recipe before has made one of the points; whoever runs it afterwards finds the rest."""
    recipe = small_run.annotate_recipe(tmp_path)
    Runner(load_recipe(recipe, [f"runs={tmp_path / 'runs'}"]), QUIET).bring(None)
    sweep(recipe, "sweep.pairs.min_margin=[1, 2]")
    run = tmp_path / "runs/small"
    assert (run / "pairs/card.md").stat().st_ino == (run / "sweep/min-margin-1/pairs/card.md").stat().st_ino
    assert (run / "pairs/card.md").stat().st_ino != (run / "sweep/min-margin-2/pairs/card.md").stat().st_ino


def test_what_was_replied_once_is_not_asked_again(tmp_path: Path) -> None:
    """The second pass of an annotator is new; the first stands in the journal of the other point."""
    recipe = small_run.annotate_recipe(tmp_path)
    sweep(recipe, "sweep.annotate.passes=[1, 2]")
    one, two = (read_journal(tmp_path / f"runs/small/sweep/passes-{n}/annotate/journal.jsonl").items() for n in (1, 2))
    assert (len(one), len(two)) == (6, 12)
    assert all(line in two for line in one)


def test_a_list_says_what_each_point_would_do_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    changes = [f"runs={tmp_path / 'runs'}", "sweep.pairs.flip=[0, 1]", "sweep.annotate.passes=[1, 2]"]
    before = sorted(tmp_path.rglob("*"))
    assert sweep_command.main([str(recipe), "--list", *changes]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert f"4 points in {tmp_path}/runs/small/sweep\nall share: sample (done)\n" in said
    assert "flip-0_passes-1  runs: annotate, pairs\n" in said
    assert "flip-1_passes-1  as flip-0_passes-1: annotate; runs: pairs\n" in said
    plan = make_plan(recipe, changes)
    run_sweep(plan, QUIET)
    assert {word for stages in foresee(plan).values() for word in stages.values()} == {"done"}
    assert common_states(plan) == {"sample": "done"}


# ------------------------------------------------------------------------------------------------ failing and killed


def test_a_point_that_fails_is_noted_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    sweep(recipe, "sweep.pairs.flip=[0]")
    replies = tmp_path / "runs/small/annotate/replies.jsonl"
    files = json.dumps([str(tmp_path / "nowhere.jsonl"), str(replies)])
    arguments = [f"runs={tmp_path / 'runs'}", "annotate.backend=replay", f"sweep.annotate.options.file={files}"]
    assert sweep_command.main([str(recipe), *arguments]) == 2
    said = capsys.readouterr().out
    assert "! 1 of 2 points failed: " in said and "nowhere.jsonl" in said
    table = json.loads((tmp_path / "runs/small/sweep/table.json").read_text())
    assert [row["state"] for row in table["points"]] == ["failed", "done"]
    assert "nowhere.jsonl" in table["points"][0]["why"]
    with (tmp_path / "runs/small/sweep/table.csv").open() as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == ["failed", "done"]


def test_the_gravest_fault_is_the_exit_code(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    plan = make_plan(recipe, [f"runs={tmp_path / 'runs'}", "sweep.pairs.flip=[0, 1]"])
    done = run_sweep(plan, QUIET)
    failed = {code: {**done, "x": type(done["flip-0"])(exit_code=code, why="it broke")} for code in (1, 2, 3)}
    assert exit_code(done) == 0
    assert [exit_code(found) for found in failed.values()] == [1, 2, 3]
    assert exit_code({**failed[3], "y": failed[2]["x"], "z": failed[1]["x"]}) == 1


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """Three points of ten requests at 20 a second; killed in the first, in the second, and left in peace."""
    recipe = small_run.teach_recipe(tmp_path, 10, pace=1200)
    axis = "sweep.teach.max_output_tokens=[20, 21, 22]"
    assert sweep(recipe, axis, "name=quiet") == {f"max-output-tokens-{n}": 0 for n in (20, 21, 22)}
    for point in (20, 21):
        journal = tmp_path / f"runs/small/sweep/max-output-tokens-{point}/teach/journal.jsonl"
        process = sweep_command.start(recipe, f"runs={tmp_path / 'runs'}", axis)
        deadline = time.monotonic() + 30
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert journal.read_bytes().count(b"\n") < 10
    first = tmp_path / "runs/small/sweep/max-output-tokens-20/teach"
    before = (first / "manifest.json").stat().st_mtime_ns
    assert set(sweep(recipe, axis).values()) == {0}
    assert (first / "manifest.json").stat().st_mtime_ns == before  # a finished point is passed
    for point in (20, 21, 22):
        stage = f"sweep/max-output-tokens-{point}/teach"
        assert small_run.outputs(tmp_path / "runs/small" / stage) == small_run.outputs(tmp_path / "runs/quiet" / stage)


def test_two_sweeps_of_one_recipe_do_not_meet(tmp_path: Path) -> None:
    from align.workspace import locked

    recipe = small_run.teach_recipe(tmp_path)
    with locked(tmp_path / "runs/small/sweep"), pytest.raises(UserError, match="is in use by process"):
        sweep(recipe, "sweep.teach.max_output_tokens=[20, 21]")


def test_a_table_of_points_without_an_evaluation_says_how_they_ended(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    plan = make_plan(recipe, [f"runs={tmp_path / 'runs'}", "sweep.pairs.flip=[0, 0.5]"])
    table = sweep_table(plan, run_sweep(plan, QUIET))
    assert (table["models"], table["suites"], table["best"], table["warnings"]) == ([], [], {}, [])
    assert csv_text(table) == "point,pairs.flip,state,best_for\nflip-0,0,done,\nflip-0.5,0.5,done,\n"


def test_prompts_of_a_point_may_differ(tmp_path: Path) -> None:
    """A swept input is its own: nothing is taken from a point that was asked other questions."""
    recipe = small_run.teach_recipe(tmp_path, 6)
    write_records(tmp_path / "four.jsonl", small_run.prompts(4))
    files = json.dumps([str(tmp_path / "prompts.jsonl"), str(tmp_path / "four.jsonl")])
    sweep(recipe, f"sweep.prompts.file={files}")
    folders = sorted((tmp_path / "runs/small/sweep").glob("file-*"))
    counts = [(folder / "teach/completions.jsonl").read_text().count("\n") for folder in folders]
    assert sorted(counts) == [4, 6]


def test_the_papers_search_shares_what_is_paid_for_with_the_papers_run() -> None:
    """Same name, same blocks: whichever comes first, the other finds its samples and annotations."""
    whole, search = (load_recipe(small_run.ROOT / f"recipes/{n}.yaml") for n in ("llava15_13b", "sweep_llava15_13b"))
    assert whole.name == search.name
    for block in ("seed", "model", "backbone", "prompts", "sample", "annotate", "pairs", "dpo"):
        assert getattr(search, block) == getattr(whole, block), block
    found = points(read_sweep(search.sweep))
    assert len(found) == 12
    assert found[0].changes == {
        "pairs.fraction": 0.2,
        "dpo.trl.beta": 0.1,
        "dpo.trl.loss_type": "sigmoid",
        "dpo.trl.learning_rate": 5e-5,
    }


def test_a_kill_while_a_stage_is_taken_leaves_nothing_half_done(tmp_path: Path) -> None:
    """The manifest comes last: without it what lies there is taken anew, and what was being put there goes."""
    recipe = small_run.annotate_recipe(tmp_path)
    axis = "sweep.pairs.flip=[0, 1]"
    sweep(recipe, axis)
    taken = tmp_path / "runs/small/sweep/flip-1/annotate"
    whole = small_run.outputs(taken)
    (taken / "manifest.json").unlink()
    (taken / "annotated.jsonl").unlink()
    (taken / ".new").mkdir()
    (taken / ".new/half.jsonl").write_text("{")
    assert set(sweep(recipe, axis).values()) == {0}
    assert small_run.outputs(taken) == whole
    assert not (taken / ".new").exists() and not (taken / "half.jsonl").exists()


def test_what_was_edited_in_one_run_is_taken_by_no_other(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    sweep(recipe, "sweep.pairs.flip=[0]")
    own = tmp_path / "runs/small/sweep/flip-0/pairs/preference.jsonl"
    whole = own.read_bytes()
    own.write_bytes(whole.replace(b"blue", b"pink"))
    sweep(recipe, "sweep.pairs.flip=[0]", "sweep.pairs.ties=[random]")
    (other,) = (tmp_path / "runs/small/sweep").glob("flip-0_ties-random")
    assert (other / "pairs/preference.jsonl").read_bytes() == whole
