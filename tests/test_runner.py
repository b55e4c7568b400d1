"""The runner: skips with its reason, says what is stale and why, survives kills, never overwrites, never spends."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import small_run

from align.base import Models, base_recipe_sha256
from align.console import Console
from align.digest import file_sha256, model_digest
from align.recipe import Recipe, load_recipe
from align.runner import Runner
from align.stages import STAGES
from align.state import State, changes, read_manifest, stage_identity, state_of
from annotate.errors import UserError
from annotate.records import Completion


def loaded(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, [f"runs={path.parent / 'runs'}", *overrides])


def bring(path: Path, target: str | None, *overrides: str) -> None:
    Runner(loaded(path, *overrides), Console(quiet=True)).bring(target)


def state(path: Path, stage: str, *overrides: str) -> State:
    recipe = loaded(path, *overrides)
    return state_of(recipe, STAGES[stage], Models(recipe))


# ----------------------------------------------------------------------------------------------------- done and stale


def test_a_stage_is_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    assert state(recipe, "teach") == State("never")
    Runner(loaded(recipe), Console()).bring("teach")
    first = small_run.outputs(tmp_path / "runs/small/teach")
    assert "teach: starts\nteach: done, 6 of 6 records\n" in capsys.readouterr().out
    Runner(loaded(recipe), Console()).bring("teach")
    assert capsys.readouterr().out == "teach: up to date (6 of 6 records)\n"
    assert small_run.outputs(tmp_path / "runs/small/teach") == first
    assert set(first) == {"completions.jsonl", "failures.jsonl"}


def test_pace_and_unused_blocks_change_nothing(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    bring(recipe, "teach")
    assert state(recipe, "teach", "teach.requests_per_minute=9", "teach.workers=1", "report={}").kind == "done"


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("teach.max_output_tokens=9", "teach.max_output_tokens was 1024, is 9"),
        ("seed=4", "seed was 0, is 4"),
        ("prompts.limit=2", "prompts.limit was null, is 2"),
    ],
)
def test_a_stale_stage_says_what_changed(tmp_path: Path, override: str, why: str) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    bring(recipe, "teach")
    assert (state(recipe, "teach", override).kind, state(recipe, "teach", override).why) == ("stale", why)


def test_a_changed_prompts_file_makes_stale(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path, 6)
    bring(recipe, "teach")
    small_run.teach_recipe(tmp_path, 7)
    assert state(recipe, "teach").why == "prompts file changed"


def test_outputs_that_are_gone_or_edited_are_made_again(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    bring(recipe, "teach")
    stage = tmp_path / "runs/small/teach"
    whole = small_run.outputs(stage)
    (stage / "failures.jsonl").unlink()
    assert state(recipe, "teach").why == "failures.jsonl is gone"
    (stage / "completions.jsonl").write_text("edited\n")
    bring(recipe, "teach")
    assert small_run.outputs(stage) == whole
    # What somebody edited may have been worth something.
    (kept,) = (tmp_path / "runs/small/superseded").iterdir()
    assert (kept / "completions.jsonl").read_text() == "edited\n"


def test_changes_are_told_in_words() -> None:
    assert (
        changes({"a": 1, "b": "x", "old": 1}, {"a": 2, "b": "x", "new": 0}) == "a was 1, is 2; new is new; old is gone"
    )
    assert changes({"model": "0" * 64}, {"model": "1" * 64}) == "model changed"
    assert changes(dict.fromkeys("abcd", 0), dict.fromkeys("abcd", 1)) == (
        "a was 0, is 1; b was 0, is 1; c was 0, is 1; and 1 more"
    )


def test_the_road_from_completions_to_pairs(tmp_path: Path) -> None:
    """Stages bring the earlier ones up to date; only what an output changed is done again."""
    recipe = small_run.annotate_recipe(tmp_path)
    bring(recipe, "pairs")
    run = tmp_path / "runs/small"
    manifest = read_manifest(run / "pairs")
    assert manifest is not None
    assert (manifest.units, manifest.failures) == (6, 0)
    assert manifest.inputs["annotate/annotated.jsonl"] == file_sha256(run / "annotate/annotated.jsonl")
    assert manifest.seeds == {"seed": 0} and "mmalign" in manifest.versions
    assert state(recipe, "pairs", "pairs.min_margin=2").why == "pairs.min_margin was 1.0, is 2.0"
    assert state(recipe, "annotate", "pairs.min_margin=2").kind == "done"
    assert state(recipe, "pairs", "annotate.passes=2") == State("stale", "waits for annotate", manifest)


def test_superseded_outputs_are_kept_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    run = tmp_path / "runs/small"
    made = {}
    for passes in (1, 2, 1, 2):
        bring(recipe, "annotate", f"annotate.passes={passes}")
        manifest = read_manifest(run / "annotate")
        assert manifest is not None
        made[passes] = (manifest.identity_sha256[:8], small_run.outputs(run / "annotate"))
    (one, of_one), (two, of_two) = made[1], made[2]
    kept = {path.name: small_run.outputs(path) for path in (run / "superseded").iterdir()}
    assert kept == {f"annotate-{one}-1": of_one, f"annotate-{two}-1": of_two, f"annotate-{one}-2": of_one}
    # 6 prompts x 2 passes were asked in all; the journal answered the rest.
    assert len((run / "annotate/journal.jsonl").read_text().splitlines()) == 12


def test_every_fault_is_told_before_anything_is_written(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    with (tmp_path / "prompts.jsonl").open("a") as stream:
        stream.write('{"schema":"prompt/1"}\n{"half\n')
    with pytest.raises(UserError) as caught:
        bring(recipe, "teach", "teach.options={colour: red}")
    text = str(caught.value)
    assert "prompts.jsonl:7" in text and "prompts.jsonl:8" in text and "no option 'colour'" in text
    assert not (tmp_path / "runs").exists()


def test_a_verb_without_its_block(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no stage `dpo`; add `dpo: \{\}` to run it"):
        bring(small_run.teach_recipe(tmp_path), "dpo")


# ------------------------------------------------------------------------------------------------------ kills and locks


def test_kills_at_random_moments_leave_the_files_of_a_quiet_run(tmp_path: Path) -> None:
    """Eight requests a second; killed, killed, ..., left alone."""
    recipe = small_run.teach_recipe(tmp_path, 40, pace=480)
    quiet = small_run.align("teach", recipe, "runs=quiet", "teach.requests_per_minute=null", cwd=tmp_path)
    assert quiet.returncode == 0, quiet.stderr
    journal = tmp_path / "killed/small/teach/journal.jsonl"

    def n_lines() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    draw = random.Random(1)
    progress = set()
    for _ in range(5):
        process = small_run.start("run", recipe, "runs=killed", cwd=tmp_path)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()  # "teach: starts" or "goes on"
        wanted, patience = n_lines() + draw.randint(0, 2), time.monotonic() + 30
        while n_lines() < wanted and time.monotonic() < patience:  # a busy machine needs its time
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        progress.add(n_lines())
    assert len(progress) >= 3 and max(progress) < 40, progress
    told = small_run.align("status", recipe, "runs=killed", cwd=tmp_path).stdout
    assert f"unfinished        -       -        -        -  {max(progress)} of 40 units" in told
    last = small_run.align("run", recipe, "runs=killed", "teach.requests_per_minute=null", cwd=tmp_path)
    assert last.stdout.startswith(f"teach: goes on ({max(progress)} of 40 units)")
    assert small_run.outputs(tmp_path / "killed/small/teach") == small_run.outputs(tmp_path / "quiet/small/teach")


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path, 40, pace=600)
    process = small_run.start("teach", recipe, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip() == f"interrupted; what is done so far is kept. To go on: align teach {recipe}"
    done = (tmp_path / "runs/small/teach/journal.jsonl").read_bytes().count(b"\n")
    assert 1 <= done < 40
    assert small_run.align("teach", recipe, "teach.requests_per_minute=null", cwd=tmp_path).returncode == 0


def test_a_second_run_on_the_folder_is_told_who_holds_it(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path, 40, pace=600)
    first = small_run.start("teach", recipe, cwd=tmp_path)
    assert first.stdout is not None
    first.stdout.readline()
    second = small_run.align("run", recipe, cwd=tmp_path)
    looking = small_run.align("status", recipe, cwd=tmp_path)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert f"runs/small is in use by process {first.pid} on {os.uname().nodename} since 20" in second.stderr
    assert f"(align teach {recipe}); wait for it, or stop it first" in second.stderr
    assert looking.returncode == 0  # looking needs no lock
    # A lock dies with its holder.
    assert small_run.align("teach", recipe, "teach.requests_per_minute=null", cwd=tmp_path).returncode == 0


def test_a_move_that_was_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    """Killed between two renames of the superseding: one output moved, the manifest still in place."""
    recipe = small_run.annotate_recipe(tmp_path)
    bring(recipe, "annotate")
    run = tmp_path / "runs/small"
    first = small_run.outputs(run / "annotate")
    manifest = read_manifest(run / "annotate")
    assert manifest is not None
    target = run / "superseded" / f"annotate-{manifest.identity_sha256[:8]}-1"
    target.mkdir(parents=True)
    (run / "annotate/annotated.jsonl").rename(target / "annotated.jsonl")
    bring(recipe, "annotate", "annotate.passes=2")
    assert small_run.outputs(target) == first
    assert state(recipe, "annotate", "annotate.passes=2").kind == "done"


# ------------------------------------------------------------------------------------------------------- disk and money


def test_a_file_where_the_run_folder_must_be(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    (tmp_path / "runs").write_text("in the way")
    ended = small_run.align("teach", recipe, cwd=tmp_path)
    assert ended.returncode == 2
    assert "runs/small cannot be written (a file stands where a folder must be)" in ended.stderr
    assert f"move that file away and run `align teach {recipe}`" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder in which even root may not write")
def test_a_read_only_run_folder(tmp_path: Path) -> None:
    ended = small_run.align("teach", small_run.teach_recipe(tmp_path), "runs=/sys/kernel", cwd=tmp_path)
    assert ended.returncode == 2
    assert "/sys/kernel/small cannot be written (" in ended.stderr and "Traceback" not in ended.stderr


def test_a_place_that_no_folder_can_have(tmp_path: Path) -> None:
    ended = small_run.align("teach", small_run.teach_recipe(tmp_path), "runs=/proc/x", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == "/proc/x/small: no folder can be made there; give another place, e.g. runs=runs\n"


def test_a_full_disk_keeps_what_is_done(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the disk's end: the journal may grow to 4 kB and no further."""
    recipe = small_run.teach_recipe(tmp_path, 40)

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    full = small_run.align("teach", recipe, "teach.options={}", cwd=tmp_path, preexec_fn=little_room)
    assert full.returncode == 2
    assert "cannot be written (a file may not grow further); what is done so far is kept: make room" in full.stderr
    assert f"run `align teach {recipe} 'teach.options={{}}'`" in full.stderr
    assert "Traceback" not in full.stderr
    kept = (tmp_path / "runs/small/teach/journal.jsonl").read_bytes()
    assert kept.endswith(b"\n") and kept.count(b"\n") > 3
    assert "failed" in small_run.align("status", recipe, cwd=tmp_path).stdout
    assert small_run.align("teach", recipe, cwd=tmp_path).returncode == 0
    assert (tmp_path / "runs/small/teach/journal.jsonl").read_bytes().startswith(kept)
    small_run.align("teach", recipe, "runs=other", cwd=tmp_path)
    assert small_run.outputs(tmp_path / "runs/small/teach") == small_run.outputs(tmp_path / "other/small/teach")


