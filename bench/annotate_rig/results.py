"""Keeps what was measured: results/annotate.json, one entry per run, and results/annotate.md, made from it.

A run measured again replaces its earlier entry; others stay, each with the commit that it was measured at.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from annotate.pace import START_PER_MINUTE
from bench.annotate_rig.client import PEERS
from bench.annotate_rig.regimes import REGIMES, Regime

FOLDER = Path(__file__).resolve().parents[1] / "results"
ORDER = ["gemini", "openai_chat", "gemini_legacy", *PEERS]
BEHIND = ("gemini_legacy",)
"""Ours, but without a target: their numbers are their own."""


class Results:
    """The file as it stands, to be added to."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        file = folder / "annotate.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        self.runs: list[dict[str, Any]] = found.get("runs", [])
        self.stories: list[dict[str, Any]] = found.get("stories", [])

    def add_runs(self, entries: Sequence[dict[str, Any]]) -> None:
        """`entries`: all repeats of one client in one regime."""
        new = {(e["regime"], e["client"]) for e in entries}
        self.runs = [e for e in self.runs if (e["regime"], e["client"]) not in new] + list(entries)

    def add_story(self, entry: dict[str, Any]) -> None:
        same = (entry["story"], entry["backend"])
        self.stories = [e for e in self.stories if (e["story"], e["backend"]) != same] + [entry]

    def merge(self, file: Path) -> None:
        """Take in what was measured in another clone of this repository, on this machine."""
        other = json.loads(file.read_text())
        if other["machine"] != machine():
            raise SystemExit(f"{file} is of another machine: {other['machine']}")
        for regime, client in dict.fromkeys((e["regime"], e["client"]) for e in other["runs"]):
            self.add_runs([e for e in other["runs"] if (e["regime"], e["client"]) == (regime, client)])
        for entry in other["stories"]:
            self.add_story(entry)

    def write(self) -> None:
        self.folder.mkdir(exist_ok=True)
        told = {"machine": machine(), "runs": self.runs, "stories": self.stories}
        (self.folder / "annotate.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        (self.folder / "annotate.md").write_text(page(told))


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{model}, {os.cpu_count()} cores"


def page(told: dict[str, Any]) -> str:
    """The Markdown of everything measured."""
    lines = [
        "# Annotation at the rate limit",
        "",
        "Written by `python bench/annotate.py`; do not edit. A loopback service in a process of its own refuses what",
        "is too fast, answers late, and fails 9% of the attempts where so said.",
        "",
        "- *ratio*: seconds from the first request to the last answer, over those of an oracle that does the same",
        "  without any overhead; median of the repeats (least to most); in brackets where rows are missing, because",
        "  it is then not the time of the whole job",
        "- *rows*: handed over, readable; *wrong*: of these, not with the scores that follow from completion and image",
        "- *paid, lost*: rows that the service answered and the client did not hand over",
        "- *twice*: answers beyond the first of a row",
        "- *429s*: calls refused for being too fast, and their share of all calls",
        "",
        f"Machine: {told['machine']}, shared; load average (1 minute) at the start of each run in the last column.",
        "",
    ]
    for regime in REGIMES:
        runs = [e for e in told["runs"] if e["regime"] == regime.name]
        if runs:
            lines += [*_regime(regime, runs), ""]
    if told["stories"]:
        lines += ["## Quotas, kills, re-runs, memory, start-up", "", *_stories(told["stories"]), ""]
    commits = sorted({e["commit"][:12] for e in (*told["runs"], *told["stories"])})
    lines += [f"Measured at commit {', '.join(c or '(none)' for c in commits)}; annotate.json names it for each run."]
    return "\n".join(lines) + "\n"


def _regime(regime: Regime, runs: Sequence[dict[str, Any]]) -> list[str]:
    best = _range([e["oracle"] for e in runs if "oracle" in e] or [0.0])
    told = f"told {regime.declared:g} rpm" if regime.declared else "told no rate (ours begins at"
    told += "" if regime.declared else f" {START_PER_MINUTE:g} rpm)"
    rejected = f", at most {regime.most_rejected:.0%} refused" if regime.most_rejected is not None else ""
    lines = [
        f"## {regime.title}",
        "",
        f"{regime.n} rows; the client is {told}. Oracle: {best} s. Target: {regime.target}{rejected}.",
        "",
        "| client | ratio | rows | wrong | paid, lost | twice | 429s | calls in the first second | in flight | load |",
        "|-|-|-|-|-|-|-|-|-|-|",
    ]
    clients = dict.fromkeys(e["client"] for e in sorted(runs, key=lambda e: ORDER.index(e["client"])))
    return lines + [_row(regime, name, [e for e in runs if e["client"] == name]) for name in clients]


def _row(regime: Regime, client: str, runs: Sequence[dict[str, Any]]) -> str:
    name = runs[0].get("version") or client
    load = _range([e["load"] for e in runs])
    whole = [e for e in runs if "ratio" in e]
    if not whole:
        return f"| {name} | {runs[0]['note']} | | | | | | | | {load} |"
    ratios = [e["ratio"] for e in whole]
    spread = f" ({min(ratios):.3f} to {max(ratios):.3f})" if len(ratios) > 1 else ""
    ratio = f"{statistics.median(ratios):.3f}{spread}"
    if min(e["delivered"] for e in whole) < regime.n:
        ratio = f"[{ratio}]"
    if whole[0]["ours"]:
        ratio += "" if meets(regime, whole) else " **missed**"
    notes = "; ".join(dict.fromkeys(e["note"] for e in runs if e["note"]))
    share = statistics.median(e["rejected_share"] for e in whole)
    cells = [
        name,
        ratio + (f" ({notes})" if notes else ""),
        f"{min(e['delivered'] for e in whole)}/{regime.n}",
        _most(whole, "wrong_scores"),
        _most(whole, "paid_lost"),
        _most(whole, "duplicates"),
        f"{statistics.median(e['rejected'] for e in whole):g} ({share:.1%})",
        f"{statistics.median(e['first_second'] for e in whole):g}",
        f"{statistics.median(e['most_in_flight'] for e in whole):g}",
        load,
    ]
    return "| " + " | ".join(cells) + " |"


def meets(regime: Regime, runs: Sequence[dict[str, Any]]) -> bool:
    """Whether the repeats of one of our backends reach what is asked for."""
    if any(e["client"] in BEHIND for e in runs):
        return True
    whole = all(
        e["delivered"] == regime.n and not (e["wrong_scores"] or e["paid_lost"] or e["duplicates"] or e["note"])
        for e in runs
    )
    rejected = statistics.median(e["rejected_share"] for e in runs)
    fast = statistics.median(e["ratio"] for e in runs) <= regime.target
    return whole and fast and (regime.most_rejected is None or rejected <= regime.most_rejected)


def _most(runs: Iterable[dict[str, Any]], key: str) -> str:
    return str(max(e[key] for e in runs))


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}"


