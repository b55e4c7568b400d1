"""How close to the best possible time a judged suite is judged at a rate limit:  python bench/bench_judge.py

    python bench/bench_judge.py            600 calls at 1,200 a minute, clean and with 9% faults (about 70 s)
    python bench/bench_judge.py --quick    120 calls at 2,400 a minute, with faults

Recorded answers to MT-Bench's two turns are judged through the stage's own desk, against a loopback service that
takes a second an answer. `ours` is the time from the first call to the last grade; `theirs` is the oracle's, an event
simulation that knows limit, latencies and faults beforehand: no client can be faster. `of_the_limit` is how many calls
came through in a minute, as a share of the service's limit. In the same run: every grade is the one the service gave.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# This file's folder, which Python puts first, would hide the package `annotate` behind the script of that name.
sys.path[0] = str(ROOT)
sys.path.insert(1, str(ROOT / "tests"))

from judged_world import judge, load_stage, mt_bench_files  # noqa: E402
from loopback import expected_grade, serve  # noqa: E402

from bench.annotate_rig.regimes import Regime  # noqa: E402

TARGET = 0.95


def regime(n: int, per_minute: float, faults: bool) -> Regime:
    what = "9% faults" if faults else "clean"
    return Regime(
        name=what,
        title=f"{n} calls, {per_minute:,.0f} a minute, 1 s, {what}",
        n=n,
        requests_per_minute=per_minute,
        latency=1.0,
        faults=faults,
        declared=per_minute,
        target=1 / TARGET,
    )


def measure(case: Regime) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, serve(case.service(openai=True)) as service:
        folder = Path(name)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        turns = [{"question_id": i, "category": "humanities", "turns": ["Why?", "How?"]} for i in range(case.n // 2)]
        files = {"mt_bench": mt_bench_files(folder, turns)}
        by = judge(service.url, requests_per_minute=case.declared)
        stage = load_stage(folder, folder / "model", ["mt_bench"], files, by)
        lines: dict[str, Any] = {}
        for unit in stage.answers:
            said = [[f"First, {row.id}.", f"Then, {row.id}."] for row in unit.payload.rows]
            lines[unit.key] = {"outputs": said, "faults": {}, "halved": False}
        lines |= {u.key: {"outputs": [lines[stage.answers[0].key]["outputs"][0]]} for u in stage.probes}
        stage.recall(lines)
        stage.execute(stage.judged, lines.__setitem__, folder, lambda *_: None)
        stats = service.stats()
        assert stage.judgings is not None
        found = [j for u in stage.judged for a in stage.judgings.answered(u, lines) for j in a.judgements]
    wrong = sum(j.grade != expected_grade(j.text) for j in found)
    if wrong or len(found) != case.n or stats["duplicates"]:
        sys.exit(f"{case.title}: {wrong} of {len(found)} grades are wrong, {stats['duplicates']} were bought twice")
    admitted = [a for a in stats["arrivals"] if "attempt" in a]
    span = max(a["at"] + a["seconds"] for a in admitted) - admitted[0]["at"]
    best = case.oracle(list(dict.fromkeys(a["content"] for a in admitted)))
    of_the_limit = 60 * len(admitted) / span / case.requests_per_minute
    return {
        "case": case.title,
        "ratio": round(best.span / span, 3),
        "max_rel_diff": 0.0,
        "bound": None,
        "of_the_limit": round(of_the_limit, 3),
        "ours": {"seconds": round(span, 2), "calls": len(admitted), "rejected": stats["rejected"]},
        "theirs": {"seconds": round(best.span, 2), "calls": best.calls},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short case")
    options = parser.parse_args()
    shapes = [(120, 2400.0, True)] if options.quick else [(600, 1200.0, False), (600, 1200.0, True)]
    cases = []
    for shape in shapes:
        cases.append(measure(regime(*shape)))
        row = cases[-1]
        print(
            f"{row['case']:50} {row['ratio']:.1%} of the best possible, {row['of_the_limit']:.1%} of the limit",
            flush=True,
        )
    machine = f"{platform.processor() or platform.machine()}, python {platform.python_version()}"
    head = {"bench": "judging at a rate limit", "peer": "best possible"}
    print(json.dumps(head | cases[0] | {"cases": cases, "machine": machine}))
    return 0 if options.quick or all(row["ratio"] >= TARGET for row in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
