"""The demo from nothing with several seeds, and the tables of recipes/README.md:  python bench/demo_seeds.py [0 1 2]

For each seed: train the base (recipes/demo_base.yaml), then the whole road on it (recipes/demo.yaml), in
`runs/demo-base-seed<n>` and `runs/demo-seed<n>`; all other options are those of the recipes. Then one ablation on the
first seed: the same with image prompts only. What is done already is not done again. Rewrites what stands between the
markers in recipes/README.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "recipes/README.md"
MODELS = {
    "backbone": "language backbone",
    "vlm": "VLM",
    "sft": "SFT",
    "steerlm": "SteerLM",
    "rejection": "rejection",
    "dpo": "DPO",
}
COLUMNS = (
    ("text_instructions", "headline", "text"),
    ("text_instructions", "exact", "text, exact in any form"),
    ("text_noisy_image", "headline", "text, noisy image"),
    ("open_visual", "headline", "open visual"),
    ("pope", "accuracy", "POPE accuracy"),
    ("pope", "f1", "POPE F1"),
    ("pope", "yes_ratio", "yes ratio"),
    ("pope_blank", "accuracy", "POPE, image blanked"),
    ("choice", "accuracy", "multiple choice"),
)


def align(*arguments: str) -> None:
    # One thread: the weights, and so the tables, are then the same on a machine with any number of cores.
    subprocess.run([sys.executable, "-m", "align", *arguments, "threads=1"], check=True, cwd=ROOT)


def run_seed(seed: int) -> Path:
    base = f"runs/demo-base-seed{seed}"
    align("run", "recipes/demo_base.yaml", f"name=demo-base-seed{seed}", f"seed={seed}")
    models = (f"model={base}/tune/model", f"backbone={base}/language/model")
    align("run", "recipes/demo.yaml", f"name=demo-seed{seed}", f"seed={seed}", *models)
    return ROOT / f"runs/demo-seed{seed}"


def run_image_prompts_only(seed: int) -> Path:
    """The ablation: the paper's prompts all have an image; the demo's default mixes in text instructions."""
    base, source = f"runs/demo-base-seed{seed}", ROOT / "data/demo/prompts.jsonl"
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if any(turn["images"] for turn in json.loads(line)["turns"])]
    only = ROOT / "runs/image_prompts.jsonl"
    only.write_text("".join(kept), encoding="utf-8")
    name = f"demo-seed{seed}-image-prompts"
    models = (f"model={base}/tune/model", f"backbone={base}/language/model")
    prompts = f"prompts.file={only.relative_to(ROOT)}"
    without = [f"{stage}=null" for stage in ("teach", "steerlm", "rejection", "sft")]
    align("run", "recipes/demo.yaml", f"name={name}", f"seed={seed}", prompts, *models, *without)
    return ROOT / "runs" / name


def read(run: Path) -> tuple[dict[tuple[str, str, str], dict[str, Any]], dict[str, Any]]:
    """(suite, measure, model) -> metric, and the verdicts."""
    rows = [json.loads(line) for line in (run / "evaluate/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    verdicts = json.loads((run / "evaluate/verdicts.json").read_text(encoding="utf-8"))
    return {(r["suite"], r["name"], r["model"]): r for r in rows if not r["judge"]}, verdicts


def cell(metric: dict[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "-"
    if metric["low"] is None:
        return f"{metric['value']:.2f}"
    return f"{metric['value']:.2f} [{metric['low']:.2f}, {metric['high']:.2f}]"


def table(run: Path) -> list[str]:
    metrics, verdicts = read(run)
    used = [c for c in COLUMNS if any((c[0], c[1], m) in metrics for m in MODELS)]
    n = {suite: max(v["n"] for k, v in metrics.items() if k[0] == suite) for suite, _, _ in used}
    lines = [
        "| | " + " | ".join(f"{label} (n {n[suite]})" for suite, _, label in used) + " |",
        "|-|" + "-|" * len(used),
    ]
    for model, label in MODELS.items():
        cells = [cell(metrics.get((suite, measure, model))) for suite, measure, _ in used]
        if set(cells) != {"-"}:
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    said = [f"{v['model']}: {v['verdict']}" for v in verdicts["comparisons"] if v["suite"] == "text_instructions"]
    return [*lines, "", f"Text, against the VLM (paired): {'; '.join(said)}.", ""]


def acceptance(run: Path) -> str:
    """What DPO did: the gain on text with its p, and the change of POPE accuracy in points."""
    metrics, verdicts = read(run)
    gain = next(
        v["minus_vlm"] for v in verdicts["comparisons"] if (v["suite"], v["model"]) == ("text_instructions", "dpo")
    )
    exact = [metrics["text_instructions", "exact", m]["value"] for m in ("dpo", "vlm")]
    pope = [metrics["pope", "accuracy", m]["value"] for m in ("dpo", "vlm")]
    return (
        f"DPO on text: {100 * gain['mean']:+.1f} points [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}], "
        f"p = {gain['p']:.4f}; exactness in any form {100 * (exact[0] - exact[1]):+.1f}; "
        f"POPE accuracy {100 * (pope[0] - pope[1]):+.1f}."
    )


def main() -> None:
    seeds = [int(s) for s in sys.argv[1:]] or [0, 1, 2]
    runs = {f"Seed {seed}": run_seed(seed) for seed in seeds}
    runs[f"Ablation: image prompts only (seed {seeds[0]})"] = run_image_prompts_only(seeds[0])
    lines: list[str] = []
    for title, run in runs.items():
        lines += [f"### {title}", "", *table(run), acceptance(run), ""]
    text = PAGE.read_text(encoding="utf-8")
    block = "<!-- seeds -->\n" + "\n".join(lines) + "<!-- /seeds -->"
    PAGE.write_text(re.sub(r"<!-- seeds -->.*<!-- /seeds -->", lambda _: block, text, flags=re.S), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
