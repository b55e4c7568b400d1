"""What the documents say is true: commands exist, code runs, recorded lines are records that hang together."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

import align.cli
from align.recipe import load_recipe
from align.train.file_rows import read_file_rows
from annotate.records import (
    Annotated,
    Completion,
    Example,
    Item,
    Manifest,
    Metric,
    PreferencePair,
    Prompt,
)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KINDS = {k.SCHEMA: k for k in (Prompt, Completion, Annotated, PreferencePair, Example, Item, Metric, Manifest)}


def pipeline_lines() -> dict[str, dict]:
    text = (ROOT / "docs/pipeline.md").read_text(encoding="utf-8")
    return {
        name: json.loads(body)
        for name, body in re.findall(r"<!-- line: (\S+) -->\n```json\n(.*?)\n```\n<!-- /line -->", text, flags=re.S)
    }


def test_every_line_of_the_pipeline_page_is_a_record() -> None:
    lines = pipeline_lines()
    assert len(lines) == len(re.findall(r"<!-- line:", (ROOT / "docs/pipeline.md").read_text(encoding="utf-8"))) >= 9
    for name, row in lines.items():
        if name != "dpo/log.jsonl":
            KINDS[row["schema"]].from_json(row)


def test_the_pipeline_page_follows_one_prompt() -> None:
    lines = pipeline_lines()
    prompt = Prompt.from_json(lines["prompts"])
    assert Completion.from_json(lines["sample/completions.jsonl"]).prompt_id == prompt.id
    annotated = Annotated.from_json(lines["annotate/annotated.jsonl"])
    pair = PreferencePair.from_json(lines["pairs/preference.jsonl"])
    assert annotated.prompt == pair.prompt == prompt
    by_id = {c.id: c for c in annotated.completions}
    assert by_id[pair.chosen.id] == pair.chosen and by_id[pair.rejected.id] == pair.rejected
    scores = annotated.scores()
    score = {c: sum(s[a] for a in ("helpfulness", "correctness", "coherence")) for c, s in scores.items()}
    assert score[pair.chosen.id] - score[pair.rejected.id] == pair.margin >= 2
    assert abs(lines["dpo/log.jsonl"]["loss"] - 0.6931) < 1e-3


def test_the_pair_builder_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # helpfulness + correctness + coherence: 12 against 6
    scores = [(4, 4, 4, 1, 2), (1, 1, 4, 1, 0)]
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rows = [
        {"prompt": "Is there a 7?", "response": text, **dict(zip(names, given, strict=True))}
        for text, given in zip(("Yes, on the left.", "No."), scores, strict=True)
    ]
    (tmp_path / "helpsteer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"<!-- python-pairs -->\n```python\n(.*?)```", README, flags=re.S)
    namespace: dict = {}
    exec(code, namespace)
    (pair,) = namespace["pairs"]
    assert (pair.chosen.text, pair.rejected.text, pair.margin) == ("Yes, on the left.", "No.", 6.0)
    for command in commands_of_the_pair_builder():
        assert align.cli.main(command) == 0, command
    assert json.loads(Path("dpo.json").read_text())[0]["chosen"]["value"] == "Yes, on the left."


def commands_of_the_pair_builder() -> list[list[str]]:
    (block,) = re.findall(r"<!-- pairs-alone -->\n```\n(.*?)```", README, flags=re.S)
    lines = [line.split("#")[0].split() for line in block.splitlines()]
    found = [words[1:] for words in lines if words[:1] == ["align"]]
    assert [words[0] for words in found] == ["pairs", "doctor", "convert"]
    return found


def test_the_scores_of_the_readme_are_what_those_collections_are_rated_for(tmp_path: Path) -> None:
    scores = dict(re.findall(r"^# (\w+): +(score='?\[.*?\])'", README, flags=re.M))
    assert list(scores) == ["UltraFeedback", "VLFeedback"]
    for name, score in scores.items():
        file, out = ROOT / f"tests/formats/{name.lower()}.jsonl", tmp_path / name
        assert align.cli.main(["pairs", str(file), str(out), score.replace("'", ""), "-q"]) == 0, name
        assert (out / "preference.jsonl").stat().st_size


def test_the_conversion_of_the_formats_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "Why?", "chosen": "So.", "rejected": "Because."}
    Path("a.json").write_text(json.dumps([row]))
    Path("images").mkdir()
    assert align.cli.main("convert a.json dpo.json --from vl_rlhf --to llama_factory -q".split()) == 0
    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- python-formats -->\n```python\n(.*?)```", text, flags=re.S)
    exec(code, {})
    assert json.loads(Path("swift.jsonl").read_text())["rejected_response"] == "Because."


def test_rows_of_ones_own_are_written_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("images/bus.jpg").write_bytes(b"a bus")
    text = (ROOT / "docs/visual_tuning.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- python-rows -->\n```python\n(.*?)```", text, flags=re.S)
    exec(code, {})
    found = read_file_rows(Path("mine.jsonl"), Path("images"), stage="instruct")
    assert [row.completions for row in found.rows] == [("Red.",), ("White.",)]


@pytest.mark.parametrize("page", sorted(p.name for p in ROOT.glob("docs/*.md")))
def test_tables_are_those_of_the_code(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    tables = importlib.import_module("tables")
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert tables.refreshed(text) == text, "python docs/tables.py"


def test_every_make_target_that_the_documents_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    stages = re.search(r"^STAGES := (.*)$", makefile, flags=re.M)
    assert stages
    targets = set(re.findall(r"^([a-z][a-z-]*)(?=[ :])", makefile, flags=re.M)) | set(stages[1].split())
    for page in ("README.md", "CONTRIBUTING.md", "recipes/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", text, flags=re.M))
        assert named <= targets, f"{page} names {named - targets}"


NO_RECIPES = re.compile(r"accelerate/|mix_|paper")
"""What else lies below recipes/: of `accelerate launch`, `align mix` and `align analyse paper`."""
RECIPES = [p for p in sorted(ROOT.glob("recipes/**/*.yaml")) if not NO_RECIPES.search(str(p.relative_to(ROOT)))]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_recipe_loads(path: Path) -> None:
    assert load_recipe(path).name


@pytest.mark.parametrize("page", ["sight_beyond_text", "mlan"])
def test_every_run_of_the_sister_systems_is_a_sound_recipe(page: str) -> None:
    text = (ROOT / "recipes" / page / "README.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in re.findall(r"^align run (.*?)(?:  +#.*)?$", text, flags=re.M)]
    assert len(commands) >= 6
    names = [load_recipe(ROOT / file, changes).name for file, *changes in commands]
    assert len(set(names)) == len(names)


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_recipe_line_of_the_annotators_page_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs/annotators.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, flags=re.S)
    assert len(blocks) >= 5
    for i, block in enumerate(blocks):
        recipe = tmp_path / f"{i}.yaml"
        recipe.write_text(f"name: x\nmodel: .\nprompts: {{file: p.jsonl}}\nsample: {{}}\n{block}")
        loaded = load_recipe(recipe)
        assert loaded.annotate is not None and f"| `{loaded.annotate.backend}` |" in text