@pytest.mark.slow
def test_a_disk_that_is_full_of_weights_is_told_and_the_training_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """What writes weights tells a full disk in words of its own: "os error 28" inside an error that is no OSError."""
    pytest.importorskip("trl")
    from launched import dpo_recipe

    recipe = dpo_recipe(tmp_path / "small")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk, and not in every container")
    try:
        shutil.copytree(tmp_path / "small/runs", disk / "runs")
        changes = [f"runs={disk / 'runs'}", "dpo.lora.r=256", "dpo.trl.max_steps=2"]
        wanted = load_recipe(recipe, changes)
        with pytest.raises(UserError) as told:
            Runner(wanted, Console(quiet=True)).bring("dpo")
        where = disk / "runs/small"
        again = f"what is done so far is kept: make room and run `{wanted.command('dpo')}`"
        assert str(told.value) == f"{where} cannot be written (the disk is full); {again}"
        assert "(os error 28)" in str(told.value.__cause__)
        found = state_of(wanted, STAGES["dpo"], Models(wanted))
        assert found.kind == "failed" and found.why
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        Runner(wanted, Console(quiet=True)).bring("dpo")
        assert state_of(wanted, STAGES["dpo"], Models(wanted)).kind == "done"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


DEAR = '''
import os
from annotate.protocol import Outcome, Reply, Traits

class Dear:
    """Costs a dollar per thousand tokens written; after `quota` calls it has had enough for today.

    With `door` it blocks every row until that folder exists.
    """
    paid = True
    traits = Traits(paced=False)

    def __init__(self, *, model: str = "", quota: int = 99, door: str = "") -> None:
        self.model, self.quota, self.door, self.calls = model or "dear-1", quota, door, 0

    def cost_usd(self, usage):
        return usage.get("output_tokens", 0) / 1000

    async def reply(self, request):
        self.calls += 1
        if self.calls > self.quota:
            return Reply(outcome=Outcome.QUOTA_DAY, detail="come back tomorrow")
        if self.door and not os.path.isdir(self.door):
            return Reply(outcome=Outcome.ROW_FATAL, detail="blocked")
        return Reply(outcome=Outcome.OK, text="The box is red.", usage={"input_tokens": 9, "output_tokens": 1000})
'''


