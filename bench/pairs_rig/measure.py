"""Seconds and memory of a process with all its children, and whether the pairs it wrote are right."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contestants import SCORE

HERE = Path(__file__).parent
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Run:
    seconds: float
    cpu_seconds: float
    """User and system, of all its processes: what a busy machine stretches least."""
    peak_mb: float
    """Largest sum of resident memory of the process and its children; what they share is counted for each."""


def run(name: str, source: Path, out: Path) -> Run:
    """One contestant in a process of its own."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, str(HERE / "contestants.py"), name, str(source), str(out)])
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(resident, family(process.pid))))
        time.sleep(0.02)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{name} on {source}: exit {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(seconds, cpu, peak * PAGE / 2**20)


def family(pid: int) -> Iterator[int]:
    yield pid
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from family(int(child))
    except OSError:
        return


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0


Pairs = dict[tuple[str, str], tuple[str, str]]
"""(image, prompt) -> (chosen, rejected)"""


def pairs_in(out: Path) -> Pairs:
    """What a contestant wrote."""
    if out.is_dir():
        found = {}
        for line in (out / "preference.jsonl").open():
            pair = json.loads(line)
            (turn,) = pair["prompt"]["turns"]
            key = (turn["images"][0]["path"], turn["text"].removeprefix("<image>\n"))
            found[key] = (pair["chosen"]["text"], pair["rejected"]["text"])
        return found
    if out.suffix == ".parquet":
        import pandas

        rows = pandas.read_parquet(out).to_dict("records")
    else:
        rows = [json.loads(line) for line in out.open()]
    return {(row["image"], row["prompt"]): (row["chosen"], row["rejected"]) for row in rows}


class Truth:
    """What follows from the file by the rule: who has a pair, the best answers, and the worse ones."""

    def __init__(self, flat: Path) -> None:
        scores: dict[tuple[str, str], dict[str, int]] = {}
        for line in flat.open():
            row = json.loads(line)
            scores.setdefault((row["image"], row["prompt"]), {})[row["response"]] = sum(row[name] for name in SCORE)
        self.best: dict[tuple[str, str], set[str]] = {}
        self.worse: dict[tuple[str, str], set[str]] = {}
        for key, given in scores.items():
            top = max(given.values())
            worse = {text for text, score in given.items() if score <= top - 2}
            if worse:
                self.best[key] = {text for text, score in given.items() if score == top}
                self.worse[key] = worse

    def check(self, name: str, found: Pairs) -> None:
        """Every prompt with two answers that differ by the margin has a pair, of a best and a worse one."""
        if found.keys() != self.best.keys():
            raise SystemExit(f"{name}: {len(found.keys() ^ self.best.keys())} prompts with a pair too many or too few")
        for key, (chosen, rejected) in found.items():
            if chosen not in self.best[key] or rejected not in self.worse[key]:
                raise SystemExit(f"{name}: wrong pair for {key}")
