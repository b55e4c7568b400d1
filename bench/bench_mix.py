"""Mixing 80,000 rows out of 7 sources, beside pandas and datasets:  python bench/bench_mix.py [--quick]

Sources of the sizes of MLAN's seven sets (Appendix A, Table 3) are made from a seed; each contestant draws its mix in a
process of its own and writes it. `align mix` checks every record of the sources, writes each drawn row into an
instruction whose target reads back, and writes a manifest. The peers read flat rows and write them with one fixed
instruction, which is less work. Counts are checked in the same run: ours and pandas' are exact; `interleave_datasets`
draws by probability, so its counts are off. Memory is looked at once more with sources twice as long.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

sys.path.pop(0)  # bench/, whose annotate.py hides the package

from annotate.jsonl import write_records
from annotate.records import Image, Prompt, Turn

SETS = {  # rows, words of a passage, type of answer, task, modality
    "squad": (87_599, 110, "short_answer", "question_answering", "text"),
    "cosmosqa": (25_262, 70, "multiple_choice", "question_answering", "text"),
    "strategyqa": (2_290, 0, "true_false", "commonsense", "text"),
    "commonsenseqa": (9_741, 0, "multiple_choice", "commonsense", "text"),
    "arc": (3_370, 0, "multiple_choice", "commonsense", "text"),
    "vqav2": (44_400, 0, "short_answer", "question_answering", "vision"),
    "aokvqa": (17_056, 0, "multiple_choice", "commonsense", "vision"),
}
BUDGET, PERCENT = 80_000, 12.5
INSTRUCTION = "\nA word or a phrase will do."
PEERS = ("pandas", "datasets")


class Run(NamedTuple):
    """One contestant: seconds on the clock and of the processor, and the most memory it held."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


# ------------------------------------------------------------------------------------------------------- the sources


def write_sources(folder: Path, scale: float) -> Path:
    """Prompt records and, for the peers, flat rows; returns the mix file."""
    folder.mkdir()
    lines = [f"vision_percent: {PERCENT}", "sources:"]
    for name, (n, _, _, task, modality) in SETS.items():
        with (folder / f"{name}.flat.jsonl").open("w", encoding="utf-8") as flat:
            write_records(folder / f"{name}.jsonl", _both(name, int(n * scale), flat))
        lines.append(f"  - {{file: {folder}/{name}.jsonl, task: {task}, dataset: {name}, modality: {modality}}}")
    path = folder / "mix.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _both(name: str, n: int, flat: Any) -> Iterator[Prompt]:
    for i in range(n):
        row = prompt(name, i)
        image = row.images[0].path if row.images else ""
        flat.write(json.dumps({"question": row.turns[0].text, "answer": row.reference, "image": image}) + "\n")
        yield row


def prompt(name: str, i: int) -> Prompt:
    _, n_passage, kind, _, modality = SETS[name]
    draw = random.Random(f"{name} {i}")
    words = [f"{syllable}{draw.getrandbits(12):x}" for syllable in ("be", "do", "ka", "mo", "ru", "si", "ta", "vo")]

    def text(n: int) -> str:
        return " ".join(draw.choices(words, k=n))

    question, context = f"{text(10)}?", text(n_passage)
    meta: dict[str, Any] = {"task": kind, "question": question, **({"context": context} if context else {})}
    body = f"{context}\n\n{question}" if context else question
    answer = draw.choice(("yes", "no")) if kind == "true_false" else f"{text(3)} {i}"
    if kind == "multiple_choice":
        choices = [answer, *(f"{text(3)} {i} {k}" for k in range(3))]
        draw.shuffle(choices)
        meta |= {"choices": choices, "answer_index": choices.index(answer)}
        body += "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    images = (Image(path=f"{i}.jpg", sha256=sha256(b"%d" % i).hexdigest()),) if modality == "vision" else ()
    turn = Turn(role="user", text=f"<image>\n{body}" if images else body, images=images)
    return Prompt.of((turn,), source=name, source_id=str(i), reference=answer, meta=meta | {"answer": answer})


# --------------------------------------------------------------------------------------------------------- the peers