_SAID = {
    "quota": "Daily quota of {quota}, {rows} rows: exit {exit_code} after {answers_kept} answers kept and "
    "{refused_by_quota} refused; the next day {calls_next_day} calls, {delivered} rows. It said: “{said}”",
    "kill": "SIGKILL after {killed_after} of {rows} answers, {in_flight} in flight: {repaid} answers paid again, "
    "{delivered} rows; run again {calls_on_rerun} calls; {rows_added} rows more: {answers_for_added} answers",
    "memory": "Images of 200 kB, peak memory (MiB) by rows: {peak_mib}; {grown_bytes_a_row} bytes a row more, in "
    "{seconds} seconds",
    "startup": "Import and plan (`align estimate`, 10 rows): {cpu_seconds} s of CPU ({cpu_seconds_range}; target 0.3), "
    "{seconds} s on the shared machine; a bare interpreter {bare_interpreter} s; client libraries loaded: "
    "{libraries_loaded}",
}


def _stories(stories: Sequence[dict[str, Any]]) -> list[str]:
    order = list(_SAID)
    return [
        f"- {e['backend']}: {_SAID[e['story']].format(**e)}{'' if e['ok'] else ' **missed**'}"
        for e in sorted(stories, key=lambda e: (order.index(e["story"]), e["backend"]))
    ]
