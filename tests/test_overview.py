"""What `align status` and `align validate RECIPE` say of what is there and what is not."""

from __future__ import annotations

from pathlib import Path

import small_run

from align.base import Models
from align.inputs import missing_files
from align.recipe import load_recipe
from align.stages import STAGES
from align.state import stage_identity, training_sha256
from align.train.checkpoints import marker_of, seal
from align.workspace import StageFolder


def test_status_names_a_checkpoint_only_to_the_options_it_was_made_with(tmp_path: Path) -> None:
    """Two trainings were begun, at beta 0.1 and at 0.2; the first came to a checkpoint, the second did not."""
    recipe = small_run.annotate_recipe(tmp_path)
    recipe.write_text(recipe.read_text() + "dpo: {checkpoint_every: 5, trl: {beta: 0.1}}\n")
    runs = f"runs={tmp_path / 'runs'}"
    assert small_run.align("pairs", recipe, runs, cwd=tmp_path).returncode == 0
    dpo = tmp_path / "runs/small/dpo"
    for beta in ("0.1", "0.2"):
        made = load_recipe(recipe, [runs, f"dpo.trl.beta={beta}"])
        identity, _ = stage_identity(made, STAGES["dpo"], Models(made))
        StageFolder(made.folder, "dpo").begin(1, (training_sha256(identity), f"work of {beta}"))
    made = dpo / "work/work of 0.1/checkpoint-10"
    made.mkdir(parents=True)
    (made / "trainer_state.json").write_text('{"max_steps": 30}')
    seal(made, marker_of(made))

    def told(*changes: str) -> str:
        return small_run.align("status", recipe, runs, *changes, cwd=tmp_path).stdout.splitlines()[-1].split("  ")[-1]

    goes_on = f"`align dpo {recipe} {runs} name=small` goes on from there"
    assert told("name=small") == f"last checkpoint at step 10 of 30; {goes_on}"
    assert (
        told("dpo.trl.beta=0.2") == f"no checkpoint yet; `align dpo {recipe} {runs} dpo.trl.beta=0.2` begins at step 1"
    )
    assert told("dpo.trl.beta=0.3") == (
        "a training with other options was begun; with these options it starts at step 1"
    )


def test_files_that_a_recipe_names_and_that_are_not_there_are_told(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    (tmp_path / "prompts.jsonl").unlink()
    missing = f"files missing: prompts.file {tmp_path / 'prompts.jsonl'}"
    for verb in ("validate", "status"):
        ended = small_run.align(verb, recipe, cwd=tmp_path)
        assert ended.returncode == 0
        assert ended.stdout.splitlines()[-1].startswith(missing)


def test_of_benchmarks_the_files_that_are_asked_are_told(tmp_path: Path) -> None:
    """The folder only where a suite has no files of its own; no data set of the hub."""

    def missing(suites: str) -> list[str]:
        (tmp_path / "x.yaml").write_text(
            f"name: x1\nmodel: m\nevaluate:\n  suites: {suites}\n  folder: nowhere\n"
            f"  files: {{pope: {{labels: coco, images: {tmp_path}}}, mme: {{hub: lmms-lab/MME, split: test}}}}\n"
        )
        return missing_files(load_recipe(tmp_path / "x.yaml"))

    assert missing("[pope, mme]") == ["evaluate.files.pope.labels coco"]
    assert missing("[mme]") == []
    assert missing("[mme, choice]") == ["evaluate.folder nowhere"]


def test_an_empty_manifest_is_told_as_empty(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    manifest = tmp_path / "runs/small/sample/manifest.json"
    manifest.write_text("")
    ended = small_run.align("status", recipe, f"runs={tmp_path / 'runs'}", cwd=tmp_path)
    assert f"{manifest}: is empty; delete it, and the stage is compiled again" in ended.stdout + ended.stderr