def install_dear(folder: Path) -> str:
    """A distribution with an annotator that costs money, as pip would leave it; the folder to put on the path."""
    info = folder / "site" / "dear-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "site" / "dear.py").write_text(DEAR)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dear\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmalign.annotators]\ndear = dear:Dear\n")
    return str(folder / "site")


def test_money_is_never_spent_by_surprise(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path, 4)
    path = install_dear(tmp_path)
    refused = small_run.align("run", recipe, "teach.backend=dear", cwd=tmp_path, path=path)
    assert refused.returncode == 2
    assert "teach would spend money: 4 calls" in refused.stderr and "about $1.20" in refused.stderr
    assert f"Say `align teach {recipe} teach.backend=dear` to run it, add --yes, or set its" in refused.stderr
    estimate = small_run.align("estimate", recipe, "teach.backend=dear", "--json", cwd=tmp_path, path=path)
    assert json.loads(estimate.stdout)["usd"] == 1.2
    # Asked for by its name, with a budget, or with --yes: it goes on.
    for number, words in enumerate([("teach",), ("run", "--yes"), ("run", "teach.budget_usd=9")]):
        ended = small_run.align(
            words[0], recipe, "teach.backend=dear", f"runs=runs{number}", *words[1:], cwd=tmp_path, path=path
        )
        assert ended.returncode == 0, ended.stderr
        assert "cost $4.00" in ended.stdout


