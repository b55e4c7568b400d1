"""Pair building beside pandas, and conversion:  python bench/bench_pairs.py [--full] [--out bench/results/pairs.md]

Files of annotated completions, four a prompt, are made from a seed; each contestant reads one in a process of its
own, builds preference pairs by the rule of Multi-Modal Preference Alignment, section 3.2, and writes them. Correctness
in the same run: every contestant's pairs are held against what follows from the file. Contestants take turns, so that
a noisy neighbour meets all of them; the figures are medians. `--full` is 1,000,000 completions and takes an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

sys.path[0] = str(Path(__file__).parent / "pairs_rig")  # and away with bench/, whose annotate.py hides the package

import world  # noqa: E402
from contestants import CONTESTANTS  # noqa: E402
from measure import Run, Truth, pairs_in, run  # noqa: E402

ONE, TWO, VECTORISED, LOOP = "ours, 1 process", "ours, 2 processes", "pandas, vectorised", "pandas, loop"
FILES = {
    "flat.jsonl": "HelpSteer's layout and `image`, one completion a line",
    "annotated.jsonl": "our records, one prompt a line",
    "flat.parquet": "HelpSteer's layout as parquet; pandas writes parquet, we JSON Lines",
}
CONVERSIONS = (
    ("to our records", "flat.jsonl", "records.jsonl"),
    ("to LLaMA-Factory", "out/preference.jsonl", "llama_factory.json"),
    ("to ms-swift", "out/preference.jsonl", "ms_swift.jsonl"),
)
SMALL = 10_000
HEAD = """\
# Pair building and conversion

Written by `{command}`; do not edit.

{rows:,} annotated completions of {prompts:,} prompts, read, strictly checked, built and written; medians of the
repeats. Every contestant's pairs were held against what follows from the file: the same prompts have a pair, chosen is
a best answer, rejected one that is worse by 2 points at least.

- *pandas, loop*: a loop over `groupby(image, prompt)` with `idxmax`, a filter and `.sample(n=1)`, as in the paper's
  notebooks
- *pandas, vectorised*: `groupby().idxmax()`, `merge`, filter, `sample` and `drop_duplicates`
- *pandas, expert*: Arrow's reader on all cores, groups as numbers, no join on texts; nothing is checked by any pandas
- *times*: seconds of that contestant over those of ours with two processes; CPU seconds over those of ours with one,
  which say how much work it is, whatever else the machine does
- *memory*: largest sum of resident memory of all its processes; *flat*: over that for {small:,} prompts
- pandas writes image, prompt and the two texts; we write records with ids, evidence and scores, and account for every
  prompt without a pair

