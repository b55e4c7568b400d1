"""`make demo-all` cut short: both recipes as they ship, on the small demo world, with trainings of a few steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from align.console import Console
from align.recipe import load_recipe
from align.runner import Runner
from annotate.errors import UserError

ROOT = Path(__file__).parents[1]
WORDS = re.compile(
    r"repaired|partly repaired \(-?\d+% \[(\?|-?\d+%), (\?|-?\d+%)\]\)|worse|not shown|nothing to repair|better|kept"
)
pytestmark = pytest.mark.slow


def recipe(folder: Path, name: str, **changes: str) -> Path:
    """A shipped recipe that reads and writes below `folder`; `changes`: a line's beginning -> what it says instead."""
    text = (ROOT / "recipes" / name).read_text(encoding="utf-8").replace("data/demo/", f"{folder}/demo/")
    for start, line in changes.items():
        text, n = re.subn(rf"^( *){start}:[^#\n]*", rf"\1{start}: {line} ", text, flags=re.M)
        assert n, f"{name} has no line that begins with {start}"
    made = folder / name.replace("/", "_")
    made.write_text(f"runs: {folder}/runs\n{text}", encoding="utf-8")
    return made


def test_one_comparison_of_what_prevents_and_what_repairs(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    subprocess.run([sys.executable, ROOT / "data/prepare_demo.py", "--out", demo, "--small"], check=True)
    subprocess.run([sys.executable, ROOT / "data/mix_demo.py", demo], check=True, capture_output=True)
    rows = [json.loads(line) for line in (demo / "mlan.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["source"] for row in rows} == {"digits", "charts", "language"}
    short = {"steps": "12", "batch_size": "8"}
    base = recipe(tmp_path, "demo_base.yaml", **short, easy_steps="4", curriculum_steps="6")
    mlan = recipe(tmp_path, "mlan/demo.yaml", **short, curriculum_steps="6", backbone=str(base))
    whole = recipe(
        tmp_path, "regression_repair.yaml", model=str(base), backbone=str(base), also=f"{{mlan: {mlan}}}",
        sample="{n: 4, temperature: 1.5, max_new_tokens: 8}", min_margin="1", num_train_epochs="1", max_new_tokens="8",
    )  # fmt: skip
    quiet = Console(quiet=True)
    Runner(load_recipe(base), quiet).bring("tune")
    untrained = f"evaluate.also.mlan: .*mlan-demo/tune is not there .never.; train it with `align tune {mlan}`"
    with pytest.raises(UserError, match=untrained):
        Runner(load_recipe(whole), quiet).bring(None)
    assert not (tmp_path / "runs/regression-repair").exists()  # told before anything is sampled
    Runner(load_recipe(mlan), quiet).bring("tune")
    Runner(load_recipe(whole), quiet).bring(None)

    run = tmp_path / "runs/regression-repair"
    found = json.loads((run / "evaluate/verdicts.json").read_text(encoding="utf-8"))
    models = ["backbone", "vlm", "mlan", "sft", "steerlm", "rejection", "dpo"]
    assert list(found["models"]) == models and found["also"] == {"mlan": f"trained by {mlan}, stage tune"}
    # what a tiny untrained model says is rarely readable, but text and choice are always scored
    compared = {(row["suite"], row["model"]): row for row in found["comparisons"]}
    assert {(s, m) for s in ("text_instructions", "choice") for m in models[2:]} <= compared.keys()
    for row in found["comparisons"]:
        assert WORDS.fullmatch(row["verdict"]), row["verdict"]
        assert row["minus_vlm"]["low"] <= row["minus_vlm"]["mean"] <= row["minus_vlm"]["high"]
    assert {row["model"] for row in found["tax"]} == set(models[2:])
    metrics = [json.loads(line) for line in (run / "evaluate/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    choice = {m["model"]: m for m in metrics if (m["suite"], m["name"]) == ("choice", "accuracy")}
    assert choice.keys() == set(models[1:]) and all(m["low"] <= m["value"] <= m["high"] for m in choice.values())
    shown = (run / "report/table.txt").read_text(encoding="utf-8")
    assert "mlan − VLM" in shown and "mlan: a further model, trained by" in shown and "alignment tax:" in shown