def test_a_quota_stops_with_exit_3_and_the_rest_is_done_later(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path, 4)
    path = install_dear(tmp_path)
    stopped = small_run.align("teach", recipe, "teach.backend=dear", "teach.options.quota=3", "teach.workers=1",
                         cwd=tmp_path, path=path)  # fmt: skip
    assert stopped.returncode == 3, stopped.stderr
    assert "come back in" in stopped.stderr and "Traceback" not in stopped.stderr
    status = small_run.align("status", recipe, "teach.backend=dear", cwd=tmp_path, path=path).stdout
    assert "failed" in status and "come back in" in status
    ended = small_run.align("teach", recipe, "teach.backend=dear", cwd=tmp_path, path=path)
    assert ended.returncode == 0 and "cost $4.00" in ended.stdout  # one call more, four in all
    assert len((tmp_path / "runs/small/teach/journal.jsonl").read_text().splitlines()) == 4


def test_what_failed_is_asked_again_with_retry_failed(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path, 4)
    path = install_dear(tmp_path)
    words = ("teach", recipe, "teach.backend=dear", f"teach.options.door={tmp_path / 'door'}")
    assert "0 of 4 records, 4 failed" in small_run.align(*words, cwd=tmp_path, path=path).stdout
    (tmp_path / "door").mkdir()
    assert "up to date (0 of 4 records, 4 failed)" in small_run.align(*words, cwd=tmp_path, path=path).stdout
    again = small_run.align(*words, "--retry-failed", cwd=tmp_path, path=path).stdout
    assert again.startswith("teach: asks again for what failed\nteach: done, 4 of 4 records\n")
    assert len((tmp_path / "runs/small/teach/journal.jsonl").read_text().splitlines()) == 8
    assert "up to date (4 of 4 records)" in small_run.align(*words, cwd=tmp_path, path=path).stdout
    assert small_run.align(*words, "--retry-failed", cwd=tmp_path, path=path).returncode == 0  # nothing left to ask


