"""What the documents say is true: commands exist, code runs, recorded lines are records that hang together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from align.recipe import load_recipe
from annotate.jsonl import write_records
from annotate.records import (
    Annotated,
    Annotation,
    Completion,
    Example,
    Item,
    Manifest,
    Metric,
    PreferencePair,
    Prompt,
    Rating,
    Turn,
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
    prompt = Prompt.of((Turn(role="user", text="Is there a 7?"),))
    good, bad = (Completion.of(prompt_id=prompt.id, model="m", index=i, text=t) for i, t in enumerate(("Yes.", "No.")))
    ratings = tuple(
        Rating(completion_id=c.id, scores={"helpfulness": h, "correctness": h, "coherence": 4})
        for c, h in ((good, 4), (bad, 1))
    )
    annotation = Annotation(
        id="a", prompt_id=prompt.id, mode="listwise", pass_index=0, shown_order=(bad.id, good.id), ratings=ratings,
        backend="hand", model="", rubric="mine", rubric_sha256="", request_sha256="",
    )  # fmt: skip
    annotated = Annotated(prompt=prompt, completions=(good, bad), annotations=(annotation,))
    write_records(tmp_path / "annotated.jsonl", [annotated])
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"<!-- python-pairs -->\n```python\n(.*?)```", README, flags=re.S)
    namespace: dict = {}
    exec(code, namespace)
    (pair,) = namespace["pairs"]
    assert (pair.chosen, pair.rejected, pair.margin) == (good, bad, 6.0)


def test_every_make_target_that_the_documents_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    stages = re.search(r"^STAGES := (.*)$", makefile, flags=re.M)
    assert stages
    targets = set(re.findall(r"^([a-z][a-z-]*)(?=[ :])", makefile, flags=re.M)) | set(stages[1].split())
    for page in ("README.md", "CONTRIBUTING.md", "recipes/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", text, flags=re.M))
        assert named <= targets, f"{page} names {named - targets}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_loads(path: Path) -> None:
    assert load_recipe(path).name


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