Machine: {machine}
"""
Results = dict[str, list[Run]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="250,000 prompts; the loop once, the others 3 times")
    parser.add_argument("--prompts", type=int, help="default: 12,500, or 250,000 with --full")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loops", type=int, default=1, help="repeats of the per-group loop (0: leave it out)")
    parser.add_argument("--only", nargs="+", choices=(*FILES, "convert"), default=(*FILES, "convert"))
    parser.add_argument("--out", type=Path, help="write the page here, and the figures beside it as .json")
    options = parser.parse_args()
    prompts = options.prompts or (250_000 if options.full else 12_500)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page, figures = measured(folder, prompts, options.repeats, options.loops, options.only)
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")
        options.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measured(
    folder: Path, prompts: int, repeats: int, loops: int, only: Sequence[str]
) -> tuple[str, dict[str, object]]:
    made(folder, prompts)
    (small := folder / "small").mkdir()
    made(small, SMALL)
    truth = Truth(folder / "flat.jsonl")
    sections, figures = list[str](), dict[str, object]()
    for name, about in FILES.items():
        if name not in only or not (folder / name).exists():
            continue
        results = contest(folder / name, truth, repeats, loops)
        before = {who: run(who, small / name, small / "out").peak_mb for who in (ONE, TWO)}
        sections.append(section(f"{name}: {about}", prompts, folder / name, results, before))
        figures[name] = {"runs": as_json(results), f"peak_mb_at_{SMALL}_prompts": before}
    if "convert" in only:
        converted: Results = {}
        for _ in range(repeats):
            for to, source, out in CONVERSIONS:
                converted.setdefault(to, []).append(run(to, folder / source, folder / out))
        before = {to: run(to, small / source, small / out).peak_mb for to, source, out in CONVERSIONS}
        sections.append(section("align convert", prompts, folder / "flat.jsonl", converted, before))
        figures["convert"] = {"runs": as_json(converted), f"peak_mb_at_{SMALL}_prompts": before}
    head = HEAD.format(
        command=" ".join(["python", *sys.argv]), prompts=prompts, rows=world.N * prompts, small=SMALL, machine=machine()
    )
    return "\n".join([head, *sections]), {"prompts": prompts, "machine": machine(), **figures}


def as_json(results: Results) -> dict[str, list[dict[str, float]]]:
    return {who: [vars(r) for r in runs] for who, runs in results.items()}


def made(folder: Path, prompts: int) -> None:
    print(f"making {prompts:,} prompts", file=sys.stderr)
    world.write(folder, prompts)
    try:
        world.write_parquet(folder)
    except ImportError:
        print("no pyarrow: parquet is left out", file=sys.stderr)


def contest(source: Path, truth: Truth, repeats: int, loops: int) -> Results:
    """All contestants in turn, so many times; every output is checked."""
    results: Results = {}
    parse_only = [] if source.suffix == ".parquet" else ["json.loads alone", "msgspec alone"]
    builders = [name for name in CONTESTANTS if name.startswith(("ours", "pandas"))]
    for turn in range(max(repeats, loops)):
        for name in (*builders, *parse_only):
            if turn >= (loops if name == LOOP else repeats):
                continue
            out = source.parent / ("out" if name.startswith("ours") else f"pandas{source.suffix}")
            results.setdefault(name, []).append(run(name, source, out))
            print(f"{source.name}  {name}: {results[name][-1]}", file=sys.stderr)
            if name in builders:
                truth.check(name, pairs_in(out))
    return results


def section(title: str, prompts: int, source: Path, results: Results, before: dict[str, float]) -> str:
    """One table; `before`: memory for the small file."""
    seconds = {who: statistics.median(r.seconds for r in runs) for who, runs in results.items()}
    cpu = {who: statistics.median(r.cpu_seconds for r in runs) for who, runs in results.items()}
    lines = [
        f"## {title}",
        "",
        f"{source.stat().st_size / 1e6:,.0f} MB.",
        "",
        "| | s (least to most) | completions/s | times | CPU s | times | memory, MB | flat |",
        "|-|-|-|-|-|-|-|-|",
    ]
    for who, runs in results.items():
        each = [r.seconds for r in runs]
        peak = max(r.peak_mb for r in runs)
        spread = f" ({min(each):.2f} to {max(each):.2f})" if len(each) > 1 else ""
        times = f"{seconds[who] / seconds[TWO]:.2f}" if TWO in seconds else ""
        cpu_times = f"{cpu[who] / cpu[ONE]:.2f}" if ONE in cpu else ""
        flatness = f"{peak / before[who]:.2f}" if who in before else ""
        lines.append(
            f"| {who} | {seconds[who]:.2f}{spread} | {world.N * prompts / seconds[who]:,.0f} | {times} "
            f"| {cpu[who]:.2f} | {cpu_times} | {peak:,.0f} | {flatness} |"
        )
    for parser in ("json.loads alone", "msgspec alone"):
        if parser in seconds:
            shares = ", ".join(f"{who}: {seconds[parser] / seconds[who]:.0%}" for who in (ONE, TWO))
            lines += ["", f"Share of the speed of {parser}: {shares}."]
    return "\n".join([*lines, ""])


def machine() -> str:
    model = next((x.split(":")[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), "")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("msgspec", "pandas", "pyarrow"))
    return (
        f"{model or platform.machine()}, {os.cpu_count()} cores, shared; Python {platform.python_version()}, "
        f"{libraries}; load average (1 minute) at the end {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