def test_a_fuller_file_of_replies_is_read_anew(tmp_path: Path) -> None:
    """`replay` lacks two replies; they come, the file is fuller, and only the two are asked."""
    recipe = small_run.teach_recipe(tmp_path, 4)
    bring(recipe, "teach")
    replies = (tmp_path / "runs/small/teach/completions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "replies.jsonl").write_text("".join(replies[:2]))
    options = f"teach={{backend: replay, options: {{file: {tmp_path / 'replies.jsonl'}}}}}"
    bring(recipe, "teach", options)
    manifest = read_manifest(tmp_path / "runs/small/teach")
    assert manifest is not None and manifest.failures == 2
    assert state(recipe, "teach", options).kind == "done"
    (tmp_path / "replies.jsonl").write_text("".join(replies))
    assert state(recipe, "teach", options).why == "teach.options.file file changed"
    bring(recipe, "teach", options)
    manifest = read_manifest(tmp_path / "runs/small/teach")
    assert manifest is not None and manifest.failures == 0


# ----------------------------------------------------------------------------------------------------------- the models


BASE = """\
name: base
language: {steps: 5, rows: ROWS}
connect: {rows: ROWS}
tune: {rows: ROWS}
"""


def base_and_user(folder: Path) -> tuple[Path, Recipe]:
    """A recipe that trains a model, and one that takes it from there."""
    (folder / "rows.jsonl").write_text("")
    text = BASE.replace("ROWS", str(folder / "rows.jsonl"))
    (folder / "base.yaml").write_text(text.replace("name: base\n", f"name: base\nruns: {folder / 'runs'}\n"))
    small_run.teach_recipe(folder)
    user = load_recipe(folder / "small.yaml", [f"model={folder / 'base.yaml'}", f"backbone={folder / 'base.yaml'}"])
    return folder / "base.yaml", user


def model_files(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(text)
    return folder


def test_a_model_given_as_a_recipe_is_what_that_recipe_trained(tmp_path: Path) -> None:
    base_path, user = base_and_user(tmp_path)
    base = load_recipe(base_path)
    for stage in ("language", "connect", "tune"):
        small_run.finish(base, stage, {"model": model_files(tmp_path / "made" / stage, stage)})
    models = Models(user, shipped=tmp_path / "nothing")
    assert models.model.path == tmp_path / "runs/base/tune/model"
    assert models.model.sha256 == model_digest(tmp_path / "made/tune")
    assert models.model.note == f"trained by {base_path}, stage tune"
    assert models.backbone is not None and models.backbone.path == tmp_path / "runs/base/language/model"


def test_the_shipped_model_is_taken_only_while_its_recipe_is_the_same(tmp_path: Path) -> None:
    base_path, user = base_and_user(tmp_path)
    shipped = tmp_path / "shipped"
    with pytest.raises(UserError, match=r"model: .*runs/base/tune is not there \(never\); train it .*make demo-base"):
        _ = Models(user, shipped=shipped).model
    model_files(shipped / "vlm", "v")
    receipt = {"recipe_sha256": base_recipe_sha256(load_recipe(base_path)), "seed": 0, "dev": {}}
    (shipped / "base.json").write_text(json.dumps(receipt))
    found = Models(user, shipped=shipped).model
    assert (found.path, found.note) == (shipped / "vlm", f"shipped, trained by {base_path} with seed 0")
    # A comment changes nothing, an option does.
    base_path.write_text("# a comment\n" + base_path.read_text())
    assert Models(user, shipped=shipped).model.path == shipped / "vlm"
    base_path.write_text(base_path.read_text().replace("steps: 5", "steps: 6"))
    with pytest.raises(UserError, match=r"was trained by another version of .*base\.yaml; train it with `align tune"):
        _ = Models(user, shipped=shipped).model


def test_further_models_are_resolved_and_their_weights_decide_the_evaluation(tmp_path: Path) -> None:
    base_path, user = base_and_user(tmp_path)
    with (tmp_path / "small.yaml").open("a") as file:
        file.write(f"evaluate: {{folder: {tmp_path}, also: {{other: {tmp_path}/other, mlan: {base_path}}}}}\n")
    user = load_recipe(tmp_path / "small.yaml", [f"model={tmp_path / 'vlm'}"])
    model_files(tmp_path / "vlm", "v")
    with pytest.raises(UserError) as caught:
        Runner(user, Console(quiet=True)).bring("evaluate")
    assert [fault.partition(": ")[2] for fault in caught.value.faults] == [
        f"{tmp_path}/other is no folder; give a folder, a hub name (owner/model) or a recipe",
        f"{tmp_path}/runs/base/tune is not there (never); train it with `align tune {base_path}`",
    ]
    base = load_recipe(base_path)
    for stage in ("language", "connect", "tune"):
        small_run.finish(base, stage, {"model": model_files(tmp_path / "made" / stage, stage)})
    model_files(tmp_path / "other", "o")
    found = Models(user)
    assert {name: model.note for name, model in found.also.items()} == {
        "other": f"{tmp_path}/other",
        "mlan": f"trained by {base_path}, stage tune",
    }
    settings = dataclasses.replace(user.evaluate, suites=())
    user = dataclasses.replace(user, evaluate=settings)
    one, hashes = stage_identity(user, STAGES["evaluate"], Models(user))
    assert hashes["also other"] == model_digest(tmp_path / "other")
    (tmp_path / "other/model.safetensors").write_text("edited")
    assert changes(one, stage_identity(user, STAGES["evaluate"], Models(user))[0]) == "also other changed"


def test_connect_builds_on_the_language_model_of_its_recipe_or_on_a_given_one(tmp_path: Path) -> None:
    base_path, _ = base_and_user(tmp_path)
    base = load_recipe(base_path)
    small_run.finish(base, "language", {"model": model_files(tmp_path / "made", "words")})
    # as it always was: what `language` left, file by file
    hashes = stage_identity(base, STAGES["connect"], Models(base))[1]
    assert sorted(hashes) == ["connect rows", "language/model/config.json", "language/model/model.safetensors"]
    other = tmp_path / "other.yaml"
    other.write_text(f"backbone: {base_path}\nconnect: {{rows: {tmp_path}/rows.jsonl}}\n")
    hashes = stage_identity(load_recipe(other), STAGES["connect"], Models(load_recipe(other)))[1]
    assert hashes["backbone"] == model_digest(tmp_path / "made") and sorted(hashes) == ["backbone", "connect rows"]


NOT_CACHED = (
    "model: owner/not-cached cannot be had (HF_HUB_OFFLINE is set and it is not in the cache)"
    if find_spec("huggingface_hub")
    else "model: owner/not-cached is on the hub; to fetch it: pip install 'mmalign[train]'"
)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("no/such/folder", "model: no/such/folder is no folder; give a folder, a hub name"),
        ("./nowhere", "model: ./nowhere is no folder"),
        ("owner/not-cached", NOT_CACHED),
        ("empty", "model: empty holds no config.json; give a checkpoint in Hugging Face layout"),
        ("missing.yaml", "missing.yaml  cannot be read (No such file or directory)"),
        ("small.yaml", "model: small.yaml has no `tune` block, so it trains no such model"),
    ],
)
def test_models_that_are_not_there(tmp_path: Path, model: str, fault: str) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    (tmp_path / "empty").mkdir()
    ended = small_run.align("sample", recipe, f"model={model}", "sample={}", cwd=tmp_path)
    assert ended.returncode == 2
    assert fault in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_a_model_digest_is_over_what_decides_its_outputs(tmp_path: Path) -> None:
    folder = model_files(tmp_path / "m", "weights")
    before = model_digest(folder)
    (folder / "README.md").write_text("says nothing about the outputs")
    assert model_digest(folder) == before
    (folder / "model.safetensors").write_text("weightz")
    assert model_digest(folder) != before


def test_a_large_file_is_hashed_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(b"a" * 2_000_000)
    first = file_sha256(path)
    assert file_sha256(path) == first
    path.write_bytes(b"b" * 2_000_000)
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) != first


def test_hand_written_completions_are_what_annotate_reads(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    found = Runner(loaded(recipe), Console(quiet=True)).context(STAGES["annotate"])
    assert len(found.records("sample", "completions.jsonl", Completion)) == 18
    assert found.has("pairs") and not found.has("dpo")
