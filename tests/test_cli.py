"""The command line: what it says, what it imports, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import tomllib
from pathlib import Path

import pytest
import small_run

from align.cli import VERBS, main
from align.commands.env import fits, wanted_packages
from align.stages import STAGES
from annotate.jsonl import write_records

HEAVY = ("torch", "transformers", "trl", "numpy", "PIL", "yaml")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, align.cli; code = align.cli.main(['--help']);"
        f"print(code, [m for m in {HEAVY} if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=small_run.ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "0 []"
    assert "usage: align VERB RECIPE.yaml" in ended.stdout


def test_every_stage_is_a_verb_with_its_options_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(STAGES) < set(VERBS)
    said = {}
    for verb in VERBS:
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
        said[verb] = capsys.readouterr().out
        assert f"\nexamples:\n  align {verb}" in said[verb]
    assert "  lora.r                   rank (default: 128)" in said["dpo"]
    assert " *requests_per_day         per key and model (default: null)" in said["annotate"]
    assert "  judge.backend            a name from the entry points" in said["evaluate"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 0, "usage: align VERB RECIPE.yaml"),
        (["help"], 0, "usage: align VERB RECIPE.yaml"),
        (["--version"], 0, "0."),
        (["smaple", "x.yaml"], 2, "align: no verb 'smaple'; did you mean 'sample'?"),
        (["run"], 2, "the following arguments are required: RECIPE"),
        (["run", "no.yaml"], 2, "no.yaml  cannot be read (No such file or directory); is the path right?"),
        (["run", "x.yaml", "--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["verify", "nowhere"], 2, "nowhere: no manifest below it; is it the folder of a run (runs/<name>)?"),
        (["validate", "no.jsonl"], 2, "no.jsonl: cannot be read (No such file or directory)"),
        (["pairs", "a.jsonl"], 2, "say where the training sets are to go"),
        (
            ["dpo", "mix.jsonl"],
            2,
            "mix.jsonl: `align dpo` takes a recipe, *.yaml; its pairs go into one as `pairs: {also: [mix.jsonl]}`, "
            "where they join the run's own, as recipes/mixed_preference.yaml has it",
        ),
        (["status", "p.json"], 2, "p.json: `align status` takes a recipe, *.yaml; prompts go into one as `prompts: "),
        (["pairs", "a.jsonl", "out"], 2, "a.jsonl: cannot be read (No such file or directory)"),
        (
            ["pairs", "a.jsonl", "out", "min_margn=1"],
            2,
            "command line  min_margn: unknown key; did you mean 'min_margin'?",
        ),
    ],
)
def test_exit_codes_without_a_traceback(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    ended = small_run.align(*arguments, cwd=tmp_path)
    assert ended.returncode == code
    assert says in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_fault_of_ours_ends_with_1_and_a_traceback(tmp_path: Path) -> None:
    """A third party's annotator that breaks while it answers is no fault of the user's input."""
    site = tmp_path / "site"
    info = site / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "broken.py").write_text(
        "class Broken:\n    paid = False\n    def __init__(self, *, model=''): self.model = model\n"
        "    async def reply(self, request): return 1 / 0\n"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmalign.annotators]\nbroken = broken:Broken\n")
    recipe = small_run.teach_recipe(tmp_path)
    ended = small_run.align("teach", recipe, "teach.backend=broken", cwd=tmp_path, path=str(site))
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
    assert (
        "division by zero"
        in small_run.align("status", recipe, "teach.backend=broken", cwd=tmp_path, path=str(site)).stdout
    )


def test_events_for_machines(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    ended = small_run.align("run", recipe, "--json", cwd=tmp_path)
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(e["event"], e.get("stage"), e.get("state")) for e in events] == [
        ("stage", "sample", "up to date"),
        ("stage", "annotate", "started"),
        ("stage", "annotate", "done"),
        ("stage", "pairs", "started"),
        ("stage", "pairs", "done"),
        ("finished", None, None),
    ]
    assert (events[2]["units"], events[2]["outputs"], events[2]["failures"]) == (6, 6, 0)
    status = json.loads(small_run.align("status", recipe, "--json", cwd=tmp_path).stdout)
    assert [(row["stage"], row["state"]) for row in status["stages"]] == [
        ("sample", "done"), ("annotate", "done"), ("pairs", "done"),
    ]  # fmt: skip
    wrong = small_run.align("run", recipe, "sample.n=0", "--json", cwd=tmp_path)
    assert json.loads(wrong.stdout) == {
        "event": "error",
        "exit": 2,
        "faults": ["command line  sample.n: 0 is impossible; it must be at least 1"],
    }


def test_options_and_changes_may_stand_in_any_order(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    ended = small_run.align("teach", "-q", recipe, "--yes", "seed=1", "--json", "prompts.limit=2", cwd=tmp_path)
    assert ended.returncode == 0
    assert '"outputs": 2' in ended.stdout


def test_quiet_says_nothing_but_errors(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    ended = small_run.align("run", recipe, "-q", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_bar_on_a_terminal_and_plain_lines_elsewhere(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path, 12, pace=1200)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    ended = subprocess.run(
        [sys.executable, "-m", "align", "teach", str(recipe), f"runs={tmp_path / 'a'}"],
        cwd=small_run.ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert ended.stdout.startswith("teach: starts\nteach: done, 12 of 12 records\n")
    assert "teach:" in shown and "/12 [" in shown
    assert small_run.align("teach", recipe, f"runs={tmp_path / 'b'}").stderr == ""


def test_python_m_align_run_needs_no_installation_and_no_environment(tmp_path: Path) -> None:
    recipe = small_run.teach_recipe(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-m", "align", "run", str(recipe), f"runs={tmp_path / 'runs'}"],
        cwd=small_run.ROOT, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = small_run.start("--help")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


# -------------------------------------------------------------------------------------------------- status and estimate


def test_status_before_and_after(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    assert small_run.align("status", recipe, cwd=tmp_path).stdout == (
        "stage      state       outputs  failed     cost  seconds  why\n"
        "sample     done              6       0     0.00      0.0\n"
        "annotate   never             -       -        -        -\n"
        "pairs      never             -       -        -        -  waits for annotate\n"
    )
    small_run.align("run", recipe, cwd=tmp_path)
    lines = small_run.align("status", recipe, "annotate.mode=pointwise", cwd=tmp_path).stdout.splitlines()
    assert lines[2].startswith("annotate   stale             6       0     0.00")
    assert lines[2].endswith('annotate.mode was "listwise", is "pointwise"')
    assert lines[3].endswith("waits for annotate")


def test_status_of_a_recipe_whose_model_is_missing(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    ended = small_run.align("status", recipe, "model=gone/away/model", cwd=tmp_path)
    assert ended.returncode == 0
    assert "model: gone/away/model is no folder" in ended.stdout


@pytest.mark.parametrize(
    ("file", "remedy"),
    [("data/demo/prompts.jsonl", "`make demo-data` writes the demo's"), ("data/own.jsonl", "is the path right?")],
)
def test_an_estimate_without_the_prompts_says_what_writes_them(tmp_path: Path, file: str, remedy: str) -> None:
    (tmp_path / "x.yaml").write_text(f"prompts: {{file: {file}}}\nteach: {{backend: rules}}\n")
    ended = small_run.align("estimate", "x.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == f"prompts.file: {file} cannot be read (No such file or directory); {remedy}\n"


def test_estimate_counts_what_is_missing(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    out = small_run.align("estimate", recipe, cwd=tmp_path).stdout
    assert out == (
        "sample     up to date\n"
        "annotate   6 calls, free\n"
        "pairs      not known yet: waits for annotate\n"
        "in all     $0.00\n"
    )
    # Nothing sampled yet: as many calls, at the greatest length.
    out = small_run.align("estimate", recipe, "sample.n=2", "annotate.mode=pointwise", cwd=tmp_path).stdout
    assert "annotate   12 calls, free (at most: nothing is sampled yet)\n" in out
    small_run.align("annotate", recipe, "annotate.passes=1", cwd=tmp_path)
    more = small_run.align("estimate", recipe, "annotate.passes=2", cwd=tmp_path).stdout
    assert "annotate   6 calls, 6 answered already, free\n" in more


# -------------------------------------------------------------------------------------------------- verify and validate


def test_verify_names_every_file_that_was_touched(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    small_run.align("run", recipe, cwd=tmp_path)
    sound = small_run.align("verify", "runs/small", cwd=tmp_path)
    files = sum(len(small_run.outputs(tmp_path / "runs/small" / stage)) for stage in ("sample", "annotate", "pairs"))
    assert sound.stdout == f"runs/small: {files} files of 3 manifests are what they were\n"
    assert sound.returncode == 0
    with (tmp_path / "runs/small/pairs/preference.jsonl").open("a") as stream:
        stream.write("\n")
    (tmp_path / "runs/small/annotate/failures.jsonl").unlink()
    touched = small_run.align("verify", "runs/small", cwd=tmp_path)
    assert touched.returncode == 2
    assert touched.stderr == (
        "runs/small/annotate/failures.jsonl: No such file or directory\n"
        "runs/small/pairs/preference.jsonl: was changed after it was made\n"
    )


def test_verify_finds_outputs_that_do_not_belong_together(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    small_run.align("run", recipe, cwd=tmp_path)
    small_run.align("annotate", recipe, "annotate.passes=2", cwd=tmp_path)
    ended = small_run.align("verify", "runs/small", cwd=tmp_path)
    assert ended.returncode == 2
    assert "pairs was made from another annotate/annotated.jsonl than lies there" in ended.stderr


def test_validate_says_what_a_file_holds(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    small_run.align("run", recipe, cwd=tmp_path)
    annotate = "runs/small/annotate/annotated.jsonl"
    for file, says in {
        "small.yaml": "small.yaml: a sound recipe: sample, annotate, pairs",
        "prompts.jsonl": "prompts.jsonl: 6 prompts, 0 duplicates",
        annotate: f"{annotate}: 6 annotated (mmalign); faults: 0",
        "runs/small/pairs/preference.jsonl": "runs/small/pairs/preference.jsonl: 6 pairs (mmalign); faults: 0",
    }.items():
        ended = small_run.align("validate", file, cwd=tmp_path)
        assert (ended.returncode, ended.stdout.splitlines()[0]) == (0, says), ended.stderr


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (('"correctness":', '"correctness":5,"was":'), "scores ['coherence',"),
        (('"correctness":0', '"correctness":5'), ".correctness: 5 is not an integer from 0 to 4"),
        (('"correctness":0', '"correctness":0.5'), "correctness: expected int, got float"),
        (('"ratings":[', '"ratings":[{"completion_id":"x","scores":{}},'), "4 rating(s) for 3 completion(s)"),
        (('"shown_order":[', '"shown_order":["x", '), "3 rating(s) for 4 completion(s)"),
    ],
)
def test_validate_refuses_damaged_annotations(tmp_path: Path, damage: tuple[str, str], says: str) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    small_run.align("annotate", recipe, cwd=tmp_path)
    path = tmp_path / "runs/small/annotate/annotated.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert damage[0] in lines[0]
    (tmp_path / "annotated.jsonl").write_text(lines[0].replace(*damage, 1) + "".join(lines[1:]))
    for verb in (["validate", "annotated.jsonl"], ["pairs", "annotated.jsonl", "out"]):
        ended = small_run.align(*verb, cwd=tmp_path)
        assert ended.returncode == 2
        assert says in ended.stderr and "annotated.jsonl:1: " in ended.stderr and "Traceback" not in ended.stderr
        assert not (tmp_path / "out").exists()


def test_pairs_from_a_bare_annotation_file(tmp_path: Path) -> None:
    recipe = small_run.annotate_recipe(tmp_path)
    small_run.align("annotate", recipe, cwd=tmp_path)
    annotated = tmp_path / "runs/small/annotate/annotated.jsonl"
    ended = small_run.align("pairs", annotated, "out", "min_margin=1", "--seed", "0", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("written to out\n")
    small_run.align("pairs", recipe, cwd=tmp_path)
    for name in ("preference.jsonl", "steerlm.jsonl", "rejection.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "runs/small/pairs" / name).read_bytes()


def test_env_names_what_is_missing_and_the_command(tmp_path: Path) -> None:
    ended = small_run.align("env", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    packages = wanted_packages()
    assert {"numpy", "torch", "trl", "matplotlib", "google-genai"} <= {row["name"] for row in packages}
    (hub,) = (line for line in ended.stdout.splitlines() if line.startswith("hub "))
    assert "HF_HUB_OFFLINE is " in hub and "online" not in hub
    project = tomllib.loads((small_run.ROOT / "pyproject.toml").read_text())["project"]
    for extra in {*project["optional-dependencies"]} - {"dev"}:
        assert f"\n{extra:14} " in ended.stdout
    for row in packages:
        if row["fault"]:
            assert f"{row['name']}: {row['fault']}" in ended.stdout
            apart = row["extra"] == "vllm"  # asks for another transformers than the pinned one
            how = "pip install -e '.[train," if apart else "pip install -c constraints.txt -e '.["
            assert f"{how}{row['extra']}]'" in ended.stdout
        else:
            assert f"{row['name']} {row['version']}" in ended.stdout
    assert "annotators     " in ended.stdout and "rules" in ended.stdout.splitlines()[-1]


def test_a_terminal_of_ascii_is_shown_question_marks(tmp_path: Path) -> None:
    code = (
        "import sys, align.cli; align.cli.main(['smäple −']); print(sys.argv[1]); print(sys.argv[1], file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "chosen − rejected"],
        cwd=small_run.ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "chosen ? rejected\n"
    assert "no verb 'sm?ple ?'" in ended.stderr and ended.stderr.endswith("chosen ? rejected\n")


def test_pairs_takes_a_recipe_or_two_paths(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pairs", "--help"])
    assert capsys.readouterr().out.startswith("usage: align pairs [options] (RECIPE | FILE OUTDIR) [key=value ...]\n")


def test_versions_are_compared_as_numbers() -> None:
    assert fits("1.16.3", ">=1.16,<1.17") and not fits("1.17.0", ">=1.16,<1.17")
    assert fits("2.13.0+cpu", ">=2.6") and not fits("2.5.1", ">=2.6")
    assert fits("10.0", "<11,>=9")


def test_a_bad_record_of_prompts_is_refused_whole(tmp_path: Path) -> None:
    """Nothing is written when the prompts are wrong."""
    recipe = small_run.teach_recipe(tmp_path)
    write_records(tmp_path / "prompts.jsonl", [{"schema": "prompt/1", "id": "x"}])
    ended = small_run.align("run", recipe, cwd=tmp_path)
    assert ended.returncode == 2
    assert "prompts.jsonl:1" in ended.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prompts.jsonl", "small.yaml"]


def test_status_of_a_training_that_was_killed_says_its_last_checkpoint(tmp_path: Path) -> None:
    """What a kill leaves: two whole checkpoints, and one that was being written."""
    recipe = small_run.annotate_recipe(tmp_path)
    recipe.write_text(recipe.read_text() + "dpo: {checkpoint_every: 5}\n")
    dpo = tmp_path / "runs/small/dpo"
    work = dpo / "work/0f3a"
    work.mkdir(parents=True)
    (dpo / ".attempt.json").write_text('{"units": 1, "error": ""}')
    (dpo / "journal.jsonl").write_text("")

    def told() -> str:
        return small_run.align("status", recipe, cwd=tmp_path).stdout.splitlines()[-1]

    nothing = "dpo        unfinished        -       -        -        -  "
    assert told() == f"{nothing}no checkpoint yet; `align dpo {recipe}` begins at step 1"
    for step in (5, 10, 15):
        (work / f"checkpoint-{step}").mkdir()
        for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (work / f"checkpoint-{step}/{name}").write_text("")
        (work / f"checkpoint-{step}/trainer_state.json").write_text('{"max_steps": 30}')
        if step < 15:
            (work / f"checkpoint-{step}.done").write_text(f"{step}\n")
            os.utime(work / f"checkpoint-{step}.done", (step, step))
    assert told() == f"{nothing}last checkpoint at step 10 of 30; `align dpo {recipe}` goes on from there"
    (dpo / ".attempt.json").write_text('{"units": 1, "error": "step 12: the loss is nan"}')
    failed = "dpo        failed            -       -        -        -  step 12: the loss is nan; "
    assert told() == f"{failed}last checkpoint at step 10 of 30; `align dpo {recipe}` goes on from there"