def quotas(budget: int) -> Mapping[str, int]:
    """Rows of each set, as a reader of the paper would count them: odd rows to the first sets."""
    found = {}
    vision = round(budget * PERCENT / 100)
    for modality, rows in (("text", budget - vision), ("vision", vision)):
        tasks = {task for _, _, _, task, m in SETS.values() if m == modality}
        for task in tasks:
            names = [name for name, s in SETS.items() if s[3:] == (task, modality)]
            share = rows // len(tasks)
            found |= {name: share // len(names) + (i < share % len(names)) for i, name in enumerate(names)}
    return found


def mix_with_pandas(folder: Path, out: Path, budget: int) -> None:
    import pandas

    parts = []
    for name, n in quotas(budget).items():
        rows = pandas.read_json(folder / f"{name}.flat.jsonl", lines=True)
        parts.append(rows.sample(n=n, replace=n > len(rows), random_state=0).assign(dataset=name))
    mixed = pandas.concat(parts).sample(frac=1, random_state=0)
    mixed["question"] += INSTRUCTION
    mixed.to_json(out, orient="records", lines=True)


def mix_with_datasets(folder: Path, out: Path, budget: int) -> None:
    import datasets

    datasets.disable_progress_bars()
    wanted = quotas(budget)
    parts = []
    for name in wanted:
        file, cache = str(folder / f"{name}.flat.jsonl"), str(out.with_name("cache"))
        rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache).shuffle(seed=0)
        parts.append(rows.add_column("dataset", [name] * len(rows)))
    shares = [n / budget for n in wanted.values()]
    mixed = datasets.interleave_datasets(parts, shares, seed=0, stopping_strategy="all_exhausted").select(range(budget))
    mixed.map(lambda row: {"question": row["question"] + INSTRUCTION}).to_json(out)


# ------------------------------------------------------------------------------------------------------- the contest


def run(command: list[str]) -> Run:
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return Run(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def check_ours(out: Path, budget: int) -> None:
    """Counts are exact in what is written, not only in the manifest, and every target reads back."""
    from align.commands.preview import Tally
    from annotate.jsonl import read_records
    from annotate.records import Example

    counts, tally, ids = Counter[str](), Tally(), set[str]()
    for example in read_records(out / "examples.jsonl", Example):
        counts[example.meta["dataset"]] += 1
        tally.add(example)
        ids.add(example.id)
    assert counts.total() == budget == len(ids), counts
    assert all(abs(counts[name] - n) <= 1 for name, n in quotas(budget).items()), counts
    assert tally.as_json()["failure_rate"] == 0.0
    said = json.loads((out / "mix.json").read_text())["counts"]
    assert said["by_dataset"] == dict(sorted(counts.items()))


def off_by(out: Path, budget: int) -> int:
    """By how many rows the set that is furthest off misses its count."""
    counts = Counter(json.loads(line)["dataset"] for line in out.open(encoding="utf-8"))
    assert counts.total() == budget
    return max(abs(counts[name] - n) for name, n in quotas(budget).items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--places", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    scale = 0.01 if options.quick else 1.0
    budget = int(BUDGET * scale)
    if options.peer:
        (mix_with_pandas if options.peer == "pandas" else mix_with_datasets)(*options.places, budget)
        return
    quick = ["--quick"] if options.quick else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mix = write_sources(folder / "once", scale)
        twice = write_sources(folder / "twice", 2 * scale)
        command = ["-m", "align", "mix", "-q"]
        ours = run([*command, str(mix), str(folder / "ours"), f"budget={budget}"])
        longer = run([*command, str(twice), str(folder / "longer"), f"budget={budget}"])
        theirs, off = {}, {}
        for peer in PEERS:
            out = folder / f"{peer}.jsonl"
            theirs[peer] = run([__file__, *quick, "--peer", peer, "--places", str(mix.parent), str(out)])
            off[peer] = off_by(out, budget)
        check_ours(folder / "ours", budget)
    assert off["pandas"] == 0, off
    for who, found in {"ours": ours, "ours, sources twice as long": longer, **theirs}.items():
        print(f"{who:28} {found.seconds:6.1f} s  {found.cpu_seconds:6.1f} CPU s  {found.peak_mb:6.0f} MB")
    print(f"interleave_datasets misses a count by up to {off['datasets']} rows")
    against = {peer: {"ratio": round(found.cpu_seconds / ours.cpu_seconds, 2)} for peer, found in theirs.items()}
    line = {
        "bench": f"a mix of {budget:,} rows from {len(SETS)} sources (theirs: unchecked, one fixed instruction)",
        "peer": "pandas",
        "ratio": against["pandas"]["ratio"],
        "bound": None,
        "max_rel_diff": 0.0,
        "ours": ours._asdict() | {"peak_mb_of_twice_the_sources": longer.peak_mb},
        "theirs": theirs["pandas"]._asdict(),
        "cases": [{"case": "draw and write", "against": against}],
        "machine": f"{platform.machine()}, 1 process, load average at the end {os.getloadavg()[0]:.1f}",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
