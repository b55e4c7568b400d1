"""Rounds: the second begins with the model that the first has aligned, and nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sweep_world

from align.cli import main
from align.models.digest import DECIDING
from align.recipe import load_recipe
from align.state import read_manifest
from annotate.errors import UserError
from annotate.jsonl import read_records
from annotate.records import Completion

torch = pytest.importorskip("torch")
# A random model says nothing true, but not always as much: pairs are made by verbosity.
CHANGES = (
    "rounds=2", "sample={n: 4, max_new_tokens: 8, temperature: 1.5}", "pairs={score: [verbosity], min_margin: 0}",
    "steerlm=null", "evaluate.suites=[text_instructions]",
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep_world.make(tmp_path_factory.mktemp("rounds"))


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    runs = recipe.parent / "runs"
    assert main(["run", str(recipe), f"runs={runs}", "-q", *CHANGES]) == 0
    return runs / "small"


@pytest.mark.slow
def test_the_second_round_begins_with_the_aligned_model(recipe: Path, run: Path) -> None:
    from align.models.load import digest_of, load_vlm

    vlm, adapter, merged = recipe.parent / "vlm", run / "dpo/adapter", run / "round-2/model"
    wanted = load_vlm(vlm, adapter=adapter).model.state_dict()
    found = load_vlm(merged).model.state_dict()
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)
    before = load_vlm(vlm).model.state_dict()
    assert any(not torch.equal(before[name], found[name]) for name in before)
    sampled = read_manifest(run / "round-2/sample")
    assert sampled is not None and sampled.inputs["model"] == digest_of(merged)
    texts = [{c.text for c in read_records(run / r / "sample/completions.jsonl", Completion)} for r in ("", "round-2")]
    assert texts[0] != texts[1]
    # tokenizer and processor are the same files
    for file in (path for pattern in DECIDING[1:] for path in vlm.glob(pattern) if path.name != "config.json"):
        if "generation" not in file.name:
            assert (merged / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_a_table_of_all_rounds_against_the_untouched_model(run: Path) -> None:
    table = json.loads((run / "rounds/table.json").read_text())
    assert [(row["point"], row["values"]) for row in table["points"]] == [
        ("round-1", {"round": 1}),
        ("round-2", {"round": 2}),
    ]
    metrics = [json.loads(line) for line in (run / "evaluate/metrics.jsonl").read_text().splitlines()]
    (vlm,) = (m["value"] for m in metrics if m["model"] == "vlm" and m["name"] == "headline")
    assert table["baselines"]["vlm"]["text_instructions"]["value"] == vlm
    assert (run / "rounds/sweep.html").is_file() and (run / "round-2/report/report.html").is_file()


@pytest.mark.slow
def test_done_rounds_are_passed_and_another_adapter_begins_anew(
    recipe: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["run", str(recipe), f"runs={run.parent}", *CHANGES]
    assert main(again) == 0
    said = capsys.readouterr().out
    assert "sample, annotate, pairs, dpo, evaluate, report: ready" in said and "starts" not in said
    assert main([*again, "dpo.trl.beta=0.4"]) == 0
    said = capsys.readouterr().out
    assert "sample: stale (model changed)" in said


def test_what_rounds_need() -> None:
    with pytest.raises(UserError, match="rounds: a round samples, annotates and aligns by DPO; add `dpo`"):
        load_recipe("recipes/sweep_demo.yaml", ["rounds=2", "dpo=null", "sweep=null"])
    with pytest.raises(UserError, match="rounds: does not go with `sweep`"):
        load_recipe("recipes/sweep_demo.yaml", ["rounds=2"])
