"""The trained base that ships: it is what the recipe says, small, and good enough to be aligned."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from align.base import SHIPPED, base_recipe_sha256
from align.recipe import load_recipe

ROOT = Path(__file__).parents[1]
RECEIPT = json.loads((SHIPPED / "base.json").read_text(encoding="utf-8"))


def test_it_was_trained_by_the_recipe_as_it_stands() -> None:
    assert RECEIPT["recipe_sha256"] == base_recipe_sha256(load_recipe(ROOT / "recipes/demo_base.yaml"))


def test_its_data_were_made_by_the_scripts_as_they_stand() -> None:
    for name, sha256 in RECEIPT["scripts"].items():
        found = hashlib.sha256((ROOT / "data" / name).read_bytes()).hexdigest()
        assert found == sha256, f"data/{name} changed since the base was trained: make demo-base, then ship it"


def test_another_recipe_is_refused() -> None:
    other = load_recipe(ROOT / "recipes/demo_base.yaml", ["tune.steps=1"])
    assert RECEIPT["recipe_sha256"] != base_recipe_sha256(other)
    # where a checkpoint is kept or how often decides nothing
    same = load_recipe(ROOT / "recipes/demo_base.yaml", ["tune.save_every=7"])
    assert RECEIPT["recipe_sha256"] == base_recipe_sha256(same)


def test_it_is_small_and_names_no_machine() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    for path in files:
        if path.suffix in (".json", ".jsonl"):
            assert "/runs/" not in path.read_text(encoding="utf-8"), path
        assert path.suffix not in (".bin", ".pt", ".pkl")


def test_it_sees_is_not_saturated_and_has_regressed() -> None:
    dev = RECEIPT["dev"]
    assert 0.65 <= dev["vlm/pope/accuracy"] <= 0.92
    assert 0.35 <= dev["vlm/pope/yes_ratio"] <= 0.65
    assert dev["vlm/pope_blank/accuracy"] <= 0.55
    assert 0.40 <= dev["vlm/choice/accuracy"] <= 0.92  # four options: chance is 0.25
    assert dev["backbone/text_instructions/headline"] - dev["vlm/text_instructions/headline"] >= 0.1


@pytest.mark.slow
def test_the_demo_repairs_text_and_keeps_its_eyes(tmp_path: Path) -> None:
    """The whole of recipes/demo.yaml on the shipped base, and what recipes/README.md promises of it."""
    subprocess.run([sys.executable, "data/prepare_demo.py", "--no-training"], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "align", "run", "recipes/demo.yaml", f"runs={tmp_path}", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "demo/evaluate/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metric = {(r["model"], r["suite"], r["name"]): r["value"] for r in map(json.loads, lines) if not r["judge"]}
    verdicts = json.loads((tmp_path / "demo/evaluate/verdicts.json").read_text(encoding="utf-8"))
    (text,) = (r for r in verdicts["regression"] if r["suite"] == "text_instructions")
    assert text["verdict"] == "present"
    (dpo,) = (c for c in verdicts["comparisons"] if (c["suite"], c["model"]) == ("text_instructions", "dpo"))
    assert dpo["minus_vlm"]["mean"] > 0 and dpo["minus_vlm"]["p"] < 0.05
    # not by style alone: right answers in any form are not fewer, and POPE loses no more than 2 points
    assert metric["dpo", "text_instructions", "exact"] >= metric["vlm", "text_instructions", "exact"]
    assert metric["dpo", "pope", "accuracy"] >= metric["vlm", "pope", "accuracy"] - 0.02
    assert 0.65 <= metric["vlm", "pope", "accuracy"] <= 0.92 and metric["vlm", "pope_blank", "accuracy"] <= 0.55
    assert (tmp_path / "demo/report/report.html").exists()
