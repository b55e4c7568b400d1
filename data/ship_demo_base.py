"""Copies a trained base from its run to data/demo_base, if it is good enough:  python data/ship_demo_base.py [RUN]

RUN (default runs/demo-base) is a finished run of recipes/demo_base.yaml. What is shipped:

    data/demo_base/language/, vlm/      the models, safetensors in half precision
    data/demo_base/log/*.jsonl          the training logs of the three stages
    data/demo_base/base.json            {"recipe_sha256", "seed", "scripts": {...}, "dev": {...}}

`recipe_sha256` lets the runner refuse a copy that another version of the recipe trained; `scripts` says by which
versions of the scripts its data were made; `dev` are its scores on the dev split, from the run's own evaluation.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT)]

from prepare_demo import receipt  # noqa: E402

from align.base import base_recipe_sha256  # noqa: E402
from align.recipe import load_recipe  # noqa: E402

OUT = ROOT / "data" / "demo_base"
MEASURES = {
    "text_instructions": ("headline", "exact", "form"),
    "text_noisy_image": ("headline",),
    "open_visual": ("headline", "exact"),
    "pope": ("accuracy", "f1", "yes_ratio"),
    "pope_blank": ("accuracy",),
    "choice": ("accuracy",),
}
# What a base must show on dev before anybody is asked to align it: it sees, it is not saturated, and text regressed.
WANTED = {
    "vlm/pope/accuracy": (0.65, 0.92),
    "vlm/pope/yes_ratio": (0.35, 0.65),
    "vlm/pope_blank/accuracy": (0.0, 0.55),
    "vlm/choice/accuracy": (0.40, 0.92),
}


def dev_scores(run: Path) -> dict[str, float]:
    """`model/suite/measure` -> score, from the run's evaluation."""
    lines = (run / "evaluate/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["name"] in MEASURES.get(row["suite"], ())]
    return {f"{r['model']}/{r['suite']}/{r['name']}": round(r["value"], 4) for r in rows if r["value"] is not None}


def faults(scores: dict[str, float]) -> list[str]:
    """Everything that speaks against a base with these scores."""
    found = [
        f"{name} is {scores.get(name)}, wanted {low} to {high}"
        for name, (low, high) in WANTED.items()
        if not low <= scores.get(name, -1.0) <= high
    ]
    lost = scores["backbone/text_instructions/headline"] - scores["vlm/text_instructions/headline"]
    return found + ([f"text lost {lost:.2f} only; there is nothing to repair"] if lost < 0.1 else [])


def main() -> None:
    if len(sys.argv) > 2 or "-h" in sys.argv or "--help" in sys.argv:
        sys.exit(__doc__)
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo-base")
    try:
        scores = dev_scores(run)
        manifest = json.loads((run / "language/manifest.json").read_text(encoding="utf-8"))
    except OSError as error:
        sys.exit(f"{error.filename}: cannot be read; train the base first: make demo-base")
    if found := faults(scores):
        sys.exit("not shipped:\n" + "\n".join(found))
    seed = manifest["identity"]["seed"]
    recipe = load_recipe(ROOT / "recipes/demo_base.yaml", [f"seed={seed}"])
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "log").mkdir(parents=True)
    for stage, name in (("language", "language"), ("tune", "vlm")):
        shutil.copytree(run / stage / "model", OUT / name)
    for stage in ("language", "connect", "tune"):
        shutil.copy(run / stage / "log.jsonl", OUT / "log" / f"{stage}.jsonl")
    base = {
        "recipe_sha256": base_recipe_sha256(recipe),
        "seed": seed,
        "scripts": receipt(0, False, True)["scripts"],
        "dev": scores,
    }
    (OUT / "base.json").write_text(json.dumps(base, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"{OUT}: {size / 1e6:.1f} MB, seed {seed}")


if __name__ == "__main__":
    main()
