"""The table of `make demo-all` for recipes/README.md:  python bench/demo_all.py [RUN]

Reads a finished run of recipes/regression_repair.yaml (default runs/regression-repair) and that of the mix beside it
(runs/mlan-demo). Rewrites what stands between the markers in recipes/README.md; trains nothing.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo_seeds import COLUMNS, MODELS, PAGE, ROOT, cell, read

from align.report.words import SUITES, sentence, signed, taxes, verdict_text

MIX = "runs/mlan-demo"


def table(run: Path) -> Iterator[str]:
    """A row per model, each cell with its interval."""
    metrics, verdicts = read(run)
    n = {suite: max(m["n"] for key, m in metrics.items() if key[0] == suite) for suite, _, _ in COLUMNS}
    yield "| | " + " | ".join(f"{label} (n {n[suite]})" for suite, _, label in COLUMNS) + " |"
    yield "|-|" + "-|" * len(COLUMNS)
    for model in verdicts["models"]:
        cells = [cell(metrics.get((suite, measure, model))) for suite, measure, _ in COLUMNS]
        yield f"| {name_of(model)} | " + " | ".join(cells) + " |"


def name_of(model: str) -> str:
    return {**MODELS, "mlan": "VLM of the language-heavy mix"}.get(model, model)


def judged(verdicts: dict[str, Any]) -> Iterator[str]:
    """A row per model, its verdict and its paired difference to the VLM on every suite."""
    suites = list(dict.fromkeys(row["suite"] for row in verdicts["comparisons"]))
    found = {(row["model"], row["suite"]): row for row in verdicts["comparisons"]}
    yield "| against the VLM | " + " | ".join(SUITES.get(suite, suite) for suite in suites) + " |"
    yield "|-|" + "-|" * len(suites)
    for model in dict.fromkeys(row["model"] for row in verdicts["comparisons"]):
        rows = [found.get((model, suite)) for suite in suites]
        cells = [f"{verdict_text(verdicts, row)}; {signed(row['minus_vlm'])}" if row else "-" for row in rows]
        yield f"| {name_of(model)} | " + " | ".join(cells) + " |"


def seconds(run: Path) -> dict[str, float]:
    """Stage -> wall seconds, from the receipts of the run."""
    receipts = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in run.glob("*/manifest.json")}
    return {stage: receipt["seconds"] for stage, receipt in receipts.items()}


def times(run: Path, mix: Path) -> str:
    told = []
    for label, folder in (("the mix", mix), ("the comparison", run)):
        found = seconds(folder)
        each = ", ".join(f"{stage} {found[stage]:.0f}" for stage in sorted(found, key=lambda s: -found[s]))
        told.append(f"{label} {sum(found.values()) / 60:.1f} minutes ({each} s)")
    return f"Wall time: {'; '.join(told)}."


def machine() -> str:
    named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if os.name == "posix" else None
    return f"{named[1] if named else platform.machine()}, {os.cpu_count()} cores, one thread"


def main() -> None:
    run = ROOT / (sys.argv[1] if len(sys.argv) > 1 else "runs/regression-repair")
    _, verdicts = read(run)
    lines = [
        sentence(verdicts), "", *table(run), "", *judged(verdicts), "",
        "What it cost elsewhere:", "", *(f"- {line}" for line in taxes(verdicts)), "",
        f"Machine: {machine()}. {times(run, ROOT / MIX)}",
    ]  # fmt: skip
    text = PAGE.read_text(encoding="utf-8")
    block = "<!-- demo-all -->\n" + "\n".join(lines) + "\n<!-- /demo-all -->"
    PAGE.write_text(re.sub(r"<!-- demo-all -->.*<!-- /demo-all -->", lambda _: block, text, flags=re.S), "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
